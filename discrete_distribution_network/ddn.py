"""`DDN`: a network that encodes, decodes, samples, is guided, and is saved and loaded."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar, Literal, overload

import torch
import torch.nn.functional as F
from jaxtyping import Integer
from torch import Tensor

from discrete_distribution_network.errors import InvalidInput, is_number, require, require_integer, shown
from discrete_distribution_network.guidance.conditions import Condition, Match, ScoreFn
from discrete_distribution_network.guidance.config import TEMPERATURE, GuidanceConfig, Request
from discrete_distribution_network.guidance.guidance import Guided, as_conditions, guided_walk
from discrete_distribution_network.model.code_distribution import (
    Aim,
    CodeDistribution,
    Own,
    Temperature,
    at_most,
    check_prior,
    check_temperature,
    chosen_temperature,
    takes_labels,
)
from discrete_distribution_network.model.guided_sampler import GuidedSampler, split_and_prune_
from discrete_distribution_network.model.network import CondImages, Images, evaluating
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
from discrete_distribution_network.prior.companions import Companions, prior_labels

if TYPE_CHECKING:
    from discrete_distribution_network.training.trainer import Trainer

__all__ = ["DDN", "GuidedSampler", "Trainer", "Walk", "split_and_prune_"]

Labels = Integer[Tensor, " batch"]
"""Classes; below 0 for no class."""

Codes = Integer[Tensor, "batch codes"]
"""In [0, K) of their level, level after level; with patches, row by row."""


class DDN(
    Companions,
    library_name="discrete-distribution-network",
    tags=["discrete-distribution-network"],
    paper_url="https://arxiv.org/abs/2401.00036",
):
    """A Discrete Distribution Network (arXiv 2401.00036).

    An image is drawn by L choices, one per level: each level draws K candidates from the features and the image so far,
    and one of them becomes the image so far. Training chooses the candidate nearest to the training image; the indices
    of the choices, integers in [0, K), are the image's codes.

        ddn = DDN(dim=32, image_size=32, channels=1)
        loss = ddn(images)                         # (B, C, H, W), pixels in [0, 1] or uint8; then loss.backward()
        ddn.split_and_prune_(optimizer)            # after each optimiser step
        codes = ddn.encode(images)                 # int64 (B, number of codes)
        images = ddn.decode(codes)                 # of the first levels' codes, a coarser image
        images = ddn.reconstruct(images)           # decode(encode(images))
        images = ddn.sample(16)                    # codes from ddn.prior; uniform without one
        images = ddn.guide(conditions).images      # inpainting and other conditions, without gradients or training
        ddn.save_pretrained("folder"); ddn = DDN.from_pretrained("folder")

    Args:
        dim: channels of the features at full resolution; they double with every halving of the image.
        dim_max: most channels at any resolution.
        image_size: side of square images, or (height, width); any size.
        channels: C, channels of the images.
        codebook_size: K; or a list with one K per level.
        dropout: dropout in the residual blocks.
        num_resnet_blocks: residual blocks per resolution, divided (rounded down) among its levels; each has at
            least one.
        guided_sampler_kwargs: further arguments of every level's `GuidedSampler`. With `separate_values` a level
            outputs values, chosen by the nearest key, and both learn to be near the image.
        use_adversarial_loss: train a discriminator with the network, against blur (see `model/discriminator.py`).
        adversarial_loss_weight: weight of the adversarial term; at 1 its gradient is as long as that of the last
            image's error.
        discr_base_dim: the discriminator's channels at full resolution.
        discr_attn_res_layers: longer sides of the resolutions where the discriminator has attention.
        levels_per_resolution: number of levels at each resolution; or a list, from the smallest resolution to the
            full one (see `sizes`), with at least 1 at the full one.
        recurrence: number of passes through the same weights. With more than 1 all levels are at full resolution, and
            an encoder shows each pass the image so far (the paper's recurrence paradigm).
        attention_resolutions: longer sides of the resolutions whose levels have an attention block.
        patch_size: choose per patch of this size; or a list, one per resolution (None: one choice for the image).
        num_classes: number of classes, for a network that takes labels; None for one that takes none.
        cond_channels: channels of the condition images that the network takes, such as 1 for grey values; 0 for none.
        cond_dropout: in training, the probability that an image's label, and its condition image, is dropped, so that
            the network works without them too.
        decoder_dim: channels of a decoder after the last choice (see `model/decoder.py`); 0 for none. It changes no
            code.

    Attributes:
        sizes: (height, width) of each resolution, from the smallest to the full one.
        samplers: the `GuidedSampler` of each level; with a recurrence, of one pass.
        num_levels: L.
        level_sizes: (height, width) of the image at each of the L levels.
        codebook_sizes: K of each of the L levels.
        code_shapes: shape of the codes of each level: () for one code, (H / p, W / p) with patches.
        codes_per_level: their number.
        bits_per_image: log2 of the number of different codes.
        decoder: the `Decoder`, or None.
        prior: the distribution of its codes that `sample` and `guide` use, such as a `Prior` or `CodeTransformer`; None
            for uniform codes. It is saved, loaded and moved with the network; `parameters` and `state_dict` are those
            of the network alone.
        entropy_model: the `EntropyModel` by which `ImageCodec` range codes; None to pack codes uniformly. Likewise.
        cast_from: the model before `half()` and the like; None if it was not cast (see `model/fingerprint.py`).

    Raises:
        InvalidInput: an argument is of another type, out of range, or does not fit the others.
    """

    nested_arguments: ClassVar[dict[str, type]] = {"guided_sampler_kwargs": GuidedSampler}

    def encode(
        self, images: Images, *, labels: Labels | None = None, cond: CondImages | None = None, beams: int = 1
    ) -> Codes:
        """The codes of images by the nearest candidate at each level: int64 (B, number of codes).

        Args:
            images: (B, C, H, W), pixels in [0, 1] or uint8.
            labels, cond: see `walk`; decoding needs the same.
            beams: beam width; better codes, at a cost that grows roughly linearly.
        """
        return self.encode_walk(images, labels=labels, cond=cond, beams=beams).codes

    @torch.no_grad()
    def encode_walk(
        self,
        images: Images,
        *,
        levels: int | None = None,
        labels: Labels | None = None,
        cond: CondImages | None = None,
        beams: int = 1,
        also: Condition | ScoreFn | Sequence[Condition | ScoreFn] = (),
    ) -> Walk:
        """The walk of `encode`: its codes, the image at every level, and each level's error.

        Args:
            images: (B, C, H, W), pixels in [0, 1] or uint8.
            levels: the number of levels; None for all.
            labels, cond: see `walk`.
            beams: see `encode`.
            also: further conditions of the walk (see `guidance`), besides being near to the images.
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
    def decode(self, codes: Codes, labels: Labels | None = None, cond: CondImages | None = None) -> Images:
        """The images (B, C, H, W) of codes; of the codes of the first levels, a coarser image.

        Args:
            codes: integers (B, number of codes), of all or of the first levels.
            labels, cond: see `walk`; those that the images were encoded with.

        Raises:
            InvalidInput: a ValueError, if the codes are no integers in range or end inside a level. (Inside
                `torch.compile` the range is not checked.)
        """
        levels = self.check_codes(codes)
        codes = codes.to(self.start.device, torch.long)
        with evaluating(self):
            walk = self.walk(FixedCodes(self.split_codes(codes)), codes.shape[0], levels, labels, cond)
        return self.finish(walk)

    def reconstruct(
        self,
        images: Images,
        *,
        levels: int | None = None,
        labels: Labels | None = None,
        cond: CondImages | None = None,
    ) -> Images:
        """The images decoded from their own codes, (B, C, H, W).

        Args:
            images: (B, C, H, W), pixels in [0, 1] or uint8.
            levels: from the codes of this many first levels; None for all.
            labels, cond: see `walk`.
        """
        walk = self.encode_walk(images, levels=levels, labels=labels, cond=cond)
        return self.finish(walk)

    @torch.no_grad()
    def guide(
        self,
        conditions: Condition | ScoreFn | Sequence[Condition | ScoreFn],
        batch_size: int | None = None,
        top_k: int = 1,
        generator: torch.Generator | None = None,
        *,
        beams: int = 1,
        prior: CodeDistribution | Own | None = "own",
        proposals: int = 128,
        temperature: Temperature | Aim | None = None,
        rollouts: int = 0,
        labels: Labels | None = None,
        cond: CondImages | None = None,
    ) -> Guided:
        """Images that fit conditions, without gradients or training: each level takes the candidates that fit best.

        Args:
            conditions: see `guidance`; a bare callable, images (N, C, H, W) -> scores (N,), is one too.
            batch_size: B; by default that of the conditions, labels or cond.
            top_k: choose at random among the k best candidates of each choice.
            generator: source of random numbers.
            beams: beam width: the number of walks that are kept for each image; the best is taken.
            prior: proposes the candidates of each choice, and chooses where no condition applies, so that images look
                like the data there too. "own" is the model's `prior`; None for none.
            proposals: the number of candidates that the prior proposes.
            temperature: of the prior; see `sample`. By default its own, but at most 0.7.
            rollouts: the number of finished images that black boxes score at first; at each later level at which one
                holds, half as many that continue the best so far. 0: they score the candidates of each level. Linear
                conditions guide the walks either way.
            labels: classes (B,), for a prior by class, for a network with `num_classes`, or both.
            cond: see `walk`.

        Raises:
            InvalidInput: a condition does not fit, or gives no scores; the message names it.
        """
        prior = self.resolved(prior)
        own_temperature = chosen_temperature(prior, temperature)
        temperature = at_most(own_temperature, TEMPERATURE) if temperature is None else own_temperature
        check_temperature(temperature, self.num_levels)
        own = as_conditions(conditions)
        require(len(own) >= 1, "at least one condition", shown(conditions))
        batch_size = self._batch_size(batch_size, labels, cond, prior, *(one.batch_size for one in own))
        config = GuidanceConfig(
            top_k=top_k,
            beams=beams,
            generator=generator,
            prior=prior,
            proposals=proposals,
            temperature=temperature,
            prior_labels=prior_labels(prior, labels, batch_size),
            rollouts=rollouts,
        )
        request = Request(own, batch_size, self.num_levels, self.accepted_labels(labels), cond)
        if rollouts and not request.scorers:
            names = ", ".join(map(str, own))
            raise InvalidInput(
                f"expected a black box among the conditions for rollouts={rollouts}, got {names}; set rollouts=0"
            )
        with evaluating(prior):
            walk, scores = guided_walk(self, request, config)
        return Guided(self.finish(walk), walk.codes, scores)

    @overload
    def sample(
        self,
        batch_size: int | None = None,
        codes: Codes | None = None,
        return_codes: Literal[False] = False,
        generator: torch.Generator | None = None,
        prior: CodeDistribution | Own | None = "own",
        temperature: Temperature | Aim | None = None,
        top_p: float = 1.0,
        labels: Labels | None = None,
        cond: CondImages | None = None,
        guidance_scale: float = 1.0,
    ) -> Images: ...

    @overload
    def sample(
        self,
        batch_size: int | None = None,
        codes: Codes | None = None,
        *,
        return_codes: Literal[True],
        generator: torch.Generator | None = None,
        prior: CodeDistribution | Own | None = "own",
        temperature: Temperature | Aim | None = None,
        top_p: float = 1.0,
        labels: Labels | None = None,
        cond: CondImages | None = None,
        guidance_scale: float = 1.0,
    ) -> tuple[Images, Codes]: ...

    @torch.no_grad()
    def sample(
        self,
        batch_size: int | None = None,
        codes: Codes | None = None,
        return_codes: bool = False,
        generator: torch.Generator | None = None,
        prior: CodeDistribution | Own | None = "own",
        temperature: Temperature | Aim | None = None,
        top_p: float = 1.0,
        labels: Labels | None = None,
        cond: CondImages | None = None,
        guidance_scale: float = 1.0,
    ) -> Images | tuple[Images, Codes]:
        """Images (B, C, H, W) of codes that are sampled from the prior, uniformly without one, or given.

        Args:
            batch_size: number of images; None for that of `codes`, `labels` or `cond`, or 1.
            codes: decode these instead, (B, number of codes).
            return_codes: also return the codes.
            generator: source of the random codes; the same seed gives the same images on any device.
            prior: the probability of each code (see `discrete_distribution_network.prior`): "own" is the model's
                `prior`; None for 1/K.
            temperature: of the prior: below 1 likely codes become likelier, 0 takes the likeliest. One number, one for
                each level, or an aim that the prior's own temperatures are chosen for: "fidelity" (images like those of
                the data; the default) or "diversity" (images as varied as they are).
            top_p: nucleus sampling: only the prior's likeliest codes whose probabilities sum to this are sampled.
            labels: classes (B,), for a class-conditional prior, for a network with `num_classes`, or both.
            cond: see `walk`.
            guidance_scale: classifier-free guidance scale of a class-conditional prior; any value but 1 doubles the
                number of walks.
        """
        if codes is not None:
            self.check_codes(codes)
            require(batch_size in (None, len(codes)), f"batch_size {len(codes)} as the codes", shown(batch_size))
            images = self.decode(codes, labels, cond)
            return (images, codes) if return_codes else images
        prior = self.resolved(prior)
        batch_size = self._batch_size(batch_size, labels, cond, prior)
        if prior is None and (temperature, top_p) not in ((None, 1.0), (1.0, 1.0)):
            raise InvalidInput(
                f"expected a prior where temperature or top_p are given, got temperature={shown(temperature)} and "
                f"top_p={shown(top_p)} without; give a prior"
            )
        temperature = chosen_temperature(prior, temperature)
        check_temperature(temperature, self.num_levels)
        require(is_number(guidance_scale), "a guidance_scale that is a finite number", shown(guidance_scale))
        walks = batch_size
        select: Selection = Uniform(generator)
        if guidance_scale != 1:
            if labels is None or prior is None or not takes_labels(prior):
                raise InvalidInput(
                    "expected a class-conditional prior, and labels, where guidance_scale is given, got "
                    f"prior={shown(prior)} and labels={shown(labels)}"
                )
            # every image is walked with its label and without
            walks *= 2
            labels = torch.cat((labels.long(), torch.full_like(labels, -1, dtype=torch.long)))
            cond = None if cond is None else cond.repeat(2, 1, 1, 1)
            select = ClassifierFreeGuidance(guidance_scale, prior, walks, labels, temperature, top_p, generator)
        elif prior is not None:
            own = prior_labels(prior, labels, walks)
            select = PriorSampling(prior, walks, own, temperature, top_p, generator)
        with evaluating(self), evaluating(prior):
            walk = self.walk(select, walks, None, self.accepted_labels(labels), cond)
        images, codes = self.finish(walk)[:batch_size], walk.codes[:batch_size]
        return (images, codes) if return_codes else images

    def _batch_size(
        self,
        given: int | None,
        labels: Tensor | None,
        cond: Tensor | None,
        prior: CodeDistribution | None,
        *others: int,
    ) -> int:
        """The given number of images, or else the length of the arguments, which are checked against it."""
        if prior is not None:
            check_prior(prior)
        if labels is not None and self.num_classes is None and not takes_labels(prior):
            raise InvalidInput(
                "expected labels for a network with num_classes or a prior by class, got labels="
                f"{shown(labels)} for a network with num_classes=None and prior={shown(prior)}"
            )
        if given is None:
            given = max([1, *others, *(len(own) for own in (labels, cond) if isinstance(own, Tensor) and own.ndim)])
        require_integer(given, "batch_size")
        self._checked_labels(labels, given, by_prior=takes_labels(prior))
        self._checked_cond(cond, given)
        return given


_HOME = {"ImageDataset": "data.datasets", "Trainer": "training.trainer"}
"""Names that can also be imported from this module, as in the published package."""


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"discrete_distribution_network.{_HOME[name]}"), name)
