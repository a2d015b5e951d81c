"""Saving and loading models: a folder with `config.json` and `model.safetensors`, strictly checked.

`Pretrained` is huggingface_hub's mixin (`save_pretrained`, `from_pretrained`, `push_to_hub`), with loading made strict,
pickles refused, and every fault told with the file's name. What a file describes is first made without memory for
weights, and compared with the header of the file that holds them: so it costs no more than that file is long.
"""

from __future__ import annotations

import collections.abc
import copy
import inspect
import os
import re
import tempfile
import types
import typing
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self, TypeVar, cast

import torch
from huggingface_hub import PyTorchModelHubMixin, constants, snapshot_download
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from discrete_distribution_network.errors import InvalidInput, ModelFileError
from discrete_distribution_network.io import atomic_folder
from discrete_distribution_network.io.atomic_file import atomic_file
from discrete_distribution_network.io.json_file import read_object
from discrete_distribution_network.io.plain_values import from_plain, not_saved, to_plain
from discrete_distribution_network.model.guided_sampler import GuidedSampler

M = TypeVar("M", bound=nn.Module)

RELEASED = Path(__file__).parents[1] / "released"
"""Folder of the small models that come with the library, each in one of its name."""

MODEL = "model"
"""Folder, inside that of a training's results, of the model at its end."""

CONFIG, WEIGHTS = constants.CONFIG_NAME, constants.SAFETENSORS_SINGLE_FILE
"""Files of a model's folder."""

SAMPLER = "guided_sampler_kwargs"
"""The constructor argument that is a dictionary of those of `GuidedSampler`."""

DOWNLOAD = ("revision", "cache_dir", "force_download", "local_files_only", "token")
"""Arguments of `from_pretrained` that say how a model is had from the hub."""

ELSEWHERE = {
    "device": "move the loaded model with .to(device)",
    "device_map": "move the loaded model with .to(device)",
    "low_cpu_mem_usage": "leave it out, a model is always checked before memory is taken for it",
    "trust_remote_code": "leave it out, no code is ever loaded with a model",
    "use_safetensors": "leave it out, only safetensors are ever read",
}
"""Arguments that other libraries have here, and what to do in their place."""

