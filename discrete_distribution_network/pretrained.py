"""Saving and loading models: a folder with `config.json` and `model.safetensors`, strictly checked.

`Pretrained` is huggingface_hub's mixin (`save_pretrained`, `from_pretrained`, `push_to_hub`), with loading made strict,
pickles refused, and every fault told with the file's name.
"""

from __future__ import annotations

import inspect
import json
import tempfile
from pathlib import Path
from typing import Any, Self

from huggingface_hub import PyTorchModelHubMixin, constants
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from discrete_distribution_network import whole_folder
from discrete_distribution_network.errors import InvalidInput, ModelFileError

RELEASED = Path(__file__).parent / "released"
"""Folder of the small models that come with the library, each in one of its name."""

MODEL = "model"
"""Folder, inside that of a training's results, of the model at its end."""


def released(name: str | Path) -> Path | None:
    """The folder of a model that comes with the library, by its name, unless there is a folder of that name here."""
    path = RELEASED / name
    return path if len(Path(name).parts) == 1 and not Path(name).exists() and path.is_dir() else None


class Pretrained(PyTorchModelHubMixin):
    """Adds `save_pretrained` and `from_pretrained` to a module whose constructor arguments are plain values."""

    _not_plain: list[str]

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        instance = super().__new__(cls, *args, **kwargs)
        # the mixin would put the default in config.json in their place, without a word
        passed = inspect.signature(cls.__init__).bind_partial(None, *args, **kwargs).arguments
        instance._not_plain = [n for n, value in passed.items() if n != "self" and not instance._is_jsonable(value)]
        return instance

    def save_pretrained(self, save_directory: str | Path, **kwargs: Any) -> str | None:
        """Write `config.json`, `model.safetensors` and its checksum (`manifest.json`) into a folder, made if needed."""
        if self._not_plain:
            raise InvalidInput(
                "expected constructor arguments that fit in config.json (numbers, strings, lists and dicts of them), "
                f"got something else in {', '.join(self._not_plain)}; save this model's state_dict yourself"
            )
        folder = Path(save_directory)
        folder.mkdir(parents=True, exist_ok=True)
        if kwargs.get("push_to_hub"):
            kwargs.setdefault("repo_id", folder.name)
        # whole files beside the old ones first, so that a full disk or a kill leaves what was there
        with tempfile.TemporaryDirectory(prefix=".saving-", dir=folder) as staging:
            done = super().save_pretrained(staging, **kwargs)
            whole_folder.seal(Path(staging), [constants.SAFETENSORS_SINGLE_FILE])
            for file in sorted(Path(staging).iterdir(), key=lambda file: file.name == whole_folder.MANIFEST):
                file.replace(folder / file.name)
        return done

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, **kwargs: Any) -> Self:
        """Load a model from a folder or, by its name, one that comes with the library ("fashion-mnist",
        "fashion-mnist-by-class") or lies on the Hugging Face hub. A run's folder stands for its model.

        Raises:
            ModelFileError: the folder, a file of it or a parameter is missing, extra, damaged or of another
                shape; the message says which.
        """
        pretrained_model_name_or_path = released(pretrained_model_name_or_path) or pretrained_model_name_or_path
        folder = Path(pretrained_model_name_or_path)
        if (folder / MODEL / constants.CONFIG_NAME).is_file():
            pretrained_model_name_or_path = folder = folder / MODEL
        local = folder.exists() or len(folder.parts) != 2
        if local and not folder.is_dir():
            raise ModelFileError(f"expected a model folder at {folder}, found none; give a folder that training wrote")
        if local:
            _check_config(folder / constants.CONFIG_NAME, set(cls._hub_mixin_init_parameters) - {"self"})
        try:
            return super().from_pretrained(pretrained_model_name_or_path, **{"strict": True, **kwargs})
        except FileNotFoundError as error:
            raise ModelFileError(f"expected a model folder or a name on the hub, got {folder} ({error})") from error

    @classmethod
    def _from_pretrained(cls, *, model_id: str, map_location: str = "cpu", strict: bool = True, **kwargs: Any) -> Self:
        folder = Path(model_id)
        if not folder.is_dir():
            return super()._from_pretrained(model_id=model_id, map_location=map_location, strict=strict, **kwargs)
        file = folder / constants.SAFETENSORS_SINGLE_FILE
        if not file.is_file():
            others = [path.name for pattern in ("*.bin", "*.pt", "*.pth", "*.pkl") for path in folder.glob(pattern)]
            refused = f" ({', '.join(others)} may hold a pickle and is not opened)" if others else ""
            raise ModelFileError(f"expected {file}, found none{refused}; save the model with save_pretrained")
        if (folder / whole_folder.MANIFEST).is_file():
            whole_folder.check(folder)
        transfer = ("revision", "cache_dir", "force_download", "local_files_only", "token")
        try:
            model = cls(**{name: value for name, value in kwargs.items() if name not in transfer})
        except (TypeError, InvalidInput) as error:
            raise ModelFileError(
                f"expected {folder / constants.CONFIG_NAME} to describe a {cls.__name__}, but {error}; use the "
                "version of the library that wrote it"
            ) from error
        return cls._load_as_safetensor(model, str(file), map_location, strict)

    @classmethod
    def _load_as_pickle(cls, model: Any, model_file: str, map_location: str, strict: bool) -> Any:
        raise ModelFileError(f"expected safetensors, got {model_file}, which may hold a pickle and is not opened")

    @classmethod
    def _load_as_safetensor(cls, model: Any, model_file: str, map_location: str, strict: bool) -> Any:
        load_strictly(model, read_tensors(Path(model_file), map_location), model_file)
        return model


