"""How the learning rate goes: a linear rise, then constant, then half a cosine down to nothing."""

from __future__ import annotations

import math


def learning_rate(peak: float, step: int, warmup_steps: int, progress: float, hold: float = 0.0) -> float:
    """The learning rate of a step.

    Args:
        peak: the highest.
        step: 0 is the first.
        warmup_steps: steps over which it rises from nothing.
        progress: the share of the training that is done, in [0, 1]; 0 for a rate that does not fall.
        hold: share after which it falls.
    """
    fallen = max(0.0, (progress - hold) / (1 - hold))
    return peak * min(1.0, (step + 1) / (warmup_steps + 1)) * 0.5 * (1 + math.cos(math.pi * fallen))
