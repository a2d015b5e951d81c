"""Untrusted files of a JSON object, read within limits of time and memory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from discrete_distribution_network.errors import ModelFileError

MAX_BYTES = 1 << 20
"""Size of the largest file that is read."""

MAX_DEPTH = 32
"""Nesting of lists and objects."""

MAX_NUMBER = 1 << 63
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
            data = file.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            raise ValueError(f"it has more than {MAX_BYTES} bytes")
        value = json.loads(data.decode("utf-8"), object_pairs_hook=_object)
        _check(value, MAX_DEPTH)
    except RecursionError as error:
        raise ModelFileError(f"expected {content} in {path}, got JSON nested too deeply; copy it again") from error
    except (OSError, ValueError) as error:  # also text that is no UTF-8
        raise ModelFileError(f"expected JSON in {path}, which cannot be read ({error}); copy it again") from error
    if not isinstance(value, dict):
        raise ModelFileError(f"expected an object of {content} in {path}, got a {type(value).__name__}; copy it again")
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value: dict[str, Any] = {}
    for name, one in pairs:
        if name in value:
            raise ValueError(f"{name!r:.80} occurs twice")
        value[name] = one
    return value


def _check(value: Any, depth_left: int) -> None:
    if isinstance(value, int | float) and not abs(value) < MAX_NUMBER:
        raise ValueError("a number in it is too large, or NaN")
    if isinstance(value, list | dict):
        if depth_left == 0:
            raise RecursionError
        for one in value.values() if isinstance(value, dict) else value:
            _check(one, depth_left - 1)
