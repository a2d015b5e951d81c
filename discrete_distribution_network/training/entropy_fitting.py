"""`fit_entropy_model`: an entropy model fitted to the codes of a training set; the loop is `fit_loop.Fit`."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from typing import Any, NamedTuple

import torch
from jaxtyping import Integer
from torch import Tensor

from discrete_distribution_network.errors import InvalidInput
from discrete_distribution_network.prior.entropy_model import EntropyModel
from discrete_distribution_network.random_state import mix_seed
from discrete_distribution_network.training.fit_checkpoints import FitCheckpoints
from discrete_distribution_network.training.fit_loop import Budget, Fit, digest
from discrete_distribution_network.training.processes import fast_autocast


class FittedCodes(NamedTuple):
    """Result of `fit_entropy_model`.

    Attributes:
        steps: of the optimiser.
        test_bits: mean cost of held-out codes by the model as it is saved, in bits an image.
        uniform_bits: that of uniform coding.
    """

    steps: int
    test_bits: float
    uniform_bits: float


def fit_entropy_model(
    model: EntropyModel,
    codes: Integer[Tensor, "images codes"],
    test_codes: Integer[Tensor, "test_images codes"],
    *,
    steps: int | None = None,
    minutes: float | None = 5.0,
    batch_size: int = 128,
    learning_rate: float = 2e-3,
    evaluate_every: int = 500,
    seed: int = 0,
    progress: bool = True,
    checkpoint: FitCheckpoints | None = None,
) -> FittedCodes:
    """Fit an entropy model, in place, and make it exact; the weights with the fewest bits on held-out codes are kept.

    Args:
        codes: of a training set.
        test_codes: held-out codes.
        steps, minutes, batch_size, learning_rate, evaluate_every, seed, progress, checkpoint: see `prior.fit`.

    Raises:
        InvalidInput: an argument has the wrong type or is out of range, or codes are not those of this model.
        FitInterrupted: SIGTERM or Ctrl-C came, and there is a `checkpoint`; the model is not made exact.
    """
    budget = Budget(steps, minutes, batch_size, learning_rate, evaluate_every, seed)
    model.check(codes, "codes to fit an entropy model to")
    model.check(test_codes, "held-out codes")
    if any(not parameter.requires_grad for parameter in model.parameters()):
        raise InvalidInput(
            "expected an entropy model with trainable weights, got one that was made exact; make another with "
            "EntropyModel.of"
        )
    budget.batch_size, autocast = min(budget.batch_size, len(codes)), fast_autocast(torch.device("cpu"))

    def batches(start: int) -> Iterator[Tensor]:
        for step in count(start):
            generator = torch.Generator().manual_seed(mix_seed(budget.seed, step, 1))
            yield codes[torch.randint(len(codes), (budget.batch_size,), generator=generator)].long()

    def bits(batch: Tensor) -> Tensor:
        with autocast:
            return model.bits(batch).sum()

    def measure() -> Iterator[tuple[float, int]]:
        for part in test_codes.split(500):
            yield float(model.bits(part.long()).sum()) * len(part), len(part)

    def options() -> dict[str, Any]:
        architecture = {"dim": model.dim, "hidden": model.hidden, "dropout": model.dropout}
        return {"kind": "codes", **architecture, "codes": digest({"fitted": codes, "held out": test_codes})}

    outcome = Fit(model, bits, batches, measure, budget, torch.device("cpu"), checkpoint, options, progress).run()
    model.exact()
    return FittedCodes(outcome.steps, model.cost(test_codes), model.uniform_bits)
