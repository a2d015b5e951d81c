"""`Network`: the levels of a DDN, and the one walk over them that training, encoding, decoding and sampling share.

At each level the features so far and the image chosen so far give K candidates; one is chosen and fed back. The uses
differ only in the choice, so it is an argument of `Network.walk` (see `selection.py`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float, Integer, Shaped
from torch import Tensor, nn
from torch.optim import Optimizer

from discrete_distribution_network._renamed import renamed_argument
from discrete_distribution_network.errors import InvalidInput, require, require_integer, shown
from discrete_distribution_network.model.decoder import Decoder
from discrete_distribution_network.model.discriminator import Discriminator, adversarial_term
from discrete_distribution_network.model.fingerprint import CastFrom, digest, fingerprints
from discrete_distribution_network.model.guided_sampler import (
    GuidedSampler,
    SamplerOutput,
    split_and_prune_,
)
from discrete_distribution_network.model.network_config import NetworkConfig
from discrete_distribution_network.model.pixels import as_pixels, require_finite, warn_of_range
from discrete_distribution_network.model.precision import at_least_float32, disable_fp16_autocast, to_autocast_dtype
from discrete_distribution_network.model.sampler_checks import check_codes
from discrete_distribution_network.model.selection import Nearest
from discrete_distribution_network.model.stages import ConditioningInputs, Encoder, Level, Stage
from discrete_distribution_network.model.tensors import by_level, gather_walks, resize
from discrete_distribution_network.model.walk import Branches, Selection, Walk, collect

Images = Shaped[Tensor, "batch channels height width"]
"""Pixels in [0, 1], or uint8."""

CondImages = Shaped[Tensor, "batch cond_channels height width"]
"""The same, for the images that a network with `cond_channels` is conditioned on."""


class Network(nn.Module):
    """The levels of a Discrete Distribution Network (arXiv 2401.00036), the walk over them, and the training loss.

    `DDN` adds what a network is used for; its docstring describes the arguments and attributes of both.
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
        decoder_dim: int = 0,
    ):
        super().__init__()
        config = NetworkConfig(
            dim,
            dim_max,
            image_size,
            channels,
            codebook_size,
            dropout,
            num_resnet_blocks,
            guided_sampler_kwargs,
            use_adversarial_loss,
            adversarial_loss_weight,
            discr_base_dim,
            discr_attn_res_layers,
            levels_per_resolution,
            recurrence,
            attention_resolutions,
            patch_size,
            num_classes,
            cond_channels,
            cond_dropout,
            decoder_dim,
        )
        self.image_size, self.channels, self.recurrence = config.size, channels, recurrence
        self.num_classes, self.cond_channels, self.cond_dropout = num_classes, cond_channels, cond_dropout
        self.sizes, self.level_sizes = config.sizes, config.level_sizes
        self.codebook_sizes, self.code_shapes = config.codebook_sizes, config.code_shapes
        self.codes_per_level = [math.prod(shape) for shape in self.code_shapes]
        self.adversarial_loss_weight = adversarial_loss_weight
        self._seen_images = False  # by `forward`, which checks the range of its first images only
        # fresh weights are drawn in this order
        self.start = nn.Parameter(torch.randn(1, config.widths[0], *self.sizes[0]) * 0.5)
        self.encoder = Encoder(config) if recurrence > 1 else None
        self.stages = nn.ModuleList(Stage(config, resolution) for resolution in range(len(self.sizes)))
        self.discriminator = None
        if use_adversarial_loss:
            self.discriminator = Discriminator(channels, self.sizes, discr_base_dim, discr_attn_res_layers)
        self.decoder = Decoder(channels, config.widths[-1], decoder_dim) if decoder_dim else None

    @property
    def num_levels(self) -> int:
        """L, the number of levels of the walk."""
        return len(self.codebook_sizes)

    @property
    def bits_per_image(self) -> float:
        """Bits of an image's codes: log2 of the number of different codes."""
        return sum(
            number * math.log2(size) for number, size in zip(self.codes_per_level, self.codebook_sizes, strict=True)
        )

    @property
    def samplers(self) -> list[GuidedSampler]:
        """The samplers in the order of the walk; with a recurrence, each only once."""
        return [sampler for stage in self._stages() for sampler in stage.samplers()]

    def _stages(self) -> Iterable[Stage]:
        return cast("Iterable[Stage]", self.stages)

    # the walk

    def walk(
        self,
        select: Selection,
        batch_size: int,
        levels: int | None = None,
        labels: Integer[Tensor, " batch"] | None = None,
        cond: CondImages | None = None,
    ) -> Walk:
        """Walk the levels, choosing one candidate at each.

        Args:
            select: chooses the candidate of each level; see `selection.py`.
            batch_size: number of walks.
            levels: stop after this many levels; None for all.
            labels: classes (B,), for a network with `num_classes`; None for no class, as -1 for one sample.
            cond: condition images (B, cond_channels, H, W), for a network with `cond_channels`; None for none.
        """
        if not torch.compiler.is_compiling():  # the batch of an exported program is symbolic
            require_integer(batch_size, "batch_size")
        levels = self._checked_levels(levels)
        image = self.start.new_zeros(batch_size, self.channels, *self.sizes[-1 if self.encoder is not None else 0])
        inputs = self._conditioning_inputs(batch_size, labels, cond)
        steps: list[SamplerOutput | Branches] = []
        for _ in range(self.recurrence):
            features = to_autocast_dtype(self.start).expand(image.shape[0], -1, -1, -1)
            skips: list[Tensor | None] = [None] * len(self.stages)
            if self.encoder is not None:
                skips = list(self.encoder(image))
            for index, stage in enumerate(self._stages()):
                features = stage.enter(features, skips[index], inputs)
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
                        features = gather_walks(features, step.parents)
                        skips = [None if own is None else gather_walks(own, step.parents) for own in skips]
                        inputs = inputs.gather(step.parents if step.parents.ndim == 1 else step.parents[:, 0, 0])
                    if len(steps) == levels:
                        return collect(steps, features)
        raise AssertionError("a network has at least one level")

    @torch.no_grad()
    def finish(self, walk: Walk) -> Images:
        """The image of a walk, (B, C, H, W): the last output, by the decoder if there is one.

        That of a walk that ended early is resized, and not decoded.
        """
        image = walk.outputs[-1]
        if self.decoder is None or len(walk.outputs) < self.num_levels:
            return resize(image, self.image_size)
        finished: Tensor = self.decoder(walk.features, image)
        return finished

    def pictures(self, walk: Walk) -> list[Images]:
        """What to show of each level of a walk: its output, and at last the image."""
        return [*walk.outputs[:-1], self.finish(walk)]

    def _conditioning_inputs(self, batch_size: int, labels: Tensor | None, cond: Tensor | None) -> ConditioningInputs:
        """Labels and condition images, checked; in training some are dropped, by `cond_dropout`."""
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
        images: Images,
        return_intermediates: bool = False,
        *,
        labels: Integer[Tensor, " batch"] | None = None,
        cond: CondImages | None = None,
        reduction: Literal["mean", "none"] = "mean",
    ) -> Tensor | tuple[Tensor, tuple[Tensor, tuple[Tensor, ...]]]:
        """The training loss: the mean over levels of the chosen candidate's mean squared error to the images.

        To that mean are added, in training, the term of `adversarial` with `use_adversarial_loss`, and the mean squared
        error of the decoder's image with a decoder.

        Args:
            images: (B, C, H, W), pixels in [0, 1] or uint8.
            return_intermediates: also return (codes, outputs), as `Walk` describes them.
            labels, cond: see `walk`.
            reduction: "none" for the loss of each level, (L,).
        """
        require(reduction in ("mean", "none"), 'reduction "mean" or "none"', repr(reduction))
        images = self._pixels(images)
        walk = self.nearest_walk(images, labels, cond)
        assert walk.losses is not None
        loss = walk.losses
        if reduction == "mean":
            loss = loss.mean()
            if self.training and torch.is_grad_enabled():
                if self.discriminator is not None:
                    loss = loss + self.adversarial(images, walk.outputs[-1])
                if self.decoder is not None:
                    loss = loss + self.decoder_loss(walk, images)
        return (loss, (walk.codes, walk.outputs)) if return_intermediates else loss

    def nearest_walk(
        self, images: Images, labels: Integer[Tensor, " batch"] | None = None, cond: CondImages | None = None
    ) -> Walk:
        """The walk of `forward`, by the nearest candidates; in training with chain dropout, and counted.

        Args:
            images: (B, C, H, W), pixels in [0, 1] or uint8.
            labels, cond: see `walk`.
        """
        images = self._pixels(images)
        if not torch.compiler.is_compiling() and not self._seen_images:  # reading pixels waits for a GPU
            self._seen_images = True
            warn_of_range(images)
        return self.walk(Nearest(images), images.shape[0], None, labels, cond)

    def decoder_loss(self, walk: Walk, images: Float[Tensor, "batch channels height width"]) -> Float[Tensor, ""]:
        """The mean squared error of the decoder's image; its gradient reaches the decoder alone.

        Args:
            walk: of all levels.
            images: in [0, 1].
        """
        finished = walk.outputs[-1].detach()
        if self.decoder is not None:
            finished = self.decoder(walk.features.detach(), finished)
        return F.mse_loss(at_least_float32(finished), at_least_float32(images))

    def adversarial(self, images: Images, drawn: Images, penalty: bool = True) -> Float[Tensor, ""]:
        """The adversarial term of the loss, for the network and for its discriminator (see `discriminator.py`).

        Args:
            images: (B, C, H, W), pixels in [0, 1] or uint8.
            drawn: the last level's output for them, (B, C, H, W), with its gradient.
            penalty: whether to include the discriminator's gradient penalty, which costs a second backward pass.

        Raises:
            InvalidInput: the network has no discriminator.
        """
        if self.discriminator is None:
            raise InvalidInput(
                "expected a network with use_adversarial_loss=True, got use_adversarial_loss=False; make it with True"
            )
        images, weight, share = self._pixels(images), self.adversarial_loss_weight, 1 / self.num_levels
        with disable_fp16_autocast(images.device.type):
            return adversarial_term(self.discriminator, images, drawn, share, weight, penalty)

    @renamed_argument("mirror", "ema_model")
    def split_and_prune_(self, optimizer: Optimizer | None = None, ema_model: Network | None = None) -> int:
        """Split and prune the nodes of every level; call it after the optimiser's step.

        Args:
            optimizer: its moments of the same nodes are moved too.
            ema_model: a moving average of this network; the same nodes move there.

        Returns:
            The number of pruned nodes.
        """
        return split_and_prune_(self, optimizer, ema_model)

    def guided_sampler_codes_param_names(self) -> set[str]:
        """Names, as in `named_parameters()`, of the parameters that hold the nodes: the K heads of every sampler.

        Split-and-prune copies their rows from node to node: exclude them from weight decay, or from a moving average
        whose rows are not copied too, where that matters.
        """
        nodes = {id(parameter) for sampler in self.samplers for parameter in sampler.node_parameters()}
        return {name for name, parameter in self.named_parameters() if id(parameter) in nodes}

    def _apply(self, fn: Any, recurse: bool = True) -> Network:
        """Cast or move the module (`to`, `half`, `cuda`, ... call this); a cast is remembered in `cast_from`."""
        if self.start.is_meta or fn(self.start.detach().new_zeros(1)).dtype == self.start.dtype:
            return super()._apply(fn, recurse)
        before = fingerprints(self)
        super()._apply(fn, recurse)
        self.cast_from = CastFrom(before, digest(self))
        return self

    # codes

    def levels_of(self, count: int) -> int:
        """Number of levels whose codes are the first `count` of an image.

        Raises:
            InvalidInput: `count` codes end inside a level.
        """
        levels = number = 0
        while number < count and levels < self.num_levels:
            number += self.codes_per_level[levels]
            levels += 1
        require(number == count, "codes that end with a level", f"{count} codes", f"give {number}")
        return levels

    def split_codes(self, codes: Integer[Tensor, "batch codes"]) -> list[Tensor]:
        """One tensor for each level, (B,) or (B, H / p, W / p), of codes of all or of the first levels.

        Raises:
            InvalidInput: the codes end inside a level.
        """
        return by_level(codes, self.code_shapes[: self.levels_of(codes.shape[1])])

    def check_codes(self, codes: Integer[Tensor, "batch codes"]) -> int:
        """Number of levels that codes are for, once their type, shape and range are checked.

        Raises:
            InvalidInput: they are no integers in range, or end inside a level. (Inside `torch.compile` the range is
                not checked.)
        """
        total = sum(self.codes_per_level)
        require(isinstance(codes, Tensor), "codes as a tensor", shown(codes))
        require(
            codes.ndim == 2 and codes.shape[0] >= 1 and 1 <= codes.shape[1] <= total,
            f"codes of shape (B, {total}), or fewer columns for a coarser image",
            tuple(codes.shape),
        )
        levels = self.levels_of(codes.shape[1])
        if not torch.compiler.is_compiling():  # reading values would break the graph
            for level, part in enumerate(codes.split(self.codes_per_level[:levels], dim=1)):
                try:
                    check_codes(part, part.shape, self.codebook_sizes[level])
                except InvalidInput as error:
                    raise InvalidInput(f"level {level}: {error}") from error
        return levels

    # checks

    def accepted_labels(self, labels: Tensor | None) -> Tensor | None:
        """The labels if this network is conditioned on classes; None if only a prior of its codes is."""
        return labels if self.num_classes is not None else None

    def _pixels(self, images: Tensor) -> Tensor:
        return as_pixels(images, (None, self.channels, *self.image_size))

    def _checked_levels(self, levels: int | None) -> int:
        if levels is None:
            return self.num_levels
        require_integer(levels, "levels", 1, self.num_levels)
        return levels

    def _checked_labels(self, labels: Tensor | None, batch_size: int, by_prior: bool = False) -> Tensor | None:
        """Labels of the network or, `by_prior`, only of a class-conditional prior, which checks their range itself."""
        if labels is None:
            return None
        known = by_prior or self.num_classes is not None
        require(known, "no labels for a network without num_classes", shown(labels))
        require(isinstance(labels, Tensor), f"labels as a tensor of shape ({batch_size},)", shown(labels))
        require(tuple(labels.shape) == (batch_size,), f"labels of shape ({batch_size},)", tuple(labels.shape))
        integer = not (labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool)
        require(integer, "integer labels", labels.dtype)
        if self.num_classes is not None and labels.device.type == "cpu" and not torch.compiler.is_compiling():
            highest = int(labels.max())  # on another device reading it waits
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


@contextmanager
def evaluating(module: object) -> Iterator[None]:
    """Evaluation mode inside the context: no dropout, no counting. Afterwards each module is in its own mode again."""
    if not isinstance(module, nn.Module):  # such as a prior that is none
        yield
        return
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
