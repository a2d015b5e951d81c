"""`DDN`: the network, and the one walk over its levels that training, encoding, decoding and sampling share.

At each level the features so far and the image chosen so far give K candidates; one is chosen and fed back. What
differs between the uses is how it is chosen, so the choice is the argument of `DDN.walk` (see `selection.py`).
"""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from importlib import import_module
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, cast, overload

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer

from discrete_distribution_network.adversarial import Discriminator, adversarial_term
from discrete_distribution_network.blocks import AttentionBlock, ResidualBlock
from discrete_distribution_network.conditions import Condition, Custom, Match, Scorer, Scores, check_prior
from discrete_distribution_network.errors import InvalidInput, is_number, require, require_integer, shown
from discrete_distribution_network.fingerprint import CastFrom, digest, fingerprints
from discrete_distribution_network.guidance import Guidance, Guided, roll_out, search
from discrete_distribution_network.guided_sampler import GuidedSampler, check_codes
from discrete_distribution_network.pixels import as_pixels, require_finite, warn_of_range
from discrete_distribution_network.pretrained import Pretrained
from discrete_distribution_network.selection import (
    Branches,
    Contrasted,
    Drawn,
    Given,
    Likely,
    Nearest,
    SamplerOutput,
    Selection,
    Temperature,
    Uniform,
    by_level,
    check_temperature,
    of_rows,
    resize,
)
from discrete_distribution_network.split_and_prune import split_and_prune_

__all__ = ["DDN", "GuidedSampler", "Trainer", "Walk", "split_and_prune_"]

if TYPE_CHECKING:
    from discrete_distribution_network.trainer import Trainer

SMALLEST_SIDE = 4
"""The walk starts at the first halving of the image whose longer side is at most this."""


MOST_PIXELS, MOST_LEVELS = 1 << 16, 1 << 12
"""Sides of images are below the first; there are at most so many levels as the second says. Files hold no more."""


class Walk(NamedTuple):
    """What a walk over the levels leaves.

    Attributes:
        outputs: the image chosen at each level, (B, C, h, w) at that level's size.
        codes: int64 in [0, K) of its level, (B, number of codes), level after level; with patches, row by row.
        losses: each level's mean squared error to the images, (L,); None if the choice was not by images.
    """

    outputs: tuple[Tensor, ...]
    codes: Tensor
    losses: Tensor | None


