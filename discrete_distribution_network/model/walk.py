"""A walk over the levels: the protocol of its choices (`Selection`), and the result (`Walk`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Integer
from torch import Tensor

from discrete_distribution_network.model.guided_sampler import GuidedSampler, SamplerOutput
from discrete_distribution_network.model.tensors import Parents, compose_parents, gather_walks

Features = Float[Tensor, "batch dim height width"]
Residual = Float[Tensor, "batch channels height width"]


class Branches(NamedTuple):
    """The result of one level of a selection that keeps several walks of each image, such as beam search.

    Attributes:
        output, codes, commit_loss: as in `SamplerOutput`, for the walks that are kept.
        parents: for each of them, the row of the previous level's walks that it continues; rows may repeat or be
            missing. (walks, rows, columns) for one parent per part of the image, where walks are merged.
    """

    output: Float[Tensor, "walks channels height width"]
    codes: Integer[Tensor, " walks"] | Integer[Tensor, "walks rows columns"]
    commit_loss: Float[Tensor, ""] | None
    parents: Parents


@runtime_checkable
class Selection(Protocol):
    """Chooses a candidate at each level of a walk; any function with these arguments is one."""

    def __call__(
        self, level: int, sampler: GuidedSampler, features: Features, residual: Residual | None
    ) -> SamplerOutput | Branches:
        """The chosen candidate of a level.

        Args:
            level: its number; 0 is the first.
            sampler: draws its candidates.
            features: for the sampler.
            residual: the image so far, which every candidate adds to.
        """


class Walk(NamedTuple):
    """The result of a walk over the levels.

    Attributes:
        outputs: the image chosen at each level, (B, C, h, w) at that level's size.
        codes: int64 in [0, K) of its level, (B, number of codes), level after level; with patches, row by row.
        losses: each level's mean squared error to the images, (L,); None if the choice was not by images.
        features: of the last level, (B, D, h, w), from which `Network.finish` makes the image.
    """

    outputs: tuple[Float[Tensor, "batch channels _ _"], ...]
    codes: Integer[Tensor, "batch codes"]
    losses: Float[Tensor, " levels"] | None
    features: Features


def collect(steps: Sequence[SamplerOutput | Branches], features: Features) -> Walk:
    """The walks that reached the last step, each traced back through its parents.

    Args:
        features: of the last level.
    """
    outputs: list[Tensor] = []
    codes: list[Tensor] = []
    rows: Tensor | None = None  # of each walk that reached the end, its row at the current step
    for step in reversed(steps):
        own = step.codes if step.codes.ndim > 1 else step.codes[:, None, None]
        own = own if rows is None else gather_walks(own.unsqueeze(1), rows)[:, 0]
        outputs.insert(0, step.output if rows is None else gather_walks(step.output, rows))
        codes.insert(0, own.flatten(1))
        if isinstance(step, Branches):
            rows = step.parents if rows is None else compose_parents(step.parents, rows)
    losses = [step.commit_loss for step in steps if step.commit_loss is not None]
    return Walk(tuple(outputs), torch.cat(codes, 1), torch.stack(losses) if losses else None, features)
