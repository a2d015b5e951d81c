"""The moving average of a model's weights, which is what is used after training."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch.optim.swa_utils import AveragedModel

from discrete_distribution_network.ddn import DDN
from discrete_distribution_network.errors import require


class MovingAverage:
    """The exponential moving average of a DDN's weights, by PyTorch's `AveragedModel`.

    Args:
        ddn: what is averaged; it is copied.
        beta: the share of the average that stays at an update; early on at most (1 + t) / (10 + t) after t of them.
        update_every: steps between two updates.
        update_after_step: until then the average is the model itself.
    """

    def __init__(self, ddn: DDN, beta: float = 0.9999, update_every: int = 1, update_after_step: int = 0):
        require(0 <= beta < 1, "beta in [0, 1)", beta)
        require(update_every >= 1, "update_every of at least 1", update_every)
        self.beta, self.update_every, self.update_after_step = beta, update_every, update_after_step
        self._averaged = AveragedModel(ddn, multi_avg_fn=self._average)
        self.model.requires_grad_(False).eval()
        self._updates = 0

    @property
    def model(self) -> DDN:
        return cast("DDN", self._averaged.module)

    def update(self, ddn: DDN, step: int) -> None:
        """To be called after every step of the optimiser, once nodes are split."""
        if step % self.update_every == 0 or step <= self.update_after_step:
            self.continue_from(step)
            self._averaged.update_parameters(ddn)

    def continue_from(self, step: int) -> None:
        self._updates = max(0, step - self.update_after_step) // self.update_every
        self._averaged.n_averaged.fill_(self._updates)  # where it is 0, the weights are copied

    def _average(self, averaged: Any, current: Any, _: Any) -> None:
        beta = min(self.beta, (1 + self._updates) / (10 + self._updates))
        torch._foreach_lerp_(averaged, current, 1 - beta)
