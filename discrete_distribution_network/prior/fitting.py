"""Fitting a prior by gradient: one loop for every kind. A signal ends it with all that it needs to go on exactly.

Random numbers of a step come from (seed, step), so a fit that goes on draws those that it would have drawn. The weights
that cost held-out images least are kept.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

import torch
from safetensors.torch import save
from torch import Tensor, nn

from discrete_distribution_network.errors import (
    DataError,
    DDNError,
    InvalidInput,
    ModelFileError,
    require_integer,
    require_positive,
    require_seed,
)
from discrete_distribution_network.io.safetensors_file import load_strictly, read_tensors
from discrete_distribution_network.random_state import mix_seed, own_random_state
from discrete_distribution_network.signals import Interrupted, Signals
from discrete_distribution_network.training.checkpoints import STATE, Checkpoints, load_moments, moments_of, read_state
from discrete_distribution_network.training.report import Bar
from discrete_distribution_network.training.schedule import learning_rate as rate_at

Batch = TypeVar("Batch")

TENSORS = "fitting.safetensors"
"""The file of a checkpoint with weights, best weights and moments."""

WARMUP_STEPS = 49
"""Steps over which the learning rate rises."""

MAX_GRAD_NORM = 10.0
"""Gradients are clipped to this norm."""

AVERAGED = 100
"""Steps whose bits are averaged for the figures of training."""


class FitInterrupted(Interrupted):
    """A fit was asked to end by a signal, and is kept in its checkpoint. The prior has the best weights so far.

    Attributes:
        steps: of the optimiser so far.
        best: bits of held-out images by the best weights; infinity if they were not measured yet.
    """

    def __init__(self, signum: int, steps: int, best: float):
        super().__init__(signum)
        self.steps, self.best = steps, best


@dataclass
class Budget:
    """How long a prior is fitted, and in which steps.

    Args:
        steps, minutes: the end, whichever comes first; None for no such end.
        batch_size: images a step.
        learning_rate: the highest.
        evaluate_every: steps between two looks at held-out images.
        seed: of all that is random.

    Raises:
        InvalidInput: one of them is of another kind or out of its range.
    """

    steps: int | None
    minutes: float | None
    batch_size: int
    learning_rate: float
    evaluate_every: int
    seed: int

    def __post_init__(self) -> None:
        if self.steps is None and self.minutes is None:
            raise InvalidInput("expected steps or minutes, got neither; say how long to fit")
        if self.steps is not None:
            require_integer(self.steps, "steps")
            self.steps = int(self.steps)  # NumPy's numbers are numbers too
        if self.minutes is not None:
            require_positive(self.minutes, "minutes")
        require_integer(self.batch_size, "batch_size")
        require_positive(self.learning_rate, "learning_rate")
        require_integer(self.evaluate_every, "evaluate_every")
        require_seed(self.seed)
        self.batch_size, self.evaluate_every, self.seed = int(self.batch_size), int(self.evaluate_every), int(self.seed)

    @property
    def options(self) -> dict[str, Any]:
        """What must be the same for a fit to go on exactly, as JSON has it."""
        return {
            "batch_size": self.batch_size,
            "learning_rate": self.learning_rate,
            "evaluate_every": self.evaluate_every,
            "seed": self.seed,
        }

    def done(self, step: int, seconds: float) -> float:
        """The share that is done, 1 at the end."""
        by_steps = 0.0 if self.steps is None else step / self.steps
        by_clock = 0.0 if self.minutes is None else seconds / (60 * self.minutes)
        return min(1.0, max(by_steps, by_clock)) if step else 0.0


class FitCheckpoints:
    """Where the state of a fit is kept, so that one that was ended goes on exactly: see `Checkpoints`.

    Args:
        folder: made when the first is saved.
        resume: go on from the newest whole checkpoint there.
        overwrite: begin anew although there are some, which are removed.
        every: seconds between two checkpoints.
        notes: what else to keep, as JSON has it.

    Attributes:
        found: the checkpoint to go on from, if there is one.
        saved: the step of the last one that was written; None before.

    Raises:
        InvalidInput: there are checkpoints, and neither `resume` nor `overwrite` is said.
        ModelFileError: there is none to resume.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        resume: bool = False,
        overwrite: bool = False,
        every: float = 60.0,
        notes: dict[str, Any] | None = None,
    ):
        if resume and overwrite:
            raise InvalidInput("expected resume or overwrite, got both; say one of them")
        self.folder, self.overwrite, self.every, self.notes = Path(folder), overwrite, every, notes or {}
        self.checkpoints = Checkpoints(self.folder, keep=2)
        self.saved: int | None = None
        self._signals: Signals | None = None
        self.found = self.checkpoints.newest_whole() if resume else None
        there = self.checkpoints.any()
        if resume and self.found is None:
            which = "none that is whole; begin anew (--overwrite)" if there else "none; begin one, without --resume"
            raise ModelFileError(f"expected an unfinished fit in {self.folder}, found {which}")
        if there and not (resume or overwrite):
            raise InvalidInput(
                f"expected no unfinished fit in {self.folder}, found one; go on with it (--resume), or begin anew "
                "(--overwrite)"
            )

    def save(self, step: int, state: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        """Write a checkpoint; the two newest are kept.

        Raises:
            OutputError: the disk is full or cannot be written; those that were there still are.
        """

        def fill(folder: Path) -> None:
            (folder / TENSORS).write_bytes(as_bytes(tensors))

        self.checkpoints.save(step, {"notes": self.notes, **state}, fill)
        self.saved = step

    @contextmanager
    def noting(self) -> Iterator[Signals]:
        """While this lasts, also within another of these, a signal is noted, so that the fit can be kept."""
        if self._signals is not None:
            yield self._signals
            return
        self._signals = Signals()
        try:
            with self._signals:
                yield self._signals
        finally:
            self._signals = None

    def clear(self) -> None:
        """Remove the checkpoints, once they are of no use."""
        self.checkpoints.clear()


def read_notes(folder: str | Path) -> dict[str, Any] | None:
    """The `notes` of the newest whole checkpoint of a fit in a folder; None if there is no such checkpoint."""
    found = Checkpoints(folder).newest_whole()
    if found is None:
        return None
    notes = read_state(found).get("notes")
    if not isinstance(notes, dict):
        raise ModelFileError(f"expected the state of a fit in {found / STATE}, got another; begin anew")
    return notes


class Outcome(NamedTuple):
    """What a fit came to: steps of the optimiser, bits of the last training batches, and of held-out images at best."""

    steps: int
    train_bits: float
    best: float


@dataclass
class Fit(Generic[Batch]):
    """A fit of `prior`, in place.

    Args:
        prior: on `device`.
        bits: what the codes of a batch cost, in bits an image, with a gradient.
        batches: the batches from a step on, for ever.
        measure: of every batch of held-out images, the bits of all its images and how many they are.
        budget: how long, and in which steps.
        device: where random numbers are drawn, beside the CPU.
        checkpoint: where to keep the state; None for nowhere: then no signal is noted.
        options: gives what must be the same to go on exactly, beside the budget's, as JSON has it.
        progress: show how far it is.
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

    step: int = 0
    measured: int = 0  # the step at which held-out images were last looked at
    seconds: float = 0.0
    best: float = math.inf
    kept: dict[str, Tensor] = field(default_factory=dict)
    recent: deque[float] = field(default_factory=lambda: deque(maxlen=AVERAGED))

    def run(self) -> Outcome:
        """Fit to the end; the prior then has the best weights and is in evaluation mode.

        Raises:
            FitInterrupted: a signal came; the state is in the checkpoint.
            DDNError: bits or gradients are not finite.
        """
        self.kept = self._weights()
        try:
            with (
                nullcontext(Signals()) if self.checkpoint is None else self.checkpoint.noting() as signals,
                Bar(100.0, self.progress) as bar,
                own_random_state(self.device) as seed,
            ):
                self._begin()
                self._run(signals, bar, seed)
        except Interrupted as stop:
            raise FitInterrupted(stop.signum, self.step, self.best) from None
        finally:
            self.prior.load_state_dict(self.kept)
            self.prior.eval()
        return Outcome(self.step, sum(self.recent) / len(self.recent), self.best)

    def _begin(self) -> None:
        rate = self.budget.learning_rate
        self.optimizer = torch.optim.AdamW(self.prior.parameters(), rate, (0.9, 0.99), weight_decay=0.01, fused=True)
        if self.checkpoint is not None:
            self._same = {**self.budget.options, **self.options()}
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
            done = self.budget.done(self.step, self.seconds)
            if self.step and self.step != self.measured and (self.step % self.budget.evaluate_every == 0 or done == 1):
                self._measure(signals)
            if self.checkpoint is not None:
                if signals.received or done == 1 or time.monotonic() - saved >= self.checkpoint.every:
                    self._save(self.checkpoint)
                    saved = time.monotonic()
                if signals.received:
                    raise Interrupted(signals.received)
            bar.advance(100 * done, self._told())
            if done == 1:
                return
            self._step(next(batches), done, seed)

    def _step(self, batch: Batch, done: float, seed: Callable[[int], None]) -> None:
        seed(mix_seed(self.budget.seed, self.step))
        for group in self.optimizer.param_groups:
            group["lr"] = rate_at(self.budget.learning_rate, self.step, WARMUP_STEPS, done)
        bits = self.bits(batch)
        self.optimizer.zero_grad()
        bits.backward()
        norm = nn.utils.clip_grad_norm_(self.prior.parameters(), MAX_GRAD_NORM)
        value, length = torch.stack((bits.detach().float(), norm.float())).tolist()
        if not math.isfinite(value + length):
            raise DDNError(
                f"expected a finite number of bits and a finite gradient at step {self.step}, got {value:g} bits and "
                f"a norm of {length:g}; lower the learning rate"
            )
        self.optimizer.step()
        self.step += 1
        self.recent.append(value)

    @torch.no_grad()
    def _measure(self, signals: Signals) -> None:
        """Look at held-out images, unless a signal comes meanwhile."""
        bits, count = 0.0, 0
        self.prior.eval()
        for more, images in self.measure():
            bits, count = bits + more, count + images
            if signals.received:
                break
        self.prior.train()
        if signals.received:
            return
        if count == 0:
            raise DataError("expected held-out images to fit a prior with, got none; give some")
        self.measured, found = self.step, bits / count
        if not math.isfinite(found):
            raise DDNError(
                f"expected held-out codes to cost a finite number of bits at step {self.step}, got {found}; lower the "
                "learning rate"
            )
        if found < self.best:
            self.best, self.kept = found, self._weights()

    def _told(self) -> str | None:
        """Of the last look at held-out images, if this step had one."""
        if self.measured != self.step or not self.recent:
            return None
        return f" {sum(self.recent) / len(self.recent):.1f} bits an image, held out {self.best:.1f}"

    def _weights(self) -> dict[str, Tensor]:
        return {name: value.clone() for name, value in self.prior.state_dict().items()}

    # checkpoints

    def _save(self, checkpoint: FitCheckpoints) -> None:
        tensors = {f"weights/{name}": value for name, value in self.prior.state_dict().items()}
        tensors |= {f"best/{name}": value for name, value in self.kept.items()}
        tensors |= moments_of(self.prior, self.optimizer)
        state = {
            "step": self.step,
            "measured": self.measured,
            "seconds": self.seconds,
            "best": None if self.best == math.inf else self.best,
            "recent": list(self.recent),
            "options": self._same,
        }
        checkpoint.save(self.step, state, tensors)

    def _load(self, folder: Path) -> None:
        state, tensors = read_state(folder), read_tensors(folder / TENSORS)
        before = state.get("options")
        before = before if isinstance(before, dict) else {}
        if differing := [
            f"{name} {before.get(name)} and not {value}"
            for name, value in self._same.items()
            if before.get(name) != value
        ]:
            raise InvalidInput(
                f"expected the fit in {folder.parent} to go on as it began, but it began with {', '.join(differing)}; "
                "give the same, or begin anew (--overwrite)"
            )
        try:
            self.step, self.measured, self.seconds = int(state["step"]), int(state["measured"]), float(state["seconds"])
            self.best = math.inf if state["best"] is None else float(state["best"])
            self.recent.extend(map(float, state["recent"]))
        except (KeyError, TypeError, ValueError) as error:
            raise ModelFileError(f"expected the state of a fit in {folder / STATE}, but {error!r}") from error
        path = folder / TENSORS
        parts: dict[str, dict[str, Tensor]] = {"weights": {}, "best": {}}
        for name, value in tensors.items():
            part, _, rest = name.partition("/")
            parts.setdefault(part, {})[rest] = value
        load_strictly(self.prior, parts["best"], path)
        self.kept = self._weights()
        load_strictly(self.prior, parts["weights"], path)
        load_moments(self.prior, self.optimizer, tensors, path)


def digest(tensors: dict[str, Tensor]) -> str:
    """A checksum of tensors by name, shape and value."""
    found = hashlib.sha256()
    for name, value in sorted(tensors.items()):
        found.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        found.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()


def as_bytes(tensors: dict[str, Tensor]) -> bytes:
    """A safetensors file of these tensors."""
    return save({name: value.detach().contiguous() for name, value in tensors.items()})
