"""`DDN`: a network with what people use it for: encode, decode, sample and guide."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal, overload

import torch
import torch.nn.functional as F
from torch import Tensor

from discrete_distribution_network.errors import InvalidInput, is_number, require, require_integer, shown
from discrete_distribution_network.guidance.conditions import Condition, Match, Scores
from discrete_distribution_network.guidance.config import GuidanceConfig, Request
from discrete_distribution_network.guidance.guidance import Guided, as_conditions, guided_walk
from discrete_distribution_network.io.pretrained import Pretrained
from discrete_distribution_network.model.code_distribution import (
    CodeDistribution,
    Temperature,
    check_prior,
    check_temperature,
    takes_labels,
)
from discrete_distribution_network.model.guided_sampler import GuidedSampler, split_and_prune_
from discrete_distribution_network.model.network import Network, evaluating
from discrete_distribution_network.model.pixels import require_finite, warn_of_range
from discrete_distribution_network.model.selection import (
    ClassifierFreeGuidance,
    FixedCodes,
    Nearest,
    PriorSampling,
    Uniform,
)
from discrete_distribution_network.model.tensors import resize
from discrete_distribution_network.model.walk import Selection, Walk

if TYPE_CHECKING:
    from discrete_distribution_network.training.trainer import Trainer

__all__ = ["DDN", "GuidedSampler", "Trainer", "Walk", "split_and_prune_"]


class DDN(
    Network,
    Pretrained,
    library_name="discrete-distribution-network",
    tags=["discrete-distribution-network"],
    paper_url="https://arxiv.org/abs/2401.00036",
):
    """A Discrete Distribution Network (arXiv 2401.00036): `Network` with what it is used for, and files.

    Its arguments are those of `Network`.
    """

    def encode(
        self, images: Tensor, *, labels: Tensor | None = None, cond: Tensor | None = None, beams: int = 1
    ) -> Tensor:
        """The codes of images (B, C, H, W): int64 (B, number of codes), by the nearest candidate at each level.

        Args:
            images: pixels in [0, 1], or uint8.
            labels, cond: see `walk`; they are needed to decode, too.
            beams: follow so many walks of each image and take the best: better codes, in about as many times the time.
        """
        return self.encode_walk(images, labels=labels, cond=cond, beams=beams).codes

    @torch.no_grad()
    def encode_walk(
        self,
        images: Tensor,
        *,
        levels: int | None = None,
        labels: Tensor | None = None,
        cond: Tensor | None = None,
        beams: int = 1,
        also: Condition | Scores | Sequence[Condition | Scores] = (),
    ) -> Walk:
        """The whole walk of `encode`: codes, the image at every level, each level's error; or of the first levels.

        Args:
            images: pixels in [0, 1], or uint8.
            also: further conditions, beside being near to the images; see `conditions.py`.
        """
        stop = self._checked_levels(levels)
        require_integer(beams, "beams")
        images = self._pixels(images)
        if not torch.compiler.is_compiling():
            require_finite(images)
            warn_of_range(images)
        batch = images.shape[0]
        further = as_conditions(also)
        if beams > 1 or further:
            request = Request([Match(images), *further], batch, stop, labels, cond)
            walk, _ = guided_walk(self, request, GuidanceConfig(beams=beams))
            errors = [F.mse_loss(own.float(), resize(images, own.shape[2:]).float()) for own in walk.outputs]
            return walk._replace(losses=torch.stack(errors))
        with evaluating(self):
            return self.walk(Nearest(images), batch, stop, labels, cond)

    @torch.no_grad()
    def decode(self, codes: Tensor, labels: Tensor | None = None, cond: Tensor | None = None) -> Tensor:
        """The images (B, C, H, W) of codes; of the codes of the first levels alone, a coarser image.

        Args:
            labels, cond: see `walk`; those with which the codes were made.

        Raises:
            InvalidInput: a ValueError, if the codes are no integers in range or end inside a level. (Inside
                `torch.compile` the range is not looked at.)
        """
        levels = self._levels_of(codes)
        codes = codes.to(self.start.device, torch.long)
        with evaluating(self):
            walk = self.walk(FixedCodes(self._by_level(codes, levels)), codes.shape[0], levels, labels, cond)
        return resize(walk.outputs[-1], self.image_size)

    def reconstruct(
        self, images: Tensor, *, levels: int | None = None, labels: Tensor | None = None, cond: Tensor | None = None
    ) -> Tensor:
        """What the codes of the images give back, (B, C, H, W); by the first `levels` levels alone, if given."""
        walk = self.encode_walk(images, levels=levels, labels=labels, cond=cond)
        return resize(walk.outputs[-1], self.image_size)

    @torch.no_grad()
    def guide(
        self,
        conditions: Condition | Scores | Sequence[Condition | Scores],
        batch_size: int | None = None,
        top_k: int = 1,
        generator: torch.Generator | None = None,
        *,
        beams: int = 1,
        prior: CodeDistribution | None = None,
        proposals: int = 128,
        temperature: Temperature = 0.7,
        rollouts: int = 0,
        labels: Tensor | None = None,
        cond: Tensor | None = None,
    ) -> Guided:
        """Images that fit conditions, without gradients or training: each level takes the candidates that fit best.

        Args:
            conditions: see `guidance`; a bare callable, images (N, C, H, W) -> scores (N,), is one too.
            batch_size: B; by default that of the conditions, labels or cond.
            top_k: choose at random among the k best candidates of each choice.
            generator: source of random numbers.
            beams: beam width: the number of walks that are followed for each image; the best is taken.
            prior: a distribution of the codes (see `prior`): it proposes the candidates of each choice, and chooses
                where no condition applies, so that images look like the data there too.
            proposals: the number of candidates that the prior proposes.
            temperature: of the prior; see `sample`.
            rollouts: let black boxes judge finished images alone: this many at first, then, at each level at which one
                holds, half as many as before that begin as the best so far. 0: they judge the candidates of each level.
                Linear conditions guide the walks either way.
            labels: classes (B,), for a prior by class, for a network with `num_classes`, or both.
            cond: see `walk`.

        Raises:
            InvalidInput: a condition does not fit, or gives no scores; the message names it.
        """
        config = GuidanceConfig(
            top_k=top_k,
            beams=beams,
            generator=generator,
            prior=prior,
            proposals=proposals,
            temperature=temperature,
            prior_labels=labels if takes_labels(prior) else None,
            rollouts=rollouts,
        )
        check_temperature(temperature, self.num_levels)
        own = as_conditions(conditions)
        require(len(own) >= 1, "at least one condition", shown(conditions))
        batch_size = self._batch_size(batch_size, labels, cond, prior, *(one.batch_size for one in own))
        known = labels if self.num_classes is not None else None
        request = Request(own, batch_size, self.num_levels, known, cond)
        if rollouts and not request.scorers:
            names = ", ".join(map(str, own))
            raise InvalidInput(
                f"expected a black box among the conditions for rollouts={rollouts}, got {names}; set rollouts=0"
            )
        walk, scores = guided_walk(self, request, config)
        return Guided(walk.outputs[-1], walk.codes, scores)

    @overload
    def sample(
        self,
        batch_size: int | None = None,
        codes: Tensor | None = None,
        return_codes: Literal[False] = False,
        generator: torch.Generator | None = None,
        prior: CodeDistribution | None = None,
        temperature: Temperature = 1.0,
        top_p: float = 1.0,
        labels: Tensor | None = None,
        cond: Tensor | None = None,
        guidance_scale: float = 1.0,
    ) -> Tensor: ...

    @overload
    def sample(
        self,
        batch_size: int | None = None,
        codes: Tensor | None = None,
        *,
        return_codes: Literal[True],
        generator: torch.Generator | None = None,
        prior: CodeDistribution | None = None,
        temperature: Temperature = 1.0,
        top_p: float = 1.0,
        labels: Tensor | None = None,
        cond: Tensor | None = None,
        guidance_scale: float = 1.0,
    ) -> tuple[Tensor, Tensor]: ...

    @torch.no_grad()
    def sample(
        self,
        batch_size: int | None = None,
        codes: Tensor | None = None,
        return_codes: bool = False,
        generator: torch.Generator | None = None,
        prior: CodeDistribution | None = None,
        temperature: Temperature = 1.0,
        top_p: float = 1.0,
        labels: Tensor | None = None,
        cond: Tensor | None = None,
        guidance_scale: float = 1.0,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Images (B, C, H, W) of random codes, uniformly or as a prior says, or of the given ones.

        Args:
            batch_size: how many; 1 if neither this nor `codes` is given.
            codes: decode these instead.
            return_codes: also give the codes, (B, number of codes).
            generator: source of the random codes; the same one gives the same images on any device.
            prior: how likely each code is (see `prior.py`); None for each with chance 1/K.
            temperature: of the prior: below 1 likely codes become likelier, 0 takes the likeliest. One, or one for each
                level, such as `prior.temperatures` gives.
            top_p: of the prior: only the likeliest codes are drawn whose chances together reach this.
            labels: classes (B,), for a prior by class, for a network with `num_classes`, or both; they give the batch
                size too.
            cond: see `walk`.
            guidance_scale: of a prior by class: above 1 what tells a class from images in general counts so many times;
                then every walk is walked twice.
        """
        if codes is not None:
            self._levels_of(codes)
            require(batch_size in (None, len(codes)), f"batch_size {len(codes)} as the codes", shown(batch_size))
            images = self.decode(codes, labels, cond)
        else:
            batch_size = self._batch_size(batch_size, labels, cond, prior)
            check_temperature(temperature, self.num_levels)
            require(is_number(guidance_scale), "a guidance_scale that is a finite number", shown(guidance_scale))
            twice = guidance_scale != 1
            if twice:
                asked = labels is not None and takes_labels(prior)
                require(asked, "a prior by class, and labels, where guidance_scale is given", "none")
            if twice and labels is not None:
                labels = torch.cat((labels.long(), torch.full_like(labels, -1, dtype=torch.long)))
                cond = None if cond is None else cond.repeat(2, 1, 1, 1)
            walks = batch_size * (2 if twice else 1)
            select: Selection = Uniform(generator)
            if prior is not None:
                how = (prior, walks, labels if takes_labels(prior) else None, temperature, top_p, generator)
                select = ClassifierFreeGuidance(guidance_scale, *how) if twice else PriorSampling(*how)
            else:
                plain = (temperature, top_p) == (1.0, 1.0)
                require(plain, "a prior where temperature or top_p are given", "none")
            with evaluating(self):
                walk = self.walk(select, walks, None, labels if self.num_classes is not None else None, cond)
            images, codes = walk.outputs[-1][:batch_size], walk.codes[:batch_size]
        return (images, codes) if return_codes else images

    def _batch_size(
        self,
        asked: int | None,
        labels: Tensor | None,
        cond: Tensor | None,
        prior: CodeDistribution | None,
        *others: int,
    ) -> int:
        """The number of images that is asked for, or else that is given; what is given is checked against it."""
        if prior is not None:
            check_prior(prior)
        known = self.num_classes is not None or takes_labels(prior)
        require(labels is None or known, "labels for a network with num_classes or a prior by class", "neither")
        if asked is None:
            asked = max([1, *others, *(len(own) for own in (labels, cond) if isinstance(own, Tensor) and own.ndim)])
        require_integer(asked, "batch_size")
        self._checked_labels(labels, asked, by_prior=takes_labels(prior))
        self._checked_cond(cond, asked)
        return asked


_HOME = {"ImageDataset": "data.datasets", "Trainer": "training.trainer"}
"""What the published package has here, and stands on this module."""


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"discrete_distribution_network.{_HOME[name]}"), name)
