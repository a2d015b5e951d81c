"""What a network is conditioned on in training and in evaluation: an image's label, and an image computed from it.

A network with `num_classes` takes labels; one with `cond_channels` takes condition images, such as grey values (it
learns colouring), edges, or a low resolution. Training and evaluation both use `conditioning_inputs`,
so that a network is evaluated as it was trained.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypedDict

import torch.nn.functional as F
from jaxtyping import Float, Integer, Shaped
from torch import Tensor

from discrete_distribution_network.ddn import DDN
from discrete_distribution_network.errors import DataError, InvalidInput
from discrete_distribution_network.guidance import edges, grey
from discrete_distribution_network.model.pixels import as_pixels

CondFn = Callable[[Tensor], Tensor]
"""Images (B, C, H, W) -> their condition images (B, cond_channels, H, W)."""

LOW_FACTOR = 4
"""Downsampling factor of `low`."""


def low(
    images: Shaped[Tensor, "batch channels height width"],
) -> Float[Tensor, "batch channels height width"]:
    """The images downsampled by 4, then upsampled to their own size."""
    images = as_pixels(images, (None, None, None, None))
    height, width = images.shape[2:]
    small = F.adaptive_avg_pool2d(images, (-(-height // LOW_FACTOR), -(-width // LOW_FACTOR)))
    return F.interpolate(small, (height, width), mode="bilinear", align_corners=False)


CONDS: dict[str, CondFn] = {"grey": grey, "edges": edges, "low": low}
"""The functions of `ddn train --cond`, by name."""


def cond_channels(name: str, channels: int) -> int:
    """Channels of the condition images of one of `CONDS`, for images with this number of channels."""
    return channels if name == "low" else 1


class ConditioningArguments(TypedDict, total=False):
    """Keyword arguments of a network's `forward`, `encode_walk`, `decode` and the like: only those that it takes.

    Attributes:
        labels: classes, integers (B,).
        cond: condition images (B, cond_channels, H, W).
    """

    labels: Tensor
    cond: Tensor


def conditioning_inputs(
    ddn: DDN,
    images: Shaped[Tensor, "batch channels height width"],
    labels: Integer[Tensor, " batch"] | None,
    cond_fn: CondFn | None,
) -> ConditioningArguments:
    """The arguments with which a network is called for these images.

    Args:
        ddn: the network.
        images: pixels in [0, 1], or uint8.
        labels: classes; a network without `num_classes` gets none.
        cond_fn: computes the condition images; for a network with `cond_channels`.

    Raises:
        DataError: a network with `num_classes`, and no labels.
        InvalidInput: a network with `cond_channels`, and no `cond_fn`.
    """
    inputs: ConditioningArguments = {}
    if ddn.num_classes is not None:
        if labels is None:
            raise DataError(
                f"expected a label with every image for a network with num_classes={ddn.num_classes}, got images "
                "without; give labels"
            )
        inputs["labels"] = labels
    if ddn.cond_channels:
        if cond_fn is None:
            raise InvalidInput(
                f"expected a cond_fn, images -> condition images, for a network with cond_channels={ddn.cond_channels}"
                ", got None; give one"
            )
        inputs["cond"] = cond_fn(images)
    return inputs
