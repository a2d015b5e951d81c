"""Image files as tensors: upright, flattened onto a background, converted to 8 bits, resized and cropped."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import ExifTags, Image, ImageOps
from PIL.TiffImagePlugin import TiffImageFile
from torch import Tensor

from discrete_distribution_network.data.image_folder import register_readers
from discrete_distribution_network.errors import DataError, DDNError, one_line

UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""Transpositions that turn an image upright, by its EXIF orientation."""

OVERSHOOT = 1.5
"""Factor above white that floating-point pixels may reach, as those of a sharpened or resized image do."""

OUTLIERS = 1000
"""One pixel in this many, at least one, may be far brighter than white and does not set the scale."""


def load_image(
    file: str | Path | BinaryIO | BytesIO,
    size: tuple[int, int],
    channels: int,
    background: int = 255,
    name: object = None,
) -> UInt8[Tensor, "channels height width"]:
    """One image file as uint8 (C, H, W); see `to_pixels`.

    Args:
        file: its path, or the open file.
        size: (height, width); the image is resized to cover it and cropped at the centre.
        channels: 1 for grey, 3 for RGB.
        background: grey value behind transparent pixels, 0 (black) to 255 (white).
        name: what an error calls it; its path if None.

    Raises:
        DataError: the file cannot be read or decoded, or has so many pixels that it may be a decompression bomb.
    """
    register_readers()
    with decoding_errors(file if name is None else name), Image.open(file) as image:
        side = 2 * max(size)
        image.draft(None, (side, side))  # a far larger JPEG is decoded at a half, a quarter or an eighth
        return _pixels(image, size, channels, background)


def load_whole(
    file: str | Path | BinaryIO | BytesIO, channels: int, background: int = 255, name: object = None
) -> UInt8[Tensor, "channels height width"]:
    """One image file as uint8 (C, H, W) at its own size; see `load_image`."""
    register_readers()
    with decoding_errors(file if name is None else name), Image.open(file) as image:
        return _pixels(image, None, channels, background)


def to_pixels(
    image: Image.Image, size: tuple[int, int], channels: int, background: int = 255, name: object = "an image"
) -> UInt8[Tensor, "channels height width"]:
    """The first frame of a Pillow image as uint8 (C, H, W), upright by EXIF, with 16 bits scaled to 8.

    Args:
        image: of any mode.
        size: (height, width); the image is resized to cover it and cropped at the centre.
        channels: 1 for grey, 3 for RGB.
        background: grey value behind transparent pixels, 0 (black) to 255 (white).
        name: what an error calls it.

    Raises:
        DataError: it cannot be decoded.
    """
    with decoding_errors(name):
        return _pixels(image, size, channels, background)


@contextmanager
def decoding_errors(name: object) -> Iterator[None]:
    """Convert any error of opening and decoding an image into a `DataError` that names it; our own errors pass."""
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="PIL")  # of what it repaired, such as a truncated EXIF block
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
            f"expected an image, got {name}, which cannot be decoded ({one_line(error)}); remove it"
        ) from error


def _pixels(image: Image.Image, size: tuple[int, int] | None, channels: int, background: int) -> Tensor:
    image.seek(0)
    if isinstance(image, TiffImageFile):
        _load_tiff(image)
    image.load()
    transposition = _transposition(image)
    upright = _to_mode(image, channels, background)
    if transposition is not None:
        upright = upright.transpose(transposition)
    height, width = size or (upright.height, upright.width)
    fitted = ImageOps.fit(upright, (width, height), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(np.asarray(fitted).reshape(height, width, channels).transpose(2, 0, 1)))


def _load_tiff(image: TiffImageFile) -> None:
    """Load a TIFF file, which Pillow itself turns upright."""
    if not isinstance(image.info.get("xmp", b""), bytes):
        del image.info["xmp"]  # Pillow expects bytes
    name, image.filename = image.filename, ""  # of a file that has a name Pillow maps pixels as if they were upright
    try:
        image.load()
    finally:
        image.filename = name


def _transposition(image: Image.Image) -> Image.Transpose | None:
    """The transposition that turns an image upright, whatever else its EXIF block holds; None if it is upright."""
    try:
        return UPRIGHT.get(image.getexif()[ExifTags.Base.Orientation])
    except Exception:  # no tag of a broken block can be read
        return None


def _to_mode(image: Image.Image, channels: int, background: int) -> Image.Image:
    if image.mode.startswith(("I", "F")):
        image = Image.fromarray(_to_bytes(image))
    if image.mode in ("LA", "PA", "RGBA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        backdrop = Image.new("RGBA", image.size, (background, background, background, 255))
        image = Image.alpha_composite(backdrop, image)
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
"""The TIFF tag of the type of numbers, and its value for unsigned integers."""


def _white(values: np.ndarray, floats: bool) -> float:
    """The value of white: the least of 1 (of floats), 255, 65535 and 2^n - 1 that is above nearly all pixels."""
    finite = np.sort(values[np.isfinite(values)], axis=None)
    outliers = min(max(1, len(finite) // OUTLIERS), len(finite) // 2)
    brightest = finite[-1 - outliers] if len(finite) else 0.0
    slack = OVERSHOOT if floats else 1
    for white in (1.0, 255.0, 65535.0)[0 if floats else 1 :]:
        if brightest <= white * slack:
            return white
    return 2.0 ** np.ceil(np.log2(brightest + 1)) - 1
