"""A prior that knows nothing but codes: a causal transformer over them, to compare `prior.Prior` with.

    p(codes) = prod_l prod_patches p(code | codes of the levels before, class)

The codes of a level are drawn at once: each asks by its place, sees the codes of all levels before, and the other
places that ask.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from discrete_distribution_network.ddn import DDN
from discrete_distribution_network.errors import require
from discrete_distribution_network.prior.heads import LearnedPrior


class Drawing(NamedTuple):
    """The codes drawn so far, (B, number of codes), and what is wanted, (B, dim)."""

    codes: Tensor
    wanted: Tensor


class CodeTransformer(LearnedPrior):
    """A causal transformer over the codes.

    Args:
        ddn: whose codes it is for.
        dim: width.
        num_classes: of the labels, if it is to be one by class.
        depth: blocks.
        heads: of the attention; they divide `dim`.
        dropout: while it is fitted; codes are learnt by heart early.
    """

    kind = "transformer"

    def __init__(
        self,
        ddn: DDN,
        dim: int = 96,
        num_classes: int | None = None,
        depth: int = 4,
        heads: int = 4,
        dropout: float = 0.1,
    ):
        super().__init__(ddn, dim, num_classes)
        require(dim % heads == 0, f"a dim that its {heads} heads divide", dim)
        self.depth, self.heads = depth, heads
        self.codes_per_level = ddn.codes_per_level
        self.places = nn.Parameter(torch.randn(sum(self.codes_per_level), dim) * 0.5)
        self.question = nn.Parameter(torch.zeros(dim))
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(dim, heads, 4 * dim, dropout, F.gelu, batch_first=True, norm_first=True)
            for _ in range(depth)
        )
        self.norm = nn.LayerNorm(dim)
        self.score = nn.ModuleList(nn.Linear(dim, size) for size in ddn.codebook_sizes)
        self.dropout = nn.Dropout(dropout)
        for level, score in enumerate(cast("Iterable[nn.Linear]", self.score)):
            self.begin_alike(level, score.weight)

    @property
    def arguments(self) -> dict[str, int | None]:
        return super().arguments | {"depth": self.depth, "heads": self.heads}

    def begin(self, batch_size: int, labels: Tensor | None = None) -> Drawing:
        codes = torch.zeros(batch_size, 0, dtype=torch.long, device=self.start.device)
        return Drawing(codes, self.wanted(batch_size, labels))

    def logits(self, level: int, features: Tensor, state: Drawing) -> Tensor:
        scores = self._scores(state.codes, [level], state.wanted)[0].movedim(1, 2)
        return scores.reshape(*scores.shape[:2], *self.code_shapes[level])

    def follow(self, level: int, codes: Tensor, state: Drawing) -> Drawing:
        return state._replace(codes=torch.cat((state.codes, codes.reshape(len(codes), -1)), 1))

    def bits(self, ddn: DDN, images: Tensor, labels: Tensor | None = None) -> Tensor:
        codes = ddn.encode(images, labels=labels if ddn.num_classes is not None else None)
        scores = self._scores(codes, range(len(self.codes_per_level)), self.wanted(len(images), labels))
        return torch.stack(
            [
                F.cross_entropy(own.flatten(0, 1), part.flatten(), reduction="sum") / len(images) / math.log(2)
                for own, part in zip(scores, codes.split(self.codes_per_level, 1), strict=True)
            ]
        )

    def _scores(self, codes: Tensor, asking: Sequence[int], wanted: Tensor) -> list[Tensor]:
        """The scores (B, codes of the level, K) of the levels that ask, by the codes of the first levels."""
        known = 0
        embedded = []
        for embedding, number in zip(self.nodes, self.codes_per_level, strict=True):
            if known == codes.shape[1]:
                break
            embedded.append(embedding(codes[:, known : known + number]))
            known += number
        level_of = torch.repeat_interleave(torch.tensor(self.codes_per_level, device=codes.device))
        asked = torch.isin(level_of, torch.tensor(list(asking), device=codes.device))
        told = torch.cat([*embedded, wanted.new_zeros(len(codes), 0, self.dim)], 1) + self.places[:known]
        questions = (self.question + self.places[asked]).expand(len(codes), -1, -1)
        tokens = self.dropout(torch.cat((told, questions), 1) + wanted.unsqueeze(1))
        blocked = _blocked(level_of[:known], level_of[asked])
        for block in self.blocks:
            tokens = block(tokens, src_mask=blocked)
        hidden = self.norm(tokens[:, known:])
        parts = hidden.split([self.codes_per_level[level] for level in asking], 1)
        return [self.score[level](part) for level, part in zip(asking, parts, strict=True)]


def _blocked(known: Tensor, asking: Tensor) -> Tensor:
    """Which token (row) must not look at which (column), by their levels; the known codes come first."""
    by_known = torch.cat(
        (known[:, None] < known, torch.ones(len(known), len(asking), dtype=torch.bool, device=known.device)), 1
    )
    by_asking = torch.cat((asking[:, None] <= known, asking[:, None] != asking), 1)
    return torch.cat((by_known, by_asking))
