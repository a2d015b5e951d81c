"""Tensors, arrays, lists and decoded files are data sets; what is none is refused."""

import pickle
from itertools import islice
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from PIL import Image

from discrete_distribution_network import data
from discrete_distribution_network.data import datasets as datasets_module
from discrete_distribution_network.data.datasets import Decoded, ImageDataset, split_indices
from discrete_distribution_network.data.items import Item
from discrete_distribution_network.data.loader import Loader, in_order
from discrete_distribution_network.errors import DataError, InvalidInput


@pytest.mark.parametrize("share", [0.01, 0.1, 0.3, 0.5, 0.9])
@pytest.mark.parametrize("count", [2, 3, 9, 10, 11, 100])
def test_parts_of_a_split_are_apart_and_whole_and_of_their_share(count, share):
    train, test = split_indices(count, share)
    assert sorted(train + test) == list(range(count))
    assert train
    assert test
    assert abs(len(test) - count * share) < 1 or 1 in (len(train), len(test))
    for wrong in (0, 1, -0.1, 1.5):
        with pytest.raises(InvalidInput, match="test share"):
            split_indices(count, wrong)


def test_a_bomb_in_a_data_set_of_ones_own(monkeypatch, tmp_path):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    Image.new("RGB", (40, 40)).save(tmp_path / "bomb.png")

    class Photograph:
        image_size, channels = (16, 16), 3

    class Bombs(torch.utils.data.Dataset):
        def __len__(self):
            return 4

        def __getitem__(self, index):
            return torch.zeros(3, 16, 16) if index else Image.open(tmp_path / "bomb.png")

    with pytest.raises(DataError, match="image 0"):
        next(Loader(Bombs(), Photograph, 4).batches())
    assert next(Loader(Bombs(), Photograph, 4, max_bad_images=1).batches()).images.shape[0] == 4


def test_decoded_images_are_cache_while_there_is_room(monkeypatch):
    monkeypatch.setattr(datasets_module, "CACHE_BYTES", 3 * 16)
    decoded = []

    def decode(index):
        decoded.append(index)
        return Item(torch.full((1, 4, 4), index, dtype=torch.uint8))

    images = Decoded(5, decode)
    for _ in range(2):
        assert [int(images[index].image[0, 0, 0]) for index in range(5)] == list(range(5))
    assert decoded == [0, 1, 2, 3, 4, 3, 4]


class Numbered:
    image_size, channels = (4, 4), 1


def test_arrays_and_lists_of_pictures_are_data_sets():
    pixels = np.random.default_rng(0).integers(0, 256, (12, 1, 4, 4), dtype=np.uint8)
    backwards = pixels[::-1].astype(">f4") / 255
    pictures = [Image.fromarray(image[0]) for image in pixels]
    for dataset in (pixels, pixels.astype(np.float32) / 255, backwards[::-1], pictures, [(one, 3) for one in pictures]):
        images = torch.cat([batch.images for batch in in_order(dataset, Numbered, 5)])
        torch.testing.assert_close(images, torch.from_numpy(pixels / 255).float())
        assert next(Loader(dataset, Numbered, 4).batches()).images.shape == (4, 1, 4, 4)
    assert next(in_order([(one, 3) for one in pictures], Numbered, 2)).labels.tolist() == [3, 3]


def test_what_is_no_data_set_is_one_sentence():
    pixels = torch.zeros(4, 1, 4, 4)
    for dataset, message in (
        ("photos", "open it with"),
        (Path("photos"), "open it with"),
        ({"train": pixels, "test": pixels}, "train, test"),
        (datasets.DatasetDict(), "nothing"),
        (torch.zeros(()), "shape ()"),
        (torch.zeros(4, 4), "shape (4, 4)"),
        (np.zeros((2, 3, 4)), "shape (2, 3, 4)"),
        (None, "None"),
        (7, "got 7"),
    ):
        for use in (lambda dataset: Loader(dataset, Numbered, 2), lambda dataset: next(in_order(dataset, Numbered, 2))):
            with pytest.raises(InvalidInput) as error:
                use(dataset)
            assert message in str(error.value)
            assert "\n" not in str(error.value)
    for empty in (pixels[:0], [], iter([])):
        with pytest.raises(DataError, match="data set, got 0"):
            next(in_order(empty, Numbered, 2))
    with pytest.raises(DataError, match="got 0"):
        Loader(pixels[:0], Numbered, 2)


