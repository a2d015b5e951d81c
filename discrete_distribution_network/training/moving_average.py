"""The moving average of a model's weights, which is what is used after training."""

from __future__ import annotations

import copy

import torch
from torch.optim.swa_utils import get_ema_multi_avg_fn

from discrete_distribution_network.ddn import DDN
from discrete_distribution_network.errors import require


class MovingAverage:
    """The exponential moving average of a DDN's weights; its buffers are those of the last update.

    Args:
        ddn: what is averaged; it is copied as it is now, so after every process has the same weights.
        beta: the share of the average that stays at an update; early on at most (1 + t) / (10 + t) after t of them.
        update_every: steps between two updates.
        update_after_step: until then the average is the model itself.

    Attributes:
        model: the average.
    """

    def __init__(self, ddn: DDN, beta: float = 0.9999, update_every: int = 1, update_after_step: int = 0):
        require(0 <= beta < 1, "beta in [0, 1)", beta)
        require(update_every >= 1, "update_every of at least 1", update_every)
        self.beta, self.update_every, self.update_after_step = beta, update_every, update_after_step
        self.model = copy.deepcopy(ddn).requires_grad_(False).eval()
        # listed once: to look through all modules takes longer than to average
        self._averaged, self._current = tuple(self.model.parameters()), tuple(ddn.parameters())
        self._kept, self._buffers = tuple(self.model.buffers()), tuple(ddn.buffers())

    @torch.no_grad()
    def update(self, step: int) -> None:
        """To be called after every step of the optimiser, once nodes are split; the first step is number 1."""
        if step <= self.update_after_step:
            torch._foreach_copy_(self._averaged, self._current)
        elif step % self.update_every == 0:
            updates = (step - self.update_after_step) // self.update_every
            beta = min(self.beta, (1 + updates) / (10 + updates))
            get_ema_multi_avg_fn(beta)(self._averaged, self._current, updates)
        torch._foreach_copy_(self._kept, self._buffers)
