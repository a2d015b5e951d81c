"""`Fit`: the optimisation loop of every prior and of the entropy model, with early stopping and checkpoints.

Random numbers of a step are seeded by (seed, step), so a resumed fit draws the same ones. The weights with the lowest
loss on held-out images are kept.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from discrete_distribution_network.errors import (
    DataError,
    InvalidInput,
    ModelFileError,
    require_integer,
    require_positive,
    require_seed,
)
from discrete_distribution_network.io.safetensors_file import read_tensors
from discrete_distribution_network.random_state import mix_seed, own_random_state
from discrete_distribution_network.signals import Interrupted, Signals
from discrete_distribution_network.training.checkpoints import STATE, read_state
from discrete_distribution_network.training.fit_checkpoints import TENSORS, FitCheckpoints, FitInterrupted
from discrete_distribution_network.training.module_optimisation import PriorOptimisation
from discrete_distribution_network.training.report import Bar

Batch = TypeVar("Batch")


@dataclass
class Budget:
    """Length and step size of a fit.

    Args:
        steps, minutes: limits, whichever is reached first; None for no such limit.
        batch_size: images a step.
        learning_rate: peak learning rate.
        evaluate_every: steps between two evaluations on held-out images.
        seed: of all random numbers.

    Raises:
        InvalidInput: an argument has the wrong type or is out of range.
    """

    steps: int | None
    minutes: float | None
    batch_size: int
    learning_rate: float
    evaluate_every: int
    seed: int

    def __post_init__(self) -> None:
        if self.steps is None and self.minutes is None:
            raise InvalidInput("expected steps or minutes, got None for both; say how long to fit")
        if self.steps is not None:
            require_integer(self.steps, "steps")
            self.steps = int(self.steps)  # JSON takes no NumPy integers
        if self.minutes is not None:
            require_positive(self.minutes, "minutes")
        require_integer(self.batch_size, "batch_size")
        require_positive(self.learning_rate, "learning_rate")
        require_integer(self.evaluate_every, "evaluate_every")
        require_seed(self.seed)
        self.batch_size, self.evaluate_every, self.seed = int(self.batch_size), int(self.evaluate_every), int(self.seed)

    @property
    def options(self) -> dict[str, Any]:
        """What a resumed fit must have in common with the interrupted one, JSON serialisable."""
        return {
            "batch_size": self.batch_size,
            "learning_rate": self.learning_rate,
            "evaluate_every": self.evaluate_every,
            "seed": self.seed,
        }

    def fraction_done(self, step: int, seconds: float) -> float:
        """The used part of the budget, in [0, 1]; 0 before the first step."""
        by_steps = 0.0 if self.steps is None else step / self.steps
        by_clock = 0.0 if self.minutes is None else seconds / (60 * self.minutes)
        return min(1.0, max(by_steps, by_clock)) if step else 0.0


class Outcome(NamedTuple):
    """Steps of the optimiser, mean bits of the last training batches, lowest bits of held-out images."""

    steps: int
    train_bits: float
    best: float


@dataclass
class Fit(Generic[Batch]):
    """A fit of `prior`, in place, by AdamW.

    Args:
        prior: on `device`.
        bits: the loss of a batch, in bits an image, differentiable.
        batches: an endless iterator over batches, from a step on.
        measure: for each batch of held-out images, the sum of their bits and their number.
        budget: length and step size.
        device: whose random numbers are seeded, beside the CPU's.
        checkpoint: where to save the state; None for no checkpoints, and then signals act as usual.
        options: returns what a resumed fit must have in common with this one, beside the budget, JSON serialisable.
        progress: show a progress bar.
        begin: called with the first batch before the first step.
        matrices: see `PriorOptimisation`.
    """

    prior: nn.Module
    bits: Callable[[Batch], Tensor]
    batches: Callable[[int], Iterator[Batch]]
    measure: Callable[[], Iterator[tuple[float, int]]]
    budget: Budget
    device: torch.device
    checkpoint: FitCheckpoints | None = None
    options: Callable[[], dict[str, Any]] = dict
    progress: bool = True
    begin: Callable[[Batch], None] | None = None
    matrices: Collection[str] = ()

    measured: int = 0  # the step of the last evaluation
    seconds: float = 0.0

    def __post_init__(self) -> None:
        self.optimisation = PriorOptimisation(self.prior, self.budget.learning_rate, self.matrices)

    @property
    def step(self) -> int:
        return self.optimisation.step

    def run(self) -> Outcome:
        """Fit until the budget is used; the prior then has the best weights and is in evaluation mode.

        Raises:
            FitInterrupted: a signal came; the state is in the checkpoint.
            DDNError: bits or gradients are not finite.
        """
        optimisation = self.optimisation
        try:
            with (
                nullcontext(Signals()) if self.checkpoint is None else self.checkpoint.noting() as signals,
                Bar(100.0, self.progress) as bar,
                own_random_state(self.device) as seed,
            ):
                self._begin()
                self._run(signals, bar, seed)
        except Interrupted as stop:
            raise FitInterrupted(stop.signum, self.step, optimisation.best) from None
        finally:
            optimisation.finish()
        return Outcome(self.step, optimisation.train_bits, optimisation.best)

    def _begin(self) -> None:
        if self.checkpoint is not None:
            self._options = {**self.budget.options, **self.options()}
            if self.checkpoint.found is not None:
                self._load(self.checkpoint.found)
            elif self.checkpoint.overwrite:
                self.checkpoint.clear()
        self.prior.train()

    def _run(self, signals: Signals, bar: Bar, seed: Callable[[int], None]) -> None:
        began, saved = time.monotonic() - self.seconds, time.monotonic()
        batches = self.batches(self.step)
        while True:
            self.seconds = time.monotonic() - began
            done = self.budget.fraction_done(self.step, self.seconds)
            if self.step and self.step != self.measured and (self.step % self.budget.evaluate_every == 0 or done == 1):
                self._measure(signals)
            if self.checkpoint is not None:
                if signals.received or done == 1 or time.monotonic() - saved >= self.checkpoint.every:
                    self._save(self.checkpoint)
                    saved = time.monotonic()
                if signals.received:
                    raise Interrupted(signals.received)
            bar.advance(100 * done, self._progress_text())
            if done == 1:
                return
            self._step(next(batches), done, seed)

    def _step(self, batch: Batch, done: float, seed: Callable[[int], None]) -> None:
        if self.step == 0 and self.begin is not None:
            self.begin(batch)
        seed(mix_seed(self.budget.seed, self.step))
        self.optimisation.update(self.bits(batch), done)

    @torch.no_grad()
    def _measure(self, signals: Signals) -> None:
        """Evaluate on held-out images; a signal that comes meanwhile ends it without a result."""
        bits, count = 0.0, 0
        self.prior.eval()
        for batch_bits, images in self.measure():
            bits, count = bits + batch_bits, count + images
            if signals.received:
                break
        self.prior.train()
        if signals.received:
            return
        if count == 0:
            raise DataError(f"expected at least 1 held-out image to fit a prior with, got {count}; give some")
        self.measured = self.step
        self.optimisation.measured(bits / count)

    def _progress_text(self) -> str | None:
        """The figures of an evaluation at this step; None if there was none."""
        if self.measured != self.step or not self.step:
            return None
        return f" {self.optimisation.train_bits:.1f} bits an image, held out {self.optimisation.best:.1f}"

    # checkpoints

    def _save(self, checkpoint: FitCheckpoints) -> None:
        state = {
            **self.optimisation.state(),
            "measured": self.measured,
            "seconds": self.seconds,
            "options": self._options,
        }
        checkpoint.save(self.step, state, self.optimisation.tensors())

    def _load(self, folder: Path) -> None:
        state, tensors = read_state(folder), read_tensors(folder / TENSORS)
        stored = state.get("options")
        stored = stored if isinstance(stored, dict) else {}
        if differing := [
            f"{name} {stored.get(name)} and not {value}"
            for name, value in self._options.items()
            if stored.get(name) != value
        ]:
            raise InvalidInput(
                f"expected the fit in {folder.parent} to go on as it began, but it began with {', '.join(differing)}; "
                "give the same, or begin anew (--overwrite)"
            )
        try:
            self.measured, self.seconds = int(state["measured"]), float(state["seconds"])
            self.optimisation.load(state, tensors, folder / TENSORS)
        except (KeyError, TypeError, ValueError) as error:
            raise ModelFileError(
                f"expected the state of a fit in {folder / STATE}, got {error!r}; begin anew (--overwrite)"
            ) from error


def digest(tensors: dict[str, Tensor]) -> str:
    """SHA-256 of tensors: their names, types, shapes and values."""
    checksum = hashlib.sha256()
    for name, value in sorted(tensors.items()):
        checksum.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        checksum.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return checksum.hexdigest()
