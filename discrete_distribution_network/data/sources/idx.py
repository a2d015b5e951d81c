"""IDX files, the format of MNIST and Fashion-MNIST (http://yann.lecun.com/exdb/mnist)."""

from __future__ import annotations

import gzip
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import UInt8
from torch import Tensor

from discrete_distribution_network.data.datasets import Pixels, Split
from discrete_distribution_network.data.sources.request import DataRequest
from discrete_distribution_network.errors import DataError
from discrete_distribution_network.model.tensors import resize

FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")
"""Where Debian's package dataset-fashion-mnist puts the files."""

DTYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
"""Types of numbers by their byte in the header."""


def open_source(request: DataRequest) -> Split | None:
    """`fashion-mnist`, unless a folder has that name, and folders of IDX files."""
    folder = request.folder
    if request.name == "fashion-mnist" and not os.path.exists(folder):
        if not FASHION_MNIST.is_dir():
            raise DataError(
                f"expected Fashion-MNIST in {FASHION_MNIST}, found none; run apt-get install dataset-fashion-mnist, or "
                "give the folder that holds its IDX files"
            )
        folder = FASHION_MNIST
    elif not (os.path.isdir(folder) and any(folder.glob("train-images*idx3-ubyte*"))):
        return None
    return idx_split(folder, request.size, request.channels)


def idx_split(folder: str | Path, size: tuple[int, int], channels: int = 1) -> Split:
    """The four IDX files of MNIST or Fashion-MNIST, `train-…` and `t10k-…`; see `fit_pixels` for other sizes."""
    return Split(*(_part(Path(folder), part, size, channels) for part in ("train", "t10k")))


def _part(folder: Path, part: str, size: tuple[int, int], channels: int) -> Pixels:
    images, labels = (
        torch.from_numpy(_read(folder, f"{part}-{content}").astype(np.uint8))
        for content in ("images-idx3-ubyte", "labels-idx1-ubyte")
    )
    if images.ndim != 3 or labels.shape != images.shape[:1]:
        raise DataError(
            f"expected as many labels as images in {folder}, got {tuple(labels.shape)} for {tuple(images.shape)}"
        )
    return Pixels(fit_pixels(images.unsqueeze(1), size).expand(-1, channels, -1, -1), labels.long())


def _read(folder: Path, name: str) -> np.ndarray:
    path = next((path for ending in ("", ".gz") if (path := folder / f"{name}{ending}").is_file()), None)
    if path is None:
        raise DataError(f"expected {folder / name}, with or without .gz, found none; fetch it")
    return read_idx(path)


def read_idx(path: str | Path) -> np.ndarray:
    """The array in an IDX file; gzipped if the name ends in .gz.

    Raises:
        DataError: it is no IDX file, or truncated.
    """
    path = Path(path)
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"expected an IDX file, got {path}, which cannot be read ({error}); fetch it again") from error
    kind, rank = content[2:4] if len(content) >= 4 and content[:2] == b"\0\0" else (0, 0)
    if kind not in DTYPES or not 1 <= rank <= 4 or len(content) < 4 + 4 * rank:
        raise DataError(f"expected an IDX file, got {path}, which does not begin like one; fetch it again")
    shape = struct.unpack_from(f">{rank}I", content, 4)
    dtype = np.dtype(DTYPES[kind])
    expected = 4 + 4 * rank + dtype.itemsize * int(np.prod(shape, dtype=object))
    if len(content) != expected:
        raise DataError(f"expected {expected} bytes in the IDX file {path}, got {len(content)}; fetch it again")
    return np.frombuffer(content, dtype, offset=4 + 4 * rank).reshape(shape)


def fit_pixels(
    images: UInt8[Tensor, "batch channels _ _"], size: tuple[int, int]
) -> UInt8[Tensor, "batch channels height width"]:
    """Images at `size` (height, width): zero-padded if they are no larger, else resized."""
    padding = [target - side for target, side in zip(size, images.shape[2:], strict=True)]
    if min(padding) < 0:
        return resize(images.float(), size).round().byte()
    top, left = padding[0] // 2, padding[1] // 2
    return F.pad(images, (left, padding[1] - left, top, padding[0] - top))
