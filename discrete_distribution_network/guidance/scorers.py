"""Black-box conditions: scores of finished candidates, by formulas, networks or any callable.

    LowBit          the image in few bits per channel
    Edges           the image's edges
    Style           the correlations of a network's features
    Classifier      the probability of a class
    Clip            similarity to a text or an image, by a CLIP model
    Custom          any Python callable, images -> scores

Images have the model's size; pixels in [0, 1].
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Shaped
from torch import Tensor

from discrete_distribution_network._renamed import renamed_argument
from discrete_distribution_network.errors import InvalidInput, require, require_integer, shown
from discrete_distribution_network.guidance.conditions import (
    ScoreFn,
    Scorer,
    Size,
    as_image_batch,
    check_shape,
    grey,
)


class _Targeted(Scorer):
    """A black box with a target: a tensor of one row for all images, or of one for each."""

    target: Tensor

    def _per_image(self) -> list[Tensor | None]:
        return [*super()._per_image(), self.target]

    def check(self, batch: int, channels: int, size: Size) -> None:
        super().check(batch, channels, size)
        require(len(self.target) in (1, batch), f"{self} for 1 or {batch} images", f"for {len(self.target)}")


class _Comparison(_Targeted):
    """Minus the mean squared error between a transform of the candidates and that of an image."""

    def __init__(self, target: Tensor, **shared: Any):
        super().__init__(**shared)
        self.target = as_image_batch(target, f"the target of {self}")

    def check(self, batch: int, channels: int, size: Size) -> None:
        super().check(batch, channels, size)
        check_shape(self.target, batch, self._channels(channels), size, f"the target of {self}")

    def _channels(self, channels: int) -> int:
        """Channels of the target for images with `channels`."""
        return channels

    @abstractmethod
    def transform(self, images: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, ...)."""

    def scores(self, images: Float[Tensor, "batch nodes channels height width"]) -> Float[Tensor, "batch nodes"]:
        transformed = self.transform(images.flatten(0, 1)).unflatten(0, images.shape[:2])
        target = self.target if self.region is None else self.target * self.region.to(self.target)
        error = transformed - self._transformed_target(target).to(transformed).unsqueeze(1)
        return -error.flatten(2).square().mean(-1)

    def _transformed_target(self, target: Tensor) -> Tensor:
        return self.transform(target)


class LowBit(_Comparison):
    """An image (C, H, W) or (B, C, H, W) of which each channel is known in 2^bits values."""

    def __init__(self, image: Tensor, bits: int = 1, **shared: Any):
        require_integer(bits, "the bits of LowBit", 1, 8)
        self.bits = bits
        super().__init__(image, **shared)

    def transform(self, images: Tensor) -> Tensor:
        steps = 2**self.bits
        return (images * steps).floor().clamp(0, steps - 1) / (steps - 1)


class Edges(_Comparison):
    """Edges (1, H, W) or (B, 1, H, W) as `edges` finds them, from 0 to 1."""

    def _channels(self, channels: int) -> int:
        return 1

    def transform(self, images: Tensor) -> Tensor:
        return edges(images)

    def _transformed_target(self, target: Tensor) -> Tensor:
        return target


class Style(_Targeted):
    """The style of an image (C, H, W) or (B, C, H, W): the Gram matrix of a network's features.

    Source: Gatys et al., Image Style Transfer Using Convolutional Neural Networks, CVPR 2016.

    Args:
        features: (N, C, H, W) -> (N, D, h, w), such as the first layers of a classifier.
    """

    def __init__(self, image: Tensor, features: Callable[[Tensor], Tensor], **shared: Any):
        super().__init__(**shared)
        require(callable(features), f"features of {self} to be callable", shown(features))
        self.features = features
        self.target = self._style(as_image_batch(image, f"the image of {self}"))

    def _style(self, images: Tensor) -> Tensor:
        """(N, C, H, W) -> Gram matrices (N, D, D)."""
        features = self.features(images)
        fits = isinstance(features, Tensor) and features.ndim >= 3 and len(features) == len(images)
        require(fits, f"features of {self} of shape ({len(images)}, D, h, w)", shown(features))
        features = features.flatten(2)
        return features @ features.mT / features.shape[-1]

    def scores(self, images: Float[Tensor, "batch nodes channels height width"]) -> Float[Tensor, "batch nodes"]:
        style = self._style(images.flatten(0, 1)).unflatten(0, images.shape[:2])
        return -(style - self.target.to(style).unsqueeze(1)).square().mean((-1, -2))


