"""What a model is used for, as functions of tensors alone, which PyTorch's exporters turn into graphs.

    encode       images -> codes
    decode       codes -> image, and the image at every level before the last
    sample       uniform noise, codes that are known -> codes, image
    inpaint      images, mask, uniform noise -> codes, image
    candidates   codes -> of every level what all K candidates are made of, and their logits by the prior

Nothing in them is random: all noise is an input, so equal inputs give equal outputs on every machine, but for rounding.
The batch is dynamic; everything else is the model's. With classes, each takes labels as its last input, -1 for none.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch._higher_order_ops.scan import scan
from torch.export import Dim, ExportedProgram

from discrete_distribution_network.ddn import DDN
from discrete_distribution_network.errors import InvalidInput, require
from discrete_distribution_network.guidance.config import GuidanceConfig
from discrete_distribution_network.model.candidates import LinearCandidates
from discrete_distribution_network.model.code_distribution import CodeDistribution, draw_codes, takes_labels
from discrete_distribution_network.model.guided_sampler import GuidedSampler, SamplerOutput
from discrete_distribution_network.model.selection import FixedCodes, PriorSampling
from discrete_distribution_network.model.tensors import resize, to_patches
from discrete_distribution_network.model.walk import Features, Residual, Walk
from discrete_distribution_network.prior.companions import prior_labels
from discrete_distribution_network.prior.counts import Frequencies
from discrete_distribution_network.prior.heads import CAUSAL_CONTEXT, Head, Prior

PROPOSALS = GuidanceConfig.proposals
"""Nodes among which `inpaint` chooses where pixels are known: the likeliest by the prior, as many as in `DDN.guide`."""

LEAST_TEMPERATURE = 1e-4
"""Lower temperatures take the likeliest code too."""

Codes = Int[Tensor, "batch codes"]
Noise = Float[Tensor, "batch codes"]
Images = Float[Tensor, "batch channels height width"]
Labels = Int[Tensor, " batch"]


class NoiseSampling(PriorSampling):
    """Codes of a prior by the inverse of its cumulative distribution at given uniform numbers.

    Args:
        prior: the probability of each code.
        known: codes that are not to be drawn; -1 where one is.
        noise: in [0, 1).
        temperatures: of each level.
        labels: see `PriorSampling`.
    """

    def __init__(self, prior: CodeDistribution, known: Codes, noise: Noise, temperatures: Tensor, labels: Any):
        super().__init__(prior, noise.shape[0], labels)
        self.known, self.noise, self.temperatures = known, noise, temperatures
        self.done = 0
        self.inputs: tuple[Tensor, ...] = ()  # of the codes of the present level, each (B, codes, ...)

    def __call__(
        self, level: int, sampler: GuidedSampler, features: Features, residual: Residual | None
    ) -> SamplerOutput:
        self.level = level
        places = slice(self.done, self.done + math.prod(sampler.codes_shape(features)[1:]))
        self.inputs, self.done = (self.noise[:, places], self.known[:, places]), places.stop
        self.prepare(sampler, features, residual)
        if isinstance(self.prior, Prior) and sampler.patch_size is not None:
            codes = scanned(self.prior, level, features, self.state, self.choose, self.inputs)
        else:
            codes = draw_codes(self.prior, level, features, self.state, self.pick)
        self.state = self.prior.follow(level, codes, self.state)
        return sampler.draw(features, codes, residual)

    def prepare(self, sampler: GuidedSampler, features: Features, residual: Residual | None) -> None:
        """Add further inputs of the choice of this level's codes."""

    def pick(self, logits: Float[Tensor, "*codes nodes"]) -> Int[Tensor, "*codes"]:
        """All codes of the present level, which do not depend on one another."""
        return self.choose(logits.flatten(1, -2) if logits.ndim > 2 else logits.unsqueeze(1), *self.inputs).reshape(
            logits.shape[:-1]
        )

    def choose(self, logits: Tensor, noise: Tensor, known: Tensor, *_: Tensor) -> Tensor:
        """Codes (...) of the present level by their logits (..., K) and inputs (..., ...); it computes nothing else."""
        probabilities = (logits / self.temperatures[self.level].clamp_min(LEAST_TEMPERATURE)).softmax(-1)
        below = probabilities.cumsum(-1) < noise.unsqueeze(-1)
        return torch.where(known < 0, below.long().sum(-1).clamp_max(logits.shape[-1] - 1), known)


