"""Saving and loading models: a folder with `config.json` and `model.safetensors`, strictly checked.

`Pretrained` is huggingface_hub's mixin (`save_pretrained`, `from_pretrained`, `push_to_hub`), which never opens a
pickle, and whose errors name the file.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self, cast

import torch
from huggingface_hub import PyTorchModelHubMixin, constants, snapshot_download
from torch import nn

from discrete_distribution_network.errors import InvalidInput, ModelFileError, one_line
from discrete_distribution_network.io import atomic_folder
from discrete_distribution_network.io.json_file import read_object
from discrete_distribution_network.io.plain_values import (
    argument_names,
    bind_arguments,
    check_types,
    from_plain,
    not_saved,
    takes_more,
    to_plain,
)
from discrete_distribution_network.io.safetensors_file import (
    FLOATING,
    Shapes,
    compare_with_header,
    find_fault,
    load_strictly,
    read_tensors,
    save_tensors,
)

RELEASED = Path(__file__).parents[1] / "released"
"""Folder of the pretrained models that the library includes, one folder each."""

MODEL = "model"
"""Folder of the final model inside that of a training."""

CONFIG, WEIGHTS = constants.CONFIG_NAME, constants.SAFETENSORS_SINGLE_FILE
"""Files of a model's folder."""

DOWNLOAD = ("revision", "cache_dir", "force_download", "local_files_only", "token")
"""Arguments of `from_pretrained` for a download from the hub."""

ELSEWHERE = {
    "device": "move the loaded model with .to(device)",
    "device_map": "move the loaded model with .to(device)",
    "low_cpu_mem_usage": "leave it out, a model is always checked before memory is taken for it",
    "trust_remote_code": "leave it out, no code is ever loaded with a model",
    "use_safetensors": "leave it out, only safetensors are ever read",
}
"""Arguments of other libraries' `from_pretrained`, and what to do instead."""


def released(name: str | Path) -> Path | None:
    """The folder of an included model by its name, unless a folder of that name is here; None for any other name."""
    path = RELEASED / name
    return path if len(Path(name).parts) == 1 and not os.path.exists(name) and os.path.isdir(path) else None


