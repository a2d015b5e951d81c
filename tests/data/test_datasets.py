"""Every kind of data set comes as images of one form, with labels where there are any."""

import gzip
import io
import os
import pickle
import shutil
import struct
import time
from itertools import islice
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import ConcatDataset, Subset, TensorDataset

from discrete_distribution_network.data import datasets as data
from discrete_distribution_network.data.datasets import (
    FASHION_MNIST,
    Decoded,
    ImageDataset,
    ImageFiles,
    Item,
    Pixels,
    as_item,
    fingerprint,
    folder_split,
    held_out,
    is_stream,
    mnist_digits,
    open_data,
    read_idx,
)
from discrete_distribution_network.data.loader import Loader, in_order
from discrete_distribution_network.errors import DataError, InvalidInput

SIZE = (16, 16)


def one(value, size=SIZE, channels=3):
    return as_item(value, size, channels, "image 7")


def test_what_an_item_may_be():
    pixels = torch.randint(0, 256, (3, 16, 16), dtype=torch.uint8)
    picture = Image.fromarray(pixels.permute(1, 2, 0).numpy())
    for value, label in (
        (pixels, None),
        (Item(pixels, 4), 4),
        ((pixels, torch.tensor(4)), 4),
        ([picture, 4], 4),
        ({"image": picture, "label": 4}, 4),
        ({"img": picture, "fine_label": 4, "other": "x"}, 4),
        ({"photograph": picture}, None),
    ):
        item = one(value)
        assert torch.equal(item.image, pixels)
        assert item.label == label
    assert one(pixels / 255).image.dtype == torch.float32
    # a data set of one column gives tuples of one; what is no integer is no label
    for value in ((pixels,), (pixels, "cat"), (pixels, torch.zeros(4)), {"image": picture, "label": None}):
        assert torch.equal(one(value).image, pixels)
        assert one(value).label is None


def test_what_is_no_item_is_named():
    for value, said in (
        ("text", "a str"),
        (torch.zeros(3, 16, 17), "(3, 16, 17)"),
        (torch.zeros(1, 16, 16), "(1, 16, 16)"),
        (torch.zeros(3, 16, 16, dtype=torch.int64), "int64"),
        ({"words": "x"}, "words"),
    ):
        with pytest.raises(DataError, match="image 7") as error:
            one(value)
        assert said in str(error.value)


def test_a_folder_with_its_subfolders_as_labels(photograph_folder):
    split = folder_split(photograph_folder, SIZE, 3)
    assert (len(split.train), len(split.test)) == (22, 2)
    labels = [split.train[index].label for index in range(22)]
    assert labels == [0] * 11 + [1] * 11
    Image.new("L", (20, 20)).save(photograph_folder / "beside.png")
    assert folder_split(photograph_folder, SIZE, 3).train[0].label is None


def test_a_folder_of_one_image(tmp_path):
    Image.new("L", (4, 4)).save(tmp_path / "one.png")
    with pytest.raises(DataError, match="at least 2"):
        folder_split(tmp_path, SIZE, 1)


@pytest.mark.parametrize("share", [0.01, 0.1, 0.3, 0.5, 0.9])
@pytest.mark.parametrize("count", [2, 3, 9, 10, 11, 100])
def test_held_out_parts_are_apart_and_whole_and_of_their_share(count, share):
    train, test = held_out(count, share)
    assert sorted(train + test) == list(range(count))
    assert train
    assert test
    assert abs(len(test) - count * share) < 1 or 1 in (len(train), len(test))
    for wrong in (0, 1, -0.1, 1.5):
        with pytest.raises(InvalidInput, match="test share"):
            held_out(count, wrong)


def write_idx(path, array, kind=0x08):
    content = struct.pack(">HBB", 0, kind, array.ndim) + struct.pack(f">{array.ndim}I", *array.shape)
    content += array.astype(data.IDX_TYPES[kind]).tobytes()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