def read_tensors(file: Path, device: str = "cpu") -> dict[str, Tensor]:
    """The tensors of a safetensors file.

    Raises:
        ModelFileError: it is not whole, or something else.
    """
    try:
        return load_file(file, device=device)
    except (SafetensorError, OSError, ValueError) as error:
        raise ModelFileError(
            f"expected a whole safetensors file, got {file}, which cannot be read ({error}); "
            "copy it again or train anew"
        ) from error


def write_tensors(file: Path, tensors: dict[str, Tensor]) -> None:
    """Write a safetensors file.

    Raises:
        OSError: the disk is full or cannot be written.
    """
    try:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, file)
    except SafetensorError as error:
        raise OSError(f"cannot write {file} ({error})") from error


def load_strictly(module: nn.Module, state: dict[str, Tensor], file: str | Path) -> None:
    """Load a state into a module whose parameters and buffers it must match by name and shape.

    Raises:
        ModelFileError: it does not; the message lists what differs and names the file.
    """
    own = module.state_dict()
    faults = [f"{name} is missing" for name in sorted(own.keys() - state.keys())]
    faults += [f"{name} is extra" for name in sorted(state.keys() - own.keys())]
    faults += [
        f"{name} has shape {tuple(state[name].shape)}, not {tuple(own[name].shape)}"
        for name in sorted(own.keys() & state.keys())
        if own[name].shape != state[name].shape
    ]
    if faults:
        shown = "; ".join(faults[:8]) + (f"; and {len(faults) - 8} more" if len(faults) > 8 else "")
        raise ModelFileError(f"expected the parameters of this model in {file}, but {shown}")
    module.load_state_dict(state)


def _check_config(path: Path, arguments: set[str]) -> None:
    if not path.is_file():
        raise ModelFileError(f"expected {path}, found none; give a folder that save_pretrained wrote")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ModelFileError(f"expected JSON in {path}, got something else ({error})") from error
    if not isinstance(config, dict):
        raise ModelFileError(f"expected an object of constructor arguments in {path}, got {type(config).__name__}")
    if unknown := sorted(config.keys() - arguments):
        raise ModelFileError(
            f"expected only constructor arguments in {path}, got {', '.join(unknown)}; use the version of the library "
            "that wrote it"
        )
