"""How one of the K candidates of a level is chosen: the selections that a walk takes.

Training and encoding choose what is nearest to an image, sampling chooses at random, decoding does what the codes say.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
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


class Nearest:
    """The candidate nearest to the images (B, C, H, W), resized to each level's size by area.

    With separate values the nearest key chooses, and the loss is the error of what is drawn, the value; the error of
    the key is added for its gradient alone, so that keys and values learn to draw the same images.
    """

    def __init__(self, images: Tensor):
        self.images = as_pixels(images, (None, None, None, None))

    def __call__(self, level: int, sampler: GuidedSampler, features: Tensor, residual: Tensor | None) -> SamplerOutput:
        query = resize(self.images, features.shape[2:])
        step: SamplerOutput = sampler(features, query, residual=residual)
        if sampler.values is None or step.commit_loss is None:
            return step
        error = F.mse_loss(at_least_float32(step.output), at_least_float32(query))
        return step._replace(commit_loss=error + (step.commit_loss - step.commit_loss.detach()))


class Uniform:
    """A random candidate, each with chance 1/K."""

    def __init__(self, generator: torch.Generator | None = None):
        self.generator = generator

    def __call__(self, level: int, sampler: GuidedSampler, features: Tensor, residual: Tensor | None) -> SamplerOutput:
        shape = sampler.codes_shape(features)
        device = features.device if self.generator is None else self.generator.device
        codes = torch.randint(sampler.codebook_size, shape, generator=self.generator, device=device)
        return sampler.draw(features, codes.to(features.device), residual)


class FixedCodes:
    """What the codes say: one tensor a level, shaped as the sampler gives them."""

    def __init__(self, codes: Sequence[Tensor]):
        self.codes = codes

    def __call__(self, level: int, sampler: GuidedSampler, features: Tensor, residual: Tensor | None) -> SamplerOutput:
        return sampler.draw(features, self.codes[level], residual)


class PriorSampling:
    """A selection for `DDN.walk`: codes drawn as a prior says.

    Args:
        temperature: see `Temperature`.
        top_p: only the likeliest nodes are drawn whose chances together reach this.
    """

    def __init__(
        self,
        prior: CodeDistribution,
        batch_size: int,
        labels: Tensor | None = None,
        temperature: Temperature = 1.0,
        top_p: float = 1.0,
        generator: torch.Generator | None = None,
    ):
        check_temperature(temperature)
        require(is_number(top_p) and 0 < top_p <= 1, "top_p above 0 and at most 1", shown(top_p))
        self.prior, self.temperature, self.top_p, self.generator = prior, temperature, top_p, generator
        self.state, self.level = prior.begin(batch_size, labels), 0

    def __call__(self, level: int, sampler: GuidedSampler, features: Tensor, residual: Tensor | None) -> SamplerOutput:
        self.level = level
        codes = draw_codes(self.prior, level, features, self.state, self._pick)
        self.state = self.prior.follow(level, codes, self.state)
        return sampler.draw(features, codes, residual)

    def _pick(self, logits: Tensor) -> Tensor:
        temperature = at_level(self.temperature, self.level)
        if temperature == 0:
            return logits.argmax(-1)
        chances = (logits / temperature).softmax(-1).flatten(0, -2)
        if self.top_p < 1:
            ordered, order = chances.sort(-1, descending=True)
            beyond = ordered.cumsum(-1) - ordered >= self.top_p
            chances = chances.scatter(-1, order, ordered.masked_fill(beyond, 0))
        device = chances.device if self.generator is None else self.generator.device
        codes = torch.multinomial(chances.to(device), 1, generator=self.generator)
        return codes.to(logits.device).reshape(logits.shape[:-1])


class ClassifierFreeGuidance(PriorSampling):
    """A selection for twice as many walks: those of the second half know no class, and take the codes of the first.

    Both see the same images, so what the prior says of one and of the other differs by the class alone; that difference
    counts `scale` times (classifier-free guidance, Ho and Salimans, arXiv 2207.12598).
    """

    def __init__(self, scale: float, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        require(is_number(scale), "a guidance_scale that is a finite number", shown(scale))
        self.scale = scale

    def __call__(self, level: int, sampler: GuidedSampler, features: Tensor, residual: Tensor | None) -> SamplerOutput:
        drawn = super().__call__(level, sampler, features, residual)
        half = drawn.output[: len(drawn.output) // 2]
        return drawn._replace(output=half.repeat(2, *[1] * (half.ndim - 1)))

    def _pick(self, logits: Tensor) -> Tensor:
        asked, free = logits.log_softmax(-1).chunk(2)
        codes = super()._pick(free + self.scale * (asked - free))
        return torch.cat((codes, codes))
