"""Every kind of data set comes as images of one form, with labels where there are any."""

import gzip
import pickle
import struct
from itertools import islice
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from PIL import Image

from discrete_distribution_network import data
from discrete_distribution_network.data import (
    FASHION_MNIST,
    Decoded,
    Item,
    as_item,
    folder_split,
    held_out,
    is_stream,
    mnist_digits,
    open_data,
    read_idx,
)
from discrete_distribution_network.errors import DataError, InvalidInput
from discrete_distribution_network.loader import Loader, in_order

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
