"""Files that hold a JSON object, read so that no content of theirs costs more than their length."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from discrete_distribution_network.errors import ModelFileError

MOST_BYTES = 1 << 20
"""Longest file that is read."""

DEEPEST = 32
"""Deepest nesting of lists and objects."""

LARGEST = 1 << 63
"""Numbers below it in magnitude are read; infinity and NaN are not."""


def read_object(path: Path, content: str) -> dict[str, Any]:
    """The object in a JSON file.

    Args:
        content: what an error says the file should hold.

    Raises:
        ModelFileError: there is no such file, or it holds something else.
    """
    try:
        if not path.is_file():
            raise ModelFileError(
                f"expected {content} in {path}, found {'no regular file' if path.exists() else 'none'}; copy it again"
            )
        with path.open("rb") as file:
            data = file.read(MOST_BYTES + 1)
        if len(data) > MOST_BYTES:
            raise ValueError(f"it has more than {MOST_BYTES} bytes")
        value = json.loads(data.decode("utf-8"), object_pairs_hook=_object)
        _check(value, DEEPEST)
    except RecursionError as error:
        raise ModelFileError(f"expected {content} in {path}, got JSON nested too deeply; copy it again") from error
    except (OSError, ValueError) as error:  # also text that is no UTF-8
        raise ModelFileError(f"expected JSON in {path}, got something else ({error}); copy it again") from error
    if not isinstance(value, dict):
        raise ModelFileError(f"expected an object of {content} in {path}, got a {type(value).__name__}; copy it again")
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value: dict[str, Any] = {}
    for name, one in pairs:
        if name in value:
            raise ValueError(f"{name!r:.80} stands there twice")
        value[name] = one
    return value


def _check(value: Any, deepest: int) -> None:
    if isinstance(value, int | float) and not abs(value) < LARGEST:
        raise ValueError("a number in it is too large, or NaN")
    if isinstance(value, list | dict):
        if deepest == 0:
            raise RecursionError
        for one in value.values() if isinstance(value, dict) else value:
            _check(one, deepest - 1)
