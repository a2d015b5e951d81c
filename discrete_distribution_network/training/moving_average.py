"""Exponential moving average of a model's weights, which is the model to use after training."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from jaxtyping import Int
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn

from discrete_distribution_network.ddn import DDN
from discrete_distribution_network.errors import require
from discrete_distribution_network.training.flat_parameters import FlatParameters, flatten_counts


class MovingAverage:
    """The exponential moving average of a DDN's parameters, with the buffers of the latest step.

    Args:
        ddn: the model to average, copied at once, so all processes must hold the same weights by then.
        beta: weight of the average in an update; at most (1 + t) / (10 + t) in update t.
        update_every: steps between two updates.
        update_after_step: up to this step the average equals the model.
        flats: parameters of the `ddn` that are views of one tensor, as those of the average then are too; others are
            averaged one by one.
        counts: those of the samplers of the `ddn`, if they are views of one tensor.

    Attributes:
        model: the average.
    """

    def __init__(
        self,
        ddn: DDN,
        beta: float = 0.9999,
        update_every: int = 1,
        update_after_step: int = 0,
        flats: Sequence[FlatParameters] = (),
        counts: Int[Tensor, " nodes"] | None = None,
    ):
        require(0 <= beta < 1, "beta in [0, 1)", beta)
        require(update_every >= 1, "update_every of at least 1", update_every)
        self.beta, self.update_every, self.update_after_step = beta, update_every, update_after_step
        self.model = copy.deepcopy(ddn).requires_grad_(False).eval()
        own = dict(self.model.named_parameters())
        self.flats = [FlatParameters((name, own[name]) for name in flat.names) for flat in flats]
        flattened = {name for flat in flats for name in flat.names}
        rest = [(own[name], current) for name, current in ddn.named_parameters() if name not in flattened]
        # listed once, since walking through all modules takes longer than averaging
        self._averaged = (*(flat.values.requires_grad_(False) for flat in self.flats), *(mine for mine, _ in rest))
        self._current = (*(flat.values for flat in flats), *(current for _, current in rest))
        counted = {id(own.counts) for one in (self.model, ddn) for own in one.samplers}
        kept, buffers = ([own for own in one.buffers() if id(own) not in counted] for one in (self.model, ddn))
        self._kept = (*kept, flatten_counts(self.model.samplers))
        self._buffers = (*buffers, flatten_counts(ddn.samplers) if counts is None else counts)

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Update after a step of the optimiser, once nodes are split.

        Args:
            step: number of the step, from 1 on.
        """
        if step <= self.update_after_step:
            torch._foreach_copy_(self._averaged, self._current)
        elif step % self.update_every == 0:
            updates = (step - self.update_after_step) // self.update_every
            beta = min(self.beta, (1 + updates) / (10 + updates))
            get_ema_multi_avg_fn(beta)(self._averaged, self._current, updates)
        torch._foreach_copy_(self._kept, self._buffers)
