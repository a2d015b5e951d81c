"""What the processes of a training tell each other. With one process, nothing is sent."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedDataParallelKwargs, InitProcessGroupKwargs
from torch import Tensor

from discrete_distribution_network.errors import DDNError, InvalidInput, require

Precision = Literal["auto", "no", "bf16", "fp16"]


def accelerator_for(
    precision: Precision, timeout: float, trackers: list[Any], folder: Path, kwargs: dict[str, Any]
) -> Accelerator:
    """An `Accelerator` with these settings, over which `kwargs` go; a process gives up the others after `timeout` s."""
    given = kwargs.get("kwargs_handlers", [])
    handlers = [
        # counts are no weights: each process keeps its own until they are summed
        DistributedDataParallelKwargs(broadcast_buffers=False),
        InitProcessGroupKwargs(timeout=timedelta(seconds=timeout)),
    ]
    handlers = [one for one in handlers if type(one) not in {type(other) for other in given}]
    # without `cpu`, accelerate takes processes that torchrun starts on a machine without a GPU for separate trainings
    cpu = kwargs.get("cpu", not torch.accelerator.is_available())
    if precision == "auto":
        precision = fast_precision(cpu)
    settings = {"mixed_precision": precision, "log_with": trackers or None, "project_dir": folder, "cpu": cpu, **kwargs}
    # accelerate's process-wide state remembers the first precision, and would refuse another
    if AcceleratorState._shared_state and AcceleratorState().mixed_precision != settings["mixed_precision"]:
        AcceleratorState._reset_state()
    try:
        accelerator = Accelerator(**{**settings, "kwargs_handlers": [*handlers, *given]})
    except ValueError as error:
        said = str(error).strip().split("\n")[0]
        raise InvalidInput(f"expected settings that accelerate takes, but it says: {said}") from error
    # the Trainer accumulates by itself; accelerate would divide by its own number once more
    accelerator.gradient_accumulation_steps = 1
    launched = int(os.environ.get("WORLD_SIZE", "1"))
    require(
        accelerator.num_processes == launched,
        f"the {launched} processes that were launched to train together",
        f"{accelerator.num_processes} on {accelerator.device}",
        "train on the CPU or on CUDA devices, or launch one process",
    )
    return accelerator


def fast_precision(cpu: bool = False) -> Precision:
    """bf16 where the processor multiplies it faster than float32 (AVX-512 BF16, AMX; CUDA devices), else "no"."""
    if torch.cuda.is_available() and not cpu:
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "no"
    if torch.backends.mps.is_available() and not cpu:
        return "no"
    return "bf16" if getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)() else "no"


def fast_autocast(device: torch.device) -> torch.autocast:
    """Autocast to bfloat16 where that is fast, else none. Enter it anew at every step: it keeps copies of weights."""
    return torch.autocast(device.type, torch.bfloat16, enabled=fast_precision(device.type == "cpu") == "bf16")


class Processes:
    """This process among all that train together.

    Attributes:
        rank, number: of this process, and how many there are.
        device: where this one computes.
    """

    def __init__(self, accelerator: Accelerator):
        self._accelerator = accelerator
        self.rank, self.number = accelerator.process_index, accelerator.num_processes
        self.device = accelerator.device
        self.is_main = accelerator.is_main_process

    def gather(self, *values: float) -> list[list[float]]:
        """The values of each process."""
        return self.gather_tensor(torch.tensor(values, dtype=torch.float32, device=self.device))

    def gather_tensor(self, values: Tensor) -> list[list[float]]:
        return [values.tolist()] if self.number == 1 else self._accelerator.gather(values[None]).tolist()

    def sum(self, values: Tensor) -> Tensor:
        """Summed over the processes: a new tensor where the old one was."""
        if self.number == 1:
            return values
        total = values.to(self.device, copy=True)
        torch.distributed.all_reduce(total)
        return total.to(values.device)

    def on_main(self, action: Callable[[], Any]) -> Any:
        """Let the first process do this and give what it gives (None in the others); if it fails, all end."""
        error, value = None, None
        if self.is_main:
            try:
                value = action()
            except Exception as raised:
                error = raised
        failed = any(one[0] for one in self.gather(error is not None))
        if error is not None:
            raise error
        if failed:
            raise DDNError("expected the first process to write its files, but it could not; see what it says")
        return value

    def wait(self) -> None:
        self._accelerator.wait_for_everyone()

    def require_equal(self, name: str, value: float, advice: str) -> None:
        """Raise unless all processes have the same value."""
        values = sorted({one[0] for one in self.gather(value)})
        require(len(values) == 1, f"the same {name} in every process", values, advice)
