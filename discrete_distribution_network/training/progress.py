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
        discarded_steps, discarded_seconds: of second stages that were begun, until the network was trained further.
    """

    step: int = 0
    images: int = 0
    seconds: float = 0.0
    splits: int = 0
    discarded_steps: int = 0
    discarded_seconds: float = 0.0

    def share(self, steps: int, seconds: float | None) -> float:
        """The share of a training that is done, in [0, 1].

        Args:
            steps: of the whole training.
            seconds: after which it ends, if that comes first; None for no such limit.
        """
        by_steps = (self.step - self.discarded_steps) / steps
        by_clock = 0.0 if seconds is None else (self.seconds - self.discarded_seconds) / seconds
        return min(1.0, max(by_steps, by_clock))


class Step(NamedTuple):
    """Figures of one step of the optimiser, over all processes.

    Attributes:
        losses: squared errors of the network by level; in the second stage those that `SecondStage.step` gives.
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