class DDN(
    nn.Module,
    Pretrained,
    library_name="discrete-distribution-network",
    tags=["discrete-distribution-network"],
    paper_url="https://arxiv.org/abs/2401.00036",
):
    """A Discrete Distribution Network (arXiv 2401.00036).

    Args:
        dim: channels of the features at full resolution; they double with every halving of the image.
        dim_max: most channels at any resolution.
        image_size: side of the square images, or (height, width); any size.
        channels: C, channels of the images.
        codebook_size: K; or a list with one K per level.
        dropout: dropout in the residual blocks.
        num_resnet_blocks: residual blocks per resolution, divided (rounded down) among its levels; each has at
            least one.
        guided_sampler_kwargs: further arguments of every level's `GuidedSampler`. With `separate_values` a level's
            image is a value: the nearest key chooses it, and both learn to be near the image (`selection.Nearest`).
        use_adversarial_loss: train a discriminator with the network, against blur (see `adversarial.py`).
        adversarial_loss_weight: of its term; at 1 the last image's error and it pull equally.
        discr_base_dim: its channels at full resolution.
        discr_attn_res_layers: longer sides of the resolutions at which it has attention.
        levels_per_resolution: how many levels at each resolution; or a list, from the smallest resolution to the
            full one (see `sizes`); 0 is allowed except at the full one.
        recurrence: how often the same weights are walked; with more than 1 every level stands at full resolution and
            each pass sees the image so far through an encoder (the paper's recurrence paradigm).
        attention_resolutions: longer sides of the resolutions whose levels have an attention block.
        patch_size: choose per patch of this size; or a list, one per resolution (None: one choice for the image).
        num_classes: of the labels that it may be trained and asked with; None for a network that knows no classes.
        cond_channels: channels of the images that it may be trained and asked with, such as 1 for grey values.
        cond_dropout: in training, chance that an image is shown without its label, and without its condition, so
            that the network can do without.

    Attributes:
        sizes: (height, width) of each resolution, from the smallest to the full one.
        codebook_sizes: K of each of the L levels.
        code_shapes: how the codes of each level lie: () for one code, (H / p, W / p) with patches.
        codes_per_level: how many that are.
        bits_per_image: log2 of the number of different codes.
        cast_from: what it was before `half()` and the like; None if it was not cast (see `fingerprint.py`).
    """

    cast_from: CastFrom | None = None

    def __init__(
        self,
        dim: int,
        dim_max: int = 1024,
        image_size: int | Sequence[int] = 256,
        channels: int = 3,
        codebook_size: int | Sequence[int] = 10,
        dropout: float = 0.0,
        num_resnet_blocks: int = 2,
        guided_sampler_kwargs: dict[str, Any] | None = None,
        use_adversarial_loss: bool = False,
        adversarial_loss_weight: float = 1.0,
        discr_base_dim: int = 16,
        discr_attn_res_layers: Sequence[int] = (16,),
        *,
        levels_per_resolution: int | Sequence[int] | None = None,
        recurrence: int = 1,
        attention_resolutions: Sequence[int] = (),
        patch_size: int | Sequence[int | None] | None = None,
        num_classes: int | None = None,
        cond_channels: int = 0,
        cond_dropout: float = 0.1,
    ):
        super().__init__()
        size = (*image_size,) if isinstance(image_size, Sequence) else (image_size, image_size)
        for name, value in (
            ("dim", dim),
            ("dim_max", dim_max),
            ("channels", channels),
            ("recurrence", recurrence),
            ("num_resnet_blocks", num_resnet_blocks),
            ("discr_base_dim", discr_base_dim),
            ("num_classes", 1 if num_classes is None else num_classes),
        ):
            require_integer(value, name)
        require_integer(cond_channels, "cond_channels", 0)
        require(len(size) == 2, "image_size to be a side or (height, width)", shown(image_size))
        for length in size:
            require_integer(length, "each side of image_size")
            require(length < MOST_PIXELS, f"each side of image_size below {MOST_PIXELS}", length)
        for name, chance in (("cond_dropout", cond_dropout), ("dropout", dropout)):
            require(is_number(chance) and 0 <= chance <= 1, f"{name} in [0, 1]", shown(chance))
        weight = adversarial_loss_weight
        require(is_number(weight) and weight >= 0, "adversarial_loss_weight of at least 0", shown(weight))
        self._seen_images = False  # by `forward`, which looks at the range of the first alone
        self.image_size, self.channels, self.recurrence = (size[0], size[1]), channels, recurrence
        self.num_classes, self.cond_channels, self.cond_dropout = num_classes, cond_channels, cond_dropout
        self.sizes = resolutions(self.image_size)
        levels_at = self._levels_at(levels_per_resolution)
        patches = per_resolution("patch_size", patch_size, len(self.sizes))
        for side, patch in zip(self.sizes, patches, strict=True):
            _check_patch(side, patch)
        count = sum(levels_at)
        codebook_sizes = list(codebook_size) if isinstance(codebook_size, Sequence) else [codebook_size] * count
        require(
            len(codebook_sizes) == count,
            f"codebook_size to be an integer or {count} integers, one per level",
            f"{len(codebook_sizes)} of them",
        )

        for number in codebook_sizes:
            require_integer(number, "codebook_size")
        sides = [max(side) for side in self.sizes]
        require(
            set(attention_resolutions) <= set(sides),
            f"attention_resolutions among {sides}",
            list(attention_resolutions),
        )
        widths = [min(dim_max, dim * 2**halvings) for halvings in reversed(range(len(self.sizes)))]
        self.start = nn.Parameter(torch.randn(1, widths[0], *self.sizes[0]) * 0.5)
        self.encoder = Encoder(channels, widths, self.sizes) if recurrence > 1 else None
        self.stages = nn.ModuleList()
        sizes_left = iter(codebook_sizes)
        for index, (side, width, levels) in enumerate(zip(self.sizes, widths, levels_at, strict=True)):
            samplers = [
                GuidedSampler(
                    width,
                    channels,
                    next(sizes_left),
                    patch_size=patches[index],
                    **sampler_arguments(width, guided_sampler_kwargs),
                )
                for _ in range(levels)
            ]
            for head in (head for sampler in samplers for head in (sampler.keys, sampler.values) if head is not None):
                expected = f"guided_sampler_kwargs whose candidates have the images' {channels} channels"
                require(head.dim_out == channels, expected, head.dim_out)
            self.stages.append(
                Stage(
                    channels,
                    widths[max(index - 1, 0)],
                    width,
                    side,
                    samplers,
                    blocks=max(1, num_resnet_blocks // max(levels, 1)),
                    dropout=dropout,
                    attention=max(side) in attention_resolutions,
                    conditioning=Conditioning(num_classes, cond_channels, width),
                )
            )
        self.adversarial_loss_weight, self.discriminator = adversarial_loss_weight, None
        if use_adversarial_loss:
            self.discriminator = Discriminator(channels, self.sizes, discr_base_dim, discr_attn_res_layers)
        self.codebook_sizes = codebook_sizes * recurrence
        self.code_shapes = [
            () if patch is None else (side[0] // patch, side[1] // patch)
            for side, patch, levels in zip(self.sizes, patches, levels_at, strict=True)
            for _ in range(levels)
        ] * recurrence
        self.codes_per_level = [math.prod(shape) for shape in self.code_shapes]

    def _levels_at(self, levels_per_resolution: int | Sequence[int] | None) -> list[int]:
        if levels_per_resolution is None:
            levels_per_resolution = 2 if self.recurrence == 1 else [0] * (len(self.sizes) - 1) + [1]
        levels = per_resolution("levels_per_resolution", levels_per_resolution, len(self.sizes))
        for number in levels:
            require_integer(number, "levels_per_resolution", 0)
        require(levels[-1] >= 1, "levels_per_resolution of at least 1 at full resolution", levels)
        require(
            sum(levels) * self.recurrence <= MOST_LEVELS,
            f"at most {MOST_LEVELS} levels",
            sum(levels) * self.recurrence,
        )
        require(
            self.recurrence == 1 or not any(levels[:-1]),
            f"levels at full resolution only with recurrence={self.recurrence}",
            f"levels_per_resolution={levels}",
            f"use {[0] * (len(levels) - 1) + [levels[-1]]}",
        )
        return levels

    @property
    def num_levels(self) -> int:
        """L, the number of choices of a walk (of sets of choices, with patches)."""
        return len(self.codebook_sizes)

    @property
    def bits_per_image(self) -> float:
        return sum(
            number * math.log2(size) for number, size in zip(self.codes_per_level, self.codebook_sizes, strict=True)
        )

    @property
    def samplers(self) -> list[GuidedSampler]:
        """The samplers in the order of the walk; each stands once, however often it is walked."""
        return [sampler for stage in self._stages() for sampler in stage.samplers()]

    def _stages(self) -> Iterable[Stage]:
        return cast("Iterable[Stage]", self.stages)

    # the walk

    def walk(
        self,
        select: Selection,
        batch_size: int,
        levels: int | None = None,
        labels: Tensor | None = None,
        cond: Tensor | None = None,
    ) -> Walk:
        """Walk the levels, choosing by `select`; only the first `levels` of them if given.

        Args:
            labels: classes (B,), for a network with `num_classes`; None for no class.
            cond: what the images are to fit (B, cond_channels, H, W), for one with `cond_channels`; None for nothing.
        """
        require_integer(batch_size, "batch_size")
        levels = self._checked_levels(levels)
        image = self.start.new_zeros(batch_size, self.channels, *self.sizes[-1 if self.encoder is not None else 0])
        wanted = self._wanted(batch_size, labels, cond)
        steps: list[SamplerOutput | Branches] = []
        for _ in range(self.recurrence):
            features = low_precision(self.start).expand(len(image), -1, -1, -1)
            skips: list[Tensor | None] = [None] * len(self.stages)
            if self.encoder is not None:
                skips = list(self.encoder(image))
            for index, stage in enumerate(self._stages()):
                features = stage.enter(features, skips[index], wanted)
                if self.encoder is None:
                    image = resize(image, stage.size)
                for level in cast("Iterable[Level]", stage.levels):
                    features = level(features, resize(image, stage.size))
                    if level.sampler is None:
                        continue
                    step = select(len(steps), level.sampler, features, image)
                    # no gradient flows back through the image: else later levels drag the nodes of earlier ones away
                    # from the data they are chosen for, and nodes die (docs/log.md)
                    image = step.output.detach()
                    steps.append(step)
                    if isinstance(step, Branches):
                        features = of_rows(features, step.rows)
                        skips = [None if own is None else of_rows(own, step.rows) for own in skips]
                        wanted = wanted.of(step.rows if step.rows.ndim == 1 else step.rows[:, 0, 0])
                    if len(steps) == levels:
                        return collect(steps)
        return collect(steps)

    def _wanted(self, batch_size: int, labels: Tensor | None, cond: Tensor | None) -> Wanted:
        """What the network is asked with, once it is checked; in training some of it is left out by chance."""
        labels, cond = self._checked_labels(labels, batch_size), self._checked_cond(cond, batch_size)
        device, presence = self.start.device, None
        if labels is not None:
            labels = labels.to(device, torch.long)
            if self.training:
                dropped = torch.rand(batch_size, device=device) < self.cond_dropout
                labels = labels.masked_fill(dropped, -1)
        if cond is not None:
            cond, presence = cond.to(self.start), torch.ones(batch_size, 1, 1, 1, device=device)
            if self.training:
                presence = (torch.rand_like(presence) >= self.cond_dropout).to(presence)
        return Wanted(labels, cond, presence)

    def forward(
        self,
        images: Tensor,
        return_intermediates: bool = False,
        *,
        labels: Tensor | None = None,
        cond: Tensor | None = None,
        reduction: Literal["mean", "none"] = "mean",
    ) -> Tensor | tuple[Tensor, tuple[Tensor, tuple[Tensor, ...]]]:
        """The training loss of images (B, C, H, W): the mean over levels of the chosen candidate's squared error.

        With `use_adversarial_loss`, in training, the term of `adversarial` is added to that mean.

        Args:
            images: pixels in [0, 1], or uint8.
            return_intermediates: give the loss and (codes, outputs) as `Walk` describes them.
            labels, cond: see `walk`.
            reduction: "none" for the loss of each level, (L,).
        """
        require(reduction in ("mean", "none"), 'reduction "mean" or "none"', repr(reduction))
        images = self._pixels(images)
        if not torch.compiler.is_compiling() and not self._seen_images:  # looking at values is waiting for a GPU
            self._seen_images = True
            warn_of_range(images)
        walk = self.walk(Nearest(images), images.shape[0], None, labels, cond)
        assert walk.losses is not None
        loss = walk.losses
        if reduction == "mean":
            loss = loss.mean()
            if self.training and self.discriminator is not None and torch.is_grad_enabled():
                loss = loss + self.adversarial(images, walk.outputs[-1])
        return (loss, (walk.codes, walk.outputs)) if return_intermediates else loss

    def adversarial(self, images: Tensor, drawn: Tensor, penalty: bool = True) -> Tensor:
        """What `use_adversarial_loss` adds to the loss, for the network and for the discriminator.

        Args:
            images: (B, C, H, W), and `drawn`, what the last level gave for them, with its gradient.
            penalty: whether the discriminator's gradient penalty is in it, which costs a second backward pass.
        """
        if self.discriminator is None:
            raise InvalidInput("expected a network with use_adversarial_loss, got one without; make it with that")
        images, weight, share = self._pixels(images), self.adversarial_loss_weight, 1 / self.num_levels
        with without_half(images.device.type):
            return adversarial_term(self.discriminator, images, drawn, share, weight, penalty)

    # use

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
        further = self._conditions(also, batch)
        if beams > 1 or further:
            walk, _ = self._guided([Match(images), *further], batch, stop, labels, cond, {"beams": beams})
            errors = [F.mse_loss(own.float(), resize(images, own.shape[2:]).float()) for own in walk.outputs]
            return walk._replace(losses=torch.stack(errors))
        with self._evaluating():
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
        with self._evaluating():
            walk = self.walk(Given(self._by_level(codes, levels)), codes.shape[0], levels, labels, cond)
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
        prior: Likely | None = None,
        proposals: int = 128,
        temperature: Temperature = 0.7,
        rollouts: int = 0,
        labels: Tensor | None = None,
        cond: Tensor | None = None,
    ) -> Guided:
        """Images as conditions want them, without a gradient or training: each level takes what they like best.

        Args:
            conditions: see `conditions.py`; a bare callable, images (N, C, H, W) -> scores (N,), is one too.
            batch_size: B; that of the conditions (or labels, or cond) if not given.
            top_k: choose at random among the k best candidates of each choice.
            generator: source of what is random.
            beams: follow so many walks of each image, and take the best.
            prior: how likely each code is (see `prior.py`): it proposes the candidates of each choice, and chooses
                where no condition holds. Pictures then look like the data even where nothing is asked of them.
            proposals: how many candidates the prior proposes.
            temperature: of the prior; see `sample`.
            rollouts: black boxes judge finished images alone, so many at first, and then at each level at which one
                holds half as many that begin as the best so far; 0: they judge the candidates of each level as they
                are. Linear conditions guide the walks either way.
            labels: classes (B,), for a prior by class, for a network with `num_classes`, or both.
            cond: see `walk`.

        Raises:
            InvalidInput: a condition does not fit, or gives what are no scores; the message names it.
        """
        require_integer(rollouts, "rollouts", 0)
        require_integer(beams, "beams")
        check_temperature(temperature, self.num_levels)
        own = self._conditions(conditions)
        require(len(own) >= 1, "at least one condition", "none")
        batch_size = self._batch_size(batch_size, labels, cond, prior, *(one.batch_size for one in own))
        own = self._conditions(own, batch_size)
        how = {
            "top_k": top_k,
            "beams": beams,
            "generator": generator,
            "prior": prior,
            "proposals": proposals,
            "temperature": temperature,
            "labels": labels if takes_labels(prior) else None,
        }
        known = labels if self.num_classes is not None else None
        black = any(isinstance(one, Scorer) for one in own)
        require(black or rollouts == 0, "a black box where rollouts are given", "linear conditions alone")
        walk, scores = self._guided(own, batch_size, self.num_levels, known, cond, how, rollouts)
        return Guided(walk.outputs[-1], walk.codes, scores)

    def _guided(
        self,
        conditions: Sequence[Condition],
        batch: int,
        levels: int,
        labels: Tensor | None,
        cond: Tensor | None,
        how: dict[str, Any],
        rollouts: int = 0,
    ) -> tuple[Walk, Tensor]:
        """A guided walk of the first levels, and what each condition says at each of them, (B, levels, conditions)."""
        labels, cond = self._checked_labels(labels, batch), self._checked_cond(cond, batch)

        def guidance(num_levels: int = levels, **more: Any) -> Guidance:
            return Guidance(conditions, batch, num_levels, self.image_size, **how, **more)

        def walk(select: Selection, stop: int = levels, each: int = 1) -> Walk:
            asked = (None if own is None else own.repeat_interleave(each, 0) for own in (labels, cond))
            return self.walk(select, batch * each, stop, *asked)

        linear = not any(isinstance(one, Scorer) for one in conditions)
        shapes, judged = self.code_shapes[:levels], None
        given: list[Tensor] = []
        with self._evaluating():
            if rollouts:
                given, judged = roll_out(
                    lambda select, each: walk(select, each=each),
                    guidance,
                    conditions,
                    batch,
                    self.image_size,
                    shapes,
                    rollouts,
                    how["beams"],
                )
            elif linear and how["beams"] > 1:
                given = search(walk, shapes, guidance)
            last = guidance(given=given)
            walked, scores = walk(last), torch.stack(last.scores, 1)
        return walked, scores if judged is None else torch.where(judged.isnan(), scores, judged)

    @overload
    def sample(
        self,
        batch_size: int | None = None,
        codes: Tensor | None = None,
        return_codes: Literal[False] = False,
        generator: torch.Generator | None = None,
        prior: Likely | None = None,
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
        prior: Likely | None = None,
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
        prior: Likely | None = None,
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
                select = Contrasted(guidance_scale, *how) if twice else Drawn(*how)
            else:
                plain = (temperature, top_p) == (1.0, 1.0)
                require(plain, "a prior where temperature or top_p are given", "none")
            with self._evaluating():
                walk = self.walk(select, walks, None, labels if self.num_classes is not None else None, cond)
            images, codes = walk.outputs[-1][:batch_size], walk.codes[:batch_size]
        return (images, codes) if return_codes else images

    def split_and_prune_(self, optimizer: Optimizer | None = None, mirror: DDN | None = None) -> int:
        """Split and prune every level; call it after the optimiser's step. Gives the number of pruned nodes.

        In `optimizer` the moments of the same rows move, in `mirror` (a moving average of the weights) the same rows.
        """
        return split_and_prune_(self, optimizer, mirror)

    def guided_sampler_codes_param_names(self) -> set[str]:
        """Names, as `named_parameters()` has them, of the parameters that hold the nodes: the K heads of every sampler.

        Split-and-prune moves their rows from node to node, so one may want them without weight decay, or out of a
        moving average whose rows stay.
        """
        nodes = {id(parameter) for sampler in self.samplers for parameter in sampler.node_parameters()}
        return {name for name, parameter in self.named_parameters() if id(parameter) in nodes}

    def _apply(self, fn: Any, recurse: bool = True) -> DDN:
        """What every cast and move of a module goes through."""
        if self.start.is_meta or fn(self.start.detach().new_zeros(1)).dtype == self.start.dtype:
            return super()._apply(fn, recurse)
        before = fingerprints(self)
        super()._apply(fn, recurse)
        self.cast_from = CastFrom(before, digest(self))
        return self

    @contextmanager
    def _evaluating(self) -> Iterator[None]:
        """Evaluation mode for a while: no dropout, no counting. Each module then has the mode that it had."""
        modes = [(module, module.training) for module in self.modules()]
        if not any(training for _, training in modes):
            yield
            return
        self.eval()
        try:
            yield
        finally:
            for module, training in modes:  # a module comes before those inside it
                module.train(training)

    # codes and checks

    def _by_level(self, codes: Tensor, levels: int) -> list[Tensor]:
        """(B, number of codes) -> one tensor per level, shaped as its sampler has them."""
        return by_level(codes, self.code_shapes[:levels])

    def levels_of(self, count: int) -> int:
        """How many of the first levels have so many codes in all.

        Raises:
            InvalidInput: none: they end inside a level.
        """
        levels = number = 0
        while number < count and levels < self.num_levels:
            number += self.codes_per_level[levels]
            levels += 1
        require(number == count, "codes that end with a level", f"{count} codes", f"give {number}")
        return levels

    def _levels_of(self, codes: Tensor) -> int:
        """How many levels these codes are for, once they are checked."""
        total = sum(self.codes_per_level)
        require(isinstance(codes, Tensor), "codes as a tensor", shown(codes))
        require(
            codes.ndim == 2 and codes.shape[0] >= 1 and 1 <= codes.shape[1] <= total,
            f"codes of shape (B, {total}), or fewer columns for a coarser image",
            tuple(codes.shape),
        )
        levels = self.levels_of(codes.shape[1])
        if not torch.compiler.is_compiling():  # looking at values would break the graph
            for level, part in enumerate(codes.split(self.codes_per_level[:levels], dim=1)):
                try:
                    check_codes(part, part.shape, self.codebook_sizes[level])
                except InvalidInput as error:
                    raise InvalidInput(f"level {level}: {error}") from error
        return levels

    def _pixels(self, images: Tensor) -> Tensor:
        return as_pixels(images, (None, self.channels, *self.image_size))

    def _checked_levels(self, levels: int | None) -> int:
        if levels is None:
            return self.num_levels
        require_integer(levels, "levels", 1, self.num_levels)
        return levels

    def _checked_labels(self, labels: Tensor | None, batch_size: int, by_prior: bool = False) -> Tensor | None:
        """Labels of the network or, `by_prior`, of a prior by class alone, which knows their range."""
        if labels is None:
            return None
        known = by_prior or self.num_classes is not None
        require(known, "no labels for a network without num_classes", shown(labels))
        require(isinstance(labels, Tensor), f"labels as a tensor of shape ({batch_size},)", shown(labels))
        require(tuple(labels.shape) == (batch_size,), f"labels of shape ({batch_size},)", tuple(labels.shape))
        integer = not (labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool)
        require(integer, "integer labels", labels.dtype)
        if self.num_classes is not None and labels.device.type == "cpu" and not torch.compiler.is_compiling():
            highest = int(labels.max())  # on another device looking is waiting
            require(highest < self.num_classes, f"labels below {self.num_classes}", highest)
        return labels

    def _checked_cond(self, cond: Tensor | None, batch_size: int) -> Tensor | None:
        if cond is None:
            return None
        require(self.cond_channels > 0, "no cond for a network without cond_channels", shown(cond))
        cond = as_pixels(cond, (batch_size, self.cond_channels, *self.image_size), "cond")
        if not (self.training or torch.compiler.is_compiling()):
            require_finite(cond, "cond")
        return cond

    def _batch_size(
        self, asked: int | None, labels: Tensor | None, cond: Tensor | None, prior: Likely | None, *others: int
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

    def _conditions(
        self, given: Condition | Scores | Sequence[Condition | Scores], batch_size: int | None = None
    ) -> list[Condition]:
        """Conditions, also bare callables, as a list; checked against `batch_size` images, if that is given."""
        several = given if isinstance(given, Sequence) else [given]
        own = [one if isinstance(one, Condition) else Custom(one) for one in several]
        for one in own:
            beyond = [] if one.levels is None else [level for level in one.levels if level >= self.num_levels]
            require(not beyond, f"levels of {one} below {self.num_levels}", beyond)
            if batch_size is not None:
                one.check(batch_size, self.channels, self.image_size)
        return own


class Level(nn.Module):
    """One step of the walk: the image so far is fed back, residual blocks follow, then the sampler (if any)."""

    def __init__(
        self, channels: int, dim: int, blocks: int, dropout: float, attention: bool, sampler: GuidedSampler | None
    ):
        super().__init__()
        self.feedback = nn.Conv2d(channels, dim, 3, padding=1)
        self.blocks = nn.Sequential(
            *(ResidualBlock(dim, dropout) for _ in range(blocks)), *([AttentionBlock(dim)] if attention else [])
        )
        self.sampler = sampler

    def forward(self, features: Tensor, image: Tensor) -> Tensor:
        return self.blocks(features + self.feedback(image))


class Stage(nn.Module):
    """All levels of one resolution; a resolution without levels still has its blocks."""

    def __init__(
        self,
        channels: int,
        dim_in: int,
        dim: int,
        size: tuple[int, int],
        samplers: list[GuidedSampler],
        blocks: int,
        dropout: float,
        attention: bool,
        conditioning: Conditioning,
    ):
        super().__init__()
        self.size = size
        self.conditioning = conditioning
        self.widen = nn.Conv2d(dim_in, dim, 1) if dim_in != dim else nn.Identity()
        self.levels = nn.ModuleList(
            Level(channels, dim, blocks, dropout, attention, sampler)
            for sampler in (samplers or cast("list[GuidedSampler | None]", [None]))
        )

    def samplers(self) -> list[GuidedSampler]:
        levels = cast("Iterable[Level]", self.levels)
        return [level.sampler for level in levels if level.sampler is not None]

    def enter(self, features: Tensor, skip: Tensor | None, wanted: Wanted) -> Tensor:
        """The features of the resolution before, at this one's size, plus what the encoder and the conditions say."""
        features = resize(self.widen(features), self.size)
        features = features if skip is None else features + skip
        return self.conditioning(features, wanted)


class Wanted(NamedTuple):
    """What a network is trained and asked with: classes (B,) and images (B, cond_channels, H, W), or None.

    A class below 0 is none; so is an image with a presence (B, 1, 1, 1) of 0.
    """

    labels: Tensor | None = None
    images: Tensor | None = None
    presence: Tensor | None = None

    def of(self, rows: Tensor) -> Wanted:
        """The same for these rows of the batch."""
        return Wanted(*(None if own is None else own[rows] for own in self))


class Conditioning(nn.Module):
    """Adds to a resolution's features what its network is asked for; nothing at first, and where it is not asked."""

    def __init__(self, num_classes: int | None, cond_channels: int, width: int):
        super().__init__()
        self.classes = None if num_classes is None else nn.Embedding(num_classes, width)
        if self.classes is not None:
            nn.init.zeros_(self.classes.weight)
        # one more channel: whether there is a condition
        self.images = nn.Conv2d(cond_channels + 1, width, 3, padding=1, bias=False) if cond_channels else None

    def forward(self, features: Tensor, wanted: Wanted) -> Tensor:
        if self.classes is not None and wanted.labels is not None:
            there = (wanted.labels >= 0).unsqueeze(1)
            rows = self.classes(wanted.labels.clamp_min(0)) * there
            features = features + rows.to(features.dtype)[:, :, None, None]
        if self.images is not None and wanted.images is not None and wanted.presence is not None:
            images = resize(wanted.images, features.shape[2:]) * wanted.presence
            images = torch.cat((images, wanted.presence.expand_as(images[:, :1])), 1)
            features = features + self.images(images)
        return features


class Encoder(nn.Module):
    """Features of the image so far at every resolution, smallest first, for the next pass of the recurrence."""

    def __init__(self, channels: int, widths: Sequence[int], sizes: Sequence[tuple[int, int]]):
        super().__init__()
        self.sizes = list(sizes)
        self.entry = nn.Conv2d(channels, widths[-1], 3, padding=1)
        self.blocks = nn.ModuleList(ResidualBlock(width) for width in widths)
        self.narrow = nn.ModuleList(nn.Conv2d(large, small, 1) for small, large in pairwise(widths))

    def forward(self, image: Tensor) -> list[Tensor]:
        features = self.blocks[-1](self.entry(image))
        skips = [features]
        for index in reversed(range(len(self.sizes) - 1)):
            features = self.blocks[index](self.narrow[index](resize(features, self.sizes[index])))
            skips.insert(0, features)
        return skips


def sampler_arguments(width: int, given: dict[str, Any] | None) -> dict[str, Any]:
    """What a level's sampler is made with: the given arguments (modules copied for each level) over our defaults."""
    require(isinstance(given or {}, dict), "guided_sampler_kwargs as a dictionary", shown(given))
    kwargs = copy.deepcopy(given or {})
    taken = sorted({"dim", "dim_query", "codebook_size", "patch_size"} & kwargs.keys())
    require(
        not taken,
        "guided_sampler_kwargs without what the network itself decides",
        ", ".join(taken),
        "codebook_size and patch_size are arguments of DDN",
    )
    unknown = sorted(map(str, kwargs.keys() - inspect.signature(GuidedSampler).parameters.keys()))
    require(not unknown, "guided_sampler_kwargs that are arguments of GuidedSampler", ", ".join(unknown))
    norm = {} if kwargs.get("prenorm") else {"norm_module": nn.GroupNorm(1, width)}
    return {**norm, "max_swaps": None, "head_init": 0.02, **kwargs}


def low_precision(tensor: Tensor) -> Tensor:
    """In autocast's type where that is on, so that sums and norms of features are in it too, not in float32."""
    device = tensor.device.type
    return tensor.to(torch.get_autocast_dtype(device)) if torch.is_autocast_enabled(device) else tensor


@contextmanager
def without_half(device: str) -> Iterator[None]:
    """Float16 is left for a while: its smallest numbers are too large for gradients that no scaler has scaled."""
    half = torch.is_autocast_enabled(device) and torch.get_autocast_dtype(device) == torch.float16
    with torch.autocast(device, enabled=False) if half else nullcontext():
        yield


def collect(steps: Sequence[SamplerOutput | Branches]) -> Walk:
    outputs: list[Tensor] = []
    codes: list[Tensor] = []
    rows: Tensor | None = None  # of each walk that reached the end its row at the step that is looked at
    for step in reversed(steps):
        own = step.codes if step.codes.ndim > 1 else step.codes[:, None, None]
        own = own if rows is None else of_rows(own.unsqueeze(1), rows)[:, 0]
        outputs.insert(0, step.output if rows is None else of_rows(step.output, rows))
        codes.insert(0, own.flatten(1))
        if isinstance(step, Branches):
            rows = step.rows if rows is None else before(step.rows, rows)
    losses = [step.commit_loss for step in steps if step.commit_loss is not None]
    return Walk(tuple(outputs), torch.cat(codes, 1), torch.stack(losses) if losses else None)


def before(rows: Tensor, later: Tensor) -> Tensor:
    """The rows that walks come from, one step further back: `rows` of that step, for the walks of the rows `later`."""
    if rows.ndim == 1 or later.ndim == 1:
        return rows[later]
    down, across = (torch.arange(side, device=rows.device) for side in rows.shape[1:])
    return rows[later, down[:, None], across]


def takes_labels(prior: Likely | None) -> bool:
    """Whether it is a prior by class."""
    return getattr(prior, "num_classes", None) is not None


def resolutions(size: tuple[int, int]) -> list[tuple[int, int]]:
    """The image's size halved (rounded up) until the longer side is small, smallest first."""
    sizes = [size]
    while max(sizes[0]) > SMALLEST_SIDE:
        height, width = sizes[0]
        sizes.insert(0, (-(-height // 2), -(-width // 2)))
    return sizes


def per_resolution(name: str, value: Any, count: int) -> list[Any]:
    values = list(value) if isinstance(value, Sequence) else [value] * count
    require(len(values) == count, f"{name} to be one value or {count}, one per resolution", f"{len(values)} of them")
    return values


def _check_patch(size: tuple[int, int], patch: int | None) -> None:
    if patch is not None:
        require_integer(patch, "patch_size")
    if patch is None or all(side % patch == 0 for side in size):
        return
    dividers = [p for p in range(1, min(size) + 1) if all(side % p == 0 for side in size)]
    nearest = sorted(dividers, key=lambda p: abs(p - patch))[:2]
    raise InvalidInput(
        f"expected a patch_size that divides the resolution {size}, got {patch}; use {' or '.join(map(str, nearest))}"
    )


_HOME = {"ImageDataset": "data", "Trainer": "trainer"}
"""What the published package has here, and stands on this module."""


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"discrete_distribution_network.{_HOME[name]}"), name)
