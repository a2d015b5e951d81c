"""Data sets by their names: folders, IDX files, torchvision, digits."""

import gzip
import pkgutil
import struct
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from PIL import Image

from discrete_distribution_network.data import sources
from discrete_distribution_network.data.items import as_item
from discrete_distribution_network.data.sources import idx, open_data
from discrete_distribution_network.data.sources.folder import folder_split
from discrete_distribution_network.data.sources.idx import read_idx
from discrete_distribution_network.data.sources.mnist_digits import mnist_digits
from discrete_distribution_network.errors import DataError

SIZE = (16, 16)


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


def write_idx(path, array, kind=0x08):
    content = struct.pack(">HBB", 0, kind, array.ndim) + struct.pack(f">{array.ndim}I", *array.shape)
    content += array.astype(idx.DTYPES[kind]).tobytes()
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


@pytest.mark.parametrize("kind", sorted(idx.DTYPES))
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


@pytest.mark.skipif(not idx.FASHION_MNIST.is_dir(), reason="needs Debian's package dataset-fashion-mnist")
def test_fashion_mnist():
    split = open_data("fashion-mnist", (32, 32), 1)
    assert (len(split.train), len(split.test)) == (60_000, 10_000)
    assert torch.bincount(split.test.labels).tolist() == [1000] * 10


def test_fashion_mnist_says_where_it_comes_from(monkeypatch):
    monkeypatch.setattr(idx, "FASHION_MNIST", Path("/nowhere"))
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


def test_what_is_not_there_is_one_sentence(monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(DataError, match="nobody/nothing") as error:
        open_data("nobody/nothing", SIZE, 3)
    assert "\n" not in str(error.value)
    for name in ("nowhere", "./no/where"):
        with pytest.raises(DataError, match="check the path"):
            open_data(name, SIZE, 3)


def test_no_message_of_the_library_names_an_option(monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(DataError, match="or give a folder of images") as error:
        open_data("nobody/nothing", SIZE, 3)
    assert "--" not in str(error.value)


def test_every_source_is_asked():
    modules = {name for _, name, _ in pkgutil.iter_modules(sources.__path__)} - {"request"}
    assert {source.__module__.rpartition(".")[2] for source in sources.SOURCES} == modules
