"""Selections: each chooses one of the K candidates at every level of a walk.

    Nearest                   training and encoding: nearest to an image
    Uniform, PriorSampling    sampling: at random, uniformly or by a prior
    ClassifierFreeGuidance    sampling by class
    FixedCodes                decoding: as the codes say

A selection is any callable like `walk.Selection`, so another one needs no change here or in the network: its class in a
module of its own, its name in `model/__init__.py`. Guidance chooses by conditions (`guidance/`).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, Integer, Shaped
from torch import Tensor

from discrete_distribution_network.errors import is_number, require, shown
from discrete_distribution_network.model.code_distribution import (
    CodeDistribution,
    Temperature,
    at_level,
    check_temperature,
    draw_codes,
)
from discrete_distribution_network.model.guided_sampler import GuidedSampler, SamplerOutput
from discrete_distribution_network.model.pixels import as_pixels
from discrete_distribution_network.model.precision import at_least_float32
from discrete_distribution_network.model.tensors import resize
from discrete_distribution_network.model.walk import Branches, Features, Residual, Selection


class Nearest:
    """The candidate nearest to an image, resized to each level's size by area.

    With separate values the nearest key chooses, and the loss is the error of the output, the value; the error of the
    key is added for its gradient only, so that keys and values learn to draw the same images.

    Args:
        images: pixels in [0, 1], or uint8.
    """

    def __init__(self, images: Shaped[Tensor, "batch channels height width"]):
        self.images = as_pixels(images, (None, None, None, None))

    def __call__(
        self, level: int, sampler: GuidedSampler, features: Features, residual: Residual | None
    ) -> SamplerOutput:
        query = resize(self.images, features.shape[2:])
        step: SamplerOutput = sampler(features, query, residual=residual)
        if sampler.values is None or step.commit_loss is None:
            return step
        error = F.mse_loss(at_least_float32(step.output), at_least_float32(query))
        return step._replace(commit_loss=error + (step.commit_loss - step.commit_loss.detach()))


class Recorder:
    """Another selection, whose features and codes of every level are recorded.

    Attributes:
        levels: (features, codes) of each level so far.
    """

    def __init__(self, select: Selection):
        self.select = select
        self.levels: list[tuple[Features, Tensor]] = []

    def __call__(
        self, level: int, sampler: GuidedSampler, features: Features, residual: Residual | None
    ) -> SamplerOutput | Branches:
        chosen = self.select(level, sampler, features, residual)
        self.levels.append((features, chosen.codes))
        return chosen


class Uniform:
    """A random candidate, each with probability 1/K.

    Args:
        generator: source of the random numbers; None for PyTorch's own.
    """

    def __init__(self, generator: torch.Generator | None = None):
        self.generator = generator

    def __call__(
        self, level: int, sampler: GuidedSampler, features: Features, residual: Residual | None
    ) -> SamplerOutput:
        shape = sampler.codes_shape(features)
        device = features.device if self.generator is None else self.generator.device
        codes = torch.randint(sampler.codebook_size, shape, generator=self.generator, device=device)
        return sampler.draw(features, codes.to(features.device), residual)


class FixedCodes:
    """The candidates of given codes.

    Args:
        codes: one tensor for each level, (B,) or (B, H / p, W / p), as `DDN.split_codes` gives them.
    """

    def __init__(self, codes: Sequence[Tensor]):
        self.codes = codes

    def __call__(
        self, level: int, sampler: GuidedSampler, features: Features, residual: Residual | None
    ) -> SamplerOutput:
        return sampler.draw(features, self.codes[level], residual)


class PriorSampling:
    """Codes sampled from a prior.

    Args:
        prior: the probability of each node.
        batch_size: number of walks.
        labels: classes, for a class-conditional prior.
        temperature: see `Temperature`.
        top_p: nucleus sampling: only the likeliest nodes whose probabilities sum to this are sampled.
        generator: source of the random numbers; None for PyTorch's own.
    """

    def __init__(
        self,
        prior: CodeDistribution,
        batch_size: int,
        labels: Integer[Tensor, " batch"] | None = None,
        temperature: Temperature = 1.0,
        top_p: float = 1.0,
        generator: torch.Generator | None = None,
    ):
        check_temperature(temperature)
        require(is_number(top_p) and 0 < top_p <= 1, "top_p above 0 and at most 1", shown(top_p))
        self.prior, self.temperature, self.top_p, self.generator = prior, temperature, top_p, generator
        self.state, self.level = prior.begin(batch_size, labels), 0

    def __call__(
        self, level: int, sampler: GuidedSampler, features: Features, residual: Residual | None
    ) -> SamplerOutput:
        self.level = level
        codes = draw_codes(self.prior, level, features, self.state, self.pick)
        self.state = self.prior.follow(level, codes, self.state)
        return sampler.draw(features, codes, residual)

    def pick(self, logits: Float[Tensor, "*codes nodes"]) -> Integer[Tensor, "*codes"]:
        """Codes of the current level, sampled by their logits; `draw_codes` calls it."""
        temperature = at_level(self.temperature, self.level)
        if temperature == 0:
            return logits.argmax(-1)
        probabilities = (logits / temperature).softmax(-1).flatten(0, -2)
        if self.top_p < 1:
            ordered, order = probabilities.sort(-1, descending=True)
            beyond = ordered.cumsum(-1) - ordered >= self.top_p
            probabilities = probabilities.scatter(-1, order, ordered.masked_fill(beyond, 0))
        device = probabilities.device if self.generator is None else self.generator.device
        codes = torch.multinomial(probabilities.to(device), 1, generator=self.generator)
        return codes.to(logits.device).reshape(logits.shape[:-1])


class ClassifierFreeGuidance(PriorSampling):
    """Codes sampled from a class-conditional prior, extrapolated away from the unconditional one.

        logits = log p(code) + scale * (log p(code | class) - log p(code))

    (Ho and Salimans, arXiv 2207.12598). Every walk is made twice: the first half of the batch with its labels, the
    second half with labels of -1; both halves take the same codes and see the same images.

    Args:
        scale: 1 for plain class-conditional sampling.
        prior: a class-conditional prior.
        batch_size: number of walks, both halves.
        labels: classes of both halves.
        temperature, top_p, generator: see `PriorSampling`.
    """

    def __init__(
        self,
        scale: float,
        prior: CodeDistribution,
        batch_size: int,
        labels: Integer[Tensor, " batch"] | None = None,
        temperature: Temperature = 1.0,
        top_p: float = 1.0,
        generator: torch.Generator | None = None,
    ):
        super().__init__(prior, batch_size, labels, temperature, top_p, generator)
        require(is_number(scale), "a guidance_scale that is a finite number", shown(scale))
        self.scale = scale

    def __call__(
        self, level: int, sampler: GuidedSampler, features: Features, residual: Residual | None
    ) -> SamplerOutput:
        step = super().__call__(level, sampler, features, residual)
        half = step.output[: len(step.output) // 2]
        return step._replace(output=half.repeat(2, *[1] * (half.ndim - 1)))

    def pick(self, logits: Float[Tensor, "*codes nodes"]) -> Integer[Tensor, "*codes"]:
        conditional, unconditional = logits.log_softmax(-1).chunk(2)
        codes = super().pick(unconditional + self.scale * (conditional - unconditional))
        return torch.cat((codes, codes))
