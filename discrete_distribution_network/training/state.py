"""`TrainingState`: what a checkpoint holds, and whether a resumed training repeats the uninterrupted one exactly."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

from discrete_distribution_network.data.fingerprint import fingerprint
from discrete_distribution_network.data.loader import Loader
from discrete_distribution_network.errors import ModelFileError
from discrete_distribution_network.io import atomic_folder
from discrete_distribution_network.io.atomic_file import output_errors
from discrete_distribution_network.io.safetensors_file import write_tensors
from discrete_distribution_network.training.checkpoints import STATE, TRAINING, Checkpoints, read_state
from discrete_distribution_network.training.optimisation import Optimisation
from discrete_distribution_network.training.progress import Progress
from discrete_distribution_network.training.second_stage import SecondStage


class TrainingState:
    """The progress, the weights and the optimiser's state of a training, in memory and in checkpoints.

    Args:
        optimisation: of the network.
        loader: whose undecodable images a checkpoint lists.
        checkpoints: the folders that are written and read.
        second: the stage after that of the network, if any.

    Attributes:
        progress: how far the training is.
    """

    def __init__(
        self, optimisation: Optimisation, loader: Loader, checkpoints: Checkpoints, second: SecondStage | None = None
    ):
        self.optimisation, self.loader, self.checkpoints, self.second = optimisation, loader, checkpoints, second
        self.progress = Progress()
        self._saved: tuple[int, Path] | None = None

    def save(self, name: str | Path | None = None) -> Path:
        """Write a checkpoint of this step, unless there is one; see `Trainer.save`."""
        step, checkpoints = self.progress.step, self.checkpoints
        if name is None and self._saved is not None and self._saved[0] == step:
            return self._saved[1]
        scaler = self.optimisation.accelerator.scaler
        progress = asdict(self.progress)
        if self.second is None:
            del progress["discarded_steps"], progress["discarded_seconds"]
        state = {
            **progress,
            "faults": list(self.loader.faults),
            "scaler": None if scaler is None else scaler.state_dict(),
            "exact": self.exact_settings(),
            **({} if self.second is None else {"second_stage": self.second.state()}),
        }

        def fill(folder: Path) -> None:
            self.save_model(folder)
            tensors = self.optimisation.tensors() | ({} if self.second is None else self.second.tensors())
            write_tensors(folder / TRAINING, tensors)

        path = self.optimisation.processes.on_main(lambda: checkpoints.save(step, state, fill, name))
        if path is None:
            path = checkpoints.folder / (f"step-{step:08d}" if name is None else name)
        if name is None:
            self._saved = (step, path)
        return path

    def save_model(self, folder: Path) -> None:
        """Write the model to use: the moving average, or the network."""
        with output_errors(folder), warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".* cannot hold ")  # the training warned of it when it began
            self.optimisation.result.save_pretrained(folder)

    def load(self, checkpoint: str | Path | None = None) -> list[str]:
        """Continue from a checkpoint; see `Trainer.load`. Returns the settings that make the resume inexact."""
        folder = self.checkpoints.folder
        found = self.checkpoints.newest_whole() if checkpoint is None else Path(checkpoint)
        if found is None:
            raise ModelFileError(f"expected a whole checkpoint, but there is none in {folder}; train without resume")
        if not found.exists() and (folder / found).exists():
            found = folder / found
        atomic_folder.verify(found)
        state = read_state(found)
        self.optimisation.load(found)
        try:
            self.progress = Progress(
                int(state["step"]),
                int(state["images"]),
                float(state["seconds"]),
                int(state["splits"]),
                int(state.get("discarded_steps", 0)),
                float(state.get("discarded_seconds", 0.0)),
            )
            self.loader.faults = dict.fromkeys(state["faults"])
            scaler = self.optimisation.accelerator.scaler
            if scaler is not None and state["scaler"] is not None:
                scaler.load_state_dict(state["scaler"])
            if self.second is not None:
                self.second.load(state.get("second_stage"), found)
            before = dict(state["exact"])
        except (KeyError, TypeError, ValueError) as error:
            raise ModelFileError(f"expected the state of a training in {found / STATE}, but {error!r}") from error
        self._saved = (self.progress.step, found) if found.parent.resolve() == folder.resolve() else None
        return _differences(before, self.exact_settings())

    @cached_property
    def _fingerprint(self) -> str | None:
        return fingerprint(self.loader.dataset)

    def exact_settings(self) -> dict[str, Any]:
        """The settings that two trainings must share for one to continue the other bit for bit, by their names."""
        config, ema, dataset = self.optimisation.config, self.optimisation.ema, self.loader.dataset
        follows_share = config.decay != "none" or self.second is not None
        return {
            "seed": config.seed,
            "batch_size": self.loader.batch_size,
            "grad_accum_every": config.grad_accum_every,
            "processes": self.optimisation.processes.number,
            "images": None if self.loader.streamed else len(dataset),
            "learning_rate": config.learning_rate,
            "muon_learning_rate": config.muon_learning_rate,
            "warmup_steps": config.warmup_steps,
            "decay": config.decay,
            "split_every": config.split_every,
            "max_grad_norm": config.max_grad_norm,
            "adam": {name: str(value) for name, value in self.optimisation.optimizer.defaults.items() if name != "lr"},
            **({} if ema is None else {"beta": ema.beta, "update_every": ema.update_every}),
            # only schedules that follow the share done depend on the length of the training
            **({"num_train_steps": config.num_train_steps, "hold": config.hold} if follows_share else {}),
            **({"split_until": config.split_until} if 0 < config.split_until < 1 else {}),
            **({} if self.second is None else self.second.exact_settings()),
            "precision": self.optimisation.accelerator.mixed_precision,
            "moving average": ema is not None,
            **({} if self._fingerprint is None else {"images' fingerprint": self._fingerprint}),
        }


def _differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """The settings that changed, `name before -> now`; one that an older checkpoint lacks counts as unchanged."""
    return [f"{name} {before[name]} -> {now[name]}" for name in now if before.get(name, now[name]) != now[name]]
