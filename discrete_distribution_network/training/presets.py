"""Preset networks for a size of images: levels and patches of each resolution.

`DDN(**preset(32, channels=1))` is the network of `ddn train`. Four levels of K = 256 choose for the whole image. From
8x8 on each patch chooses for itself: one pass of a level then gives one byte per patch, and every patch trains the
level's nodes (docs/log.md has the figures). Sides that halve evenly, such as 32, 48 and 64, divide best into patches; a
side like 37 hardly divides, which leaves fewer bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from discrete_distribution_network.model.network_config import resolutions
from discrete_distribution_network.training.recipes import Recipe

CODEBOOK_SIZE = 256
"""K; a code is one byte."""

DIM, DIM_MAX = 16, 64
"""Channels at full resolution, and the most at any; twice as many take twice the time, without gain after minutes."""

DECODER_DIM = 16
"""Channels of the decoder."""

PATCHES_PER_SIDE = (1, 2, 2, 4, 8)
"""Patches along a side, from the smallest resolution on; the last number holds for all larger ones."""

LEVELS = (4, 3, 4, 2, 1)
"""Levels of each resolution, from the smallest on; the last number holds for all larger ones."""


def preset(image_size: int | Sequence[int], channels: int = 3) -> dict[str, Any]:
    """Arguments of `DDN` for images of this size.

    Args:
        image_size: side of the square images, or (height, width).
        channels: of the images.
    """
    size = (image_size, image_size) if isinstance(image_size, int) else (image_size[0], image_size[1])
    sizes = resolutions(size)
    return {
        "dim": DIM,
        "dim_max": DIM_MAX,
        "image_size": list(size),
        "channels": channels,
        "codebook_size": CODEBOOK_SIZE,
        "num_resnet_blocks": 1,
        "levels_per_resolution": levels_for(len(sizes)),
        "patch_size": patches_for(sizes),
        "decoder_dim": DECODER_DIM,
    }


def recipe(config: Any = None) -> dict[str, Any]:
    """Arguments of `Trainer` by which `ddn train` trains these networks; its own defaults are those of another package.

    `Trainer(DDN(**preset(32)), dataset=images, num_train_steps=5000, **recipe())`

    Args:
        config: a `Recipe`, or options of the same names, such as the `TrainConfig` of `ddn train`; the defaults of
            `Recipe` if None.
    """
    config = Recipe() if config is None else config
    return {
        "batch_size": config.batch_size,
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


def levels_for(count: int) -> list[int]:
    """Levels at each of `count` resolutions, smallest first."""
    return [LEVELS[min(place, len(LEVELS) - 1)] for place in range(count)]


def patches_for(sizes: Sequence[tuple[int, int]]) -> list[int | None]:
    """The patch size at each resolution, smallest first; None where one code is chosen for the whole image.

    A patch divides its resolution, with a number of patches per side as near as possible to `PATCHES_PER_SIDE`.
    """
    targets = [PATCHES_PER_SIDE[min(place, len(PATCHES_PER_SIDE) - 1)] for place in range(len(sizes))]
    return [_patch(size, target) for size, target in zip(sizes, targets, strict=True)]


def _patch(size: tuple[int, int], target: int) -> int | None:
    if target == 1:
        return None
    shorter = min(size)
    fitting = [side for side in range(2, shorter + 1) if all(length % side == 0 for length in size)]
    if not fitting:
        return None
    patch = min(fitting, key=lambda side: abs(shorter / side - target))
    return None if (patch, patch) == size else patch
