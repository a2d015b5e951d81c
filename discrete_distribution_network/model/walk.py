"""What a walk over the levels is: how each level chooses (`Selection`), and what the walk leaves (`Walk`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from discrete_distribution_network.model.guided_sampler import GuidedSampler, SamplerOutput
from discrete_distribution_network.model.tensors import compose_parents, gather_walks


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


class Walk(NamedTuple):
    """What a walk over the levels leaves.

    Attributes:
        outputs: the image chosen at each level, (B, C, h, w) at that level's size.
        codes: int64 in [0, K) of its level, (B, number of codes), level after level; with patches, row by row.
        losses: each level's mean squared error to the images, (L,); None if the choice was not by images.
    """

    outputs: tuple[Tensor, ...]
    codes: Tensor
    losses: Tensor | None


def collect(steps: Sequence[SamplerOutput | Branches]) -> Walk:
    outputs: list[Tensor] = []
    codes: list[Tensor] = []
    rows: Tensor | None = None  # of each walk that reached the end its row at the step that is looked at
    for step in reversed(steps):
        own = step.codes if step.codes.ndim > 1 else step.codes[:, None, None]
        own = own if rows is None else gather_walks(own.unsqueeze(1), rows)[:, 0]
        outputs.insert(0, step.output if rows is None else gather_walks(step.output, rows))
        codes.insert(0, own.flatten(1))
        if isinstance(step, Branches):
            rows = step.rows if rows is None else compose_parents(step.rows, rows)
    losses = [step.commit_loss for step in steps if step.commit_loss is not None]
    return Walk(tuple(outputs), torch.cat(codes, 1), torch.stack(losses) if losses else None)
