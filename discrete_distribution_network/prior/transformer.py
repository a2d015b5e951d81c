"""`CodeTransformer`: a causal transformer over the codes alone, the baseline of `heads.Prior`.

    p(codes) = prod_l prod_patches p(code | codes of the levels before, class)

The codes of a level are predicted in parallel, by one query token a place, which attends to the codes of all levels
before and to the other queries of its level.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from discrete_distribution_network.errors import require
from discrete_distribution_network.model.network import Network
from discrete_distribution_network.prior.base import LearnedPrior, Levels, cross_entropy_bits


class TransformerState(NamedTuple):
    """The codes so far, (B, number of codes), and the embedding of the condition, (B, dim)."""

    codes: Tensor
    condition: Tensor


class CodeTransformer(LearnedPrior):
    """A causal transformer over the codes.

    Args:
        ddn: the network whose codes it models.
        dim: width.
        num_classes: of the labels, for a prior by class.
        depth: number of blocks.
        heads: of the attention; they divide `dim`.
        dropout: while it is fitted, against early overfitting.
    """

    kind = "transformer"

    def __init__(
        self,
        ddn: Network,
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
            self.init_scores(level, score.weight)

    @property
    def arguments(self) -> dict[str, int | None]:
        return super().arguments | {"depth": self.depth, "heads": self.heads}

    def begin(self, batch_size: int, labels: Tensor | None = None) -> TransformerState:
        codes = torch.zeros(batch_size, 0, dtype=torch.long, device=self.start.device)
        return TransformerState(codes, self.condition(batch_size, labels))

    def logits(self, level: int, features: Tensor, state: TransformerState) -> Float[Tensor, "batch nodes ..."]:
        scores = self._scores(state.codes, [level], state.condition)[0].movedim(1, 2)
        return scores.reshape(*scores.shape[:2], *self.code_shapes[level])

    def follow(self, level: int, codes: Int[Tensor, "batch ..."], state: TransformerState) -> TransformerState:
        return state._replace(codes=torch.cat((state.codes, codes.reshape(len(codes), -1)), 1))

    def bits_of(self, levels: Levels, labels: Int[Tensor, " batch"] | None = None) -> Float[Tensor, " levels"]:
        parts = [codes.flatten(1) if codes.ndim > 1 else codes.unsqueeze(1) for _, codes in levels]
        number = len(parts[0])
        scores = self._scores(torch.cat(parts, 1), range(len(parts)), self.condition(number, labels))
        pairs = zip(scores, parts, strict=True)
        return torch.stack([cross_entropy_bits(own.flatten(0, 1), part.flatten(), number) for own, part in pairs])

    def _scores(self, codes: Tensor, queried: Sequence[int], condition: Tensor) -> list[Tensor]:
        """Scores (B, codes of the level, K) of each queried level, given the codes (B, number of codes) before it."""
        known = 0
        embedded = []
        for embedding, number in zip(self.nodes, self.codes_per_level, strict=True):
            if known == codes.shape[1]:
                break
            embedded.append(embedding(codes[:, known : known + number]))
            known += number
        level_of = torch.repeat_interleave(torch.tensor(self.codes_per_level, device=codes.device))
        is_queried = torch.isin(level_of, torch.tensor(list(queried), device=codes.device))
        context = torch.cat([*embedded, condition.new_zeros(len(codes), 0, self.dim)], 1) + self.places[:known]
        queries = (self.question + self.places[is_queried]).expand(len(codes), -1, -1)
        tokens = self.dropout(torch.cat((context, queries), 1) + condition.unsqueeze(1))
        mask = _attention_mask(level_of[:known], level_of[is_queried])
        for block in self.blocks:
            tokens = block(tokens, src_mask=mask)
        hidden = self.norm(tokens[:, known:])
        parts = hidden.split([self.codes_per_level[level] for level in queried], 1)
        return [self.score[level](part) for level, part in zip(queried, parts, strict=True)]


def _attention_mask(codes: Tensor, queries: Tensor) -> Tensor:
    """True where a token (row) must not attend to another (column), by the levels of codes and queries."""
    from_codes = torch.cat(
        (codes[:, None] < codes, torch.ones(len(codes), len(queries), dtype=torch.bool, device=codes.device)), 1
    )
    from_queries = torch.cat((queries[:, None] <= codes, queries[:, None] != queries), 1)
    return torch.cat((from_codes, from_queries))
