"""Floating-point precision: where sums need float32 whatever autocast says, and where autocast is followed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor


def at_least_float32(tensor: Tensor) -> Tensor:
    """The tensor in float32 if it is in float16 or bfloat16."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


@contextmanager
def exact_float32(device: torch.device) -> Iterator[None]:
    """Matrix products in full float32: no autocast, no TF32, no bfloat16 passes.

    Inside `torch.compile` the process-wide precision cannot be switched; there only autocast is turned off.
    """
    with torch.autocast(device.type, enabled=False):
        if torch.compiler.is_compiling():
            yield
            return
        try:
            before = torch.get_float32_matmul_precision()
        except RuntimeError:  # the caller used the settings by backend, which PyTorch does not let one mix with this
            backend: Any = torch.backends.mkldnn if device.type == "cpu" else torch.backends.cuda
            backend = backend.matmul
            before, backend.fp32_precision = backend.fp32_precision, "ieee"
            try:
                yield
            finally:
                backend.fp32_precision = before
            return
        if before == "highest":
            yield
            return
        torch.set_float32_matmul_precision("highest")
        try:
            yield
        finally:
            torch.set_float32_matmul_precision(before)


def to_autocast_dtype(tensor: Tensor) -> Tensor:
    """The tensor in autocast's type where autocast is on, so that sums and norms of features are in it too."""
    device = tensor.device.type
    return tensor.to(torch.get_autocast_dtype(device)) if torch.is_autocast_enabled(device) else tensor


@contextmanager
def disable_fp16_autocast(device: str) -> Iterator[None]:
    """No float16 autocast inside the context: gradients that no scaler has scaled underflow in float16."""
    half = torch.is_autocast_enabled(device) and torch.get_autocast_dtype(device) == torch.float16
    with torch.autocast(device, enabled=False) if half else nullcontext():
        yield
