"""Uploaded pictures, which are checked before they are decoded: their size, their pixels, their number of frames."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from discrete_distribution_network.data.images import decoding_errors
from discrete_distribution_network.demo.files import is_own
from discrete_distribution_network.errors import DataError, require
from discrete_distribution_network.model.tensors import resize

MAX_UPLOAD_PIXELS, MAX_DECODED_PIXELS, MAX_LAYERS = 25_000_000, 1 << 20, 4
"""Most pixels of an uploaded picture, of one that is worked on at its own size, and most layers of paint."""
FORMATS = ("AVIF", "BMP", "GIF", "HEIF", "JPEG", "MPO", "PNG", "PPM", "TIFF", "WEBP")
"""Formats that are opened; MPO is what some cameras write, a JPEG with a smaller one behind it."""
TILE_WIDTH, TILE_LENGTH = 322, 323
"""Tags of a TIFF."""


def check_picture(path: Path, most: int = MAX_UPLOAD_PIXELS) -> None:
    """Check that a file is a still image of a size to work on; only its header is read.

    Args:
        most: pixels.

    Raises:
        DataError: it is not.
    """
    with decoding_errors("the file"), Image.open(path) as image:
        if image.format not in FORMATS:
            raise DataError(f"expected an image such as a PNG or JPEG, got one of {image.format}; convert it")
        width, height = image.size
        tags: dict[int, Any] = getattr(image, "tag_v2", {})
        tile = [tags.get(tag, 1) for tag in (TILE_WIDTH, TILE_LENGTH)]  # a TIFF is decoded by whole tiles
        if max(width * height, tile[0] * tile[1]) > most:
            raise DataError(
                f"expected an image of at most {most // 10**6} megapixels, got {width}x{height}; make it smaller"
            )
        frames = 1 if image.format in ("MPO", "TIFF") else getattr(image, "n_frames", 1)  # pages do not move
        if frames > 1:
            raise DataError(f"expected a still image, got one of {frames} frames; upload a single frame")


def open_editor(editor: dict[str, Any] | None) -> dict[str, Any] | None:
    """The background and layers of the image editor from their files, each checked before it is decoded.

    Raises:
        InvalidInput, DataError: there are too many layers, or a file is not an image or too large.
    """
    if editor is None:
        return None
    layers = [layer for layer in editor.get("layers") or () if layer is not None]
    require(len(layers) <= MAX_LAYERS, f"at most {MAX_LAYERS} layers of paint", len(layers))

    def picture(file: dict[str, Any]) -> Image.Image:
        path = Path(file["path"])
        require(is_own(str(path)), "a picture that was uploaded", path.name)
        check_picture(path, MAX_DECODED_PIXELS)
        with decoding_errors("the picture"), Image.open(path) as image:
            return image.convert("RGBA")

    below = editor.get("background")
    return {"background": None if below is None else picture(below), "layers": [picture(layer) for layer in layers]}


class Painting(NamedTuple):
    """A picture and the paint over it, at the model's size.

    Attributes:
        image: below the paint, (C, H, W).
        paint: its colours, (C, H, W).
        mask: 1 where there is paint, (1, H, W).
    """

    image: Tensor
    paint: Tensor
    mask: Tensor


def flatten(editor: dict[str, Any], size: tuple[int, int], channels: int) -> Painting:
    """The background and the layers that `open_editor` gives, resized to a model's images."""
    image = resize(to_tensor(editor["background"], channels).unsqueeze(0), size)[0]
    paint, mask = torch.zeros_like(image), torch.zeros(1, *size)
    for layer in editor.get("layers") or ():
        alpha = to_tensor(layer.getchannel("A"), 1)
        share = resize(alpha.unsqueeze(0), size)[0]
        color = resize((to_tensor(layer, channels) * alpha).unsqueeze(0), size)[0] / share.clamp_min(1e-6)
        paint, mask = torch.where(share > 0.5, color, paint), torch.maximum(mask, (share > 0.5).float())
    return Painting(image, paint.clamp(0, 1), mask)


def to_tensor(picture: Image.Image, channels: int) -> Float[Tensor, "channels height width"]:
    """The pixels of a picture in [0, 1]."""
    require(picture.width * picture.height <= MAX_DECODED_PIXELS, "a painting of the size shown", picture.size)
    picture = picture.convert("L" if channels == 1 else "RGB")
    values = torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8).float() / 255
    return values.reshape(picture.height, picture.width, channels).permute(2, 0, 1).contiguous()