class Pretrained(PyTorchModelHubMixin):
    """Adds `save_pretrained` and `from_pretrained` to a module.

    Its constructor arguments are kept in `config.json`: numbers, strings, lists and dictionaries of them, and modules
    of torch.nn (see `plain_values.py`).

    Attributes:
        nested_arguments: constructor arguments that are dictionaries of another class's arguments, and that class.
        companions: names of further files that `save_pretrained` writes and `from_pretrained` reads, if they are there.
        not_rebuildable: names of the arguments that `config.json` cannot hold, such as functions; they must be given
            again when the model is loaded.
    """

    nested_arguments: ClassVar[Mapping[str, type]] = {}
    companions: ClassVar[tuple[str, ...]] = ()
    not_rebuildable: list[str]

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        instance = super().__new__(cls, *args, **kwargs)
        left_out: list[str] = []
        plain = {name: to_plain(value, name, left_out) for name, value in bind_arguments(cls, *args, **kwargs).items()}
        # the mixin silently writes the default in place of an argument that config.json cannot hold
        instance._hub_mixin_config = {**cast("dict[str, Any]", instance._hub_mixin_config or {}), **plain}
        instance.not_rebuildable = left_out
        return instance

    def save_pretrained(
        self, save_directory: str | Path, *, push_to_hub: bool = False, repo_id: str | None = None, **kwargs: Any
    ) -> str | None:
        """Write `config.json`, `model.safetensors` and their checksums (`manifest.json`) into a folder, made if needed.

        An existing README.md stays.

        Raises:
            OutputError: the disk is full or cannot be written; a model that was there stays whole.
            InvalidInput: a weight is not finite.
        """
        folder = Path(save_directory)
        if self.not_rebuildable:
            left_out = ", ".join(self.not_rebuildable)
            warnings.warn(f"{CONFIG} cannot hold {left_out}; give the same to from_pretrained", stacklevel=2)
        if fault := find_fault(cast("nn.Module", self).state_dict()):
            raise InvalidInput(f"expected finite weights to save, got {fault}; go back to an earlier checkpoint")
        to_save, to_push = (
            {name: value for name, value in kwargs.items() if (name in ("config", "model_card_kwargs")) == saved}
            for saved in (True, False)
        )

        def fill(staging: Path) -> None:
            super(Pretrained, self).save_pretrained(staging, **to_save)
            if (folder / "README.md").exists():
                (staging / "README.md").unlink()

        atomic_folder.update(folder, fill, [CONFIG, WEIGHTS])
        return self.push_to_hub(repo_id=repo_id or folder.name, **to_save, **to_push) if push_to_hub else None

    def _save_pretrained(self, save_directory: Path) -> None:
        save_tensors(save_directory / WEIGHTS, cast("nn.Module", self).state_dict())

    def _load_companions(self, folder: Path) -> None:
        """Load what lies beside the weights in the folder of this model; see `companions`."""

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | Path,
        *,
        dtype: torch.dtype | str | None = None,
        torch_dtype: torch.dtype | str | None = None,
        map_location: str | torch.device = "cpu",
        strict: bool = True,
        alone: bool = False,
        **kwargs: Any,
    ) -> Self:
        """Load a model from a folder or by its name: an included model ("fashion-mnist", "fashion-mnist-by-class") or
        one on the Hugging Face hub. The folder of a training stands for its model.

        Args:
            dtype, torch_dtype: floating-point type of the weights, such as torch.bfloat16 or "bfloat16"; None for
                float32.
            map_location: the device it is loaded to.
            strict: ignored; loading is always strict.
            alone: leave out what lies beside the weights, such as a prior.
            kwargs: constructor arguments that replace those in `config.json`, where `guided_sampler_kwargs` is merged
                with the one there; those that could not be saved (see `not_rebuildable`) are required. For a model on
                the hub also revision, cache_dir, force_download, local_files_only and token.

        Raises:
            ModelFileError: the folder, a file of it or a parameter is missing, extra, damaged or of another
                shape; the message says which.
            InvalidInput: another argument is given, or one of another type.
        """
        target_dtype = _floating(dtype if torch_dtype is None else torch_dtype)
        download = {name: kwargs.pop(name) for name in DOWNLOAD if name in kwargs}
        if unknown := cls._unknown(kwargs):
            advice = ELSEWHERE.get(unknown[0], f"a {cls.__name__} takes {', '.join(argument_names(cls))}")
            raise InvalidInput(f"expected arguments of from_pretrained, got {unknown[0]}; {advice}")
        folder = _folder_of(pretrained_model_name_or_path, cls.companions, download)
        config, weights = folder / CONFIG, folder / WEIGHTS
        saved = cls._saved_arguments(config, kwargs)
        _require_weights(weights)

        def make(_: Shapes, given: dict[str, Any]) -> Any:
            return cls(**cls._merged(from_plain(saved), given))

        compare_with_header(make, kwargs, weights, f"{config} to describe a {cls.__name__}")
        _verify(folder)
        model: Any = make({}, kwargs)
        load_strictly(model, read_tensors(weights), weights)
        if not alone:
            model._load_companions(folder)
        try:
            model = model.to(map_location)
        except (RuntimeError, TypeError, AssertionError) as error:
            raise InvalidInput(f"expected a device that is there as map_location, got {map_location!r:.80}") from error
        model = model if target_dtype is None else model.to(target_dtype)
        if fault := find_fault(model.state_dict()):
            raise ModelFileError(
                f"expected weights that are finite in {target_dtype} in {weights}, got {fault}; use another dtype"
            )
        return model

    @classmethod
    def _unknown(cls, arguments: Iterable[str]) -> list[str]:
        """The names that are not those of constructor arguments."""
        return [] if takes_more(cls) else sorted(set(arguments) - set(argument_names(cls)))

    @classmethod
    def _saved_arguments(cls, config: Path, given: Mapping[str, Any]) -> dict[str, Any]:
        """The constructor arguments in a file, in plain form, without those that are given.

        Raises:
            ModelFileError: the file holds no arguments of this class, or lacks one that must be given.
        """
        saved = read_object(config, "constructor arguments")
        if unknown := cls._unknown(saved):
            raise ModelFileError(
                f"expected only constructor arguments in {config}, got {', '.join(unknown)!r:.200}; use the version of "
                "the library that wrote it"
            )
        kept = {name: value for name, value in saved.items() if name not in given}
        for name, owner in cls.nested_arguments.items():
            new, old = given.get(name), saved.get(name)
            if new is not None and not isinstance(new, dict):
                raise InvalidInput(f"expected {name} as a dictionary, got a {type(new).__name__}; see {owner.__name__}")
            if new is not None and isinstance(old, dict):
                kept[name] = {inner: value for inner, value in old.items() if inner not in new}
        if missing := dict(not_saved(kept)):
            listed = ", ".join(f"{name} ({what})" for name, what in missing.items())
            raise ModelFileError(
                f"expected {listed}, which {config} cannot hold, got only {', '.join(given) or 'the folder'}; give "
                f"from_pretrained also {_as_call(missing)}"
            )
        return kept

    @classmethod
    def _merged(cls, saved: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
        """Saved constructor arguments, their types checked, and given ones; nested dictionaries are merged."""
        check_types(cls, saved)
        nested = {}
        for name, owner in cls.nested_arguments.items():
            check_types(owner, saved.get(name) or {}, name)
            nested[name] = {**(saved.get(name) or {}), **(given.get(name) or {})}
        return {**saved, **given, **{name: merged for name, merged in nested.items() if merged}}


def _folder_of(name: str | Path, companions: Sequence[str], download: dict[str, Any]) -> Path:
    """The folder of a model: its own, that of its training, an included model's, or one downloaded from the hub."""
    if not isinstance(name, str | os.PathLike):
        raise InvalidInput(f"expected the folder or the name of a model, got {name!r:.80}; give a path")
    shown = repr(str(name)) if len(str(name)) <= 300 else f"a name of {len(str(name))} letters"
    folder = released(name) or Path(name)
    if os.path.isfile(folder / MODEL / CONFIG):
        folder = folder / MODEL
    if os.path.isdir(folder) and str(name):
        return folder
    if os.path.lexists(folder) and str(name):
        raise ModelFileError(f"expected a model folder at {shown}, found a file; give the folder that it lies in")
    if folder.is_absolute() or len(folder.parts) != 2:
        raise ModelFileError(f"expected a model folder at {shown}, found none; give a folder that training wrote")
    try:
        files = [CONFIG, WEIGHTS, atomic_folder.MANIFEST, *companions]
        return Path(snapshot_download(str(name), allow_patterns=files, **download))
    except Exception as error:  # a download fails in many ways, each client with errors of its own
        raise ModelFileError(
            f"expected a model folder, or the name of a model on the hub, got {shown} ({one_line(error)}); check it"
        ) from error


def _require_weights(weights: Path) -> None:
    """Raise `ModelFileError` if there is no such file; it names those that may hold a pickle."""
    if not weights.is_file():
        pickles = [
            path.name for pattern in ("*.bin", "*.pt", "*.pth", "*.pkl") for path in weights.parent.glob(pattern)
        ]
        refused = f" ({', '.join(pickles)} may hold a pickle and is not opened)" if pickles else ""
        raise ModelFileError(f"expected {weights}, found none{refused}; save the model with save_pretrained")


def _verify(folder: Path) -> None:
    """Raise `ModelFileError` unless the files have the checksums of the manifest; warn if there is none."""
    if os.path.lexists(folder / atomic_folder.MANIFEST):
        atomic_folder.verify(folder, [WEIGHTS])
    else:
        warnings.warn(
            f"{folder} has no {atomic_folder.MANIFEST}, so its weights cannot be checked for damage; save the model "
            "again to have one",
            stacklevel=3,
        )


def _as_call(names: Iterable[str]) -> str:
    """Constructor arguments of these names as they are written in a call: `a=..., b={"c": ...}`."""
    nested: dict[str, list[str]] = {}
    for name in names:
        outer, _, inner = name.partition(".")
        nested.setdefault(outer, []).extend([f'"{inner}": ...'] if inner else [])
    return ", ".join(f"{name}={{{', '.join(inner)}}}" if inner else f"{name}=..." for name, inner in nested.items())


def _floating(dtype: torch.dtype | str | None) -> torch.dtype | None:
    """A floating-point type, or the one of this name.

    Raises:
        InvalidInput: it is another type, or no type's name.
    """
    found = getattr(torch, dtype.removeprefix("torch."), None) if isinstance(dtype, str) else dtype
    if found is not None and found in FLOATING:
        return found
    if dtype is not None:
        raise InvalidInput(
            f"expected dtype to be float16, bfloat16, float32 or float64, got {dtype!r:.80}; leave it out for float32"
        )
    return None