TYPES = {
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
"""Types of tensors by their names in safetensors files; weights are of the last four."""

FLOATING = (torch.float16, torch.bfloat16, torch.float32, torch.float64)

Shapes = dict[str, tuple[int, ...]]
"""Of the tensors in a file, by their names."""

CALLS = 50
"""Functions of torch that making a module without memory may call for each tensor of its file; a layer needs 7."""


def released(name: str | Path) -> Path | None:
    """The folder of a model that comes with the library, by its name, unless there is a folder of that name here."""
    path = RELEASED / name
    return path if len(Path(name).parts) == 1 and not os.path.exists(name) and os.path.isdir(path) else None


class Pretrained(PyTorchModelHubMixin):
    """Adds `save_pretrained` and `from_pretrained` to a module.

    Its constructor arguments are kept in `config.json`: numbers, strings, lists and dictionaries of them, and modules
    of torch.nn (see `plain_values.py`).

    Attributes:
        not_rebuildable: names of the arguments that have no such form, such as functions; whoever loads the model has
            to give them again.
    """

    not_rebuildable: list[str]

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        instance = super().__new__(cls, *args, **kwargs)
        passed = inspect.signature(cls.__init__).bind_partial(None, *args, **kwargs).arguments
        passed = {name: value for name, value in passed.items() if name in _arguments_of(cls)} | kwargs
        left_out: list[str] = []
        plain = {name: to_plain(value, name, left_out) for name, value in passed.items()}
        # the mixin would put the default in config.json in the place of what it cannot write, without a word
        instance._hub_mixin_config = {**cast("dict[str, Any]", instance._hub_mixin_config or {}), **plain}
        instance.not_rebuildable = left_out
        return instance

    def save_pretrained(
        self, save_directory: str | Path, *, push_to_hub: bool = False, repo_id: str | None = None, **kwargs: Any
    ) -> str | None:
        """Write `config.json`, `model.safetensors` and their checksums (`manifest.json`) into a folder, made if needed.

        A README.md that is there stays.

        Raises:
            OutputError: the disk is full or cannot be written; a model that was there stays whole.
            InvalidInput: a weight is not finite.
        """
        folder = Path(save_directory)
        if self.not_rebuildable:
            left_out = ", ".join(self.not_rebuildable)
            warnings.warn(f"{CONFIG} cannot hold {left_out}; give the same to from_pretrained", stacklevel=2)
        if fault := _not_finite(cast("nn.Module", self).state_dict()):
            raise InvalidInput(f"expected finite weights to save, got {fault}; go back to an earlier checkpoint")
        kept, pushed = (
            {name: value for name, value in kwargs.items() if (name in ("config", "model_card_kwargs")) == own}
            for own in (True, False)
        )

        def fill(staging: Path) -> None:
            super(Pretrained, self).save_pretrained(staging, **kept)
            if (folder / "README.md").exists():
                (staging / "README.md").unlink()

        atomic_folder.update(folder, fill, [CONFIG, WEIGHTS])
        return self.push_to_hub(repo_id=repo_id or folder.name, **kept, **pushed) if push_to_hub else None

    def _save_pretrained(self, save_directory: Path) -> None:
        _save(save_directory / WEIGHTS, cast("nn.Module", self).state_dict())

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | Path,
        *,
        dtype: torch.dtype | str | None = None,
        torch_dtype: torch.dtype | str | None = None,
        map_location: str | torch.device = "cpu",
        strict: bool = True,
        **kwargs: Any,
    ) -> Self:
        """Load a model from a folder or, by its name, one that comes with the library ("fashion-mnist",
        "fashion-mnist-by-class") or lies on the Hugging Face hub. A run's folder stands for its model.

        Args:
            dtype, torch_dtype: floating-point type of the weights, such as torch.bfloat16 or "bfloat16"; None for
                float32.
            map_location: the device it is loaded to.
            strict: always so, whatever is said.
            kwargs: constructor arguments, in place of those in `config.json`; `guided_sampler_kwargs` is laid over the
                one there. What could not be saved (see `not_rebuildable`) is given so. Also revision, cache_dir,
                force_download, local_files_only and token, for a model on the hub.

        Raises:
            ModelFileError: the folder, a file of it or a parameter is missing, extra, damaged or of another
                shape; the message says which.
            InvalidInput: an argument is none of these.
        """
        wanted = _floating(dtype if torch_dtype is None else torch_dtype)
        download = {name: kwargs.pop(name) for name in DOWNLOAD if name in kwargs}
        known = _arguments_of(cls)
        if unknown := [] if _takes_more(cls) else sorted(kwargs.keys() - known):
            advice = ELSEWHERE.get(unknown[0], f"a {cls.__name__} takes {', '.join(known)}")
            raise InvalidInput(f"expected arguments of from_pretrained, got {unknown[0]}; {advice}")
        folder = _folder_of(pretrained_model_name_or_path, download)
        config, weights = folder / CONFIG, folder / WEIGHTS
        saved = read_object(config, "constructor arguments")
        if unknown := [] if _takes_more(cls) else sorted(saved.keys() - known):
            raise ModelFileError(
                f"expected only constructor arguments in {config}, got {', '.join(unknown)!r:.200}; use the version of "
                "the library that wrote it"
            )
        kept = _not_given(saved, kwargs)
        if missing := dict(not_saved(kept)):
            told = ", ".join(f"{name} ({what})" for name, what in missing.items())
            raise ModelFileError(
                f"expected {told}, which {config} cannot hold, got none; give from_pretrained also {_given(missing)}"
            )
        if not weights.is_file():
            others = [path.name for pattern in ("*.bin", "*.pt", "*.pth", "*.pkl") for path in folder.glob(pattern)]
            refused = f" ({', '.join(others)} may hold a pickle and is not opened)" if others else ""
            raise ModelFileError(f"expected {weights}, found none{refused}; save the model with save_pretrained")

        def make(_: Shapes, given: dict[str, Any]) -> Any:
            own = from_plain(kept)
            check_types(cls, own)
            check_types(GuidedSampler, own.get(SAMPLER) or {}, SAMPLER)
            of_samplers = {**(own.get(SAMPLER) or {}), **(given.get(SAMPLER) or {})}
            return cls(**{**own, **given, **({SAMPLER: of_samplers} if of_samplers else {})})

        compare(make, kwargs, weights, f"{config} to describe a {cls.__name__}")
        if os.path.lexists(folder / atomic_folder.MANIFEST):
            atomic_folder.verify(folder, [WEIGHTS])
        else:
            warnings.warn(
                f"{folder} has no {atomic_folder.MANIFEST}, so it is not known whether its weights are as "
                "they were saved; save the model again to have one",
                stacklevel=2,
            )
        model: Any = make({}, kwargs)
        load_strictly(model, read_tensors(weights), weights)
        try:
            model = model.to(map_location)
        except (RuntimeError, TypeError, AssertionError) as error:
            raise InvalidInput(f"expected a device that is there as map_location, got {map_location!r:.80}") from error
        model = model if wanted is None else model.to(wanted)
        if fault := _not_finite(model.state_dict()):
            raise ModelFileError(f"expected weights that are finite in {wanted} in {weights}, got {fault}; use another")
        return model