def test_items_of_several_kinds():
    byte = torch.full((1, 4, 4), 51, dtype=torch.uint8)
    kinds = [byte, byte / 255, (byte.double() / 255).numpy(), Image.new("L", (4, 4), 51), (byte, 1), {"image": byte}]
    batch = next(in_order(kinds, Numbered, 6))
    assert batch.images.dtype == torch.float32
    torch.testing.assert_close(batch.images, torch.full((6, 1, 4, 4), 0.2))
    assert batch.labels is None
    with pytest.raises(DataError, match="image 1, a str"):
        next(in_order([byte, "text"], Numbered, 2))


class Held:
    """Stands for a worker of a loader."""

    num_workers = 2


def test_workers_share_the_room_for_decoded_images(monkeypatch):
    monkeypatch.setattr(datasets_module, "CACHE_BYTES", 4 * 16)

    def kept(worker):
        monkeypatch.setattr(datasets_module, "get_worker_info", lambda: worker)
        images = Decoded(5, lambda index: Item(torch.full((1, 4, 4), index, dtype=torch.uint8)))
        for index in range(5):
            images[index]
        return len(images._cache)

    assert kept(None) == 4
    assert kept(Held) == 2


class Kept(Decoded):
    """Labels that say how many images this worker keeps."""

    def __getitem__(self, index):
        return Item(super().__getitem__(index).image, len(self._cache))


def test_workers_share_the_room_in_their_own_processes(monkeypatch):
    monkeypatch.setattr(datasets_module, "CACHE_BYTES", 8 * 16)
    images = Kept(12, lambda index: Item(torch.full((1, 4, 4), index, dtype=torch.uint8)))
    batches = islice(Loader(images, Numbered, 4, workers=2).batches(), 12)
    assert max(int(batch.labels.max()) for batch in batches) == 4


def test_an_image_data_set(tmp_path):
    for index, name in enumerate(("a.jpg", "below/b.PNG", "c.tiff", "d.webp", "e.bmp", "f.jpeg", ".hidden/g.png")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (8, 6), (10 * index,) * 3).save(tmp_path / name)
    with pytest.warns(UserWarning, match="hidden"):
        images = ImageDataset(tmp_path, image_size=4)
    assert len(images) == 5
    assert [path.name for path in images.paths] == ["a.jpg", "b.PNG", "c.tiff", "d.webp", "f.jpeg"]
    assert images[1].shape == (3, 4, 4)
    assert images[1].dtype == torch.float32
    torch.testing.assert_close(images[1], torch.full((3, 4, 4), 10 / 255))
    assert isinstance(images, torch.utils.data.Dataset)
    assert next(torch.utils.data.DataLoader(images, 5).__iter__()).shape == (5, 3, 4, 4)
    (tmp_path / ".hidden" / "g.png").unlink()
    (tmp_path / ".hidden").rmdir()
    assert ImageDataset(str(tmp_path), image_size=(2, 6), exts=["BMP"])[0].shape == (3, 2, 6)
    with pytest.raises(DataError, match=r"end in \.gif"):
        ImageDataset(tmp_path, 4, exts=("gif",))
    for size in (0, -1, (4,), (4, 0), 2.5, "4"):
        with pytest.raises(InvalidInput, match="image_size"):
            ImageDataset(tmp_path, size)
    assert torch.equal(pickle.loads(pickle.dumps(images))[1], images[1])


def test_the_old_name_of_split_indices_warns():
    with pytest.warns(DeprecationWarning, match="held_out is now split_indices"):
        assert data.held_out is split_indices
    with pytest.raises(AttributeError, match="nothing"):
        data.nothing  # noqa: B018
