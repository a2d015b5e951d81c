"""Image files as tensors: decoded as a person would see them, and checked."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from discrete_distribution_network.errors import DataError

IMAGE_ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")


def load_image(
    file: str | Path | BinaryIO,
    size: tuple[int, int],
    channels: int,
    background: int = 255,
    name: object = None,
) -> Tensor:
    """One image file as uint8 (C, H, W), turned and converted as a person would (see `to_pixels`).

    Args:
        file: its path, or the open file.
        size: (height, width); the image is resized to cover it and cropped at the centre: never squashed.
        channels: 1 for grey, 3 for RGB.
        background: what transparency lets through, 0 (black) to 255 (white).
        name: what an error calls it; its path if None.

    Raises:
        DataError: the file cannot be read or decoded, or has so many pixels that it may be a decompression bomb.
    """
    with faults_named(file if name is None else name), Image.open(file) as image:
        side = 2 * max(size)
        image.draft(None, (side, side))  # a far larger JPEG is decoded at a half, a quarter or an eighth
        return _pixels(image, size, channels, background)


def load_whole(file: str | Path | BinaryIO, channels: int, background: int = 255, name: object = None) -> Tensor:
    """One image file as uint8 (C, H, W) in its own size; see `load_image`."""
    with faults_named(file if name is None else name), Image.open(file) as image:
        size = ImageOps.exif_transpose(image).size
        return _pixels(image, (size[1], size[0]), channels, background)


def to_pixels(
    image: Image.Image, size: tuple[int, int], channels: int, background: int = 255, name: object = "an image"
) -> Tensor:
    """A Pillow image as uint8 (C, H, W).

    The first frame, upright by EXIF, transparency over a grey `background` (0 to 255), 16 bits scaled to 8, resized
    so that it covers `size` (height, width) and cropped to it at the centre.

    Raises:
        DataError: it cannot be decoded; the message calls it `name`.
    """
    with faults_named(name):
        return _pixels(image, size, channels, background)


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


@contextmanager
def faults_named(name: object) -> Iterator[None]:
    """Whatever Pillow raises as a `DataError` that names the image."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            yield
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise DataError(
            f"expected an image of at most {Image.MAX_IMAGE_PIXELS} pixels, got {name} ({error})"
        ) from error
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, EOFError) as error:
        raise DataError(f"expected an image, got {name}, which cannot be decoded ({error}); remove it") from error


def _pixels(image: Image.Image, size: tuple[int, int], channels: int, background: int) -> Tensor:
    image.seek(0)
    upright = _to_mode(ImageOps.exif_transpose(image), channels, background)
    fitted = ImageOps.fit(upright, (size[1], size[0]), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(np.asarray(fitted).reshape(*size, channels).transpose(2, 0, 1)))


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
