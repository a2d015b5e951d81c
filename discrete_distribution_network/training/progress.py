"""`Progress`: how far a training is. `Step`: the figures of one step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


@dataclass
class Progress:
    """How far a training is; a checkpoint holds it.

    Attributes:
        step: steps done.
        images: images trained on, over all processes.
        seconds: wall-clock time of the steps, including those before a resume.
        splits: nodes pruned.
    """

    step: int = 0
    images: int = 0
    seconds: float = 0.0
    splits: int = 0


class Step(NamedTuple):
    """Figures of one step of the optimiser, over all processes.

    Attributes:
        losses: of each level.
        norm: of the gradient, before clipping.
        swaps: number of nodes pruned.
        seconds: wall-clock time, including loading.
    """

    losses: list[float]
    norm: float
    swaps: int
    seconds: float

    @property
    def loss(self) -> float:
        """The mean over the levels."""
        return sum(self.losses) / len(self.losses)