class Classifier(_Targeted):
    """The log-probability of a class, by a classifier.

    Args:
        model: any module or callable from images (N, C, H, W) to logits (N, classes).
        target: a class; a list of classes, for the probability of any of them; or one class for each image, (B,).
    """

    @renamed_argument("wanted", "target")
    def __init__(self, model: Callable[[Tensor], Tensor], target: int | Sequence[int] | Tensor, **shared: Any):
        super().__init__(**shared)
        require(callable(model), f"the model of {self} to be callable", shown(model))
        self.model = model
        if not isinstance(target, Tensor):
            classes = target if isinstance(target, Sequence) else [target]
            for one in classes:
                require_integer(one, f"each class of {self}", 0)
            target = torch.tensor([classes], dtype=torch.long)
        integer = not (target.is_floating_point() or target.is_complex() or target.dtype == torch.bool)
        require(integer and target.numel() > 0, f"classes of {self} as integers", shown(target))
        target = target.reshape(1) if target.ndim == 0 else target
        self.target = target.reshape(len(target), -1).long()  # (1 or B, classes)

    def scores(self, images: Float[Tensor, "batch nodes channels height width"]) -> Float[Tensor, "batch nodes"]:
        log_probabilities = self.model(images.flatten(0, 1)).float().log_softmax(-1).unflatten(0, images.shape[:2])
        target, classes = self.target.to(log_probabilities.device), log_probabilities.shape[-1]
        inside = bool(((target >= 0) & (target < classes)).all())
        require(inside, f"{self} with classes in [0, {classes})", target.tolist())
        target = target.unsqueeze(1).expand(*log_probabilities.shape[:2], -1)
        return log_probabilities.gather(-1, target).logsumexp(-1)


class Clip(_Targeted):
    """Cosine similarity to a text or an image, by a CLIP model of `open_clip` (the extra `clip`).

    Args:
        target: the text, or the image (C, H, W), or one for each image, (B, C, H, W).
        model: its name in `open_clip`.
        pretrained: its weights: their name in `open_clip`, or their file; None for random ones.
    """

    @renamed_argument("wanted", "target")
    def __init__(
        self, target: str | Tensor, model: str = "ViT-B-32", pretrained: str | None = "laion2b_s34b_b79k", **shared: Any
    ):
        super().__init__(**shared)
        image = None if isinstance(target, str) else as_image_batch(target, f"the image of {self}")
        try:
            import open_clip
        except ImportError as error:
            raise InvalidInput(
                f"expected the package open_clip for Clip, got {shown(error)}; "
                "pip install 'discrete-distribution-network[clip]'"
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
                tokens = open_clip.get_tokenizer(model)([target])
                self.target = F.normalize(self.model.encode_text(tokens), dim=-1)
            else:
                self.target = self._embed(image)

    def _embed(self, images: Tensor) -> Tensor:
        images = images.expand(-1, 3, -1, -1) if images.shape[1] == 1 else images
        images = F.interpolate(images, self.size, mode="bicubic", antialias=True).clamp(0, 1)
        self.model.to(images.device)
        return F.normalize(self.model.encode_image((images - self.mean.to(images)) / self.deviation.to(images)), dim=-1)

    def scores(self, images: Float[Tensor, "batch nodes channels height width"]) -> Float[Tensor, "batch nodes"]:
        embedded = self._embed(images.flatten(0, 1)).unflatten(0, images.shape[:2])
        return (embedded * self.target.to(embedded).unsqueeze(1)).sum(-1)


class Custom(Scorer):
    """Any callable from images (N, C, H, W) to scores (N,), higher is better; bare callables become one."""

    def __init__(self, function: ScoreFn, **shared: Any):
        require(callable(function), "a condition, or a callable from images to scores", shown(function))
        self.function = function
        super().__init__(**shared)

    def __str__(self) -> str:
        return getattr(self.function, "__name__", type(self.function).__name__)

    def scores(self, images: Float[Tensor, "batch nodes channels height width"]) -> Tensor:
        scores = self.function(images.flatten(0, 1))
        count = images.shape[0] * images.shape[1]
        if not isinstance(scores, Tensor) or tuple(scores.shape) != (count,):
            return scores  # `checked_scores` says what is wrong
        return scores.unflatten(0, images.shape[:2])


def edges(images: Shaped[Tensor, "batch channels height width"]) -> Float[Tensor, "batch 1 height width"]:
    """The magnitude of the Sobel gradient of grey values, from 0 to 1."""
    smooth, differ = torch.tensor([1.0, 2.0, 1.0]), torch.tensor([-1.0, 0.0, 1.0])
    filters = torch.stack((torch.outer(smooth, differ), torch.outer(differ, smooth))).unsqueeze(1) / 4
    values = grey(images)
    across = F.conv2d(F.pad(values, (1, 1, 1, 1), mode="replicate"), filters.to(values))
    return across.square().sum(1, keepdim=True).sqrt().clamp(0, 1)