class InpaintSampling(NoiseSampling):
    """Where pixels are known the nearest of the prior's likeliest codes; elsewhere those of `NoiseSampling`.

    Args:
        image: in [0, 1].
        mask: 1 where it is known, 0 elsewhere.
        others: of `NoiseSampling`.
    """

    def __init__(self, image: Images, mask: Float[Tensor, "batch 1 height width"], *others: Any):
        super().__init__(*others)
        self.image, self.mask = image, mask

    def prepare(self, sampler: GuidedSampler, features: Features, residual: Residual | None) -> None:
        size = (features.shape[2], features.shape[3])
        known = resize(self.mask, size)
        target = resize(self.image * self.mask, size) / known.clamp_min(torch.finfo(known.dtype).tiny)
        patch = (sampler.patch_size, sampler.patch_size) if sampler.patch_size is not None else size
        target, known = to_patches(target, patch), to_patches(known, patch)
        distances = sampler.candidates(features, residual).distances(target, mask=known)
        batch = features.shape[0]
        constrained = known.flatten(1).amax(1).reshape(batch, -1)
        self.inputs += (distances.reshape(batch, -1, sampler.codebook_size), constrained)

    def choose(self, logits: Tensor, noise: Tensor, known: Tensor, *more: Tensor) -> Tensor:
        distances, constrained = more
        likeliest = logits.topk(min(PROPOSALS, logits.shape[-1])).indices
        best = distances.gather(-1, likeliest).argmin(-1, keepdim=True)
        nearest = likeliest.gather(-1, best).squeeze(-1)
        return torch.where(constrained > 0, nearest, super().choose(logits, noise, known))


