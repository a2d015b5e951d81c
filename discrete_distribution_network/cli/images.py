"""Images of a command: from files or a data set, a batch at a time, so that any number fits in memory."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from discrete_distribution_network.data.image_folder import find_images
from discrete_distribution_network.data.images import load_image
from discrete_distribution_network.data.loader import in_order, in_unit_range
from discrete_distribution_network.ddn import DDN
from discrete_distribution_network.errors import DataError, InvalidInput

BATCH, BATCH_PIXELS = 64, 1 << 22
"""Most images in a batch, and most pixels of them."""


def batch_size(image_size: tuple[int, int]) -> int:
    """Images of a size (height, width) in a batch."""
    return max(1, min(BATCH, BATCH_PIXELS // math.prod(image_size)))


def parts(count: int, size: int) -> Iterator[range]:
    """The indices 0 to `count` in parts of at most `size`."""
    return (range(start, min(start + size, count)) for start in range(0, count, size))


def image_paths(files: Sequence[Path]) -> list[Path]:
    """The image files among files and folders.

    Raises:
        InvalidInput: there are none.
        DataError: a file or folder is not there, or a folder has no images.
    """
    paths = [path for file in files for path in (find_images(file) if file.is_dir() else [file])]
    if not paths:
        raise InvalidInput("expected at least one image file, got none; name files or folders")
    if missing := [path for path in paths if not path.exists()]:
        raise DataError(f"expected an image, found no file {missing[0]}; check the path")
    return paths


def images_below(folder: Path) -> list[Path]:
    """The image files in a folder and its subfolders.

    Raises:
        InvalidInput: no folder was named.
    """
    if folder == Path():
        raise InvalidInput("expected a folder of images, got none; name one")
    return image_paths([folder])


def load_images(files: Sequence[Path], ddn: DDN) -> tuple[list[Path], Float[Tensor, "batch channels height width"]]:
    """The paths and images of files and folders, in [0, 1] on the model's device."""
    paths = image_paths(files)
    images = torch.stack([load_image(path, ddn.image_size, ddn.channels) for path in paths])
    return paths, in_unit_range(images.to(ddn.start.device))


def load_image_file(file: Path, ddn: DDN) -> Float[Tensor, "1 channels height width"]:
    """The image of one file, in [0, 1] on the model's device."""
    if file.is_dir():
        raise InvalidInput(f"expected an image file, got the folder {file}; name a file")
    return load_images([file], ddn)[1]


def encode_files(paths: Sequence[Path], ddn: DDN) -> Int[Tensor, "batch codes"]:
    """The codes of image files."""
    batches = (paths[part.start : part.stop] for part in parts(len(paths), batch_size(ddn.image_size)))
    return torch.cat([ddn.encode(load_images(batch, ddn)[1]) for batch in batches])


def encode_dataset(ddn: DDN, dataset: Any, limit: int, max_bad_images: int = 0) -> Int[Tensor, "batch codes"]:
    """The codes of the first `limit` images of a data set."""
    batches = in_order(dataset, ddn, batch_size(ddn.image_size), limit=limit, max_bad_images=max_bad_images)
    return torch.cat([ddn.encode(batch.images.to(ddn.start.device)) for batch in batches])
