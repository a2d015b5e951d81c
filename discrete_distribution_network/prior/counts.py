"""Priors by counting, the baselines of the learned ones: `Frequencies` of nodes and a first-order `Chain`."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from jaxtyping import Float, Integer
from torch import Tensor

from discrete_distribution_network.errors import require, shown
from discrete_distribution_network.model.network import Network
from discrete_distribution_network.model.tensors import by_level, counts_by_level
from discrete_distribution_network.prior.base import grids_of, resize_grid


class Frequencies:
    """Frequency of each node of a level, independent of all other codes; the state is the batch size.

    Args:
        counts: (K,) for each level, how often each node was chosen.
        code_shapes: as `DDN.code_shapes`; None for one code a level.
    """

    def __init__(self, counts: Sequence[Tensor], code_shapes: Sequence[tuple[int, ...]] | None = None):
        self._shapes = [()] * len(counts) if code_shapes is None else code_shapes
        # Laplace smoothing: a node that was never chosen is not impossible
        self._logits = [(own.double() + 1).div(own.sum() + len(own)).log().float() for own in counts]

    @classmethod
    def of(cls, ddn: Network, codes: Integer[Tensor, "batch codes"]) -> Frequencies:
        """Counted in the codes of a training set."""
        counts = counts_by_level(codes, ddn.codebook_sizes, ddn.codes_per_level)
        return cls(counts, ddn.code_shapes)

    def begin(self, batch_size: int, labels: Tensor | None) -> int:
        require(labels is None, "no labels, since frequencies are not by class", shown(labels))
        return batch_size

    def logits(self, level: int, features: Tensor, state: int) -> Float[Tensor, "batch nodes ..."]:
        shape = self._shapes[level]
        scores = self._logits[level].to(features.device).reshape(1, -1, *(1,) * len(shape))
        return scores.expand(state, -1, *shape)

    def follow(self, level: int, codes: Tensor, state: int) -> int:
        return state


class Chain:
    """First-order Markov chain over levels: each code given that of the level before at the same place.

    The state is the codes of the level before.

    Args:
        first: (K,), counts of the first level's nodes.
        pairs: for each later level, counts of its nodes (columns) after those of the level before (rows).
        code_shapes: as `DDN.code_shapes`; None for one code a level.
    """

    def __init__(
        self,
        first: Integer[Tensor, " nodes"],
        pairs: Sequence[Tensor],
        code_shapes: Sequence[tuple[int, ...]] | None = None,
    ):
        def log_probabilities(counts: Tensor) -> Tensor:
            return (counts.double() + 1 / counts.shape[-1]).log().log_softmax(-1).float()

        self._shapes = [()] * (len(pairs) + 1) if code_shapes is None else code_shapes
        # the first level follows a root with a single node
        self._transitions = [log_probabilities(own) for own in (first.unsqueeze(0), *pairs)]

    @classmethod
    def of(cls, ddn: Network, codes: Integer[Tensor, "batch codes"]) -> Chain:
        """Counted in the codes of a training set."""
        parts, sizes = by_level(codes, ddn.code_shapes), ddn.codebook_sizes
        pairs = [
            torch.bincount(
                (_at_places(before, after.shape[1:]) * size + after).flatten(), minlength=rows * size
            ).reshape(rows, size)
            for (before, rows), (after, size) in pairwise(zip(parts, sizes, strict=True))
        ]
        return cls(torch.bincount(parts[0].flatten(), minlength=sizes[0]), pairs, ddn.code_shapes)

    def begin(self, batch_size: int, labels: Tensor | None) -> Integer[Tensor, " batch"]:
        require(labels is None, "no labels, since a chain is not by class", shown(labels))
        return torch.zeros(batch_size, dtype=torch.long)

    def logits(
        self, level: int, features: Tensor, state: Integer[Tensor, "batch ..."]
    ) -> Float[Tensor, "batch nodes ..."]:
        return self._transitions[level].to(features.device)[_at_places(state, self._shapes[level])].movedim(-1, 1)

    def follow(self, level: int, codes: Tensor, state: Tensor) -> Tensor:
        return codes


def _at_places(codes: Tensor, shape: Sequence[int]) -> Tensor:
    """Codes (B, ...) of a level at the places of another level: (B, *shape)."""
    grids = grids_of([tuple(codes.shape[1:]), tuple(shape)])
    values = codes.reshape(len(codes), 1, *grids[0]).double()  # which holds every code exactly
    return resize_grid(values, grids[1]).long().reshape(len(codes), *shape)
