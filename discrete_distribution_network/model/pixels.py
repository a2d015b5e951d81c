"""Images as public functions take them: floating-point tensors in [0, 1], or uint8 tensors, divided by 255."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from discrete_distribution_network.errors import InvalidInput, require

FAR_BELOW, FAR_ABOVE = -0.5, 1.5
"""Pixels beyond these mean that the images have another range than [0, 1]; less is taken for overshoot."""

_warned_of: set[str] = set()


def as_pixels(images: object, shape: tuple[int | None, ...], name: str = "images") -> Tensor:
    """Images as floating-point numbers in [0, 1]: uint8 divided by 255, floating-point numbers unchanged.

    Args:
        images: a tensor, uint8 in [0, 255] or floating point in [0, 1].
        shape: the expected one; None for a side of any length of at least 1.
        name: of the images in an error.

    Raises:
        InvalidInput: not a tensor, or of another shape or type.
    """
    if not isinstance(images, Tensor):
        raise InvalidInput(
            f"expected {name} as a tensor, got a {type(images).__name__}; torch.from_numpy converts an array, "
            "discrete_distribution_network.data.images.to_pixels a Pillow image"
        )
    require(images.numel() > 0, f"{name} with pixels, in a batch of at least 1", tuple(images.shape))
    fits = images.ndim == len(shape) and all(
        expected is None or side == expected for side, expected in zip(images.shape, shape, strict=True)
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
    """Raise `InvalidInput` where pixels are infinite or NaN. It reads values, so it is not for a training step."""
    finite = torch.isfinite(images)
    if not bool(finite.all()):
        raise InvalidInput(f"expected {name} with finite pixels, got {int((~finite).sum())} that are infinite or NaN")


def warn_of_range(images: Tensor, name: str = "images") -> None:
    """Warn, once in a process for each `name`, of float pixels far outside [0, 1]. It reads values."""
    if name not in _warned_of and (message := out_of_range(images, name)):
        _warned_of.add(name)
        warnings.warn(message, stacklevel=3)


def out_of_range(images: Tensor, name: str = "images") -> str | None:
    """A warning of float pixels far outside [0, 1]; None where they are not. It reads values."""
    if images.dtype == torch.uint8 or images.numel() == 0:
        return None
    lowest, highest = (float(value) for value in images.detach().aminmax())
    if not (lowest < FAR_BELOW or highest > FAR_ABOVE):  # so is NaN
        return None
    return f"expected {name} with pixels in [0, 1], got a range of [{lowest:.3g}, {highest:.3g}]; scale them to [0, 1]"
