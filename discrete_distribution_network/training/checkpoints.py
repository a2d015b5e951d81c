"""The checkpoints of a training: which there are, which is the newest whole one, and how many are kept."""

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

import torch
from huggingface_hub import constants
from torch import Tensor, nn
from torch.optim import Optimizer

from discrete_distribution_network.errors import InvalidInput, ModelFileError, require
from discrete_distribution_network.io import atomic_folder
from discrete_distribution_network.io.atomic_file import is_another_running, naming

STATE, TRAINING, WEIGHTS = "training.json", "training.safetensors", constants.SAFETENSORS_SINGLE_FILE
"""Files of a checkpoint: how far the training was, what else it takes to continue, and the model to use."""

_NAME = re.compile(r"step-\d{8,}(\.\d+)?")
_UNFINISHED = re.compile(re.escape(atomic_folder.STAGING) + rf"(deleted-)?{_NAME.pattern}(-(?P<process>\d+))?")


class Checkpoints:
    """Folders `step-00001000` inside `folder`, each written whole (see `atomic_folder.py`).

    Args:
        folder: made when the first is saved.
        keep: the newest so many are kept, older ones deleted once a new one is whole, whichever training of this
            folder they are of; None keeps all.
    """

    def __init__(self, folder: str | Path, keep: int | None = 3):
        require(keep is None or keep >= 1, "at least 1 checkpoint to keep, or None for all", keep)
        self.folder, self.keep = Path(folder), keep

    def save(
        self, step: int, state: dict[str, Any], fill: Callable[[Path], None], name: str | Path | None = None
    ) -> Path:
        """Write a checkpoint and give its folder: `fill` writes its files, `state` goes into training.json.

        Args:
            name: of the folder, if not by the step; such a one is not found as the newest, and is never deleted.

        Raises:
            OutputError: it could not be written; those that were there still are.
        """
        there = self._by_age()
        target, again = self.folder / (f"step-{step:08d}" if name is None else name), 2
        if name is not None and target.exists():
            raise InvalidInput(f"expected a checkpoint of another name, got {target}, which is there; give a new name")
        while target.exists():
            target, again = self.folder / f"step-{step:08d}.{again}", again + 1
        # the order of saving, also where the clock was set back
        saved_at = max([time.time_ns(), *(age + 1 for age, _ in there)])

        def fill_all(staging: Path) -> None:
            fill(staging)
            (staging / STATE).write_text(json.dumps({"saved_at": saved_at, **state}, indent=2), encoding="utf-8")

        self.remove_unfinished()
        atomic_folder.write_atomically(target, fill_all)
        if self.keep is not None and name is None:
            for _, old in there[: max(0, len(there) + 1 - self.keep)]:
                # renamed first: a kill while it is deleted leaves nothing that looks like a checkpoint
                with naming(old):
                    doomed = old.rename(self.folder / f"{atomic_folder.STAGING}deleted-{old.name}")
                shutil.rmtree(doomed, ignore_errors=True)
        return target

    def remove_unfinished(self) -> None:
        """Delete what saves and deletions that were killed have left."""
        for left in self._unfinished():
            if not _is_being_written(left):
                shutil.rmtree(left, ignore_errors=True)

    def clear(self) -> None:
        """Delete all checkpoints, also unfinished ones, and then the folder unless it holds anything else."""
        for own in (*self.folder.glob("step-*"), *self._unfinished()):
            if _NAME.fullmatch(own.name):
                own = own.rename(self.folder / f"{atomic_folder.STAGING}deleted-{own.name}")
            if _UNFINISHED.fullmatch(own.name):
                shutil.rmtree(own, ignore_errors=True)
        with suppress(OSError):  # it is not there, or holds what others made
            self.folder.rmdir()

    def any(self) -> bool:
        """Whether there are any, whole or not."""
        return any(_NAME.fullmatch(path.name) for path in self.folder.glob("step-*"))

    def newest_whole(self) -> Path | None:
        """The newest checkpoint that is as it was written; what is not is passed over with a warning."""
        for left in self._unfinished():
            warnings.warn(f"{left} is a checkpoint that was not finished; it is ignored", stacklevel=2)
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
        """Checkpoints that say when they were saved, the oldest first."""
        found = []
        for path in self.folder.glob("step-*"):
            try:
                if _NAME.fullmatch(path.name):
                    found.append((int(read_state(path)["saved_at"]), path))
            except (ModelFileError, KeyError, TypeError, ValueError, OverflowError):
                continue
        return sorted(found)


def _is_being_written(unfinished: Path) -> bool:
    """Whether the process that writes this folder still runs, here."""
    process = (_UNFINISHED.fullmatch(unfinished.name) or {"process": None})["process"]
    return process is not None and is_another_running(int(process))


def read_state(checkpoint: Path) -> dict[str, Any]:
    """What training.json of a checkpoint says.

    Raises:
        ModelFileError: it is not there, or not what was written.
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


def moments_of(module: nn.Module, optimizer: Optimizer) -> dict[str, Tensor]:
    """An optimiser's state of a module's parameters, as tensors `optimizer/PARAMETER/FIELD`."""
    return {
        f"optimizer/{name}/{field}": torch.as_tensor(value)
        for name, parameter in module.named_parameters()
        for field, value in optimizer.state[parameter].items()
    }


def load_moments(module: nn.Module, optimizer: Optimizer, tensors: dict[str, Tensor], file: Path) -> None:
    """Give an optimiser the state that `moments_of` gave, among these tensors of a file.

    Raises:
        ModelFileError: it is of parameters of another shape.
    """
    found: dict[str, dict[str, Tensor]] = {}
    for path, value in tensors.items():
        if path.startswith("optimizer/"):
            name, _, field = path.removeprefix("optimizer/").rpartition("/")
            found.setdefault(name, {})[field] = value
    states = {}
    for index, (name, parameter) in enumerate(module.named_parameters()):
        fields = found.get(name, {})
        if any(value.ndim and value.shape != parameter.shape for value in fields.values()):
            raise ModelFileError(f"expected moments of shape {tuple(parameter.shape)} for {name} in {file}")
        # in the parameter's own memory format
        states[index] = {
            field: torch.empty_like(parameter).copy_(value) if value.ndim else value for field, value in fields.items()
        }
    optimizer.load_state_dict({"state": states, "param_groups": optimizer.state_dict()["param_groups"]})
