"""Checkpoints of a training: written whole or not at all, the newest found, the oldest deleted."""

from __future__ import annotations

import json
import re
import shutil
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from huggingface_hub import constants

from discrete_distribution_network.errors import InvalidInput, ModelFileError, require
from discrete_distribution_network.io import atomic_folder
from discrete_distribution_network.io.atomic_file import is_another_running, output_errors

STATE, TRAINING, WEIGHTS = "training.json", "training.safetensors", constants.SAFETENSORS_SINGLE_FILE
"""Files of a checkpoint: the progress of the training, the optimiser's state with the weights, the model to use."""

_NAME = re.compile(r"step-\d{8,}(\.\d+)?")
_UNFINISHED = re.compile(re.escape(atomic_folder.STAGING) + rf"(deleted-)?{_NAME.pattern}(-(?P<process>\d+))?")


class Checkpoints:
    """Folders `step-00001000` inside `folder`, each written whole (see `atomic_folder.py`).

    Args:
        folder: made with the first checkpoint.
        keep: number of checkpoints kept. Older ones are deleted once a new one is whole, whichever training wrote
            them; None keeps all.
    """

    def __init__(self, folder: str | Path, keep: int | None = 3):
        require(keep is None or keep >= 1, "at least 1 checkpoint to keep, or None for all", keep)
        self.folder, self.keep = Path(folder), keep

    def save(
        self, step: int, state: dict[str, Any], fill: Callable[[Path], None], name: str | Path | None = None
    ) -> Path:
        """Write a checkpoint.

        Args:
            step: of the training; it names the folder.
            state: content of training.json.
            fill: writes the other files into the folder that it is given.
            name: of the folder, in place of the step; a named checkpoint is never found as the newest, nor deleted.

        Returns:
            The folder.

        Raises:
            OutputError: it could not be written; older checkpoints stay.
        """
        older = self._by_age()
        target, again = self.folder / (f"step-{step:08d}" if name is None else name), 2
        if name is not None and target.exists():
            raise InvalidInput(f"expected a new name for a checkpoint, got {target}, which is there; give another name")
        while target.exists():
            target, again = self.folder / f"step-{step:08d}.{again}", again + 1
        # the order of saving, also where the clock was set back
        saved_at = max([time.time_ns(), *(age + 1 for age, _ in older)])

        def fill_all(staging: Path) -> None:
            fill(staging)
            (staging / STATE).write_text(json.dumps({"saved_at": saved_at, **state}, indent=2), encoding="utf-8")

        self.remove_unfinished()
        atomic_folder.write_atomically(target, fill_all)
        if self.keep is not None and name is None:
            for _, old in older[: max(0, len(older) + 1 - self.keep)]:
                # renamed first, so that a kill during the deletion leaves nothing that looks like a checkpoint
                with output_errors(old):
                    doomed = old.rename(self.folder / f"{atomic_folder.STAGING}deleted-{old.name}")
                shutil.rmtree(doomed, ignore_errors=True)
        return target

    def remove_unfinished(self) -> None:
        """Delete what killed saves and deletions have left."""
        for folder in self._unfinished():
            if not _is_being_written(folder):
                shutil.rmtree(folder, ignore_errors=True)

    def clear(self) -> None:
        """Delete all checkpoints, including unfinished ones, and the folder unless it holds other files."""
        for own in (*self.folder.glob("step-*"), *self._unfinished()):
            if _NAME.fullmatch(own.name):
                own = own.rename(self.folder / f"{atomic_folder.STAGING}deleted-{own.name}")
            if _UNFINISHED.fullmatch(own.name):
                shutil.rmtree(own, ignore_errors=True)
        with suppress(OSError):  # it is not there, or holds other files
            self.folder.rmdir()

    def any(self) -> bool:
        """Whether there are checkpoints, whole or not."""
        return any(_NAME.fullmatch(path.name) for path in self.folder.glob("step-*"))

    def newest_whole(self) -> Path | None:
        """The newest checkpoint whose files are as written; damaged ones are skipped with a warning."""
        for folder in self._unfinished():
            warnings.warn(f"{folder} is a checkpoint that was not finished; it is ignored", stacklevel=2)
        folders = [path for path in self.folder.glob("step-*") if _NAME.fullmatch(path.name)]
        ages = {path: age for age, path in self._by_age()}
        for path in sorted(folders, key=lambda path: (ages.get(path, 0), path.name), reverse=True):
            try:
                atomic_folder.verify(path)
            except ModelFileError as error:
                warnings.warn(f"{path} is not whole and is passed over: {error}", stacklevel=2)
                continue
            return path
        return None

    def _unfinished(self) -> list[Path]:
        return sorted(path for path in self.folder.glob(".*") if _UNFINISHED.fullmatch(path.name))

    def _by_age(self) -> list[tuple[int, Path]]:
        """Checkpoints with the time of saving in their training.json, the oldest first."""
        found = []
        for path in self.folder.glob("step-*"):
            try:
                if _NAME.fullmatch(path.name):
                    found.append((int(read_state(path)["saved_at"]), path))
            except (ModelFileError, KeyError, TypeError, ValueError, OverflowError):
                continue
        return sorted(found)


def _is_being_written(unfinished: Path) -> bool:
    """Whether the process that writes this folder still runs on this machine."""
    process = (_UNFINISHED.fullmatch(unfinished.name) or {"process": None})["process"]
    return process is not None and is_another_running(int(process))


def read_state(checkpoint: Path) -> dict[str, Any]:
    """The content of a checkpoint's training.json.

    Raises:
        ModelFileError: the file is missing or damaged.
    """
    try:
        state = json.loads((checkpoint / STATE).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, ValueError) as error:
        raise ModelFileError(
            f"expected a checkpoint in {checkpoint}, but {error}; give one that training wrote"
        ) from error
    if not isinstance(state, dict):
        raise ModelFileError(f"expected an object in {checkpoint / STATE}, got {type(state).__name__}")
    return state
