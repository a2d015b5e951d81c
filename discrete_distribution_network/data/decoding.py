"""Loading one item of a data set: an image, or the reason why it cannot be decoded.

A data set of the user's may raise anything. What its decoder raises makes a bad image, which a training may replace;
what its own code raises is a mistake, and passes.
"""

from __future__ import annotations

import re
import traceback
from collections.abc import Callable, Iterator
from typing import Any

from PIL import Image
from torch import Tensor

from discrete_distribution_network.data.items import Item, as_item
from discrete_distribution_network.errors import DataError, DDNError, one_line, printable

Augment = Callable[[Tensor], Tensor]
"""A transform of one image (C, H, W) that keeps its shape."""

READ_ERRORS = (OSError, SyntaxError, Image.DecompressionBombError)
"""Raised where a file cannot be read or decoded, whoever raises them."""

DECODERS = re.compile(r"PIL\.(\w+Plugin|ImageFile)|(pillow_\w+|imageio|tifffile|torchvision\.io)(\..+)?")
"""Modules that decode images: an image is bad whatever they raise."""

DECODING_FUNCTIONS = {"open", "load", "verify", "exif_transpose", "getexif", "tobytes"}
"""Functions that decode in modules of Pillow whose other functions work on pixels."""


def load_item(
    fetch: Callable[[], Any], size: tuple[int, int], channels: int, name: str, augment: Augment | None
) -> Item | str:
    """An item, checked and augmented; or the message of the error where it cannot be decoded.

    Args:
        fetch: loads the item from the data set.
        size: (height, width) of the image.
        name: what an error calls the item.

    Raises:
        DataError: the augmentation changes the shape.
    """
    try:
        item = as_item(fetch(), size, channels, name)
    except DataError as error:
        return str(error)
    except (DDNError, StopIteration):
        raise
    except Exception as error:
        if not is_decoding_error(error):
            raise
        return printable(f"expected an image, got {name}, which cannot be decoded ({one_line(error)}); remove it")
    if augment is None:
        return item
    image = augment(item.image)
    if image.shape != item.image.shape:
        raise DataError(
            f"expected augmentation to keep the shape {tuple(item.image.shape)}, got {tuple(image.shape)} for {name}; "
            "crop last"
        )
    return Item(image, item.label)


def skip_item(items: Iterator[Any]) -> None:
    """Advance by one item, whether it can be decoded or not."""
    try:
        next(items)
    except DataError:
        pass
    except (DDNError, StopIteration):
        raise
    except Exception as error:
        if not is_decoding_error(error):
            raise


def is_decoding_error(error: Exception) -> bool:
    """Whether an error raised inside a data set means that an image cannot be decoded, not a mistake in its code."""
    return isinstance(error, READ_ERRORS) or any(
        DECODERS.fullmatch(module)
        or (module in ("PIL.Image", "PIL.ImageOps") and frame.f_code.co_name in DECODING_FUNCTIONS)
        for frame, _ in traceback.walk_tb(error.__traceback__)
        for module in [frame.f_globals.get("__name__", "")]
    )
