"""From arguments to options: which run is meant, what it was trained with, which numbers make sense.

Nothing heavy is imported here, so that `ddn --help` is quick.
"""

from __future__ import annotations

import dataclasses
import os
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from discrete_distribution_network.cli.config import CONFIG, PLACES, TrainConfig, configured, given, load_config
from discrete_distribution_network.errors import InvalidInput, ModelFileError

RUNS = Path("runs")


def parsed(parse: Callable[[dict[str, Any]], Any], args: Sequence[str]) -> Any:
    """The options that these arguments are, over those to begin with: of the run that is resumed, of `--config`.

    The folder of the run that is resumed becomes `out`.

    Args:
        parse: gives the options of the arguments over those of `TrainConfig` that it is given.

    Raises:
        InvalidInput: a file is not there, or holds something else; a number is out of range.
    """
    if any("\0" in argument for argument in args):
        raise InvalidInput("expected arguments without a zero byte, got one with it; leave it out")
    begin = configured(args)
    options = parse(_timed(begin, args))
    if isinstance(options, TrainConfig) and options.resume:
        out = run_folder(parse({"dataset": "", **begin}))  # without the data set that is one by default
        if (out / CONFIG).is_file():
            own = load_config(out / CONFIG)
            options = parse(_timed({**own, **begin}, args))
            if same_data(own.get("dataset", ""), options.dataset):
                options.dataset = own["dataset"]
        options.out = out
    check_numbers(options)
    return options


def _timed(options: dict[str, Any], args: Sequence[str]) -> dict[str, Any]:
    """The options without their steps, which go before a time, if these arguments have a time instead."""
    return options | {"steps": None} if given(args, "--minutes") and not given(args, "--steps") else options


def run_folder(config: TrainConfig, name: str | None = None) -> Path:
    """The folder of the run to resume: `out`, or the newest under ./runs of this data set, of any if none is given."""
    if config.out is not None:
        return config.out
    require_out()
    return newest_run(f"{name or config.name}*", config.dataset or None)


def require_out() -> None:
    """Raise where several processes train, which must all be told the same folder."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise InvalidInput("expected --out where several processes train, got none; name a folder for all of them")


def newest_run(pattern: str = "*", dataset: str | None = None) -> Path:
    """The run under ./runs that was started last, among those of this data set if one is given."""
    configs = sorted(RUNS.glob(f"{pattern}/{CONFIG}"), key=lambda path: path.stat().st_mtime, reverse=True)
    for path in configs:
        if dataset is None or _is_of(path, dataset):
            return path.parent
    of_it = "" if dataset is None else f" of {dataset}"
    raise ModelFileError(f"expected a run{of_it} under {RUNS}, found none; run `ddn quickstart` or `ddn train` first")


def _is_of(config: Path, dataset: str) -> bool:
    try:
        return same_data(str(load_config(config).get("dataset")), dataset)
    except InvalidInput as error:
        warnings.warn(f"{config.parent} is passed over: {error}", stacklevel=3)
        return False


def same_data(one: str, other: str) -> bool:
    """Whether two names are of one data set: the same name, or paths of one folder."""
    try:
        return one == other or os.path.samefile(one, other)
    except (OSError, ValueError):
        return False


LOWEST, HIGHEST = -(1 << 63), (1 << 63) - 1
"""The numbers that fit in 64 bits, which every option must."""

RANGES: dict[str, tuple[int, int]] = {
    "seed": (0, (1 << 64) - 1),
    "num": (1, HIGHEST),
    "images": (1, HIGHEST),
    "samples": (1, HIGHEST),
    "weight_decay": (0, HIGHEST),
    "workers": (0, 256),
}
"""Of options that nothing later checks, whatever command they are of, the lowest and the highest value."""


def check_numbers(options: Any) -> None:
    """Raise `InvalidInput` where a number among these options (a dataclass) is out of its range, or not finite."""
    for field in dataclasses.fields(options):
        value = getattr(options, field.name)
        lowest, highest = RANGES.get(field.name, (LOWEST, HIGHEST))
        for number in value if isinstance(value, tuple) else (value,):
            if isinstance(number, int | float) and not lowest <= number <= highest:  # NaN is in no range
                small = LOWEST <= number <= HIGHEST and highest == HIGHEST
                wanted = f"of at least {lowest}" if small else f"from {lowest} to {highest}"
                raise InvalidInput(f"expected --{_spelt(field.name)} {wanted}, got {number}; give another number")


def differences(before: TrainConfig, now: TrainConfig) -> dict[str, str]:
    """The options that differ from those before, by name, each with what is said of it."""
    told = {}
    for field in dataclasses.fields(TrainConfig):
        old, new = getattr(before, field.name), getattr(now, field.name)
        if field.name not in PLACES and old != new:
            told[field.name] = f"{_spelt(field.name)}: {_written(new)} (was {_written(old)})"
    return told


def _spelt(name: str) -> str:
    return name.replace("_", "-")


def _written(value: Any) -> str:
    if value is None or value == ():
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)