def scanned(
    prior: Prior,
    level: int,
    features: Features,
    state: Tensor,
    choose: Callable[..., Tensor],
    inputs: Sequence[Float[Tensor, "batch codes ..."]],
) -> Codes:
    """`Prior.draw` as one loop of the graph, in place of a copy of its operations for each patch.

    Args:
        choose: (logits (B, K), inputs of a patch, each (B, ...)) -> codes (B,).
    """
    head, (rows, columns) = prior.heads[level], prior.grids[level]
    assert isinstance(head, Head)
    # every row is followed by a place that is none, so that the context of all places is as many steps back
    stride = columns + 1
    steps = [stride + 1 + down * stride + across for down, across in CAUSAL_CONTEXT]

    def in_order(values: Tensor) -> Tensor:
        """(B, rows * columns, ...) -> (rows * stride, B, ...)."""
        grid = values.unflatten(1, (rows, columns))
        return torch.cat((grid, torch.zeros_like(grid[:, :, :1])), 2).flatten(1, 2).movedim(1, 0)

    hidden = head.embed(features, state)
    places = torch.ones_like(hidden[:, :, :, :1].flatten(1, 2))

    def body(window: Tensor, inputs: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        hidden, place, *more = inputs
        context = torch.cat([window[:, step] for step in steps], -1)
        codes = choose(head.scores(hidden, context), *more)
        embedded = prior.nodes[level](codes) * place
        return torch.cat((window[:, 1:], embedded.unsqueeze(1)), 1), codes

    window = torch.zeros_like(hidden[:, 0, :1]).expand(-1, stride + 1, -1).clone()
    _, codes = scan(body, window, tuple(map(in_order, (hidden.flatten(1, 2), places, *inputs))))
    return codes.movedim(0, 1).unflatten(1, (rows, stride))[:, :, :columns].reshape(-1, *prior.code_shapes[level])


class Program(nn.Module):
    """A use of a model; `forward` has tensors as arguments and gives a tuple of tensors.

    Args:
        ddn: frozen (see `frozen`).
    """

    inputs: ClassVar[tuple[str, ...]]
    by_prior: ClassVar[bool] = True
    """Whether the prior is used, so that its classes count."""

    def __init__(self, ddn: DDN):
        super().__init__()
        self.ddn = ddn
        none = Frequencies([torch.zeros(size) for size in ddn.codebook_sizes], ddn.code_shapes)
        self.prior = none if ddn.prior is None else ddn.prior  # of the model's modules, where it is one

    def outputs(self) -> list[str]:
        """Their names."""
        return ["codes", "image"]

    def input_names(self) -> list[str]:
        """Names of its inputs: `inputs`, and labels where there are classes."""
        by_class = self.ddn.num_classes is not None or (self.by_prior and takes_labels(self.ddn.prior))
        return [*self.inputs, *(["labels"] if by_class else [])]

    def example(self, batch: int) -> tuple[Tensor, ...]:
        """Inputs of this many images."""
        ddn, codes = self.ddn, sum(self.ddn.codes_per_level)
        numbers = {
            "images": (batch, ddn.channels, *ddn.image_size),
            "mask": (batch, 1, *ddn.image_size),
            "noise": (batch, codes),
            "temperatures": (ddn.num_levels,),
        }
        integers = {"codes": (batch, codes), "known": (batch, codes), "labels": (batch,)}
        return tuple(
            torch.ones(numbers[name]) if name in numbers else torch.zeros(integers[name], dtype=torch.long)
            for name in self.input_names()
        )

    def walk(self, select: NoiseSampling, labels: Labels | None) -> Walk:
        return self.ddn.walk(select, select.noise.shape[0], None, self.ddn.accepted_labels(labels))

    def own_labels(self, labels: Labels | None, codes: Tensor) -> Any:
        """The labels for the prior."""
        return prior_labels(self.ddn.prior, labels, codes.shape[0])


class Encode(Program):
    inputs = ("images",)
    by_prior = False

    def outputs(self) -> list[str]:
        return ["codes"]

    def forward(self, images: Images, labels: Labels | None = None) -> tuple[Tensor]:
        return (self.ddn.encode(images, labels=labels),)


class Decode(Program):
    """Codes of a level change only the images of this one and later ones, so those of the first few may be given."""

    inputs = ("codes",)
    by_prior = False

    def outputs(self) -> list[str]:
        return ["image", *(f"level_{level}" for level in range(self.ddn.num_levels - 1))]

    def forward(self, codes: Codes, labels: Labels | None = None) -> tuple[Tensor, ...]:
        walk = self.ddn.walk(FixedCodes(self.ddn.split_codes(codes)), codes.shape[0], None, labels)
        return (self.ddn.finish(walk), *walk.outputs[:-1])


class Sample(Program):
    inputs = ("noise", "known", "temperatures")

    def forward(
        self, noise: Noise, known: Codes, temperatures: Tensor, labels: Labels | None = None
    ) -> tuple[Tensor, Tensor]:
        select = NoiseSampling(self.prior, known, noise, temperatures, self.own_labels(labels, known))
        walk = self.walk(select, labels)
        return walk.codes, self.ddn.finish(walk)


class Inpainting(Program):
    inputs = ("images", "mask", "noise", "temperatures")

    def forward(
        self, images: Images, mask: Tensor, noise: Noise, temperatures: Tensor, labels: Labels | None = None
    ) -> tuple[Tensor, Tensor]:
        codes = torch.full_like(noise, -1, dtype=torch.long)
        own = self.own_labels(labels, codes)
        walk = self.walk(InpaintSampling(images, mask, self.prior, codes, noise, temperatures, own), labels)
        return walk.codes, self.ddn.finish(walk)


class CandidatesOf(Program):
    """Of each level l and its P patches (1 without patches) four outputs. Candidate k of patch p is

        y_k = weight_l[k] features_l[p] + residual_l[p]                         (C x D) (D x h w) + (C x h w)

    features_l: (B P, D, h, w); residual_l: (B P, C, h, w); weight_l: (K, C, D); logits_l: (B, P, K), of each patch
    given the codes before it.
    """

    inputs = ("codes",)

    def __init__(self, ddn: DDN):
        super().__init__(ddn)
        for sampler in ddn.samplers:
            plain = sampler.values is None and getattr(sampler.keys, "bias", 0) is None
            if not plain:
                raise InvalidInput(
                    "expected linear heads without a bias and without separate values to export candidates, got "
                    f"{type(sampler.keys).__name__}; leave candidates out"
                )

    def outputs(self) -> list[str]:
        parts = ("features", "residual", "weight", "logits")
        return [f"{part}_{level}" for level in range(self.ddn.num_levels) for part in parts]

    def forward(self, codes: Codes, labels: Labels | None = None) -> tuple[Tensor, ...]:
        found: list[Tensor] = []
        by_level = self.ddn.split_codes(codes)
        state: Any = self.prior.begin(codes.shape[0], self.own_labels(labels, codes))

        def select(level: int, sampler: GuidedSampler, features: Tensor, residual: Tensor | None) -> SamplerOutput:
            nonlocal state
            own, candidates = by_level[level], sampler.candidates(features, residual)
            assert isinstance(candidates, LinearCandidates)
            if isinstance(self.prior, Prior):
                logits = self.prior.scores_given(level, features, state, own)
            else:
                logits = self.prior.logits(level, features, state).movedim(1, -1)
            state = self.prior.follow(level, own, state)
            step = sampler.draw(features, own, residual)
            added = torch.zeros_like(step.output) if candidates.residual is None else candidates.residual
            logits = logits.reshape(codes.shape[0], -1, sampler.codebook_size)
            found.extend((candidates.features, added, candidates.weight, logits))
            return step

        self.ddn.walk(select, codes.shape[0], None, self.ddn.accepted_labels(labels))
        return tuple(found)


PROGRAMS: dict[str, type[Program]] = {
    "encode": Encode,
    "decode": Decode,
    "sample": Sample,
    "inpaint": Inpainting,
    "candidates": CandidatesOf,
}


def exported_programs(ddn: DDN, names: Sequence[str] = tuple(PROGRAMS)) -> dict[str, ExportedProgram]:
    """`torch.export` programs of a model.

    Args:
        ddn: on the CPU, in float32.
        names: of `PROGRAMS`.

    Raises:
        InvalidInput: a name is unknown, or the model cannot be exported.
    """
    check(ddn, names)
    ddn = frozen(ddn)
    return {name: exported(PROGRAMS[name](ddn)) for name in names}


def frozen(ddn: DDN) -> DDN:
    """A copy of a model, in evaluation mode and without gradients, which loops of a graph cannot have."""
    ddn = copy.deepcopy(ddn).eval().requires_grad_(False)
    if isinstance(ddn.prior, nn.Module):
        ddn.prior.eval().requires_grad_(False)
    return ddn


def exported(program: Program) -> ExportedProgram:
    """A program with a dynamic batch."""
    batch = Dim("batch", min=1)
    inputs = program.example(3)  # a batch of 1 would be taken for a constant
    shapes = {name: {} if name == "temperatures" else {0: batch} for name in program.input_names()}
    with torch.no_grad():
        return torch.export.export(program.eval(), inputs, dynamic_shapes=shapes, strict=False)


def check(ddn: DDN, names: Sequence[str]) -> None:
    """Raise `InvalidInput` unless these programs of this model can be exported."""
    unknown = [name for name in names if name not in PROGRAMS]
    require(not unknown, f"programs of {', '.join(PROGRAMS)}", ", ".join(unknown))
    require(len(names) > 0, "at least one program", "none")
    require(
        ddn.cond_channels == 0,
        "a network that is not conditioned on images to export",
        f"{ddn.cond_channels} cond_channels",
    )
    require(ddn.start.device.type == "cpu", "a model on the CPU to export", ddn.start.device, "move it with .cpu()")
    require(ddn.start.dtype == torch.float32, "a model in float32 to export", ddn.start.dtype, "cast it with .float()")
