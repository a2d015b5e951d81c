"""Data sets of images: tensors in memory, image files, and what any data set must have.

A data set is a `Dataset`, a tensor (N, C, H, W) or any iterable. Its items are images or pairs (image, label); an image
is a uint8 or float tensor (C, H, W) or a Pillow image (see `items.py`). `loader.py` makes batches of them; `sources/`
opens data sets by name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Shaped
from torch import Tensor
from torch.utils.data import Dataset, get_worker_info

from discrete_distribution_network.data.image_folder import find_images
from discrete_distribution_network.data.images import load_image
from discrete_distribution_network.data.items import Item
from discrete_distribution_network.errors import DataError, InvalidInput, require

CACHE_BYTES = 1 << 30
"""Decoded images kept in memory for one data set, shared equally among a loader's workers; others are decoded again."""


class Split(NamedTuple):
    """A data set for training and one for testing."""

    train: Any
    test: Any


class Pixels(Dataset[Item]):
    """Images in memory (N, C, H, W), with labels (N,) or without."""

    def __init__(
        self,
        images: Shaped[Tensor, "batch channels height width"],
        labels: Shaped[Tensor, " batch"] | None = None,
    ):
        self.images, self.labels = images, labels

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Item:
        return Item(self.images[index], None if self.labels is None else int(self.labels[index]))

    def many(self, indices: Sequence[int]) -> list[Item]:
        """The items of these indices, by one operation."""
        chosen = torch.tensor(indices)
        images = self.images[chosen].unbind()
        labels = [None] * len(images) if self.labels is None else self.labels[chosen].tolist()
        return [Item(image, label) for image, label in zip(images, labels, strict=True)]


class Decoded(Dataset[Item]):
    """Images that are slow to decode, cached up to `CACHE_BYTES`.

    Args:
        count: number of images.
        decode: returns the item of an index.
    """

    def __init__(self, count: int, decode: Callable[[int], Item]):
        self.count, self.decode = count, decode
        self._cache: dict[int, Item] = {}
        self._cached_bytes = 0

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Item:
        item = self._cache.get(index)
        if item is None:
            item = self.decode(index)
            worker = get_worker_info()
            if self._cached_bytes + item.image.nbytes <= CACHE_BYTES // (1 if worker is None else worker.num_workers):
                self._cached_bytes += item.image.nbytes
                self._cache[index] = item
        return item


class ImageFiles(Decoded):
    """Image files, with the subfolder of `root` that each lies in as its label.

    Args:
        files: the image files.
        size: (height, width); images are resized to cover it and cropped at the centre.
        channels: 1 for grey, 3 for RGB.
        root: the folder whose subfolders are classes; None for images without labels.
        classes: names of these subfolders, in the order of their labels.
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


class ImageDataset(Dataset[Tensor]):
    """The images of a folder and its subfolders, RGB, float32 (3, H, W) in [0, 1].

    Args:
        folder: of image files.
        image_size: an integer or (height, width); images are resized to cover it and cropped at the centre.
        exts: extensions of the files that are read, in any case.

    Raises:
        DataError: there is no image with such an extension.
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
        extensions = {f".{ending.lower().lstrip('.')}" for ending in ([exts] if isinstance(exts, str) else exts)}
        self.folder, self.image_size, self.exts = folder, image_size, exts
        self.paths = [path for path in find_images(folder) if path.suffix.lower() in extensions]
        if not self.paths:
            raise DataError(
                f"expected images in {folder} that end in {', '.join(sorted(extensions))}, found none; give other exts"
            )
        self.files = ImageFiles(self.paths, (sides[0], sides[1]), 3)

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Float[Tensor, "3 height width"]:
        return self.files[index].image.float() / 255


def split_indices(count: int, test_share: float) -> tuple[list[int], list[int]]:
    """Indices for training and for testing, at least one each, the latter evenly spaced: 9, 19, ... for a share of 0.1.

    Raises:
        InvalidInput: the share is not between 0 and 1.
    """
    require(0 < test_share < 1, "a test share between 0 and 1", test_share)
    test = [index for index in range(count) if int((index + 1) * test_share + 1e-9) > int(index * test_share + 1e-9)]
    test = test[: count - 1] or [count - 1]
    in_test = set(test)
    return [index for index in range(count) if index not in in_test], test


def is_stream(dataset: Any) -> bool:
    """Whether a data set is only iterable: without a length, or without items by index."""
    return not (hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__"))


def require_dataset(dataset: Any) -> None:
    """Raise `InvalidInput` unless it is a data set by its type; items are checked when they are loaded."""
    if isinstance(dataset, str | bytes | Path):
        raise InvalidInput(
            f"expected a data set of images, got the name {dataset!r}; open it with "
            "discrete_distribution_network.data.open_data"
        )
    if isinstance(dataset, Mapping):
        keys = ", ".join(str(key) for key in dataset) or "nothing"
        raise InvalidInput(f"expected one data set of images, got a dictionary of {keys}; choose one of its values")
    if isinstance(dataset, Tensor | np.ndarray) and dataset.ndim != 4:
        raise InvalidInput(
            f"expected images (N, C, H, W), got {type(dataset).__name__} of shape {tuple(dataset.shape)}; reshape it"
        )
    if is_stream(dataset) and not hasattr(dataset, "__iter__"):
        raise InvalidInput(f"expected a data set of images, got {dataset!r}; give a Dataset, a tensor or an iterable")
