"""What learns while the network rests: `PriorOptimisation` of a prior, `ModuleOptimisation` of a decoder."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from discrete_distribution_network.errors import DDNError
from discrete_distribution_network.io.safetensors_file import load_strictly, part_of
from discrete_distribution_network.training.flat_parameters import FlatParameters, load_moments
from discrete_distribution_network.training.muon import LEARNING_RATE as MUON_RATE
from discrete_distribution_network.training.muon import Muon, matrix_names, set_rates
from discrete_distribution_network.training.schedule import learning_rate as rate_at

LEARNING_RATE = 3e-3
"""The highest learning rate of AdamW, by default."""

MUON_WEIGHT_DECAY = 0.1
"""Weight decay of the matrices that Muon trains."""

WARMUP_STEPS = 49
"""Steps of linear warm-up of the learning rate."""

MAX_GRAD_NORM = 10.0
"""Gradients are clipped to this norm."""

AVERAGED_STEPS = 100
"""Training bits are averaged over this many last steps."""


class ModuleOptimisation:
    """A module that learns while the network rests: AdamW and Muon at rates that rise and then fall, and clipping.

    Args:
        module: on its device.
        peak: the highest learning rate of AdamW; it decays to zero along a cosine, and that of Muon with it.
        weight_decay: of AdamW.
        max_grad_norm: gradients are clipped to this norm.
        matrices: names of weights that Muon trains; AdamW trains the others.

    Attributes:
        step: steps done.
    """

    def __init__(
        self,
        module: nn.Module,
        peak: float,
        weight_decay: float,
        max_grad_norm: float,
        matrices: Collection[str] = (),
    ):
        self.module, self.peak, self.max_grad_norm, self.step = module, peak, max_grad_norm, 0
        self.flat = FlatParameters(module.named_parameters(), matrices)
        betas = (0.9, 0.99)
        self.optimizers: list[torch.optim.Optimizer] = []
        if self.flat.elementwise is not None:
            own = [self.flat.elementwise]
            self.optimizers.append(torch.optim.AdamW(own, peak, betas, weight_decay=weight_decay, fused=True))
        if self.flat.matrices is not None:
            rate = peak * MUON_RATE / LEARNING_RATE
            self.optimizers.append(Muon(self.flat.matrices, self.flat.matrix_shapes, rate, MUON_WEIGHT_DECAY))

    def rate(self, done: float) -> float:
        """The learning rate of the next step, at this share of the training."""
        return rate_at(self.peak, self.step, WARMUP_STEPS, done)

    def update(
        self, loss: Tensor, done: float, average: Callable[[Tensor], Tensor] | None = None
    ) -> tuple[float, float]:
        """One step of the optimiser.

        Args:
            loss: differentiable.
            done: share of the training.
            average: gives the mean of a tensor over all processes; None for one process.

        Returns:
            The loss and the norm of the gradient before clipping, over all processes.

        Raises:
            DDNError: they are not finite; no weight was changed.
        """
        set_rates(self.optimizers, self.rate(done), self.peak)
        self.flat.set_gradients(torch.autograd.grad(loss, self.flat.parameters, allow_unused=True))
        gradient, loss = self.flat.gradient, loss.detach().float().reshape(1)
        if average is not None:
            means = average(torch.cat((loss, gradient)))
            loss = means[:1]
            gradient.copy_(means[1:])
        norm = torch.linalg.vector_norm(gradient)
        value, length = torch.cat((loss, norm.reshape(1))).tolist()
        if not math.isfinite(value + length):
            raise DDNError(
                f"expected a finite loss and gradient of a {type(self.module).__name__} at step {self.step}, got "
                f"{value:g} and a norm of {length:g}; lower the learning rate"
            )
        if length > self.max_grad_norm:
            gradient.mul_(self.max_grad_norm / length)
        for optimizer in self.optimizers:
            optimizer.step()
        self.step += 1
        return value, length

    def tensors(self) -> dict[str, Tensor]:
        """What a checkpoint holds of it: the weights and the optimiser's moments."""
        weights = {f"weights/{name}": value for name, value in self.module.state_dict().items()}
        for optimizer in self.optimizers:
            weights |= self.flat.moments(optimizer)
        return weights

    def state(self) -> dict[str, Any]:
        """The rest of it, JSON serialisable."""
        return {"step": self.step}

    def load(self, state: Mapping[str, Any], tensors: Mapping[str, Tensor], file: Path) -> None:
        """Take the `state` and the `tensors` of a checkpoint.

        Args:
            file: named in errors.

        Raises:
            ModelFileError: the tensors are of another module.
            KeyError, TypeError, ValueError: something is missing in the state.
        """
        self.step = int(state["step"])
        load_strictly(self.module, part_of(tensors, "weights/"), file)
        load_moments(self.optimizers, [self.flat], tensors, file)


class PriorOptimisation(ModuleOptimisation):
    """A prior that is being fitted, and its best weights.

    Args:
        prior: on its device.
        peak: the highest learning rate of AdamW.
        matrices: names of weights that Muon trains.

    Attributes:
        best: the lowest bits of held-out images so far.
        recent: bits of the last training batches.
    """

    def __init__(self, prior: nn.Module, peak: float = LEARNING_RATE, matrices: Collection[str] = ()):
        super().__init__(prior, peak, 0.01, MAX_GRAD_NORM, matrices)
        self.best = math.inf
        self.recent: deque[float] = deque(maxlen=AVERAGED_STEPS)
        self._best_weights = self._weights()

    def update(
        self, loss: Tensor, done: float, average: Callable[[Tensor], Tensor] | None = None
    ) -> tuple[float, float]:
        bits, norm = super().update(loss, done, average)
        self.recent.append(bits)
        return bits, norm

    @property
    def train_bits(self) -> float:
        """Mean bits of the last training batches."""
        return sum(self.recent) / len(self.recent) if self.recent else math.nan

    def measured(self, bits: float) -> None:
        """Keep the weights if held-out images cost fewer bits than by all before.

        Raises:
            DDNError: the bits are not finite.
        """
        if not math.isfinite(bits):
            raise DDNError(
                f"expected held-out codes to cost a finite number of bits at step {self.step}, got {bits}; lower the "
                "learning rate"
            )
        if bits < self.best:
            self.best, self._best_weights = bits, self._weights()

    def finish(self) -> None:
        """Give the prior its best weights, and put it in evaluation mode."""
        self.module.load_state_dict(self._best_weights)
        self.module.eval()

    def _weights(self) -> dict[str, Tensor]:
        return {name: value.clone() for name, value in self.module.state_dict().items()}

    # checkpoints

    def tensors(self) -> dict[str, Tensor]:
        return super().tensors() | {f"best/{name}": value for name, value in self._best_weights.items()}

    def state(self) -> dict[str, Any]:
        best = None if self.best == math.inf else self.best
        return {**super().state(), "best": best, "recent": list(self.recent)}

    def load(self, state: Mapping[str, Any], tensors: Mapping[str, Tensor], file: Path) -> None:
        self.best = math.inf if state["best"] is None else float(state["best"])
        self.recent.extend(map(float, state["recent"]))
        load_strictly(self.module, part_of(tensors, "best/"), file)
        self._best_weights = self._weights()
        super().load(state, tensors, file)


def prior_matrices(prior: nn.Module) -> set[str]:
    """Names of the weights of a prior that Muon trains: all matrices but those that score nodes, a row for each."""
    scores = {name for name, _ in prior.named_parameters() if "score" in name.split(".")}
    return matrix_names(prior, scores)
