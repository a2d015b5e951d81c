"""One base error. Every message is one sentence: what was expected, what came, what to do."""

from __future__ import annotations

import math
from numbers import Integral, Real
from typing import TypeGuard


def printable(text: object) -> str:
    """Text that can be written as UTF-8: the bytes of a file name that are none are shown as escapes."""
    return str(text).encode("utf-8", "backslashreplace").decode("utf-8")


class DDNError(Exception):
    """Base of every error this library raises on purpose; its message can always be printed as UTF-8."""

    def __str__(self) -> str:
        return printable(super().__str__())


class InvalidInput(DDNError, ValueError):
    """An argument has the wrong shape, range or type; nothing was computed and nothing changed."""


class DataError(DDNError):
    """A file or folder of images cannot be used; the message names it."""


class ModelFileError(DDNError):
    """A saved model is missing, damaged, unsafe or of another architecture; the message names the file."""


class OutputError(DDNError, OSError):
    """A file or folder cannot be written; what was there before stays.

    Args:
        path: of the file.
        error: what the system said.
    """

    def __init__(self, path: object, error: OSError):
        said = error.strerror or str(error) or type(error).__name__
        super().__init__(f"cannot write {path}: {said}; free space, check permissions or give another path")
        self.errno = error.errno


def require(condition: bool, expected: str, came: object, advice: str = "") -> None:
    """Raise `InvalidInput` unless `condition` holds."""
    if not condition:
        raise InvalidInput(f"expected {expected}, got {came}" + (f"; {advice}" if advice else ""))


def require_integer(value: object, name: str, least: int = 1, most: int | None = None) -> None:
    """Raise `InvalidInput` unless `value` is an integer from `least` to `most`; True, 2.0 and tensors are none."""
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
    """Whether it is a finite real number; True and tensors are none."""
    return isinstance(value, (int, float, Real)) and not isinstance(value, bool) and math.isfinite(value)


def one_line(error: BaseException) -> str:
    """The message of any error on one line of at most 300 characters."""
    return f"{' '.join(str(error).split()):.300}" or type(error).__name__


def shown(value: object) -> str:
    """Any value in a line of an error: shortened, and of a tensor or an array its shape."""
    shape = getattr(value, "shape", None)
    if shape:
        return f"a {type(value).__name__} of shape {tuple(shape)}"
    text = " ".join(repr(value).split())
    return text if len(text) <= 80 else f"{text[:77]}..."