@pytest.fixture
def idx_folder(tmp_path):
    generator = np.random.default_rng(0)
    for part, count, ending in (("train", 30, ".gz"), ("t10k", 10, "")):
        write_idx(tmp_path / f"{part}-images-idx3-ubyte{ending}", generator.integers(0, 256, (count, 28, 28)))
        write_idx(tmp_path / f"{part}-labels-idx1-ubyte{ending}", generator.integers(0, 10, count))
    return tmp_path


def test_idx_files(idx_folder):
    split = open_data(idx_folder, (32, 32), 1)
    assert (len(split.train), len(split.test)) == (30, 10)
    raw = read_idx(idx_folder / "train-images-idx3-ubyte.gz")
    image, label = split.train[3]
    assert torch.equal(image[0, 2:30, 2:30], torch.from_numpy(raw[3].astype(np.uint8)))
    assert image[:, :2].sum() == 0
    assert label == read_idx(idx_folder / "train-labels-idx1-ubyte.gz")[3]
    assert open_data(idx_folder, (28, 28), 3).train[0].image.shape == (3, 28, 28)
    assert open_data(idx_folder, (14, 14), 1).train[0].image.shape == (1, 14, 14)


@pytest.mark.parametrize("kind", sorted(data.IDX_TYPES))
def test_idx_of_every_type(tmp_path, kind):
    array = np.arange(24).reshape(2, 3, 4)
    write_idx(tmp_path / "file", array, kind)
    assert np.array_equal(read_idx(tmp_path / "file"), array)


