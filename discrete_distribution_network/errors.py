"""Errors with one base. Every message is one sentence: what was expected, what was given, what to do."""

from __future__ import annotations

import math
from numbers import Integral, Real
from typing import TypeGuard


def printable(text: object) -> str:
    """Text that can be encoded as UTF-8; other bytes of a file name are shown as escapes."""
    return str(text).encode("utf-8", "backslashreplace").decode("utf-8")


class DDNError(Exception):
    """Base of every error that this library raises; its message can always be encoded as UTF-8."""

    def __str__(self) -> str:
        return printable(super().__str__())


class InvalidInput(DDNError, ValueError):
    """An argument has the wrong shape, range or type; nothing was computed or changed."""


class DataError(DDNError):
    """A file or folder of images cannot be used; the message names it."""


class ModelFileError(DDNError):
    """A saved model is missing, damaged, unsafe or of another architecture; the message names the file."""


class OutputError(DDNError, OSError):
    """A file or folder cannot be written; its previous content is kept.

    Args:
        path: of the file.
        error: the system's error.
    """

    def __init__(self, path: object, error: OSError):
        reason = error.strerror or str(error) or type(error).__name__
        super().__init__(f"cannot write {path}: {reason}; free space, check permissions or give another path")
        self.errno = error.errno


def require(condition: bool, expected: str, given: object, advice: str = "") -> None:
    """Raise `InvalidInput` ("expected ..., got ...; advice") unless `condition` holds.

    It is for messages of a few words; where they need more, `raise InvalidInput` itself.
    """
    if not condition:
        raise InvalidInput(f"expected {expected}, got {given}" + (f"; {advice}" if advice else ""))


def require_integer(value: object, name: str, least: int = 1, most: int | None = None) -> None:
    """Raise `InvalidInput` unless `value` is an integer from `least` to `most`, and not True, 2.0 or a tensor."""
    fits = isinstance(value, (int, Integral)) and not isinstance(value, bool)
    bounds = f"{name} to be an integer of at least {least}" if most is None else f"{name} from {least} to {most}"
    require(fits and least <= value and (most is None or value <= most), bounds, shown(value))  # type: ignore[operator]


def require_positive(value: object, name: str) -> None:
    """Raise `InvalidInput` unless `value` is a finite number above 0."""
    require(is_number(value) and value > 0, f"{name} above 0", shown(value))


def require_seed(value: object, name: str = "seed") -> None:
    """Raise `InvalidInput` unless `value` is an integer that PyTorch takes as a seed."""
    require_integer(value, name, -(1 << 63), (1 << 64) - 1)


def is_number(value: object) -> TypeGuard[float]:
    """Whether it is a finite real number, and not True or a tensor."""
    return isinstance(value, (int, float, Real)) and not isinstance(value, bool) and math.isfinite(value)


def one_line(error: BaseException) -> str:
    """The message of any error on one line of at most 300 characters."""
    return f"{' '.join(str(error).split()):.300}" or type(error).__name__


def shown(value: object) -> str:
    """A value as shown in an error: on one line, shortened; of a tensor or an array, the shape."""
    shape = getattr(value, "shape", None)
    if shape:
        return f"a {type(value).__name__} of shape {tuple(shape)}"
    text = " ".join(repr(value).split())
    return text if len(text) <= 80 else f"{text[:77]}..."
