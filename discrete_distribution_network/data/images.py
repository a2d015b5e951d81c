"""Image files as tensors: decoded as a person would see them, and checked."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from PIL import ExifTags, Image, ImageOps
from PIL.TiffImagePlugin import TiffImageFile
from torch import Tensor

from discrete_distribution_network.data.image_folder import find_images, plug_in
from discrete_distribution_network.errors import DataError, DDNError

__all__ = ["faults_named", "find_images", "load_image", "load_whole", "reason", "to_pixels"]

UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""How an image of each EXIF orientation is turned upright."""

OVERSHOOT = 1.5
"""Floating-point pixels of up to so many times white are those of an image that was sharpened or resized."""

OUTLIERS = 1000
"""One pixel in so many, at least one, may be far brighter than white and does not set the scale."""


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
    plug_in()
    with faults_named(file if name is None else name), Image.open(file) as image:
        side = 2 * max(size)
        image.draft(None, (side, side))  # a far larger JPEG is decoded at a half, a quarter or an eighth
        return _pixels(image, size, channels, background)


def load_whole(file: str | Path | BinaryIO, channels: int, background: int = 255, name: object = None) -> Tensor:
    """One image file as uint8 (C, H, W) in its own size; see `load_image`."""
    plug_in()
    with faults_named(file if name is None else name), Image.open(file) as image:
        return _pixels(image, None, channels, background)


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


@contextmanager
def faults_named(name: object) -> Iterator[None]:
    """Whatever is raised while an image is opened and decoded as a `DataError` that names it; our own errors pass."""
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="PIL")  # of what it mended, such as a torn EXIF block
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            yield
    except DDNError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise DataError(
            f"expected an image of at most {Image.MAX_IMAGE_PIXELS} pixels, got {name} ({error})"
        ) from error
    except (FileNotFoundError, NotADirectoryError) as error:
        raise DataError(f"expected an image, found no file {name}; check the path") from error
    except Exception as error:  # each format's decoder raises its own
        raise DataError(
            f"expected an image, got {name}, which cannot be decoded ({reason(error)}); remove it"
        ) from error


def reason(error: BaseException) -> str:
    """What an error says, on one line."""
    return " ".join(str(error).split()) or type(error).__name__


def _pixels(image: Image.Image, size: tuple[int, int] | None, channels: int, background: int) -> Tensor:
    image.seek(0)
    if isinstance(image, TiffImageFile):
        _load_tiff(image)
    image.load()
    turn = _turn(image)
    upright = _to_mode(image, channels, background)
    if turn is not None:
        upright = upright.transpose(turn)
    height, width = size or (upright.height, upright.width)
    fitted = ImageOps.fit(upright, (width, height), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(np.asarray(fitted).reshape(height, width, channels).transpose(2, 0, 1)))


def _load_tiff(image: TiffImageFile) -> None:
    """Load a TIFF file, which Pillow turns upright by itself."""
    if not isinstance(image.info.get("xmp", b""), bytes):
        del image.info["xmp"]  # Pillow expects bytes
    name, image.filename = image.filename, ""  # of a file that has a name Pillow maps pixels as if they were upright
    try:
        image.load()
    finally:
        image.filename = name


def _turn(image: Image.Image) -> Image.Transpose | None:
    """What turns an image upright by its orientation, whatever else its EXIF block holds; None if nothing is to do."""
    try:
        return UPRIGHT.get(image.getexif()[ExifTags.Base.Orientation])
    except Exception:  # no tag of a broken block can be read
        return None


def _to_mode(image: Image.Image, channels: int, background: int) -> Image.Image:
    if image.mode.startswith(("I", "F")):
        image = Image.fromarray(_to_bytes(image))
    if image.mode in ("LA", "PA", "RGBA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        below = Image.new("RGBA", image.size, (background, background, background, 255))
        image = Image.alpha_composite(below, image)
    return image.convert("L" if channels == 1 else "RGB")


def _to_bytes(image: Image.Image) -> np.ndarray:
    """Grey pixels of 16 or 32 bits, or floats, as uint8 (H, W); NaN is black."""
    values = np.asarray(image, dtype=np.float64)
    if image.mode == "I" and getattr(image, "tag_v2", {}).get(SAMPLE_FORMAT) == (UNSIGNED,):
        values = np.where(values < 0, values + 2**32, values)  # Pillow reads them as signed
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):
        white = 65535.0
    else:
        white = _white(values, floats=image.mode == "F")
    return np.nan_to_num(np.clip(values * (255 / white), 0, 255), nan=0).round().astype(np.uint8)


SAMPLE_FORMAT, UNSIGNED = 339, 1
"""The tag of a TIFF file that says what its numbers are, and its value for integers without a sign."""


def _white(values: np.ndarray, floats: bool) -> float:
    """The value that stands for white: the least of 1 (of floats), 255, 65535 and 2^n - 1 above nearly all."""
    finite = np.sort(values[np.isfinite(values)], axis=None)
    outliers = min(max(1, len(finite) // OUTLIERS), len(finite) // 2)
    brightest = finite[-1 - outliers] if len(finite) else 0.0
    slack = OVERSHOOT if floats else 1
    for white in (1.0, 255.0, 65535.0)[0 if floats else 1 :]:
        if brightest <= white * slack:
            return white
    return 2.0 ** np.ceil(np.log2(brightest + 1)) - 1
