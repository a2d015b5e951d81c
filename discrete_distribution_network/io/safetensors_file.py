"""Files of tensors (safetensors), and modules loaded from them, strictly checked.

A module is first made on the meta device, without memory for its weights, and compared with the header of its file: so
an untrusted description costs no more memory than its file is long.
"""

from __future__ import annotations

import copy
import os
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save, save_file
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from discrete_distribution_network.errors import ModelFileError, one_line
from discrete_distribution_network.io.atomic_file import atomic_file

M = TypeVar("M", bound=nn.Module)

DTYPES = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "I16": torch.int16,
    "I32": torch.int32,
    "I64": torch.int64,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F32": torch.float32,
    "F64": torch.float64,
}
"""Types of tensors by their names in the header."""

FLOATING = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
"""Types of weights."""

Shapes = dict[str, tuple[int, ...]]
"""Shapes of the tensors in a file, by their names."""

Header = dict[str, tuple[torch.dtype | str, tuple[int, ...]]]
"""Type and shape of each tensor, by its name."""

CALLS_PER_TENSOR = 50
"""Calls of torch functions allowed for each tensor of a file while its module is made; a layer needs 7."""

FAULTS_SHOWN = 8
"""Parameters listed in an error."""


def read_tensors(file: Path, device: str = "cpu") -> dict[str, Tensor]:
    """The tensors of a safetensors file.

    Raises:
        ModelFileError: there is no such file, or it is damaged.
    """
    _require_file(file)
    try:
        with _in_utf_8(file) as named:
            return load_file(named, device=device)
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise _unreadable(file, error) from error