def load_checked(
    make: Callable[[Shapes, Any], M],
    given: Any,
    file: Path,
    expected: str,
    device: torch.device | str = "cpu",
) -> M:
    """A module whose weights lie in a safetensors file, made once these are known to fit.

    Args:
        make: makes it by the shapes of the file's tensors, and `given`; called twice, at first without memory for
            weights, also those of modules in `given`.
        expected: what `make` needs, for errors, such as "prior.json to describe a prior".

    Raises:
        ModelFileError: it cannot be made, or the file's tensors are not its own.
    """
    module = make(compare(make, given, file, expected), given)
    load_strictly(module, read_tensors(file), file)
    return module.to(device)


def compare(
    make: Callable[[Shapes, Any], nn.Module],
    given: Any,
    file: Path,
    expected: str,
    stored: torch.dtype | None = None,
) -> Shapes:
    """Make a module without memory for weights and compare it with a file's header; gives the shapes in that.

    Args:
        stored: the type of the file's tensors, if it is not that of the module's.

    Raises:
        ModelFileError: it cannot be made, has more parameters than the file, or others.
    """
    tensors = _header(file)
    shapes = {name: shape for name, (_, shape) in tensors.items()}
    given = outline(given)
    try:
        with _AtMost(CALLS * (len(tensors) + 20)), torch.device("meta"):
            own = make(shapes, given).state_dict()
    except _TooMuchError as error:
        raise ModelFileError(
            f"expected {expected}, but that has many more parameters than the {len(tensors)} in {file}; use files that "
            "were saved together"
        ) from error
    except Exception as error:  # a constructor may say anything of arguments that no one checked
        raise ModelFileError(f"expected {expected}, but {_line(error)}; use the version that wrote it") from error
    wanted = {name: (value.dtype if stored is None else stored, tuple(value.shape)) for name, value in own.items()}
    _require_alike(tensors, wanted, file)
    return shapes


