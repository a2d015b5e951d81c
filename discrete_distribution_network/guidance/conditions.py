"""Conditions: what a guided walk wants of its images, without a gradient and without training.

A `Measurement` is linear: it compares averages over pixels, so a level chooses by it without drawing its candidates
(see `candidates.py`). A `Scorer` is a black box from images to scores, and gets the candidates in chunks. How the two
choose is in `guidance.py`; here is what they compare.

    Match           the image itself
    Inpaint         the image where a mask says that it is known
    SuperResolve    the image in few pixels
    Colorize        the grey values
    ColorStrokes    colours, roughly, where a mask says so
    LowBit          the image in few grey values
    Edges           where it is light beside dark
    Style           which features of a network occur together
    Classifier      a class
    Clip            a text or an image, by a CLIP model
    Custom          any Python callable, images -> scores

Letters: B batch, C channels, H and W the model's image size; images in [0, 1], or uint8.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from discrete_distribution_network.errors import InvalidInput, is_number, require, require_integer, shown
from discrete_distribution_network.model.code_distribution import CodeDistribution, check_prior
from discrete_distribution_network.model.pixels import as_pixels, require_finite, warn_of_range
from discrete_distribution_network.model.tensors import resize

GREY = (0.299, 0.587, 0.114)
"""Shares of red, green and blue in a grey value (ITU-R BT.601), as Pillow has them."""

Size = tuple[int, int]
Scores = Callable[[Tensor], Tensor]
"""Images (N, C, H, W) -> scores (N,), higher is better."""


class Condition:
    """What all conditions share.

    Args:
        weight: what it counts beside others; one number, or one for each image (B,).
        region: where it holds: (H, W), (1, H, W) or (B, 1, H, W), from 0 (not at all) to 1; None for everywhere.
        levels: at which levels of the walk, the first is 0; None for all.
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
        """Of how many images it speaks; 1 if it is the same for all."""
        return max(1 if own is None or own.ndim == 0 else len(own) for own in self._by_image())

    def _by_image(self) -> list[Tensor | None]:
        """Whatever may be one for all images, or one for each."""
        return [self.region, self.weight if isinstance(self.weight, Tensor) else None]

    def holds_at(self, level: int) -> bool:
        return self.levels is None or level in self.levels

    def known(self, size: Size, grid: Size) -> Tensor | None:
        """Where it holds at a level of this size, whose patches make a grid: (1 or B, 1, h, w), from 0 to 1.

        None for everywhere.
        """
        return None if self.region is None else resize(self.region, grid)

    def check(self, batch: int, channels: int, size: Size) -> None:
        """Whether it fits a batch of images.

        Raises:
            InvalidInput: it does not.
        """
        weights = torch.as_tensor(self.weight)
        require(weights.ndim == 0 or weights.shape == (batch,), f"{self} with one weight or {batch}", weights.shape)
        if self.region is not None:
            _check(self.region, batch, 1, size, f"the region of {self}")


class Measured(NamedTuple):
    """What a measurement compares at one level, in squared errors.

    Attributes:
        target: (1 or B, C', h, w).
        weight: of each pixel, (1 or B, 1, h, w), at least 0; None for 1 everywhere.
        channel_map: a matrix (C', C) from a candidate's channels to the target's; None for these channels themselves.
    """

    target: Tensor
    weight: Tensor | None
    channel_map: Tensor | None


class Measurement(Condition):
    """A linear condition: a candidate, averaged to the target's pixels, and mapped to its channels, is close to it.

    Its score is minus the squared error, averaged over all pixels and channels of the target; a pixel that is not
    known counts as one without an error.

    Args:
        target: (C', h, w) or (B, C', h, w): what is wanted.
        mask: where the target is known: (h, w), (1, h, w) or (B, 1, h, w), from 0 (not at all) to 1; None for
            everywhere.
        finest: (height, width): no finer than this is compared; the target's own size if None.
        channel_map: a matrix (C', C).
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
        self.target = target = _pictures(target, f"the target of {self}", linear_map=channel_map is not None)
        self.channel_map = channel_map
        self.mask = None if mask is None else known_pixels(mask, f"the mask of {self}")
        self.finest: Size = finest or (target.shape[2], target.shape[3])
        if self.mask is not None:
            known = self.mask.flatten(1).any(1)
            require(bool(known.all()), f"the mask of {self} with a known pixel in each image", "an empty one")
            _check(self.mask, len(target), 1, (target.shape[2], target.shape[3]), f"the mask of {self}")

    def check(self, batch: int, channels: int, size: Size) -> None:
        super().check(batch, channels, size)
        wanted = channels if self.channel_map is None else self.channel_map.shape[0]
        _check(self.target, batch, wanted, self._target_size(size), f"the target of {self}")
        if self.channel_map is not None:
            taken = self.channel_map.shape[1]
            require(taken == channels, f"{self} of images with {channels} channels", f"one of {taken}")

    def _by_image(self) -> list[Tensor | None]:
        return [*super()._by_image(), self.target, self.mask]

    def known(self, size: Size, grid: Size) -> Tensor | None:
        return self.at(size, grid).weight

    def _target_size(self, size: Size) -> Size:
        """The size that the target must have for images of this size."""
        return size

    def at(self, size: Size, grid: Size) -> Measured:
        """What is compared at a level of this size, whose patches make a grid (1, 1 without patches).

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
        """Of each pixel of the target: mask times region."""
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
    """An image in few pixels, (C, h, w) or (B, C, h, w), each the mean of an area; any factor."""

    def _target_size(self, size: Size) -> Size:
        height, width = self.finest
        return min(height, size[0]), min(width, size[1])