def part_of(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names begin with a prefix, without it."""
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def write_tensors(file: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write a safetensors file whole or not at all.

    Raises:
        OutputError: the disk is full or cannot be written.
    """
    with atomic_file(file) as staging:
        save_tensors(staging, tensors)


def safetensors_bytes(tensors: Mapping[str, Tensor]) -> bytes:
    """The content of a safetensors file."""
    return save(_apart(tensors))


def _apart(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors, contiguous and no two of them in the same memory, as the format wants them."""
    apart, storages = {}, set()
    for name, tensor in tensors.items():
        own, storage = tensor.detach(), tensor.untyped_storage().data_ptr()
        shared = storage in storages
        apart[name] = own.clone(memory_format=torch.contiguous_format) if shared else own.contiguous()
        storages.add(storage)
    return apart


def save_tensors(file: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write a safetensors file in place; see `write_tensors`.

    Raises:
        OSError: the disk is full or cannot be written.
    """
    file.touch()
    permissions = file.stat().st_mode & 0o7777
    try:
        save_file(_apart(tensors), file, metadata={"format": "pt"})
    except SafetensorError as error:
        number = re.search(r"\(os error (\d+)\)", str(error))
        raise OSError(*((int(number[1]), os.strerror(int(number[1]))) if number else (str(error),))) from error
    file.chmod(permissions)  # safetensors makes it readable to its owner only


def load_checked(
    make: Callable[[Shapes, Any], M],
    arguments: Any,
    file: Path,
    expected: str,
    device: torch.device | str = "cpu",
) -> M:
    """A module with the weights of a safetensors file, made only once the file is known to fit.

    Args:
        make: makes it from the shapes of the file's tensors and `arguments`; called twice, at first on the meta device,
            with copies of the modules in `arguments` there.
        expected: what `make` needs, for errors, such as "prior.json to describe a prior".

    Raises:
        ModelFileError: it cannot be made, or does not have the file's tensors.
    """
    module = make(compare_with_header(make, arguments, file, expected), arguments)
    load_strictly(module, read_tensors(file), file)
    return module.to(device)


def compare_with_header(
    make: Callable[[Shapes, Any], nn.Module],
    arguments: Any,
    file: Path,
    expected: str,
    stored: torch.dtype | None = None,
) -> Shapes:
    """Make a module on the meta device and compare it with a file's header; returns the shapes in the file.

    Args:
        make, arguments, expected: see `load_checked`.
        stored: the type of the file's tensors, if it is not the module's.

    Raises:
        ModelFileError: the module cannot be made, or does not have the file's tensors.
    """
    header = read_header(file)
    shapes = {name: shape for name, (_, shape) in header.items()}
    arguments = _on_meta(arguments)
    try:
        with _CallLimit(CALLS_PER_TENSOR * (len(header) + 20)), torch.device("meta"):
            state = make(shapes, arguments).state_dict()
    except _TooManyCallsError as error:
        raise ModelFileError(
            f"expected {expected}, but that has many more parameters than the {len(header)} in {file}; use files that "
            "were saved together"
        ) from error
    except Exception as error:  # a constructor may raise anything for arguments that no one checked
        raise ModelFileError(f"expected {expected}, but {one_line(error)}; use the version that wrote it") from error
    target = {name: (value.dtype if stored is None else stored, tuple(value.shape)) for name, value in state.items()}
    _require_equal(header, target, file)
    return shapes


def load_strictly(module: nn.Module, state: dict[str, Tensor], file: str | Path) -> None:
    """Load a state whose tensors must match the module's parameters and buffers by name, shape and kind of number.

    Raises:
        ModelFileError: they do not, or weights are infinite or NaN, or counts negative; it lists which and names the
            file.
    """
    own = module.state_dict()
    header, target = (
        {name: (one.dtype, tuple(one.shape)) for name, one in tensors.items()} for tensors in (state, own)
    )
    _require_equal(header, target, file)
    if fault := find_fault({name: value.to(own[name].dtype) for name, value in state.items()}):
        raise ModelFileError(f"expected finite weights in {file}, got {fault}; copy it again or train anew")
    module.load_state_dict(state)


def find_fault(tensors: Mapping[str, Tensor]) -> str | None:
    """The first tensor with infinity or NaN, or with negative counts; None if there is none."""
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            return f"infinity or NaN in {name}"
        if name.rpartition(".")[2] == "counts" and tensor.numel() and bool((tensor < 0).any()):
            return f"negative counts in {name}"
    return None


def read_header(file: Path) -> Header:
    """The types and shapes of the tensors in a safetensors file.

    Raises:
        ModelFileError: there is no such file, or it is damaged.
    """
    _require_file(file)
    try:
        with _in_utf_8(file) as named, safe_open(named, framework="pt") as opened:
            slices = {name: opened.get_slice(name) for name in opened.keys()}  # noqa: SIM118
            return {
                name: (DTYPES.get(one.get_dtype(), one.get_dtype()), tuple(one.get_shape()))
                for name, one in slices.items()
            }
    except (SafetensorError, OSError, ValueError) as error:
        raise _unreadable(file, error) from error


def _require_equal(
    header: Mapping[str, tuple[torch.dtype | str, tuple[int, ...]]],
    target: Mapping[str, tuple[torch.dtype | str, tuple[int, ...]]],
    file: str | Path,
) -> None:
    """Raise `ModelFileError` unless both have the same names, shapes and kinds of numbers."""
    faults = [f"{name} is missing" for name in sorted(target.keys() - header.keys())]
    faults += [f"{name} is extra" for name in sorted(header.keys() - target.keys())]
    for name in sorted(target.keys() & header.keys()):
        (dtype, shape), (target_dtype, target_shape) = header[name], target[name]
        if shape != target_shape:
            faults.append(f"{name} has shape {shape}, not {target_shape}")
        elif dtype != target_dtype and not (dtype in FLOATING and target_dtype in FLOATING):
            faults.append(f"{name} holds numbers of type {dtype}, not {target_dtype}")
    if faults:
        listed = "; ".join(f"{fault:.200}" for fault in faults[:FAULTS_SHOWN])
        listed += f"; and {len(faults) - FAULTS_SHOWN} more" if len(faults) > FAULTS_SHOWN else ""
        raise ModelFileError(f"expected the parameters of this model in {file}, but {listed}")


def _on_meta(value: Any) -> Any:
    """The same with copies of its modules, whose weights have shapes and types but no memory."""
    if isinstance(value, dict):
        return {name: _on_meta(one) for name, one in value.items()}
    if not isinstance(value, nn.Module):
        return value
    memo: dict[int, Any] = {}
    for tensor in value.state_dict(keep_vars=True).values():
        empty = tensor.detach().to("meta")
        memo[id(tensor)] = nn.Parameter(empty, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else empty
    return copy.deepcopy(value, memo)


def _require_file(file: Path) -> None:
    if not os.path.isfile(file):
        raise ModelFileError(f"expected a safetensors file at {file}, found none; check the path or train anew")


@contextmanager
def _in_utf_8(file: Path) -> Iterator[Path]:
    """The file by a name that safetensors can open: that of a link, where its own is no UTF-8."""
    if str(file).isprintable():  # a name that is no UTF-8 is not
        yield file
        return
    with tempfile.TemporaryDirectory() as folder:
        link = Path(folder, "link")
        link.symlink_to(file.absolute())
        yield link


def _unreadable(file: Path, error: Exception) -> ModelFileError:
    return ModelFileError(
        f"expected a whole safetensors file, got {file}, which cannot be read ({error}); copy it again or train anew"
    )


class _TooManyCallsError(Exception):
    pass


class _CallLimit(TorchFunctionMode):
    """Raises `_TooManyCallsError` after this many calls of torch functions."""

    def __init__(self, calls: int):
        super().__init__()
        self.left = calls

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.left -= 1
        if self.left < 0:
            raise _TooManyCallsError
        return func(*args, **(kwargs or {}))
