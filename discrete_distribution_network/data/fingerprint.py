"""Fingerprints of data sets, by which a resumed training notices that its images were exchanged.

Only a part of the data set is hashed (`SAMPLED_...`), so that a fingerprint takes well under a second.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import ConcatDataset, Subset, TensorDataset

from discrete_distribution_network.data.datasets import ImageDataset, ImageFiles, Pixels, is_stream
from discrete_distribution_network.data.sources.hugging_face import HuggingFaceImages
from discrete_distribution_network.random_state import own_random_state

SAMPLED_FILES, SAMPLED_SIZES, SAMPLED_ITEMS = 16, 20_000, 4
"""Number of files whose beginnings are hashed, of files whose sizes are, and of items where there are no files."""

SAMPLED_BYTES = 1 << 20
"""Bytes of a file that are hashed."""

SAMPLED_VALUES = 1 << 22
"""Values of an array that are hashed."""


def fingerprint(dataset: Any) -> str | None:
    """A hash of a sample of the images, equal for a copy of a folder at another path.

    Returns:
        None for streams, for data sets whose items cannot be loaded, and for those that are random each time.
    """
    digest = hashlib.blake2b(digest_size=16)
    try:
        return digest.hexdigest() if _hash_dataset(digest, dataset) else None
    except Exception:  # a data set of the user's, or a file that is gone; loading its images will say what is wrong
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
    """Paths relative to the folder that holds them all, sizes, and the beginnings of a sample."""
    names = [str(path) for path in files]
    if not names:
        return
    start = len(os.path.dirname(names[0]) if len(names) == 1 else os.path.commonpath([min(names), max(names)]))
    digest.update("\0".join(name[start:] for name in names).encode("utf-8", "surrogateescape"))
    sizes = [os.stat(names[index]).st_size for index in _evenly_spaced(len(names), SAMPLED_SIZES)]
    digest.update(np.asarray(sizes, dtype=np.int64).tobytes())
    for index in _evenly_spaced(len(names), SAMPLED_FILES):
        with open(names[index], "rb") as file:
            digest.update(file.read(SAMPLED_BYTES))


def _hash_items(digest: Any, dataset: Any) -> bool:
    """Hash a sample of items by index; False if an item differs when it is loaded a second time."""
    digest.update(str(len(dataset)).encode())
    for index in _evenly_spaced(len(dataset), SAMPLED_ITEMS):
        first, second = (_digest_of_item(dataset, index) for _ in range(2))
        if first != second:
            return False
        digest.update(first)
    return True


def _digest_of_item(dataset: Any, index: int) -> bytes:
    digest = hashlib.blake2b(digest_size=16)
    with own_random_state() as seed:
        seed(index)
        _hash_value(digest, dataset[index])
    return digest.digest()


def _hash_value(digest: Any, value: Any) -> None:
    """Hash an item or a part of one; of large arrays a sample of values."""
    if isinstance(value, Tensor):
        digest.update(f"{value.dtype} {tuple(value.shape)}".encode())
        sampled_rows = value.detach()[:: _stride(len(value), SAMPLED_VALUES // 256)] if value.ndim else value.detach()
        flat = sampled_rows.reshape(-1)
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


def _evenly_spaced(count: int, limit: int) -> Sequence[int]:
    """At most `limit` indices below `count`, the first and the last among them."""
    if count <= limit:
        return range(count)
    return [index * (count - 1) // (limit - 1) for index in range(limit)]


def _stride(count: int, limit: int) -> int:
    """An odd step by which at most `limit` of `count` are taken."""
    return -(-count // max(1, limit)) | 1
