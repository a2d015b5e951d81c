"""`Item`: one image and its label, from whatever a data set returns for it."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from io import BytesIO
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Shaped
from PIL import Image
from torch import Tensor

from discrete_distribution_network.data.images import decoding_errors, load_image, to_pixels
from discrete_distribution_network.errors import DataError

IMAGE_COLUMNS = ("image", "img", "pixel_values", "jpg", "png", "webp")
LABEL_COLUMNS = ("label", "labels", "fine_label", "class", "cls")
"""Columns of a row, by preference."""


class Item(NamedTuple):
    """One image, uint8 or float in [0, 1], (C, H, W), and its label if it has one."""

    image: Shaped[Tensor, "channels height width"]
    label: int | None = None


def as_item(value: Any, size: tuple[int, int], channels: int, name: object) -> Item:
    """An item of a data set as an `Item` of this size.

    Args:
        value: an image, a pair of an image and its label, or a row of columns (a mapping). A Pillow image is converted,
            resized to cover the size and cropped; a tensor or array must have the size already. A label that is no
            integer is dropped.
        size: (height, width) of the image.
        channels: C.
        name: what an error calls the item.

    Raises:
        DataError: it holds no image, or one of another shape or type.
    """
    label = None
    if isinstance(value, Mapping):
        value, label = value[_image_column(value, name)], _label_of(value)
    elif isinstance(value, tuple | list) and 1 <= len(value) <= 2:
        value, label = (*value, None)[:2]
    if isinstance(value, Image.Image):
        image = to_pixels(value, size, channels, name=name)
    elif _is_encoded(value):
        with decoding_errors(name):
            file = BytesIO(value["bytes"]) if value["bytes"] is not None else value["path"]
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