def test_damaged_idx_files_are_named(idx_folder):
    whole = gzip.decompress((idx_folder / "train-images-idx3-ubyte.gz").read_bytes())
    for name, content in (
        ("short", whole[:-1]),
        ("long", whole + b"x"),
        ("header", whole[:9]),
        ("empty", b""),
        ("other", b"PK" + whole),
        ("torn.gz", gzip.compress(whole)[:-20]),
        ("flipped.gz", b"x" + gzip.compress(whole)[1:]),
    ):
        (idx_folder / name).write_bytes(content)
        with pytest.raises(DataError, match=name):
            read_idx(idx_folder / name)
    (idx_folder / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(DataError, match="t10k-labels"):
        open_data(idx_folder, (32, 32), 1)


@pytest.mark.skipif(not FASHION_MNIST.is_dir(), reason="needs Debian's package dataset-fashion-mnist")
def test_fashion_mnist():
    split = open_data("fashion-mnist", (32, 32), 1)
    assert (len(split.train), len(split.test)) == (60_000, 10_000)
    assert torch.bincount(split.test.labels).tolist() == [1000] * 10


def test_fashion_mnist_says_where_it_comes_from(monkeypatch):
    monkeypatch.setattr(data, "FASHION_MNIST", Path("/nowhere"))
    with pytest.raises(DataError, match="apt-get install dataset-fashion-mnist"):
        open_data("fashion-mnist", SIZE, 1)


def test_mnist_digits():
    split = mnist_digits()
    assert (len(split.train), len(split.test)) == (4000, 1000)
    assert split.test[0].image.shape == (1, 32, 32)
    assert split.train.images[:, :, :2].sum() == 0
    assert torch.bincount(split.train.labels).min() > 350


def test_torchvision(torchvision, tmp_path):
    split = open_data("torchvision:FakeData", (224, 224), 3)
    image, label = as_item(split.train[0], (224, 224), 3, "")
    assert image.shape == (3, 224, 224)
    assert 0 <= label < 10
    with pytest.raises(DataError, match="CIFAR10"):
        open_data("torchvision:Nothing", SIZE, 3)
    with pytest.raises(DataError, match=f"CIFAR10 in {tmp_path}"):
        open_data("torchvision:CIFAR10", SIZE, 3, root=tmp_path)  # no network, and nothing there


def rows(photographs, count=30):
    columns = {"image": photographs[:count], "label": [index % 3 for index in range(count)]}
    names = datasets.ClassLabel(names=["a", "b", "c"])
    return datasets.Dataset.from_dict(columns, datasets.Features(image=datasets.Image(), label=names))


def test_hugging_face_folders(photographs, tmp_path):
    stored = rows(photographs)
    stored.save_to_disk(tmp_path / "saved")
    (tmp_path / "parquet").mkdir()
    stored.to_parquet(tmp_path / "parquet" / "train.parquet")
    datasets.DatasetDict(train=stored, test=stored.select(range(5))).save_to_disk(tmp_path / "parts")
    expected = as_item(stored[1], SIZE, 3, "")
    for name, train, test in (("saved", 27, 3), ("parquet", 27, 3), ("parts", 30, 5)):
        split = open_data(tmp_path / name, SIZE, 3)
        assert (len(split.train), len(split.test)) == (train, test), name
        item = split.train[1]
        assert torch.equal(item.image, expected.image), name
        assert item.label == expected.label == 1


def test_hugging_face_streams(photographs, tmp_path):
    stored = rows(photographs)
    datasets.DatasetDict(train=stored, test=stored.select(range(5))).save_to_disk(tmp_path / "parts")
    split = open_data(tmp_path / "parts", SIZE, 3, streaming=True)
    assert is_stream(split.train)
    assert len([as_item(row, SIZE, 3, "") for row in split.train]) == 30
    assert len(list(split.test)) == 5
    stored.save_to_disk(tmp_path / "whole")
    split = open_data(tmp_path / "whole", SIZE, 3, streaming=True)
    assert len(list(split.test)) == 30  # the first 1,000 are for testing


def with_broken_row(photographs, count, broken):
    """A data set of which one row's image is cut off."""
    undecoded = rows(photographs, count).cast_column("image", datasets.Image(decode=False))
    cut = undecoded.map(
        lambda row, index: {
            "image": {"bytes": row["image"]["bytes"][: 200 if index == broken else None], "path": None}
        },
        with_indices=True,
    )
    return cut.cast_column("image", datasets.Image())


def test_a_row_that_cannot_be_decoded_is_named(photographs):
    images = data.HuggingFaceImages(with_broken_row(photographs, 4, 2), SIZE, 3, "flowers")
    assert images[1].label == 1
    with pytest.raises(DataError, match="row 2 of flowers"):
        images[2]


class Photograph:
    image_size, channels = SIZE, 3


def test_a_broken_row_of_a_stream_is_named_or_left_out(photographs):
    stream = with_broken_row(photographs, 12, 5).to_iterable_dataset()
    with pytest.raises(DataError, match=r"item \d+ of the stream, which cannot be decoded"):
        list(islice(Loader(stream, Photograph, 4).batches(), 3))
    loader = Loader(stream, Photograph, 11, max_bad_images=1)
    assert len({tuple(image.flatten().tolist()) for image in next(loader.batches()).images}) == 11
    assert len(loader.faults) == 1
    with pytest.raises(DataError, match="image 5"):
        list(in_order(stream, Photograph, 4))
    assert sum(len(batch.images) for batch in in_order(stream, Photograph, 4, max_bad_images=1)) == 11


def test_the_images_of_a_stored_data_set_can_be_pickled(photographs):
    images = data.HuggingFaceImages(rows(photographs, 4), SIZE, 3, "flowers")
    assert torch.equal(pickle.loads(pickle.dumps(images))[3].image, images[3].image)


def test_a_bomb_in_a_data_set_of_ones_own(monkeypatch, tmp_path):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    Image.new("RGB", (40, 40)).save(tmp_path / "bomb.png")

    class Bombs(torch.utils.data.Dataset):
        def __len__(self):
            return 4

        def __getitem__(self, index):
            return torch.zeros(3, 16, 16) if index else Image.open(tmp_path / "bomb.png")

    with pytest.raises(DataError, match="image 0"):
        next(Loader(Bombs(), Photograph, 4).batches())
    assert next(Loader(Bombs(), Photograph, 4, max_bad_images=1).batches()).images.shape[0] == 4


def test_what_is_not_there_is_one_sentence(monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(DataError, match="nobody/nothing") as error:
        open_data("nobody/nothing", SIZE, 3)
    assert "\n" not in str(error.value)
    for name in ("nowhere", "./no/where"):
        with pytest.raises(DataError, match="check the path"):
            open_data(name, SIZE, 3)


def test_decoded_images_are_kept_while_there_is_room(monkeypatch):
    monkeypatch.setattr(data, "CACHE_BYTES", 3 * 16)
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


def test_arrays_that_are_no_images_are_named():
    for value, said in (
        (np.zeros((16, 16, 3), np.uint8), "put its channels first"),
        (np.zeros((3, 16, 16), np.int64), "int64"),
        (np.zeros((3, 16, 16), np.uint16), "uint16"),
        (np.zeros((3, 16, 16), bool), "ndarray"),
        (np.array(["text"]), "ndarray"),
        (np.zeros(()), "shape ()"),
        ({"image": {"bytes": "text", "path": None}}, "cannot be decoded"),
        ({"image": {"bytes": None, "path": None}}, "cannot be decoded"),
        ({"image": {"bytes": b"torn", "path": None}}, "cannot be decoded"),
        ({"image": {"bytes": None, "path": "/no/where.png"}}, "found no file"),
        (None, "NoneType"),
        ((), "tuple"),
        (torch.zeros(0, 0, 0), "(0, 0, 0)"),
    ):
        with pytest.raises(DataError, match="image 7") as error:
            one(value)
        assert said in str(error.value), said
        assert "\n" not in str(error.value)


def test_what_is_no_data_set_is_one_sentence():
    pixels = torch.zeros(4, 1, 4, 4)
    for dataset, said in (
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
            assert said in str(error.value)
            assert "\n" not in str(error.value)
    for empty in (pixels[:0], [], iter([])):
        with pytest.raises(DataError, match="got none"):
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


def test_no_message_of_the_library_names_an_option(monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(DataError, match="or give a folder of images") as error:
        open_data("nobody/nothing", SIZE, 3)
    assert "--" not in str(error.value)


def test_rows_whose_exif_block_is_broken_are_read(photographs):
    block = b"Exif\0\0II*\0\x08\0\0\0\x02\0" + struct.pack("<HHIHH", 0x0112, 3, 1, 6, 0)
    block += struct.pack("<HHI4s", 296, 2, 4, b"cm\0\0") + bytes(4)  # ResolutionUnit as text
    encoded = []
    for image in photographs[:4]:
        file = io.BytesIO()
        image.save(file, "JPEG", exif=block)
        encoded.append({"bytes": file.getvalue(), "path": None})
    rows = datasets.Dataset.from_dict({"image": encoded}, datasets.Features(image=datasets.Image()))
    images = data.HuggingFaceImages(rows, SIZE, 3, "flowers")
    turned = as_item(photographs[1].transpose(Image.Transpose.ROTATE_270), SIZE, 3, "")
    assert (images[1].image.int() - turned.image.int()).abs().float().mean() < 8
    assert sum(len(batch.images) for batch in in_order(rows.to_iterable_dataset(), Photograph, 3)) == 4
    assert len(list(in_order(rows, Photograph, 4))) == 1


class Held:
    """Stands for a worker of a loader."""

    num_workers = 2


def test_workers_share_the_room_for_decoded_images(monkeypatch):
    monkeypatch.setattr(data, "CACHE_BYTES", 4 * 16)

    def kept(worker):
        monkeypatch.setattr(data, "get_worker_info", lambda: worker)
        images = Decoded(5, lambda index: Item(torch.full((1, 4, 4), index, dtype=torch.uint8)))
        for index in range(5):
            images[index]
        return len(images._kept)

    assert kept(None) == 4
    assert kept(Held) == 2


class Kept(Decoded):
    """Labels that say how many images this worker keeps."""

    def __getitem__(self, index):
        return Item(super().__getitem__(index).image, len(self._kept))


def test_workers_share_the_room_in_their_own_processes(monkeypatch):
    monkeypatch.setattr(data, "CACHE_BYTES", 8 * 16)
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


class ByIndex(torch.utils.data.Dataset):
    def __init__(self, images, chance=False):
        self.images, self.chance = images, chance

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return self.images[index] + (np.random.default_rng().random() if self.chance else 0), index


def test_a_fingerprint_changes_with_the_images(photograph_folder, photographs):
    pixels = torch.rand(40, 1, 8, 8)
    other = pixels.clone().flip(3)
    stored = rows(photographs, 12)
    made = [
        folder_split(photograph_folder, SIZE, 3).train,
        ImageDataset(photograph_folder, 16),
        *(
            wrap(images)
            for images in (pixels, other)
            for wrap in (lambda x: x, Pixels, ByIndex, list, lambda x: x.numpy())
        ),
        Pixels(pixels, torch.arange(40)),
        Subset(Pixels(pixels), range(20)),
        Subset(Pixels(pixels), range(1, 21)),
        ConcatDataset([Pixels(pixels), Pixels(other)]),
        TensorDataset(pixels, torch.arange(40)),
        data.HuggingFaceImages(stored, SIZE, 3, "flowers"),
        data.HuggingFaceImages(rows(photographs[1:], 12), SIZE, 3, "flowers"),
        [Image.new("L", (4, 4), 3)] * 4,
        [Image.new("L", (4, 4), 4)] * 4,
        pixels[:39],
        (pixels * 255).byte(),
    ]
    prints = [fingerprint(dataset) for dataset in made]
    assert all(isinstance(one, str) for one in prints)
    assert prints == [fingerprint(dataset) for dataset in made]
    apart = {id(one): one for one in prints}
    assert len(set(prints)) >= len(apart) - 8  # a tensor, its array and its Pixels may be alike
    assert fingerprint(pixels) != fingerprint(other)
    assert fingerprint(ByIndex(pixels)) != fingerprint(ByIndex(other))
    assert fingerprint(pixels.clone()) == fingerprint(pixels)


def test_what_has_no_fingerprint():
    pixels = torch.rand(40, 1, 8, 8)
    random_state = torch.get_rng_state()
    for dataset in (iter(pixels), (image for image in pixels), ByIndex(pixels, chance=True), ["x", object()], None, 3):
        assert fingerprint(dataset) is None
    fingerprint(ByIndex(pixels))
    assert torch.equal(torch.get_rng_state(), random_state)
    assert fingerprint([]) is not None


def test_the_fingerprint_of_a_folder(photograph_folder, tmp_path):
    def of(folder):
        return [fingerprint(part) for part in folder_split(folder, SIZE, 3)]

    before = of(photograph_folder)
    copy = tmp_path / "a copy" / "elsewhere"
    shutil.copytree(photograph_folder, copy)
    os.utime(copy / "even" / "000.jpg", (0, 0))
    assert of(copy) == before
    whole = (copy / "even" / "000.jpg").read_bytes()
    (copy / "even" / "000.jpg").write_bytes(bytes(len(whole)))  # another of the same size
    assert of(copy)[0] != before[0]
    (copy / "even" / "000.jpg").write_bytes(whole)
    (copy / "even" / "010.jpg").write_bytes(b"another size")
    assert of(copy)[0] != before[0]
    (copy / "even" / "010.jpg").unlink()
    assert fingerprint(ImageFiles([copy / "even" / "010.jpg"], SIZE, 3)) is None


def test_a_fingerprint_is_cheap(tmp_path):
    images = torch.zeros(60_000, 3, 32, 32, dtype=torch.uint8)
    began = time.monotonic()
    fingerprint(Subset(Pixels(images, torch.zeros(60_000)), range(50_000)))
    assert time.monotonic() - began < 2  # about 0.05 where nothing else runs
