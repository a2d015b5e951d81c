"""Images as every public function takes them: float tensors in [0, 1], or uint8 tensors, which are divided by 255."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from discrete_distribution_network.errors import InvalidInput, require

FAR_BELOW, FAR_ABOVE = -0.5, 1.5
"""Pixels beyond these are no overshoot of images in [0, 1]: the images have another range."""

_warned_of: set[str] = set()


def as_pixels(images: object, shape: tuple[int | None, ...], name: str = "images") -> Tensor:
    """Images as floating-point numbers, in [0, 1] if they are uint8; others keep their values and their type.

    Args:
        images: a tensor, uint8 in [0, 255] or floating point in [0, 1].
        shape: what it must have; None for a side of any length of at least 1.
        name: what an error calls them.

    Raises:
        InvalidInput: no tensor, or one of another shape or type.
    """
    if not isinstance(images, Tensor):
        raise InvalidInput(
            f"expected {name} as a tensor, got a {type(images).__name__}; torch.from_numpy converts an array, "
            "discrete_distribution_network.data.images.to_pixels a Pillow image"
        )
    require(images.numel() > 0, f"{name} with pixels, in a batch of at least 1", tuple(images.shape))
    fits = images.ndim == len(shape) and all(
        wanted is None or side == wanted for side, wanted in zip(images.shape, shape, strict=True)
    )
    sides = ", ".join("any" if side is None else str(side) for side in shape)
    require(fits, f"{name} of shape ({sides})", tuple(images.shape))
    if images.dtype == torch.uint8:
        return images.float() / 255
    require(
        images.is_floating_point(), f"{name} as floating-point numbers in [0, 1] or as uint8", images.dtype, "convert"
    )
    return images


def require_finite(images: Tensor, name: str = "images") -> None:
    """Raise `InvalidInput` where pixels are infinite or NaN; looks at values, so not for a training step."""
    require(bool(torch.isfinite(images).all()), f"{name} with finite pixels", "infinity or NaN among them")


def warn_of_range(images: Tensor, name: str = "images") -> None:
    """Warn, once in a process for each `name`, of float pixels far outside [0, 1]; looks at values."""
    if name not in _warned_of and (said := out_of_range(images, name)):
        _warned_of.add(name)
        warnings.warn(said, stacklevel=3)


def out_of_range(images: Tensor, name: str = "images") -> str | None:
    """What to warn of where float pixels are far outside [0, 1]; None where they are not. Looks at values."""
    if images.dtype == torch.uint8 or images.numel() == 0:
        return None
    lowest, highest = (float(value) for value in images.detach().aminmax())
    if not (lowest < FAR_BELOW or highest > FAR_ABOVE):  # so is NaN
        return None
    return f"expected {name} with pixels in [0, 1], got a range of [{lowest:.3g}, {highest:.3g}]; scale them to [0, 1]"
