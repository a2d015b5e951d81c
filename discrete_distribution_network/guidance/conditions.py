"""Conditions of guidance: the errors and scores by which a guided walk chooses, without gradients or training.

A `Measurement` is linear: it compares averages over pixels, so a level chooses by it without drawing its candidates
(see `model/candidates.py`). A `Scorer` is a black box from images to scores and gets the candidates in chunks; those
that are included are in `scorers.py`. The choice by them is in `choice.py`.

    Match           the image itself
    Inpaint         the image where a mask says that it is known
    SuperResolve    the image in few pixels
    Colorize        the grey values
    ColorStrokes    rough colours where a mask is 1
    RatePenalty     codes that are likely by a prior

Images are floating-point in [0, 1], or uint8. Shapes: B batch, C channels, H and W of the model's images.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from discrete_distribution_network.errors import InvalidInput, is_number, require, require_integer, shown
from discrete_distribution_network.model.code_distribution import CodeDistribution, check_prior
from discrete_distribution_network.model.pixels import as_pixels, require_finite, warn_of_range
from discrete_distribution_network.model.tensors import resize

GREY = (0.299, 0.587, 0.114)
"""Shares of red, green and blue in a grey value (ITU-R BT.601), as Pillow has them."""

Size = tuple[int, int]
ScoreFn = Callable[[Tensor], Tensor]
"""Images (N, C, H, W) -> scores (N,), higher is better."""


class Condition:
    """The base of all conditions.

    Args:
        weight: relative to other conditions; one number, or one for each image (B,).
        region: where it holds: (H, W), (1, H, W) or (B, 1, H, W), from 0 (not at all) to 1; None for everywhere.
        levels: at which levels of the walk it holds, counted from 0; None for all.
    """

    def __init__(
        self, weight: float | Tensor = 1.0, region: Tensor | None = None, levels: Collection[int] | None = None
    ):
        weights = weight if isinstance(weight, Tensor) else torch.tensor(weight if is_number(weight) else torch.nan)
        fits = weights.ndim <= 1 and weights.numel() > 0 and bool((torch.isfinite(weights) & (weights >= 0)).all())
        require(fits, f"{self} with a weight of at least 0, one number or a tensor (B,)", shown(weight))
        places = None if levels is None else list(levels) if isinstance(levels, Iterable) else [levels]
        for level in places or ():
            require_integer(level, f"each of the levels of {self}", 0)
        self.weight, self.levels = weight, None if places is None else frozenset(places)
        self.region = None if region is None else known_pixels(region, f"the region of {self}")

    def __str__(self) -> str:
        return type(self).__name__

    @property
    def batch_size(self) -> int:
        """The number of images it is for; 1 if it is the same for all."""
        return max(1 if own is None or own.ndim == 0 else len(own) for own in self._per_image())

    def _per_image(self) -> list[Tensor | None]:
        """The tensors that may have one row for each image."""
        return [self.region, self.weight if isinstance(self.weight, Tensor) else None]

    def holds_at(self, level: int) -> bool:
        return self.levels is None or level in self.levels

    def known(self, size: Size, grid: Size) -> Float[Tensor, "batch 1 height width"] | None:
        """Where it holds, from 0 to 1, at a level of this size whose patches make a grid; None for everywhere.

        The batch is 1 if that is the same for all images.
        """
        return None if self.region is None else resize(self.region, grid)

    def check(self, batch: int, channels: int, size: Size) -> None:
        """Raise `InvalidInput` unless it fits a batch of images (batch, channels, *size)."""
        weights = torch.as_tensor(self.weight)
        require(weights.ndim == 0 or weights.shape == (batch,), f"{self} with one weight or {batch}", weights.shape)
        if self.region is not None:
            check_shape(self.region, batch, 1, size, f"the region of {self}")


class Measured(NamedTuple):
    """What a measurement compares at one level, in squared errors.

    Attributes:
        target: of C' channels; the batch is 1 if it is the same for all images.
        weight: of each pixel, at least 0; None for 1 everywhere.
        channel_map: a matrix (C', C) from a candidate's channels to the target's; None for the identity.
    """

    target: Float[Tensor, "batch channels height width"]
    weight: Float[Tensor, "#batch 1 height width"] | None
    channel_map: Float[Tensor, "channels image_channels"] | None


class Measurement(Condition):
    """A linear condition: the squared error of a candidate, averaged to the target's pixels and mapped to its channels.

    Its score is minus the mean squared error over all pixels and channels of the target; unknown pixels count as
    pixels without an error.

    Args:
        target: (C', h, w) or (B, C', h, w).
        mask: where the target is known: (h, w), (1, h, w) or (B, 1, h, w), from 0 (not at all) to 1; None for
            everywhere.
        finest: the finest (height, width) at which images are compared; None for the target's size.
        channel_map: a matrix (C', C); None for the identity.
    """

    def __init__(
        self,
        target: Tensor,
        mask: Tensor | None = None,
        finest: Size | None = None,
        channel_map: Tensor | None = None,
        **shared: Any,
    ):
        super().__init__(**shared)
        self.target = target = as_image_batch(target, f"the target of {self}", linear_map=channel_map is not None)
        self.channel_map = channel_map
        self.mask = None if mask is None else known_pixels(mask, f"the mask of {self}")
        self.finest: Size = finest or (target.shape[2], target.shape[3])
        if self.mask is not None:
            known = self.mask.flatten(1).any(1).tolist()
            if not all(known):
                raise InvalidInput(
                    f"expected the mask of {self} with a known pixel in each image, got an empty one for image "
                    f"{known.index(False)}; set the pixels that are known to 1"
                )
            check_shape(self.mask, len(target), 1, (target.shape[2], target.shape[3]), f"the mask of {self}")

    def check(self, batch: int, channels: int, size: Size) -> None:
        super().check(batch, channels, size)
        own = channels if self.channel_map is None else self.channel_map.shape[0]
        check_shape(self.target, batch, own, self._target_size(size), f"the target of {self}")
        if self.channel_map is not None:
            mapped = self.channel_map.shape[1]
            require(mapped == channels, f"a channel map of {self} from {channels} channels", f"one from {mapped}")

    def _per_image(self) -> list[Tensor | None]:
        return [*super()._per_image(), self.target, self.mask]

    def known(self, size: Size, grid: Size) -> Float[Tensor, "batch 1 height width"] | None:
        return self.at(size, grid).weight

    def _target_size(self, size: Size) -> Size:
        """The size of the target for images of this size."""
        return size

    def at(self, size: Size, grid: Size) -> Measured:
        """What is compared at a level of this size whose patches make a grid, (1, 1) without patches.

        Pixels of the target that would lie across patches are divided.
        """
        height, width = (
            min(own, -(-min(finest, own) // patches) * patches)
            for own, finest, patches in zip(size, self.finest, grid, strict=True)
        )
        weight = self._weight()
        if weight is None:
            return Measured(resize(self.target, (height, width)), None, self.channel_map)
        small = resize(weight, (height, width))
        target = resize(self.target * weight, (height, width)) / small.clamp_min(torch.finfo(small.dtype).tiny)
        return Measured(target, small, self.channel_map)

    def _weight(self) -> Tensor | None:
        """The weight of each pixel of the target: mask times region."""
        if self.region is None:
            return None if self.mask is None else self.mask.to(self.target)
        region = resize(self.region.to(self.target), self.target.shape[2:])
        return region if self.mask is None else region * self.mask.to(self.target)


class Match(Measurement):
    """An image (C, H, W) or (B, C, H, W): the walk of `DDN.encode`."""


class Inpaint(Measurement):
    """An image (C, H, W) or (B, C, H, W) where the mask, (H, W) or (B, 1, H, W), is 1: the rest is filled in."""

    def __init__(self, image: Tensor, mask: Tensor, **shared: Any):
        super().__init__(image, mask, **shared)


class SuperResolve(Measurement):
    """An image in few pixels, (C, h, w) or (B, C, h, w), each the mean of an area; by any factor."""

    def _target_size(self, size: Size) -> Size:
        height, width = self.finest
        return min(height, size[0]), min(width, size[1])


class Colorize(Measurement):
    """The grey values (1, H, W) or (B, 1, H, W) of an image.

    Args:
        shares: of each channel in a grey value.
    """

    def __init__(self, grey: Tensor, shares: Sequence[float] = GREY, **shared: Any):
        grey = as_image_batch(grey, f"the grey values of {self}")
        super().__init__(grey, channel_map=torch.tensor([list(shares)]), **shared)


class ColorStrokes(Measurement):
    """Rough colours (C, H, W) or (B, C, H, W) where a mask, (H, W) or (B, 1, H, W), is 1.

    Args:
        block: side, in pixels, of the blocks whose means are compared.
    """

    def __init__(self, colors: Tensor, mask: Tensor, block: int = 4, **shared: Any):
        require_integer(block, "the block of ColorStrokes, in pixels,")
        colors = as_image_batch(colors, f"the target of {self}")
        finest = (-(-colors.shape[-2] // block), -(-colors.shape[-1] // block))
        super().__init__(colors, mask, finest, **shared)


class RatePenalty(Condition):
    """The rate of the codes: the error of a code is -log2 of its probability, in bits.

    Args:
        prior: gives the probabilities; one without classes.
    """

    def __init__(self, prior: CodeDistribution, **shared: Any):
        super().__init__(**shared)
        check_prior(prior)
        self.prior = prior


class Scorer(Condition):
    """A black box: scores of candidates at the model's image size; outside its region their pixels are set to 0."""

    @abstractmethod
    def scores(self, images: Float[Tensor, "batch nodes channels height width"]) -> Float[Tensor, "batch nodes"]:
        """Scores, higher is better, of several candidates for each image."""

    def checked_scores(
        self, images: Float[Tensor, "walks nodes channels height width"], level: int, walks_per_image: int = 1
    ) -> Float[Tensor, "walks nodes"]:
        """`scores` of candidates for several walks of each image, which lie side by side.

        Raises:
            InvalidInput: they have another shape or are not finite; the message names condition and level.
        """
        walks, count = images.shape[:2]
        images = images.reshape(walks // walks_per_image, walks_per_image * count, *images.shape[2:])
        if self.region is not None:
            images = images * self.region.to(images).unsqueeze(1)
        scores = self.scores(images)
        shape = tuple(images.shape[:2])
        if not isinstance(scores, Tensor) or tuple(scores.shape) != shape:
            came = tuple(scores.shape) if isinstance(scores, Tensor) else type(scores).__name__
            raise InvalidInput(f"expected {self} at level {level} to give scores of shape {shape}, got {came}")
        finite = torch.isfinite(scores)
        if not bool(finite.all()):
            first = scores[~finite][0].item()
            raise InvalidInput(f"expected {self} at level {level} to give finite scores, got {first}")
        return scores.float().reshape(walks, count)


def grey(images: Shaped[Tensor, "batch channels height width"]) -> Float[Tensor, "batch 1 height width"]:
    """Grey values of images: by `GREY` of three channels, else the channels' mean."""
    images = as_pixels(images, (None, None, None, None))
    if images.shape[1] != len(GREY):
        return images.mean(1, keepdim=True)
    return (images * images.new_tensor(GREY).reshape(-1, 1, 1)).sum(1, keepdim=True)


def known_pixels(mask: Tensor, name: str) -> Float[Tensor, "batch 1 height width"]:
    """A mask (H, W), (1, H, W) or (B, 1, H, W) as floating-point numbers in [0, 1]."""
    require(isinstance(mask, Tensor), f"{name} as a tensor", shown(mask))
    mask = mask if mask.is_floating_point() else mask.float()
    if mask.ndim == 2 or (mask.ndim == 3 and mask.shape[0] == 1):
        mask = mask.reshape(1, 1, *mask.shape[-2:])
    fits = mask.ndim == 4 and mask.shape[1] == 1 and mask.numel() > 0
    require(fits, f"{name} as (H, W), (1, H, W) or (B, 1, H, W)", tuple(mask.shape))
    if not bool(((mask >= 0) & (mask <= 1)).all()):
        least, most = (float(value) for value in mask.aminmax())
        raise InvalidInput(f"expected {name} with values from 0 to 1, got values from {least:.3g} to {most:.3g}")
    return mask


def as_image_batch(images: Tensor, name: str, linear_map: bool = False) -> Float[Tensor, "batch channels height width"]:
    """Images (C, h, w) or (B, C, h, w) as a batch of finite floating-point numbers; a warning if they leave [0, 1].

    Args:
        images: pixels in [0, 1], or uint8.
        name: of the images in an error.
        linear_map: whether they are a linear map of images, of any range.
    """
    if isinstance(images, Tensor):
        require(images.ndim in (3, 4), f"{name} as (C, h, w) or (B, C, h, w)", tuple(images.shape))
        images = images if images.ndim == 4 else images.unsqueeze(0)
    images = as_pixels(images, (None, None, None, None), name)
    require_finite(images, name)
    if not linear_map:
        warn_of_range(images, name)
    return images


def check_shape(tensor: Tensor, batch: int, channels: int, size: Size, name: str) -> None:
    """Raise `InvalidInput` unless a tensor is (1 or batch, channels, *size)."""
    expected = f"(1 or {batch}, {channels}, {size[0]}, {size[1]})"
    fits = len(tensor) in (1, batch) and tuple(tensor.shape[1:]) == (channels, *size)
    require(fits, f"{name} of shape {expected}", tuple(tensor.shape))
