"""`Prior`: the learned prior of `ddn prior`, small heads on the network's own features.

The features show the image so far and are computed anyway. The head of a level turns them, a memory of the codes so
far, and the class into the probabilities of the level's nodes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn

from discrete_distribution_network._renamed import renamed_argument
from discrete_distribution_network.errors import require
from discrete_distribution_network.model.blocks import Standardise, zero_
from discrete_distribution_network.model.code_distribution import Pick
from discrete_distribution_network.model.network import Network
from discrete_distribution_network.prior.base import (
    LearnedPrior,
    Levels,
    cross_entropy_bits,
    grids_of,
    resize_grid,
)

POOLED = 4
"""Features of a patch, or of the image, are averaged down to at most this side for its head."""

NEIGHBOURHOOD = tuple((down, across) for down in (-1, 0, 1) for across in (-1, 0, 1))
"""A place and the eight around it, as steps down and across."""

CAUSAL_CONTEXT = ((-1, -1), (-1, 0), (-1, 1), (0, -1))
"""Those of them that come before it in raster order."""


class Prior(LearnedPrior):
    """One head a level on the network's features, with a memory of the codes so far at each place.

    Patches of a level are conditioned on the levels before and on one another: each on its neighbours to the left and
    above, in raster order, as pixels in PixelCNN (van den Oord et al., arXiv 1606.05328).

    Args:
        ddn: the network whose codes it models.
        dim: width of the heads and of the memory.
        num_classes: of the labels, for a prior by class.
        dropout: in the heads, while it is fitted.
        independent_fraction: share of the images in a fit whose patches are not conditioned on one another, so that
            `logits` is defined before any code of a level is chosen.
        standardise: whether each channel of the features is standardised; priors of version 0.4 and before were fitted
            without.
    """

    kind = "heads"
    before: ClassVar[dict[str, Any]] = {"standardise": False}

    @renamed_argument("alone", "independent_fraction")
    def __init__(
        self,
        ddn: Network,
        dim: int = 96,
        num_classes: int | None = None,
        dropout: float = 0.1,
        independent_fraction: float = 0.1,
        standardise: bool = True,
    ):
        super().__init__(ddn, dim, num_classes)
        in_range = 0 <= independent_fraction <= 1
        require(in_range, "independent_fraction in [0, 1]", independent_fraction)
        self.independent_fraction, self.standardise = independent_fraction, standardise
        self.grids = grids_of(ddn.code_shapes)
        self.heads = nn.ModuleList(
            Head(sampler.dim, dim, sampler.codebook_size, sampler.patch_size, grid, dropout, standardise)
            for sampler, grid in zip(ddn.samplers * ddn.recurrence, self.grids, strict=True)
        )
        for level, head in enumerate(self._heads()):
            self.init_scores(level, head.score.weight)

    def _heads(self) -> list[Head]:
        return [head for head in self.heads if isinstance(head, Head)]

    @property
    def arguments(self) -> dict[str, Any]:
        return super().arguments | {"standardise": self.standardise}

    def measure(self, levels: Levels) -> None:
        for head, (features, _) in zip(self._heads(), levels, strict=True):
            head.measure(features)

    def begin(self, batch_size: int, labels: Tensor | None = None) -> Float[Tensor, "batch dim rows columns"]:
        """The memory before the first level, on its grid."""
        return self.condition(batch_size, labels)[:, :, None, None].expand(-1, -1, *self.grids[0])

    def logits(
        self,
        level: int,
        features: Float[Tensor, "batch channels height width"],
        state: Float[Tensor, "batch dim rows columns"],
    ) -> Float[Tensor, "batch nodes ..."]:
        """See `CodeDistribution`; the codes are independent of the others of this level."""
        head = self._heads()[level]
        scores = head.scores(head.embed(features, state)).movedim(-1, 1)
        return scores.reshape(*scores.shape[:2], *self.code_shapes[level])

    def draw(
        self,
        level: int,
        features: Float[Tensor, "batch channels height width"],
        state: Float[Tensor, "batch dim rows columns"],
        pick: Pick,
    ) -> Int[Tensor, "batch ..."]:
        """See `AutoregressiveDistribution`."""
        head, (height, width) = self._heads()[level], self.grids[level]
        hidden = head.embed(features, state)
        beyond = torch.zeros_like(hidden[:, 0, 0])
        codes: list[Tensor] = []
        known: dict[tuple[int, int], Tensor] = {}  # embeddings of the codes so far
        for row in range(height):
            for column in range(width):
                before = [known.get((row + down, column + across), beyond) for down, across in CAUSAL_CONTEXT]
                codes.append(pick(head.scores(hidden[:, row, column], torch.cat(before, -1)).float()))
                known[row, column] = self.nodes[level](codes[-1]).to(hidden.dtype)
        return torch.stack(codes, 1).reshape(-1, *self.code_shapes[level])

    def follow(
        self, level: int, codes: Int[Tensor, "batch ..."], state: Float[Tensor, "batch dim rows columns"]
    ) -> Float[Tensor, "batch dim _ _"]:
        """The memory on the grid of the next level."""
        rows = self._embedded(level, codes) / len(self.heads) ** 0.5
        updated = self._heads()[level].update(state.movedim(1, -1) + rows).movedim(-1, 1)
        return resize_grid(updated, self.grids[min(level + 1, len(self.grids) - 1)])

    def _embedded(self, level: int, codes: Tensor) -> Tensor:
        """Embeddings (B, rows, columns, dim) of a level's codes (B, ...)."""
        return cast("Tensor", self.nodes[level](codes.reshape(-1, *self.grids[level])))

    def bits_of(self, levels: Levels, labels: Int[Tensor, " batch"] | None = None) -> Float[Tensor, " levels"]:
        number, device = len(levels[0][1]), levels[0][1].device
        fraction = self.independent_fraction if self.training else 0
        with_context = torch.rand(number, 1, 1, 1, device=device) >= fraction
        state, costs = self.begin(number, labels), []
        for level, (features, codes) in enumerate(levels):
            scores = self.scores_given(level, features, state, codes, with_context).flatten(0, -2)
            costs.append(cross_entropy_bits(scores, codes.flatten(), number))
            state = self.follow(level, codes, state)
        return torch.stack(costs)

    def scores_given(
        self,
        level: int,
        features: Float[Tensor, "batch channels height width"],
        state: Float[Tensor, "batch dim rows columns"],
        codes: Int[Tensor, "batch ..."],
        with_context: Tensor | float = 1.0,
    ) -> Float[Tensor, "batch rows columns nodes"]:
        """Logits of all places of a level at once, each given the codes before it, as `draw` asks for them.

        Args:
            codes: of the level; of the last place none is looked at.
            with_context: 0 for images whose places do not depend on one another.
        """
        head = self._heads()[level]
        context = shifted(self._embedded(level, codes) * with_context, CAUSAL_CONTEXT) if codes.ndim > 1 else None
        return head.scores(head.embed(features, state), context)


