"""What the processes of a training tell each other. With one process, nothing is sent."""

from __future__ import annotations

import atexit
import gc
import os
import weakref
from collections.abc import Callable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedDataParallelKwargs, InitProcessGroupKwargs, parse_flag_from_env
from torch import Tensor, nn

from discrete_distribution_network.errors import DDNError, InvalidInput, require

Precision = Literal["auto", "no", "bf16", "fp16"]

LAUNCHED_PRECISION = "ACCELERATE_MIXED_PRECISION"
"""The variable by which `accelerate launch` passes its `--mixed_precision` on: "no" if none was asked for."""


def accelerator_for(
    precision: Precision | None, timeout: float, trackers: list[Any], folder: Path, kwargs: Mapping[str, Any]
) -> Accelerator:
    """An `Accelerator` with these settings, over which `kwargs` go.

    Args:
        precision: see `chosen_precision`.
        timeout: seconds after which a process gives up waiting for the others.
    """
    given = kwargs.get("kwargs_handlers", [])
    handlers = [
        # counts are no weights: each process keeps its own until they are summed
        DistributedDataParallelKwargs(broadcast_buffers=False),
        InitProcessGroupKwargs(timeout=timedelta(seconds=timeout)),
    ]
    handlers = [one for one in handlers if type(one) not in {type(other) for other in given}]
    # without `cpu`, accelerate takes processes that torchrun starts on a machine without a GPU for separate trainings
    cpu = kwargs.get("cpu", not torch.accelerator.is_available()) or parse_flag_from_env("ACCELERATE_USE_CPU")
    chosen = kwargs.get("mixed_precision") or chosen_precision(precision, cpu)
    settings = {"log_with": trackers or None, "project_dir": folder, **kwargs, "cpu": cpu, "mixed_precision": chosen}
    # accelerate's process-wide state remembers the first precision, and would refuse another
    if AcceleratorState._shared_state and AcceleratorState().mixed_precision != settings["mixed_precision"]:
        AcceleratorState._reset_state()
    grouped = torch.distributed.is_initialized()
    try:
        accelerator = Accelerator(**{**settings, "kwargs_handlers": [*handlers, *given]})
    except (ImportError, TypeError, ValueError) as error:
        said = str(error).strip().split("\n")[0]
        raise InvalidInput(f"expected settings that accelerate takes, but it says: {said}") from error
    if torch.distributed.is_initialized() and not grouped:
        atexit.register(_end_group)
    kind = accelerator.distributed_type.value
    if kind != "NO" and not kind.startswith("MULTI_"):
        raise InvalidInput(
            f"expected processes that each hold the whole network, got accelerate's {kind}; launch without it"
        )
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


def chosen_precision(precision: Precision | None, cpu: bool = False) -> Precision:
    """The precision to train in: what is given, else what `accelerate launch` asks for, else float32.

    Args:
        precision: "no", "bf16" or "fp16" is taken as it is. None is what the launcher says, else "no". "auto" is what
            the launcher says if that is bf16 or fp16, else the fast one: a launcher says "no" also where nobody asked.
    """
    launched = os.environ.get(LAUNCHED_PRECISION, "").lower() or "no"
    if precision not in (None, "auto"):
        return precision
    for known in get_args(Precision)[1:]:
        if launched == known:
            return fast_precision(cpu) if precision == "auto" and known == "no" else known
    raise InvalidInput(
        f"expected no, bf16 or fp16 in {LAUNCHED_PRECISION}, which accelerate launch --mixed_precision sets, got "
        f"{launched!r}; launch with one of them"
    )


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

    A network that is wrapped for several processes holds their group, and an interpreter that ends with both still
    there crashes now and then. So when it ends, wrappers are dropped, then the group is ended; until then both serve.

    Attributes:
        rank, number: of this process, and how many there are.
        accelerator: of accelerate.
        device: where this one computes.
        model: what `prepare` was given, wrapped.
    """

    def __init__(self, accelerator: Accelerator):
        self.accelerator = accelerator
        self.rank, self.number = accelerator.process_index, accelerator.num_processes
        self.device = accelerator.device
        self.is_main = accelerator.is_main_process
        self.model: nn.Module | None = None

    def prepare(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> Any:
        """Wrap a network, as `model` from now on, and its optimiser, which is given back."""
        self.model, prepared = self.accelerator.prepare(model, optimizer)
        if self.number > 1:
            atexit.register(_drop_wrapper, weakref.ref(self))  # the last registered is called first
        return prepared

    def gather(self, *values: float) -> list[list[float]]:
        """The values of each process."""
        return self.gather_tensor(torch.tensor(values, dtype=torch.float32, device=self.device))

    def gather_tensor(self, values: Tensor) -> list[list[float]]:
        return [values.tolist()] if self.number == 1 else self.accelerator.gather(values[None]).tolist()

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
        self.accelerator.wait_for_everyone()

    def require_equal(self, name: str, value: float, advice: str) -> None:
        """Raise unless all processes have the same value."""
        values = sorted({one[0] for one in self.gather(value)})
        require(len(values) == 1, f"the same {name} in every process", values, advice)


def _drop_wrapper(of: weakref.ref[Processes]) -> None:
    if (processes := of()) is not None:
        processes.model = None
        processes.accelerator.free_memory()


def _end_group() -> None:
    """End the group of processes that an accelerator has begun, unless it is ended."""
    gc.collect()  # wrappers of trainings that are no more
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
