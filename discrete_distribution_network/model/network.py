"""`Network`: the levels of a DDN, and the one walk over them that training, encoding, decoding and sampling share.

At each level the features so far and the image chosen so far give K candidates; one is chosen and fed back. What
differs between the uses is how it is chosen, so the choice is the argument of `Network.walk` (see `selection.py`).
"""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from discrete_distribution_network.errors import InvalidInput, is_number, require, require_integer, shown
from discrete_distribution_network.model.discriminator import Discriminator, adversarial_term
from discrete_distribution_network.model.fingerprint import CastFrom, digest, fingerprints
from discrete_distribution_network.model.guided_sampler import (
    GuidedSampler,
    SamplerOutput,
    check_codes,
    split_and_prune_,
)
from discrete_distribution_network.model.pixels import as_pixels, require_finite, warn_of_range
from discrete_distribution_network.model.selection import Nearest
from discrete_distribution_network.model.stages import Conditioning, ConditioningInputs, Encoder, Level, Stage
from discrete_distribution_network.model.tensors import by_level, gather_walks, resize
from discrete_distribution_network.model.walk import Branches, Selection, Walk, collect

SMALLEST_SIDE = 4
"""The walk starts at the first halving of the image whose longer side is at most this."""


MOST_PIXELS, MOST_LEVELS = 1 << 16, 1 << 12
"""Sides of images are below the first; there are at most so many levels as the second says. Files hold no more."""


class Network(nn.Module):
    """A Discrete Distribution Network (arXiv 2401.00036): its levels, the walk over them, and the training loss.

    `DDN` adds what it is used for.

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
        shapes: list[tuple[int, ...]] = [
            () if patch is None else (side[0] // patch, side[1] // patch)
            for side, patch, levels in zip(self.sizes, patches, levels_at, strict=True)
            for _ in range(levels)
        ]
        self.code_shapes = shapes * recurrence
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
            features = to_autocast_dtype(self.start).expand(len(image), -1, -1, -1)
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
                        features = gather_walks(features, step.rows)
                        skips = [None if own is None else gather_walks(own, step.rows) for own in skips]
                        wanted = wanted.of(step.rows if step.rows.ndim == 1 else step.rows[:, 0, 0])
                    if len(steps) == levels:
                        return collect(steps)
        return collect(steps)

    def _wanted(self, batch_size: int, labels: Tensor | None, cond: Tensor | None) -> ConditioningInputs:
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
        return ConditioningInputs(labels, cond, presence)

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
        with disable_fp16_autocast(images.device.type):
            return adversarial_term(self.discriminator, images, drawn, share, weight, penalty)

    def split_and_prune_(self, optimizer: Optimizer | None = None, mirror: Network | None = None) -> int:
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

    def _apply(self, fn: Any, recurse: bool = True) -> Network:
        """What every cast and move of a module goes through."""
        if self.start.is_meta or fn(self.start.detach().new_zeros(1)).dtype == self.start.dtype:
            return super()._apply(fn, recurse)
        before = fingerprints(self)
        super()._apply(fn, recurse)
        self.cast_from = CastFrom(before, digest(self))
        return self

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


def to_autocast_dtype(tensor: Tensor) -> Tensor:
    """In autocast's type where that is on, so that sums and norms of features are in it too, not in float32."""
    device = tensor.device.type
    return tensor.to(torch.get_autocast_dtype(device)) if torch.is_autocast_enabled(device) else tensor


@contextmanager
def disable_fp16_autocast(device: str) -> Iterator[None]:
    """Float16 is left for a while: its smallest numbers are too large for gradients that no scaler has scaled."""
    half = torch.is_autocast_enabled(device) and torch.get_autocast_dtype(device) == torch.float16
    with torch.autocast(device, enabled=False) if half else nullcontext():
        yield


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Evaluation mode for a while: no dropout, no counting. Each module then has the mode that it had."""
    modes = [(module, module.training) for module in module.modules()]
    if not any(training for _, training in modes):
        yield
        return
    module.eval()
    try:
        yield
    finally:
        for module, training in modes:  # a module comes before those inside it
            module.train(training)


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
