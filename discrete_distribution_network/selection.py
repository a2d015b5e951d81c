"""How one of the K candidates of a level is chosen.

`DDN` walks its levels with a selection: a callable `(level, sampler, features, residual) -> SamplerOutput`. Training
and encoding choose what is nearest to an image, sampling chooses at random, decoding does what the codes say. The
small functions at the end choose within one level and are what `GuidedSampler` is made of.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor

from discrete_distribution_network.candidates import at_least_float32
from discrete_distribution_network.errors import is_number, require, shown
from discrete_distribution_network.pixels import as_pixels

if TYPE_CHECKING:
    from discrete_distribution_network.guided_sampler import GuidedSampler


class SamplerOutput(NamedTuple):
    """What one level gives.

    Attributes:
        output: the chosen candidate, (B, C, H, W) for images or (B, C) for vectors.
        codes: which one it is, int64 in [0, K): (B,), or (B, H / p, W / p) with patches of size p.
        commit_loss: its mean squared error to the query; None when there was no query.
    """

    output: Tensor
    codes: Tensor
    commit_loss: Tensor | None


class Branches(NamedTuple):
    """What a selection gives that follows several walks of an image: a `SamplerOutput`, and which walks go on.

    Attributes:
        output, codes, commit_loss: as there, for R' walks.
        rows: of each the row of the walk before, (R',); a walk may go on more than once, or not at all. Or that of each
            part of the image, (R', rows of a grid, columns): walks that are put together of several.
    """

    output: Tensor
    codes: Tensor
    commit_loss: Tensor | None
    rows: Tensor


class Selection(Protocol):
    def __call__(
        self, level: int, sampler: GuidedSampler, features: Tensor, residual: Tensor | None
    ) -> SamplerOutput | Branches:
        """Choose at `level` (0 is the first) among the sampler's candidates for `features` and `residual`."""


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


class Given:
    """What the codes say: one tensor a level, shaped as the sampler gives them."""

    def __init__(self, codes: Sequence[Tensor]):
        self.codes = codes

    def __call__(self, level: int, sampler: GuidedSampler, features: Tensor, residual: Tensor | None) -> SamplerOutput:
        return sampler.draw(features, self.codes[level], residual)


class Likely(Protocol):
    """What a prior is (see `prior.py`): it says, level after level, how likely each node is."""

    def begin(self, batch_size: int, labels: Tensor | None) -> Any:
        """The state of a walk before its first level."""

    def logits(self, level: int, features: Tensor, state: Any) -> Tensor:
        """Scores (B, K), or (B, K, H / p, W / p) with patches: their softmax over K is the chance of each node."""

    def follow(self, level: int, codes: Tensor, state: Any) -> Any:
        """The state once the codes (B,), or (B, H / p, W / p), of this level are chosen."""


Pick = Callable[[Tensor], Tensor]
"""Chooses codes (...) by their scores (..., K)."""


@runtime_checkable
class InOrder(Likely, Protocol):
    """A prior whose codes of one level depend on one another, so that they are chosen one after the other."""

    def draw(self, level: int, features: Tensor, state: Any, pick: Pick) -> Tensor:
        """The codes (B,), or (B, H / p, W / p), of a level, each picked by its scores given those picked before it."""


def drawn_by(prior: Likely, level: int, features: Tensor, state: Any, pick: Pick) -> Tensor:
    """The codes of a level as `InOrder.draw` gives them, by any prior."""
    if isinstance(prior, InOrder):
        return prior.draw(level, features, state, pick)
    return pick(prior.logits(level, features, state).float().movedim(1, -1))


Temperature = float | Sequence[float]
"""Of a prior: below 1 likely nodes become likelier; 0 always takes the likeliest. One, or one for each level."""


class Drawn:
    """A selection for `DDN.walk`: codes drawn as a prior says.

    Args:
        temperature: see `Temperature`.
        top_p: only the likeliest nodes are drawn whose chances together reach this.
    """

    def __init__(
        self,
        prior: Likely,
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
        codes = drawn_by(self.prior, level, features, self.state, self._pick)
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


class Contrasted(Drawn):
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


def check_temperature(temperature: Temperature, levels: int | None = None) -> None:
    """Raise `InvalidInput` unless it is a number of at least 0, or a list of them, one for each of so many levels."""
    several = temperature if isinstance(temperature, Sequence) else [temperature]
    fits = all(is_number(own) and own >= 0 for own in several)
    require(fits, "a temperature of at least 0, or one for each level", shown(temperature))
    if isinstance(temperature, Sequence) and levels is not None:
        expected = f"a temperature, or {levels}, one for each level"
        require(len(temperature) == levels, expected, f"{len(temperature)} of them")


def at_level(temperature: Temperature, level: int) -> float:
    return temperature[level] if isinstance(temperature, Sequence) else temperature


def by_level(codes: Tensor, code_shapes: Sequence[tuple[int, ...]]) -> list[Tensor]:
    """Codes (B, number of codes) as one tensor a level, shaped as its sampler has them."""
    parts = codes.split([math.prod(shape) for shape in code_shapes], dim=1) if code_shapes else ()
    return [part.reshape(-1, *shape) for part, shape in zip(parts, code_shapes, strict=True)]


def of_rows(images: Tensor, rows: Tensor) -> Tensor:
    """Images (R, X, H, W) of these rows, (R',), or put together of parts of several, (R', rows of a grid, columns).

    Where no grid fits the images, the rows of its first part are taken.
    """
    if rows.ndim == 1:
        return images[rows]
    (channels, height, width), (grid_rows, grid_columns) = images.shape[1:], rows.shape[1:]
    if height % grid_rows or width % grid_columns:
        return images[rows[:, 0, 0]]
    parts = images.reshape(-1, channels, grid_rows, height // grid_rows, grid_columns, width // grid_columns)
    parts = parts.permute(0, 2, 4, 1, 3, 5)
    down, across = torch.arange(grid_rows, device=rows.device)[:, None], torch.arange(grid_columns, device=rows.device)
    return parts[rows, down, across].permute(0, 3, 1, 4, 2, 5).reshape(-1, channels, height, width)


def resize(images: Tensor, size: Sequence[int]) -> Tensor:
    """Images at `size`: averaged over areas when they shrink, bilinear when they grow."""
    size = (size[0], size[1])
    if images.shape[2:] == size:
        return images
    if images.shape[2] >= size[0] and images.shape[3] >= size[1]:
        return F.adaptive_avg_pool2d(images, size)
    return F.interpolate(images, size=size, mode="bilinear", align_corners=False)


def gumbel_like(logits: Tensor) -> Tensor:
    """Standard Gumbel noise: adding it to logits and taking the largest draws from their softmax."""
    return -torch.empty_like(logits).exponential_().clamp_min(torch.finfo(logits.dtype).tiny).log()


def chain_dropout(codes: Tensor, codebook_size: int, probability: float) -> Tensor:
    """Each of the codes replaced by a uniformly random one with `probability`; a coin for every sample."""
    dropped = torch.rand(codes.shape, device=codes.device) < probability
    return torch.where(dropped, torch.randint_like(codes, codebook_size), codes)
