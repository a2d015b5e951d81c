"""What a network is shown together with an image: its label, and an image made of it.

A network with `num_classes` learns with labels, one with `cond_channels` with another image: the grey values of which
it is to find the colours, its edges, or itself in few pixels. `Trainer`, `metrics.evaluate` and `prior.fit` all ask
here, so that a network is measured as it was trained.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypedDict

import torch.nn.functional as F
from torch import Tensor

from discrete_distribution_network.ddn import DDN
from discrete_distribution_network.errors import DataError, InvalidInput
from discrete_distribution_network.guidance import edges, grey
from discrete_distribution_network.model.pixels import as_pixels

CondFn = Callable[[Tensor], Tensor]
"""Images (B, C, H, W) -> what they are shown with, (B, cond_channels, H, W)."""

FEWER = 4
"""`low` has so many times fewer pixels a side."""


def low(images: Tensor) -> Tensor:
    """The images in 4 times fewer pixels a side, at their own size again."""
    images = as_pixels(images, (None, None, None, None))
    height, width = images.shape[2:]
    small = F.adaptive_avg_pool2d(images, (-(-height // FEWER), -(-width // FEWER)))
    return F.interpolate(small, (height, width), mode="bilinear", align_corners=False)


CONDS: dict[str, CondFn] = {"grey": grey, "edges": edges, "low": low}
"""By their names in `ddn train --cond`."""


def cond_channels(name: str, channels: int) -> int:
    """How many channels a condition has for images with so many."""
    return channels if name == "low" else 1


class ConditioningArguments(TypedDict, total=False):
    labels: Tensor
    cond: Tensor


def conditioning_inputs(
    ddn: DDN, images: Tensor, labels: Tensor | None, cond_fn: CondFn | None
) -> ConditioningArguments:
    """The further arguments of `ddn(images)` and `ddn.encode_walk(images)`, by what the network was made for.

    Args:
        labels: of a network with `num_classes`; others do without.
        cond_fn: for a network with `cond_channels`; others do without.

    Raises:
        DataError: the data set has no labels for a network that learns with them.
        InvalidInput: there is no `cond_fn` for a network that learns with images.
    """
    given: ConditioningArguments = {}
    if ddn.num_classes is not None:
        if labels is None:
            raise DataError("expected a label with every image for a network by class, got images without; give labels")
        given["labels"] = labels
    if ddn.cond_channels:
        if cond_fn is None:
            raise InvalidInput(
                "expected a function from images to what they are shown with (cond_fn) for a network with "
                f"cond_channels={ddn.cond_channels}, got none; give one"
            )
        given["cond"] = cond_fn(images)
    return given
