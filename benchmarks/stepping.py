"""Training steps on random images, for the benchmarks that time or count them: in this process, or in several."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from discrete_distribution_network.ddn import DDN
from discrete_distribution_network.training.presets import recipe
from discrete_distribution_network.training.trainer import Trainer


def training(arguments: dict[str, Any], batch_size: int, folder: Path, batches: int = 4, **settings: Any) -> Trainer:
    """A training by the recipe of `ddn train`, of the network alone; it writes into `folder`.

    Args:
        arguments: of the network; its decoder is left out, since it does not learn in these steps.
        batches: in an epoch.
        settings: further ones of `Trainer`.
    """
    torch.manual_seed(0)
    ddn = DDN(**{name: value for name, value in arguments.items() if name != "decoder_dim"})
    shape = (batches * batch_size, ddn.channels, *ddn.image_size)
    images = torch.randint(0, 256, shape, dtype=torch.uint8)
    return Trainer(
        ddn,
        dataset=images,
        num_train_steps=10**6,
        progress=False,
        overwrite=True,
        checkpoints_folder=folder / "checkpoints",
        results_folder=folder / "results",
        **{**recipe(), "batch_size": batch_size, **settings},
    )


def stepper(trainer: Trainer) -> Callable[[], Any]:
    """A function that makes the next step of a training."""
    batches = trainer.loader.batches()
    return lambda: trainer.loop.step(batches)


def synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def milliseconds(step: Callable[[], Any], seconds: float, least: int = 5) -> float:
    """The median of the times of a step, at least so many and at most 200 of them."""
    for _ in range(3):
        step()
    synchronize()
    times: list[float] = []
    started = time.perf_counter()
    while len(times) < least or (time.perf_counter() - started < seconds and len(times) < 200):
        before = time.perf_counter()
        step()
        synchronize()
        times.append(1000 * (time.perf_counter() - before))
    return statistics.median(times)


def together(
    number: int, script: str, arguments: Sequence[str], seconds: float | None = None, **variables: str
) -> list[dict[str, Any]]:
    """The JSON that each of several processes of a script prints, which torchrun starts on this machine.

    Args:
        seconds: within which they end.
        variables: of their environment.
    """
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(number)]
    command += [script, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | variables, timeout=seconds)
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
