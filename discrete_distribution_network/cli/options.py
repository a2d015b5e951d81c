"""Options that commands share, and what happens to the options of a command before it runs.

Nothing heavy is imported here, so that `ddn --help` is quick.
"""

from __future__ import annotations

import dataclasses
import os
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from discrete_distribution_network.cli.config import PLACES, TrainConfig, configured, given, load_config
from discrete_distribution_network.errors import InvalidInput, ModelFileError
from discrete_distribution_network.io.run_folder import CONFIG, RUNS

ImageFolder = Annotated[Path | None, tyro.conf.arg(aliases=["--folder"])]
"""Type of `--each`, which may also be written `--folder`."""


@dataclass
class ModelOptions:
    """Options of a command that uses a model."""

    model: Path | None = None
    """Run or model folder, or the name of an included model; the newest run under ./runs if not given."""
    device: str = "auto"
    """Device to compute on: cpu, cuda, mps, or auto for the accelerator if there is one."""


@dataclass
class RunOptions(ModelOptions):
    """Options of a command that uses a run with its data set."""

    run_folder: tyro.conf.Positional[Path | None] = None
    """Run folder; the newest run under ./runs if not given."""
    dataset: str | None = None
    """Data set to use instead of the run's own."""


def resolve_options(parse: Callable[[dict[str, Any]], Any], args: Sequence[str]) -> Any:
    """The options of these arguments, over those of `--config` and of the run that is resumed.

    The folder of the run that is resumed becomes `out`.

    Args:
        parse: gives the options of the arguments, with new defaults of `TrainConfig`.

    Raises:
        InvalidInput: a file is not there, or holds something else; a number is out of range.
    """
    if zero := next((argument for argument in args if "\0" in argument), None):
        raise InvalidInput(f"expected arguments without a zero byte, got {zero!r}; leave it out")
    defaults = configured(args)
    options = parse(_timed(defaults, args))
    if isinstance(options, TrainConfig) and options.resume:
        out = run_folder(parse({"dataset": "", **defaults}))  # without the default data set
        if (out / CONFIG).is_file():
            own = load_config(out / CONFIG)
            options = parse(_timed({**own, **defaults}, args))
            if same_data(own.get("dataset", ""), options.dataset):
                options.dataset = own["dataset"]
        options.out = out
    check_numbers(options)
    return options


def _timed(options: dict[str, Any], args: Sequence[str]) -> dict[str, Any]:
    """The options without `steps`, which take precedence over a time, if these arguments give only a time."""
    return options | {"steps": None} if given(args, "--minutes") and not given(args, "--steps") else options


def run_folder(config: TrainConfig, name: str | None = None) -> Path:
    """The folder of the run to resume: `out`, or the newest under ./runs of this data set, of any if none is given."""
    if config.out is not None:
        return config.out
    require_out()
    return newest_run(f"{name or config.name}*", config.dataset or None)


def require_out() -> None:
    """Raise `InvalidInput` if several processes train, which must all be given the same folder."""
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    if processes > 1:
        raise InvalidInput(f"expected --out with {processes} processes, got none; name a folder for all of them")


def newest_run(pattern: str = "*", dataset: str | None = None) -> Path:
    """The newest run under ./runs, among those of this data set if one is given."""
    configs = sorted(RUNS.glob(f"{pattern}/{CONFIG}"), key=lambda path: path.stat().st_mtime, reverse=True)
    for path in configs:
        if dataset is None or _is_of(path, dataset):
            return path.parent
    of_data = "" if dataset is None else f" of {dataset}"
    raise ModelFileError(f"expected a run{of_data} under {RUNS}, found none; run `ddn quickstart` or `ddn train` first")


def _is_of(config: Path, dataset: str) -> bool:
    try:
        return same_data(str(load_config(config).get("dataset")), dataset)
    except InvalidInput as error:
        warnings.warn(f"{config.parent} is passed over: {error}", stacklevel=3)
        return False


def same_data(one: str, other: str) -> bool:
    """Whether two names mean one data set: the same name, or paths of the same folder."""
    try:
        return one == other or os.path.samefile(one, other)
    except (OSError, ValueError):
        return False


LOWEST, HIGHEST = -(1 << 63), (1 << 63) - 1
"""Every number must fit in 64 bits."""

RANGES: dict[str, tuple[int, int]] = {
    "seed": (0, (1 << 64) - 1),
    "num": (1, HIGHEST),
    "images": (1, HIGHEST),
    "samples": (1, HIGHEST),
    "weight_decay": (0, HIGHEST),
    "workers": (0, 256),
}
"""Lowest and highest value of options that nothing later checks, whichever command has them."""


def check_numbers(options: Any) -> None:
    """Raise `InvalidInput` if a number among these options (a dataclass) is out of its range, or not finite."""
    for field in dataclasses.fields(options):
        value = getattr(options, field.name)
        lowest, highest = RANGES.get(field.name, (LOWEST, HIGHEST))
        for number in value if isinstance(value, tuple) else (value,):
            if isinstance(number, int | float) and not lowest <= number <= highest:  # NaN is in no range
                too_low = LOWEST <= number <= HIGHEST and highest == HIGHEST
                expected = f"of at least {lowest}" if too_low else f"from {lowest} to {highest}"
                raise InvalidInput(f"expected {_flag(field.name)} {expected}, got {number}; give another number")


def differences(before: TrainConfig, now: TrainConfig) -> dict[str, str]:
    """The options that changed: name -> a line with both values."""
    lines = {}
    for field in dataclasses.fields(TrainConfig):
        old, new = getattr(before, field.name), getattr(now, field.name)
        if field.name not in PLACES and old != new:
            lines[field.name] = f"{_flag(field.name)[2:]}: {_formatted(new)} (was {_formatted(old)})"
    return lines


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _formatted(value: Any) -> str:
    if value is None or value == ():
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)
