"""The processes that train together: accelerate, precision, collective operations (none with one process)."""

from __future__ import annotations

import atexit
import gc
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedDataParallelKwargs, InitProcessGroupKwargs, parse_flag_from_env
from jaxtyping import Shaped
from torch import Tensor

from discrete_distribution_network.errors import DDNError, InvalidInput, require

Precision = Literal["auto", "no", "bf16", "fp16"]

LAUNCHED_PRECISION = "ACCELERATE_MIXED_PRECISION"
"""Environment variable in which `accelerate launch` passes on its `--mixed_precision`; "no" by default."""


def accelerator_for(
    precision: Precision | None, timeout: float, trackers: list[Any], folder: Path, kwargs: Mapping[str, Any]
) -> Accelerator:
    """An `Accelerator` for trainings of one or several processes.

    Args:
        precision: see `chosen_precision`.
        timeout: seconds after which a process stops waiting for the others.
        trackers: names of accelerate's trackers, or trackers.
        folder: where the trackers write.
        kwargs: further arguments of `Accelerator`, which take precedence.

    Raises:
        InvalidInput: accelerate does not accept the settings, or not all launched processes train together.
    """
    handlers_given = kwargs.get("kwargs_handlers", [])
    handlers = [
        # counts are no weights: each process keeps its own until they are summed
        DistributedDataParallelKwargs(broadcast_buffers=False),
        InitProcessGroupKwargs(timeout=timedelta(seconds=timeout)),
    ]
    handlers = [one for one in handlers if type(one) not in {type(other) for other in handlers_given}]
    # without `cpu`, accelerate takes processes that torchrun starts on a machine without a GPU for separate trainings
    cpu = kwargs.get("cpu", not torch.accelerator.is_available()) or parse_flag_from_env("ACCELERATE_USE_CPU")
    chosen = kwargs.get("mixed_precision") or chosen_precision(precision, cpu)
    settings = {"log_with": trackers or None, "project_dir": folder, **kwargs, "cpu": cpu, "mixed_precision": chosen}
    # accelerate's process-wide state remembers the first precision, and would refuse another
    if AcceleratorState._shared_state and AcceleratorState().mixed_precision != settings["mixed_precision"]:
        AcceleratorState._reset_state()
    grouped = torch.distributed.is_initialized()
    try:
        accelerator = Accelerator(**{**settings, "kwargs_handlers": [*handlers, *handlers_given]})
    except (ImportError, TypeError, ValueError) as error:
        message = str(error).strip().split("\n")[0]
        raise InvalidInput(f"expected settings that accelerate takes, but it says: {message}") from error
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
    """The precision to train in: "no" (float32), "bf16" or "fp16".

    Args:
        precision: "no", "bf16" or "fp16" is returned as it is. None is the launcher's setting, "no" without a launcher.
            "auto" is the launcher's bf16 or fp16, else `fast_precision`: "no" is also a launcher's default.
        cpu: whether the training runs on the CPU.

    Raises:
        InvalidInput: the launcher's setting is another one.
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
    """Autocast to bfloat16 where that is fast. Enter it anew at every step, since it caches copies of weights."""
    return torch.autocast(device.type, torch.bfloat16, enabled=fast_precision(device.type == "cpu") == "bf16")


class Processes:
    """This process among those that train together.

    Args:
        accelerator: see `accelerator_for`.

    Attributes:
        rank, number: of this process; of all processes.
        device: of this process.
        is_main: whether this process writes the files.
    """

    def __init__(self, accelerator: Accelerator):
        self.accelerator = accelerator
        self.rank, self.number = accelerator.process_index, accelerator.num_processes
        self.device = accelerator.device
        self.is_main = accelerator.is_main_process

    @contextmanager
    def answering(self) -> Iterator[None]:
        """Within it, another process that ended or does not answer is a `DDNError`, with gloo.

        With NCCL the watchdog of PyTorch ends this process by itself.
        """
        try:
            yield
        except RuntimeError as error:
            if self.number == 1 or not (isinstance(error, torch.distributed.DistError) or "gloo" in str(error)):
                raise
            raise DDNError(
                f"expected all {self.number} processes to answer, but process {self.rank} lost another one "
                f"({str(error).splitlines()[0]:.200}); see the error of that one, start all of them again, and go on "
                "from the last checkpoint (--resume, or resume=True)"
            ) from error

    def broadcast(self, tensors: Sequence[Tensor]) -> None:
        """Give every process the values of the first one, in place."""
        if self.number > 1:
            for tensor in tensors:
                torch.distributed.broadcast(tensor.detach(), 0)

    def average(self, tensors: Sequence[Tensor]) -> None:
        """Replace tensors by their means over the processes, in place."""
        if self.number > 1:
            for tensor in tensors:
                torch.distributed.all_reduce(tensor)
                tensor /= self.number

    def gather(self, *values: float) -> list[list[float]]:
        """The values of each process."""
        return self.gather_tensor(torch.tensor(values, dtype=torch.float32, device=self.device))

    def gather_tensor(self, values: Shaped[Tensor, " values"]) -> list[list[float]]:
        """The values of each process."""
        return [values.tolist()] if self.number == 1 else self.accelerator.gather(values[None]).tolist()

    def sum(self, values: Tensor) -> Tensor:
        """The sum over the processes, on the device of `values`."""
        if self.number == 1:
            return values
        total = values.to(self.device, copy=True)
        torch.distributed.all_reduce(total)
        return total.to(values.device)

    def on_main(self, action: Callable[[], Any]) -> Any:
        """Run `action` in the main process alone.

        Returns:
            What it returns; None in the other processes.

        Raises:
            DDNError: in the other processes, where it fails; the main process raises its error.
        """
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
            raise DDNError("expected the first process to write its files, but it could not; see its error")
        return value

    def wait(self) -> None:
        """Wait until all processes are here."""
        self.accelerator.wait_for_everyone()

    def require_equal(self, name: str, value: float, advice: str) -> None:
        """Raise `InvalidInput` unless all processes have the same value."""
        values = sorted({one[0] for one in self.gather(value)})
        require(len(values) == 1, f"the same {name} in every process", values, advice)


def _end_group() -> None:
    """Destroy the process group that an accelerator has made."""
    gc.collect()  # wrappers of trainings that no longer exist
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