def shifted(
    grid: Shaped[Tensor, "batch rows columns dim"], steps: Sequence[tuple[int, int]]
) -> Shaped[Tensor, "batch rows columns steps_dim"]:
    """The values that lie these steps (down, across) from each place of a grid, side by side; zeros beyond the grid."""
    rows, columns = grid.shape[1:3]
    padded = F.pad(grid, (0, 0, 1, 1, 1, 1))
    parts = [padded[:, 1 + down : 1 + down + rows, 1 + across : 1 + across + columns] for down, across in steps]
    return torch.cat(parts, -1)


class Head(nn.Module):
    """Scores of a level's nodes at each place (patch, or the whole image) of its grid.

    Its input at a place is the features, averaged over at most POOLED x POOLED parts, and the memory, there and at the
    places around; then the embeddings of the codes before it in raster order.
    """

    def __init__(
        self,
        channels: int,
        dim: int,
        codebook_size: int,
        patch_size: int | None,
        grid: tuple[int, int],
        dropout: float,
        standardise: bool,
    ):
        super().__init__()
        self.grid, self.is_global = grid, patch_size is None
        self.side = POOLED if patch_size is None else min(POOLED, patch_size)
        self.standardise = Standardise(channels) if standardise else nn.GroupNorm(1, channels, affine=False)
        self.place = nn.Parameter(torch.randn(*grid, dim) * 0.1)
        self.look = nn.Linear(channels * self.side**2, dim)
        self.recall = nn.Linear(dim, dim)
        self.around = _residual(dim if self.is_global else dim * len(NEIGHBOURHOOD), dim)
        self.before = None if self.is_global else zero_(nn.Linear(dim * len(CAUSAL_CONTEXT), dim, bias=False))
        self.together = _residual(dim, dim)
        self.score = nn.Linear(dim, codebook_size)
        self.memory = _residual(dim, dim)
        self.dropout = nn.Dropout(dropout)

    def embed(
        self, features: Float[Tensor, "batch channels height width"], state: Float[Tensor, "batch dim rows columns"]
    ) -> Float[Tensor, "batch rows columns dim"]:
        """Features and memory as one vector a place."""
        with torch.no_grad():  # the features are the network's, which a prior does not change
            rows, columns = self.grid
            averages = self.standardise(self._averages(features))
            averages = averages.reshape(features.shape[0], -1, rows, self.side, columns, self.side)
            averages = averages.permute(0, 2, 4, 1, 3, 5).flatten(3).to(self.look.weight.dtype)
        hidden = self.look(averages) + self.recall(state.movedim(1, -1) + self.place)
        return cast("Tensor", hidden + self.around(hidden if self.is_global else shifted(hidden, NEIGHBOURHOOD)))

    def measure(self, features: Float[Tensor, "batch channels height width"]) -> None:
        """Standardise features like these."""
        if isinstance(self.standardise, Standardise):
            self.standardise.measure(self._averages(features))

    def _averages(self, features: Tensor) -> Tensor:
        rows, columns = self.grid
        return F.adaptive_avg_pool2d(features, (rows * self.side, columns * self.side))

    def scores(
        self,
        hidden: Float[Tensor, "*places dim"],
        context: Float[Tensor, "*places context_dim"] | None = None,
    ) -> Float[Tensor, "*places nodes"]:
        """Scores of the nodes, given the embeddings of the codes in the `CAUSAL_CONTEXT` of each place, if known."""
        if self.before is not None and context is not None:
            hidden = hidden + self.before(context)
        return cast("Tensor", self.score(self.dropout(F.silu(hidden + self.together(hidden)))))

    def update(self, memory: Float[Tensor, "batch rows columns dim"]) -> Float[Tensor, "batch rows columns dim"]:
        """The memory, with the embeddings of this level's codes added, for the next level."""
        return cast("Tensor", memory + self.memory(memory))


def _residual(inputs: int, outputs: int) -> nn.Sequential:
    """The branch of a residual connection, zero at first: (..., inputs) -> (..., outputs)."""
    return nn.Sequential(nn.SiLU(), nn.Linear(inputs, outputs), nn.SiLU(), zero_(nn.Linear(outputs, outputs)))
