"""Preset networks for a size of images: levels and patches of each resolution.

`DDN(**preset(64))` is the network of `ddn train`. Four levels of K = 256 choose for the whole image. From 8x8 on each
patch chooses for itself: one pass of a level then gives one byte per patch, and every patch trains the level's nodes
(docs/log.md has the figures). Images in colour get smaller patches, so more bytes, than grey ones. Sides that halve
evenly, such as 32, 48 and 64, divide best into patches; a side like 37 hardly divides, which leaves fewer bytes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

from discrete_distribution_network.model.network_config import resolutions
from discrete_distribution_network.training.recipes import Recipe

CODEBOOK_SIZE = 256
"""K; a code is one byte."""

DIM, DIM_MAX = 16, 64
"""Channels at full resolution, and the most at any; twice as many take twice the time, without gain after minutes."""

IMAGES_PER_STEP, PIXELS_PER_STEP = 64, 1 << 16
"""Images and pixels of a step; see `images_per_step`."""


class Layout(NamedTuple):
    """Where the codes lie, from the smallest resolution on; the last number of each holds for all larger resolutions.

    Attributes:
        patches: along a side.
        levels: of each resolution.
        decoder_dim: channels of the decoder.
    """

    patches: tuple[int, ...]
    levels: tuple[int, ...]
    decoder_dim: int


GREY = Layout((1, 2, 2, 4, 8), (4, 3, 4, 2, 1), 16)
COLOUR = {
    "minutes": Layout((1, 2, 4, 8, 8), (4, 3, 3, 2, 1), 32),
    "hours": Layout((1, 2, 4, 8, 16), (4, 3, 3, 2, 2), 32),
}
"""By the time of training; 256 and 704 bytes at 64x64."""


def preset(
    image_size: int | Sequence[int], channels: int = 3, trained_for: Literal["minutes", "hours"] = "minutes"
) -> dict[str, Any]:
    """Arguments of `DDN` for images of this size.

    Args:
        image_size: side of the square images, or (height, width).
        channels: of the images.
        trained_for: images in colour get more codes for hours; grey ones have the same network.
    """
    size = _height_and_width(image_size)
    sizes = resolutions(size)
    layout = GREY if channels == 1 else COLOUR[trained_for]
    return {
        "dim": DIM,
        "dim_max": DIM_MAX,
        "image_size": list(size),
        "channels": channels,
        "codebook_size": CODEBOOK_SIZE,
        "num_resnet_blocks": 1,
        "levels_per_resolution": extended(layout.levels, len(sizes)),
        "patch_size": patches_for(sizes, layout.patches),
        "decoder_dim": layout.decoder_dim,
    }


def images_per_step(image_size: int | Sequence[int], device: str = "cpu") -> int:
    """Images a step in `ddn train`: 64, but on a CPU about 65,536 pixels, at least 8 images, such as 16 at 64x64.

    On a CPU the time of a step grows with its pixels, and many small steps learn more than a few large ones; on a GPU a
    small step takes as long as a large one.

    Args:
        image_size: side of the square images, or (height, width).
        device: type of the device, such as "cpu" or "cuda".
    """
    if device != "cpu":
        return IMAGES_PER_STEP
    pixels = max(1, math.prod(_height_and_width(image_size)))  # a size of 0 is refused where the network is made
    return max(8, min(IMAGES_PER_STEP, PIXELS_PER_STEP // pixels))


def _height_and_width(image_size: int | Sequence[int]) -> tuple[int, int]:
    return (image_size, image_size) if isinstance(image_size, int) else (image_size[0], image_size[1])


def recipe(config: Any = None, image_size: int | Sequence[int] = 32, device: str = "cpu") -> dict[str, Any]:
    """Arguments of `Trainer` by which `ddn train` trains these networks; its own defaults are those of another package.

    `Trainer(DDN(**preset(64)), dataset=images, num_train_steps=5000, **recipe(image_size=64))`

    Args:
        config: a `Recipe`, or options of the same names, such as the `TrainConfig` of `ddn train`; the defaults of
            `Recipe` if None.
        image_size, device: see `images_per_step`, which they decide where `config` does not.
    """
    config = Recipe() if config is None else config
    return {
        "batch_size": images_per_step(image_size, device) if config.batch_size is None else config.batch_size,
        "grad_accum_every": config.grad_accum,
        "learning_rate": config.learning_rate,
        "muon_learning_rate": config.muon_learning_rate,
        "weight_decay": config.weight_decay,
        "adam_kwargs": {"betas": (0.9, 0.99)},
        "warmup_steps": config.warmup_steps,
        "decay": "cosine",
        "hold": config.hold,
        "max_grad_norm": config.max_grad_norm,
        "split_every": config.split_every,
        "split_until": config.split_until,
        "second_stage": config.second_stage,
        "use_ema": config.ema,
        "mixed_precision": config.precision,
        "seed": config.seed,
    }


def extended(numbers: Sequence[int], count: int) -> list[int]:
    """The first `count` of these numbers, the last of which holds for all that are lacking."""
    return [numbers[min(place, len(numbers) - 1)] for place in range(count)]


def patches_for(sizes: Sequence[tuple[int, int]], per_side: Sequence[int]) -> list[int | None]:
    """The patch size at each resolution, smallest first; None where one code is chosen for the whole image.

    A patch divides its resolution, with a number of patches along a side as near as possible to that of `per_side`.
    """
    return [_patch(size, target) for size, target in zip(sizes, extended(per_side, len(sizes)), strict=True)]


def _patch(size: tuple[int, int], target: int) -> int | None:
    if target == 1:
        return None
    shorter = min(size)
    fitting = [side for side in range(2, shorter + 1) if all(length % side == 0 for length in size)]
    if not fitting:
        return None
    patch = min(fitting, key=lambda side: abs(shorter / side - target))
    return None if (patch, patch) == size else patch
