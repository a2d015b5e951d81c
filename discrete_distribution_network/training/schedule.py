"""Learning-rate schedule: linear warm-up, plateau, cosine decay to zero."""

from __future__ import annotations

import math


def learning_rate(peak: float, step: int, warmup_steps: int, progress: float, hold: float = 0.0) -> float:
    """The learning rate of a step.

    Args:
        peak: the highest learning rate.
        step: number of the step, from 0 on.
        warmup_steps: steps of the linear warm-up.
        progress: share of the training that is done, in [0, 1]; 0 for a rate that does not decay.
        hold: share of the training at which the decay begins.
    """
    decayed = max(0.0, (progress - hold) / (1 - hold))
    return peak * min(1.0, (step + 1) / (warmup_steps + 1)) * 0.5 * (1 + math.cos(math.pi * decayed))