class Colorize(Measurement):
    """Grey values (1, H, W) or (B, 1, H, W), of which the colours are sought; `shares` are those of the channels."""

    def __init__(self, grey: Tensor, shares: Sequence[float] = GREY, **shared: Any):
        grey = _pictures(grey, f"the grey values of {self}")
        super().__init__(grey, channel_map=torch.tensor([list(shares)]), **shared)


class ColorStrokes(Measurement):
    """Colours (C, H, W) or (B, C, H, W) where a mask is 1, compared as means over blocks of so many pixels a side."""

    def __init__(self, colors: Tensor, mask: Tensor, block: int = 4, **shared: Any):
        require_integer(block, "the block of ColorStrokes, in pixels,")
        colors = _pictures(colors, f"the target of {self}")
        finest = (-(-colors.shape[-2] // block), -(-colors.shape[-1] // block))
        super().__init__(colors, mask, finest, **shared)


class RatePenalty(Condition):
    """Codes that a prior finds likely: the error of a code is its bits.

    Args:
        prior: see `prior.py` and `code_prior.py`; one that asks for no class.
    """

    def __init__(self, prior: CodeDistribution, **shared: Any):
        super().__init__(**shared)
        check_prior(prior)
        self.prior = prior


class Scorer(Condition):
    """A black box: it gets the candidates, at the model's image size, and says which are better.

    Outside its region the candidates are shown to it as 0.
    """

    @abstractmethod
    def scores(self, images: Tensor) -> Tensor:
        """Scores (B, n), higher is better, of n images for each sample, (B, n, C, H, W)."""

    def checked(self, images: Tensor, level: int, walks: int = 1) -> Tensor:
        """`scores` of images (B * walks, n, C, H, W), the walks of one image side by side, as (B * walks, n).

        Raises:
            InvalidInput: they have another shape or are not finite; the message names condition and level.
        """
        rows, count = images.shape[:2]
        images = images.reshape(rows // walks, walks * count, *images.shape[2:])
        if self.region is not None:
            images = images * self.region.to(images).unsqueeze(1)
        scores = self.scores(images)
        shape = tuple(images.shape[:2])
        if not isinstance(scores, Tensor) or tuple(scores.shape) != shape:
            came = tuple(scores.shape) if isinstance(scores, Tensor) else type(scores).__name__
            raise InvalidInput(f"expected {self} at level {level} to give scores of shape {shape}, got {came}")
        if not bool(torch.isfinite(scores).all()):
            raise InvalidInput(f"expected {self} at level {level} to give finite scores, got infinity or NaN")
        return scores.float().reshape(rows, count)


class _Compared(Scorer):
    """Minus the mean squared error of something made of the candidates to the same made of an image."""

    def __init__(self, target: Tensor, **shared: Any):
        super().__init__(**shared)
        self.target = _pictures(target, f"the target of {self}")

    def check(self, batch: int, channels: int, size: Size) -> None:
        super().check(batch, channels, size)
        _check(self.target, batch, self._channels(channels), size, f"the target of {self}")

    def _by_image(self) -> list[Tensor | None]:
        return [*super()._by_image(), self.target]

    def _channels(self, channels: int) -> int:
        return channels

    @abstractmethod
    def made_of(self, images: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, ...)."""

    def scores(self, images: Tensor) -> Tensor:
        made = self.made_of(images.flatten(0, 1)).unflatten(0, images.shape[:2])
        target = self.target if self.region is None else self.target * self.region.to(self.target)
        error = made - self._wanted(target).to(made).unsqueeze(1)
        return -error.flatten(2).square().mean(-1)

    def _wanted(self, target: Tensor) -> Tensor:
        return self.made_of(target)


class LowBit(_Compared):
    """An image (C, H, W) or (B, C, H, W) of which 2^bits values of each channel are known."""

    def __init__(self, image: Tensor, bits: int = 1, **shared: Any):
        require_integer(bits, "the bits of LowBit", 1, 8)
        self.bits = bits
        super().__init__(image, **shared)

    def made_of(self, images: Tensor) -> Tensor:
        steps = 2**self.bits
        return (images * steps).floor().clamp(0, steps - 1) / (steps - 1)


class Edges(_Compared):
    """Edges (1, H, W) or (B, 1, H, W) as `edges` finds them, from 0 to 1."""

    def _channels(self, channels: int) -> int:
        return 1

    def made_of(self, images: Tensor) -> Tensor:
        return edges(images)

    def _wanted(self, target: Tensor) -> Tensor:
        return target


class Style(Scorer):
    """The style of an image (C, H, W) or (B, C, H, W): products of the features of a network, averaged over places.

    Args:
        features: (N, C, H, W) -> (N, D, h, w), such as the first layers of a classifier (Gatys et al., 2016).
    """

    def __init__(self, image: Tensor, features: Callable[[Tensor], Tensor], **shared: Any):
        super().__init__(**shared)
        require(callable(features), f"features of {self} to be callable", shown(features))
        self.features = features
        self.target = self._style(_pictures(image, f"the image of {self}"))

    def check(self, batch: int, channels: int, size: Size) -> None:
        super().check(batch, channels, size)
        _check_count(len(self.target), batch, str(self))

    def _by_image(self) -> list[Tensor | None]:
        return [*super()._by_image(), self.target]

    def _style(self, images: Tensor) -> Tensor:
        features = self.features(images)
        fits = isinstance(features, Tensor) and features.ndim >= 3 and len(features) == len(images)
        require(fits, f"features of {self} of shape ({len(images)}, D, h, w)", shown(features))
        features = features.flatten(2)
        return features @ features.mT / features.shape[-1]

    def scores(self, images: Tensor) -> Tensor:
        style = self._style(images.flatten(0, 1)).unflatten(0, images.shape[:2])
        return -(style - self.target.to(style).unsqueeze(1)).square().mean((-1, -2))


class Classifier(Scorer):
    """The chance of a class, by any module or callable from images (N, C, H, W) to logits (N, classes).

    Args:
        wanted: a class; several, any of which will do; or a tensor of one class for each image, (B,).
    """

    def __init__(self, model: Callable[[Tensor], Tensor], wanted: int | Sequence[int] | Tensor, **shared: Any):
        super().__init__(**shared)
        require(callable(model), f"the model of {self} to be callable", shown(model))
        self.model = model
        if not isinstance(wanted, Tensor):
            several = wanted if isinstance(wanted, Sequence) else [wanted]
            for one in several:
                require_integer(one, f"each class of {self}", 0)
            wanted = torch.tensor([several], dtype=torch.long)
        integer = not (wanted.is_floating_point() or wanted.is_complex() or wanted.dtype == torch.bool)
        require(integer and wanted.numel() > 0, f"classes of {self} as integers", shown(wanted))
        wanted = wanted.reshape(1) if wanted.ndim == 0 else wanted
        self.wanted = wanted.reshape(len(wanted), -1).long()  # (1 or B, classes of which any will do)

    def _by_image(self) -> list[Tensor | None]:
        return [*super()._by_image(), self.wanted]

    def check(self, batch: int, channels: int, size: Size) -> None:
        super().check(batch, channels, size)
        _check_count(len(self.wanted), batch, f"{self} with classes")

    def scores(self, images: Tensor) -> Tensor:
        chances = self.model(images.flatten(0, 1)).float().log_softmax(-1).unflatten(0, images.shape[:2])
        wanted, classes = self.wanted.to(chances.device), chances.shape[-1]
        inside = bool(((wanted >= 0) & (wanted < classes)).all())
        require(inside, f"{self} with classes in [0, {classes})", wanted.tolist())
        return chances.gather(-1, wanted.unsqueeze(1).expand(*chances.shape[:2], -1)).logsumexp(-1)


class Clip(Scorer):
    """Likeness to a text, or to an image (C, H, W), by a CLIP model of `open_clip` (the extra `clip`).

    Args:
        wanted: the text, or the image, or one for each image, (B, C, H, W).
        model: its name there.
        pretrained: which weights: their name there or their file; None for random ones.
    """

    def __init__(
        self, wanted: str | Tensor, model: str = "ViT-B-32", pretrained: str | None = "laion2b_s34b_b79k", **shared: Any
    ):
        super().__init__(**shared)
        image = None if isinstance(wanted, str) else _pictures(wanted, f"the image of {self}")
        try:
            import open_clip
        except ImportError as error:
            raise InvalidInput(
                "expected open_clip for Clip, found none; pip install 'discrete-distribution-network[clip]'"
            ) from error
        self.model = open_clip.create_model(model, pretrained=pretrained).eval().requires_grad_(False)
        visual = self.model.visual
        side = visual.image_size
        self.size: Size = (side, side) if isinstance(side, int) else (side[0], side[1])
        mean = getattr(visual, "image_mean", None) or open_clip.OPENAI_DATASET_MEAN
        deviation = getattr(visual, "image_std", None) or open_clip.OPENAI_DATASET_STD
        self.mean, self.deviation = (torch.tensor(values).reshape(3, 1, 1) for values in (mean, deviation))
        with torch.no_grad():
            if image is None:
                tokens = open_clip.get_tokenizer(model)([wanted])
                self.target = F.normalize(self.model.encode_text(tokens), dim=-1)
            else:
                self.target = self._embed(image)

    def check(self, batch: int, channels: int, size: Size) -> None:
        super().check(batch, channels, size)
        _check_count(len(self.target), batch, str(self))

    def _by_image(self) -> list[Tensor | None]:
        return [*super()._by_image(), self.target]

    def _embed(self, images: Tensor) -> Tensor:
        images = images.expand(-1, 3, -1, -1) if images.shape[1] == 1 else images
        images = F.interpolate(images, self.size, mode="bicubic", antialias=True).clamp(0, 1)
        self.model.to(images.device)
        return F.normalize(self.model.encode_image((images - self.mean.to(images)) / self.deviation.to(images)), dim=-1)

    def scores(self, images: Tensor) -> Tensor:
        seen = self._embed(images.flatten(0, 1)).unflatten(0, images.shape[:2])
        return (seen * self.target.to(seen).unsqueeze(1)).sum(-1)


class Custom(Scorer):
    """Any callable from images (N, C, H, W) to scores (N,), higher is better; what a bare callable is taken for."""

    def __init__(self, function: Scores, **shared: Any):
        require(callable(function), "a condition, or a callable from images to scores", shown(function))
        self.function = function
        super().__init__(**shared)

    def __str__(self) -> str:
        return getattr(self.function, "__name__", type(self.function).__name__)

    def scores(self, images: Tensor) -> Tensor:
        scores = self.function(images.flatten(0, 1))
        count = images.shape[0] * images.shape[1]
        if not isinstance(scores, Tensor) or tuple(scores.shape) != (count,):
            return scores  # `checked` says what is wrong
        return scores.unflatten(0, images.shape[:2])


def edges(images: Tensor) -> Tensor:
    """How strongly grey values change, (N, 1, H, W) from 0 to 1, of images (N, C, H, W): Sobel's filters."""
    smooth, differ = torch.tensor([1.0, 2.0, 1.0]), torch.tensor([-1.0, 0.0, 1.0])
    filters = torch.stack((torch.outer(smooth, differ), torch.outer(differ, smooth))).unsqueeze(1) / 4
    values = grey(images)
    across = F.conv2d(F.pad(values, (1, 1, 1, 1), mode="replicate"), filters.to(values))
    return across.square().sum(1, keepdim=True).sqrt().clamp(0, 1)


def grey(images: Tensor) -> Tensor:
    """The grey values (N, 1, H, W) of images (N, C, H, W): by `GREY` of colours, else the channels' mean."""
    images = as_pixels(images, (None, None, None, None))
    if images.shape[1] != len(GREY):
        return images.mean(1, keepdim=True)
    return (images * images.new_tensor(GREY).reshape(-1, 1, 1)).sum(1, keepdim=True)


def known_pixels(mask: Tensor, name: str) -> Tensor:
    """A mask (H, W), (1, H, W) or (B, 1, H, W) as floating-point numbers (B, 1, H, W) in [0, 1]."""
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


def _pictures(images: Tensor, name: str, linear_map: bool = False) -> Tensor:
    """Images (C, h, w) or (B, C, h, w) as (B, C, h, w); or a linear map of some, of any range."""
    if isinstance(images, Tensor):
        require(images.ndim in (3, 4), f"{name} as (C, h, w) or (B, C, h, w)", tuple(images.shape))
        images = images if images.ndim == 4 else images.unsqueeze(0)
    images = as_pixels(images, (None, None, None, None), name)
    require_finite(images, name)
    if not linear_map:
        warn_of_range(images, name)
    return images


def _check(tensor: Tensor, batch: int, channels: int, size: Size, name: str) -> None:
    wanted = f"(1 or {batch}, {channels}, {size[0]}, {size[1]})"
    fits = len(tensor) in (1, batch) and tuple(tensor.shape[1:]) == (channels, *size)
    require(fits, f"{name} of shape {wanted}", tuple(tensor.shape))


def _check_count(count: int, batch: int, name: str) -> None:
    require(count in (1, batch), f"{name} for 1 or {batch} images", f"for {count}")
