"""`FitCheckpoints`: the state of a fit in a folder, so that one that a signal ended goes on exactly."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor

from discrete_distribution_network.errors import InvalidInput, ModelFileError
from discrete_distribution_network.io.safetensors_file import safetensors_bytes
from discrete_distribution_network.signals import Interrupted, Signals
from discrete_distribution_network.training.checkpoints import STATE, Checkpoints, read_state

TENSORS = "fitting.safetensors"
"""File of a checkpoint with the weights, the best weights and the optimiser's moments."""


class FitInterrupted(Interrupted):
    """A signal ended a fit, whose state is in its checkpoint. The prior has the best weights so far.

    Attributes:
        steps: of the optimiser so far.
        best: bits of held-out images by the best weights; infinity before the first evaluation.
    """

    def __init__(self, signum: int, steps: int, best: float):
        super().__init__(signum)
        self.steps, self.best = steps, best


class FitCheckpoints:
    """Checkpoints of a fit, in a folder; the two newest are kept (see `Checkpoints`).

    Args:
        folder: created with the first checkpoint.
        resume: continue from the newest valid checkpoint in the folder.
        overwrite: begin anew and remove the checkpoints in the folder.
        every: seconds between two checkpoints.
        notes: further state to store, JSON serialisable.

    Attributes:
        found: the checkpoint to continue from, if any.
        saved: step of the last checkpoint written; None before the first.

    Raises:
        InvalidInput: the folder has checkpoints, and neither `resume` nor `overwrite` is set.
        ModelFileError: there is no checkpoint to resume from.
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
            raise InvalidInput("expected resume or overwrite, got both; give one of them")
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
        """Write a checkpoint.

        Raises:
            OutputError: the disk is full or cannot be written; earlier checkpoints stay.
        """

        def fill(folder: Path) -> None:
            (folder / TENSORS).write_bytes(safetensors_bytes(tensors))

        self.checkpoints.save(step, {"notes": self.notes, **state}, fill)
        self.saved = step

    @contextmanager
    def noting(self) -> Iterator[Signals]:
        """A context in which signals are noted instead of ending the process, so that the fit can be saved first.

        Contexts nest: the inner one gives the signals of the outer one.
        """
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
        """Remove the checkpoints."""
        self.checkpoints.clear()


def read_notes(folder: str | Path) -> dict[str, Any] | None:
    """The `notes` of the newest valid checkpoint of a fit in a folder; None if there is no such checkpoint."""
    found = Checkpoints(folder).newest_whole()
    if found is None:
        return None
    notes = read_state(found).get("notes")
    if not isinstance(notes, dict):
        raise ModelFileError(f"expected notes of a fit in {found / STATE}, got {notes!r:.80}; begin anew (--overwrite)")
    return notes