def outline(value: Any) -> Any:
    """The same with copies of its modules, whose weights have shapes and types but no memory."""
    if isinstance(value, dict):
        return {name: outline(one) for name, one in value.items()}
    if not isinstance(value, nn.Module):
        return value
    memo: dict[int, Any] = {}
    for tensor in value.state_dict(keep_vars=True).values():
        bare = tensor.detach().to("meta")
        memo[id(tensor)] = nn.Parameter(bare, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else bare
    return copy.deepcopy(value, memo)


def read_tensors(file: Path, device: str = "cpu") -> dict[str, Tensor]:
    """The tensors of a safetensors file.

    Raises:
        ModelFileError: it is not whole, or something else.
    """
    _require_file(file)
    try:
        with _in_utf_8(file) as named:
            return load_file(named, device=device)
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise _unreadable(file, error) from error


def write_tensors(file: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write a safetensors file whole or not at all.

    Raises:
        OutputError: the disk is full or cannot be written.
    """
    with atomic_file(file) as staging:
        _save(staging, tensors)


def load_strictly(module: nn.Module, state: dict[str, Tensor], file: str | Path) -> None:
    """Load a state into a module whose parameters and buffers it must match by name, shape and kind of number.

    Raises:
        ModelFileError: it does not, or has infinite or NaN weights or negative counts; the message lists what differs
            and names the file.
    """
    own = module.state_dict()
    found, wanted = ({name: (one.dtype, tuple(one.shape)) for name, one in tensors.items()} for tensors in (state, own))
    _require_alike(found, wanted, file)
    if fault := _not_finite({name: value.to(own[name].dtype) for name, value in state.items()}):
        raise ModelFileError(f"expected finite weights in {file}, got {fault}; copy it again or train anew")
    module.load_state_dict(state)


def _arguments_of(cls: type) -> list[str]:
    """The names of a constructor's arguments."""
    parameters = list(inspect.signature(cls.__init__).parameters.values())[1:]  # type: ignore[misc]
    return [one.name for one in parameters if one.kind not in (one.VAR_KEYWORD, one.VAR_POSITIONAL)]


def _takes_more(cls: type) -> bool:
    """Whether a constructor takes arguments of other names, which it passes on."""
    parameters = inspect.signature(cls.__init__).parameters.values()  # type: ignore[misc]
    return any(one.kind == one.VAR_KEYWORD for one in parameters)


def _folder_of(name: str | Path, download: dict[str, Any]) -> Path:
    """The folder of a model: its own, that of a run, one that comes with the library, or one had from the hub."""
    if not isinstance(name, str | os.PathLike):
        raise InvalidInput(f"expected the folder or the name of a model, got {name!r:.80}; give a path")
    said = repr(str(name)) if len(str(name)) <= 300 else f"a name of {len(str(name))} letters"
    folder = released(name) or Path(name)
    if os.path.isfile(folder / MODEL / CONFIG):
        folder = folder / MODEL
    if os.path.isdir(folder) and str(name):
        return folder
    if os.path.lexists(folder) and str(name):
        raise ModelFileError(f"expected a model folder at {said}, found a file; give the folder that it lies in")
    if folder.is_absolute() or len(folder.parts) != 2:
        raise ModelFileError(f"expected a model folder at {said}, found none; give a folder that training wrote")
    try:
        return Path(snapshot_download(str(name), allow_patterns=[CONFIG, WEIGHTS, atomic_folder.MANIFEST], **download))
    except Exception as error:  # a download fails in many ways, each client with errors of its own
        raise ModelFileError(
            f"expected a model folder, or the name of a model on the hub, got {said} ({_line(error)}); check it"
        ) from error


def _not_given(saved: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """Those of the saved constructor arguments, and of the samplers', in whose place none is given."""
    kept = {name: value for name, value in saved.items() if name not in given}
    over, own = given.get(SAMPLER), saved.get(SAMPLER)
    if over is not None and not isinstance(over, dict):
        raise InvalidInput(f"expected {SAMPLER} as a dictionary, got a {type(over).__name__}; see GuidedSampler")
    if over is not None and isinstance(own, dict):
        kept[SAMPLER] = {name: value for name, value in own.items() if name not in over}
    return kept


def _line(error: Exception) -> str:
    """What an error says, in one line that is not too long."""
    return f"{' '.join(str(error).split()):.300}" or type(error).__name__


def _given(names: Iterable[str]) -> str:
    """Constructor arguments of these names, as they are written in a call."""
    of_samplers = ", ".join(f'"{name.partition(".")[2]}": ...' for name in names if name.startswith(f"{SAMPLER}."))
    others = [f"{name}=..." for name in names if not name.startswith(f"{SAMPLER}.")]
    return ", ".join([*others, *([f"{SAMPLER}={{{of_samplers}}}"] if of_samplers else [])])


def _floating(dtype: torch.dtype | str | None) -> torch.dtype | None:
    """The type of this name."""
    found = getattr(torch, dtype.removeprefix("torch."), None) if isinstance(dtype, str) else dtype
    if found is not None and found in FLOATING:
        return found
    if dtype is not None:
        raise InvalidInput(
            f"expected dtype to be float16, bfloat16, float32 or float64, got {dtype!r:.80}; leave it out for float32"
        )
    return None


def check_types(owner: type, values: dict[str, Any], name: str = "") -> None:
    """Raise `InvalidInput` unless these are constructor arguments of a class, of the types that it names.

    Args:
        name: of the dictionary that they stand in.
    """
    try:
        hints = typing.get_type_hints(owner.__init__)  # type: ignore[misc]
    except NameError:  # types that only a type checker sees
        hints = {}
    for own, value in values.items():
        if name and own not in hints:
            raise InvalidInput(f"{name} has no {own!r:.80}")
        if own in hints and not _fits(value, hints[own]):
            raise InvalidInput(f"{own} is {value!r:.80}, no {inspect.formatannotation(hints[own])}")


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value as JSON holds it, or a module, is of a type."""
    origin, arguments = typing.get_origin(hint) or hint, typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, one) for one in arguments)
    if origin in (list, tuple, collections.abc.Sequence):
        return isinstance(value, list) and all(_fits(one, arguments[0]) for one in value)
    if origin is collections.abc.Callable:
        return callable(value)
    if hint in (int, float):
        return isinstance(value, int if hint is int else int | float) and not isinstance(value, bool)
    if hint is bool:
        return isinstance(value, bool) or (isinstance(value, int) and value in (0, 1))
    return origin is Any or isinstance(value, origin)


def _save(file: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write a safetensors file.

    Raises:
        OSError: the disk is full or cannot be written.
    """
    file.touch()
    permissions, kept, memory = file.stat().st_mode & 0o7777, {}, set()
    for name, tensor in tensors.items():
        place = tensor.untyped_storage().data_ptr()
        kept[name] = tensor.detach().contiguous() if place not in memory else tensor.detach().clone()
        memory.add(place)
    try:
        save_file(kept, file, metadata={"format": "pt"})
    except SafetensorError as error:
        number = re.search(r"\(os error (\d+)\)", str(error))
        raise OSError(*((int(number[1]), os.strerror(int(number[1]))) if number else (str(error),))) from error
    file.chmod(permissions)  # safetensors lets nobody else read it


def _require_file(file: Path) -> None:
    if not os.path.isfile(file):
        raise ModelFileError(f"expected a safetensors file at {file}, found none; check the path or train anew")


@contextmanager
def _in_utf_8(file: Path) -> Iterator[Path]:
    """The file by a name that safetensors can open: a link's, where its own is no UTF-8."""
    if str(file).isprintable():  # what is no UTF-8 is not
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


def _header(file: Path) -> dict[str, tuple[torch.dtype | str, tuple[int, ...]]]:
    """The type and the shape of each tensor in a safetensors file."""
    _require_file(file)
    try:
        with _in_utf_8(file) as named, safe_open(named, framework="pt") as opened:
            parts = {name: opened.get_slice(name) for name in opened.keys()}  # noqa: SIM118
            return {
                name: (TYPES.get(part.get_dtype(), part.get_dtype()), tuple(part.get_shape()))
                for name, part in parts.items()
            }
    except (SafetensorError, OSError, ValueError) as error:
        raise _unreadable(file, error) from error


def _require_alike(
    found: Mapping[str, tuple[torch.dtype | str, tuple[int, ...]]],
    wanted: Mapping[str, tuple[torch.dtype | str, tuple[int, ...]]],
    file: str | Path,
) -> None:
    """Raise `ModelFileError` unless these are tensors of the same names, shapes and kinds of numbers."""
    faults = [f"{name} is missing" for name in sorted(wanted.keys() - found.keys())]
    faults += [f"{name} is extra" for name in sorted(found.keys() - wanted.keys())]
    for name in sorted(wanted.keys() & found.keys()):
        (kind, shape), (own_kind, own_shape) = found[name], wanted[name]
        if shape != own_shape:
            faults.append(f"{name} has shape {shape}, not {own_shape}")
        elif kind != own_kind and not (kind in FLOATING and own_kind in FLOATING):
            faults.append(f"{name} holds numbers of type {kind}, not {own_kind}")
    if faults:
        shown = "; ".join(f"{fault:.200}" for fault in faults[:8])
        shown += f"; and {len(faults) - 8} more" if len(faults) > 8 else ""
        raise ModelFileError(f"expected the parameters of this model in {file}, but {shown}")


def _not_finite(tensors: Mapping[str, Tensor]) -> str | None:
    """The first among these that holds infinity or NaN, or negative counts."""
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            return f"infinity or NaN in {name}"
        if name.rpartition(".")[2] == "counts" and tensor.numel() and bool((tensor < 0).any()):
            return f"negative counts in {name}"
    return None


class _TooMuchError(Exception):
    pass


class _AtMost(TorchFunctionMode):
    """Ends what calls more functions of torch than so many."""

    def __init__(self, calls: int):
        super().__init__()
        self.left = calls

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.left -= 1
        if self.left < 0:
            raise _TooMuchError
        return func(*args, **(kwargs or {}))
