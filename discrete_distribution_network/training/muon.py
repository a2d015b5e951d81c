"""`Muon`: momentum with orthogonal steps of weight matrices (Jordan et al., 2024, kellerjordan.github.io/posts/muon).

An update by AdamW changes few directions of a matrix and leaves the others; here all singular values of an update are
about 1, so each direction learns. With it a network and a prior learn in about half of the steps (docs/log.md).
`torch.optim.Muon` takes matrices one by one, and no convolutions; this one takes all of a shape together.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.optim import Optimizer

from discrete_distribution_network.training.processes import fast_precision

LEARNING_RATE = 0.02
"""The highest learning rate, by default."""

MOMENTUM = 0.95

MOMENTUM_FIELD = "momentum"
"""Its name in the optimiser's state."""

ITERATIONS = 5
"""Of Newton and Schulz."""

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of an iteration's polynomial, which brings singular values in (0, 1] near 1 in few iterations (Jordan et al.)."""


class Muon(Optimizer):
    """Nesterov momentum, orthogonalised for each matrix, of the matrices in one tensor.

    Args:
        values: all elements of the matrices, in rows, one matrix after the other.
        shapes: (number, rows, columns) of those of one shape, in the order of `values`.
        lr: learning rate: the spectral norm of a step, times sqrt(rows / columns) for matrices with more rows.
        weight_decay: share of the weights that a step takes away, divided by the learning rate.
    """

    def __init__(
        self,
        values: nn.Parameter,
        shapes: Sequence[tuple[int, int, int]],
        lr: float = LEARNING_RATE,
        weight_decay: float = 0.0,
    ):
        super().__init__([values], {"lr": lr, "weight_decay": weight_decay})
        self.values, self.shapes = values, list(shapes)
        self._dtype = torch.bfloat16 if fast_precision(values.device.type == "cpu") == "bf16" else torch.float32

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """One step by `values.grad`; a closure is not called."""
        values, group = self.values, self.param_groups[0]
        assert values.grad is not None
        if MOMENTUM_FIELD not in self.state[values]:
            self.state[values][MOMENTUM_FIELD] = torch.zeros_like(values, requires_grad=False)
        momentum = self.state[values][MOMENTUM_FIELD]
        momentum.lerp_(values.grad, 1 - MOMENTUM)
        update = values.grad.lerp(momentum, MOMENTUM)
        sizes = [number * rows * columns for number, rows, columns in self.shapes]
        for part, shape in zip(update.split(sizes), self.shapes, strict=True):
            _, rows, columns = shape
            matrices = part.view(shape)
            matrices.copy_(orthogonalised(matrices.to(self._dtype)))
            if rows > columns:
                part.mul_((rows / columns) ** 0.5)
        if group["weight_decay"]:
            values.mul_(1 - group["lr"] * group["weight_decay"])
        values.add_(update, alpha=-group["lr"])


def set_rates(optimizers: Iterable[Optimizer], rate: float, peak: float) -> None:
    """Set the learning rates of a step; that of Muon rises and falls with that of AdamW.

    Args:
        rate: of AdamW.
        peak: its highest.
    """
    for optimizer in optimizers:
        own = rate * (optimizer.defaults["lr"] / peak) if isinstance(optimizer, Muon) else rate
        for group in optimizer.param_groups:
            group["lr"] = own


def orthogonalised(matrices: Float[Tensor, "number rows columns"]) -> Float[Tensor, "number rows columns"]:
    """About the nearest orthogonal matrix to each, by Newton-Schulz iterations: singular values of 0.7 to 1.2."""
    tall = matrices.shape[1] > matrices.shape[2]
    one = matrices.mT if tall else matrices
    one = one / (torch.linalg.vector_norm(one, dim=(1, 2), keepdim=True) + 1e-7)
    a, b, c = COEFFICIENTS
    for _ in range(ITERATIONS):
        square = torch.bmm(one, one.mT)
        one = torch.baddbmm(one, torch.baddbmm(square, square, square, beta=b, alpha=c), one, beta=a)
    return one.mT if tall else one


def matrix_names(module: nn.Module, without: Collection[str] = ()) -> set[str]:
    """Names of the weights of linear layers and convolutions, but for those of one row or column.

    Args:
        without: names that are left out.
    """
    return {
        name
        for prefix, inner in module.named_modules()
        if isinstance(inner, nn.Linear | nn.Conv2d)
        for name, own in inner.named_parameters(prefix, recurse=False)
        if own.ndim > 1 and min(len(own), own[0].numel()) > 1 and name not in without
    }
