"""Checks of arguments that are numbers: one sentence where they are of another kind or out of their range."""

from __future__ import annotations

import math
import numbers

from discrete_distribution_network.errors import InvalidInput


def check_count(name: str, value: object, optional: bool = False) -> None:
    """Raise `InvalidInput` unless it is an integer of at least 1, or None if that is allowed."""
    if optional and value is None:
        return
    if not isinstance(value, numbers.Integral) or isinstance(value, bool) or value < 1:
        raise InvalidInput(f"expected {name} as an integer of at least 1, got {value!r}")


def check_positive(name: str, value: object, optional: bool = False) -> None:
    """Raise `InvalidInput` unless it is a finite number above 0, or None if that is allowed."""
    if optional and value is None:
        return
    if not isinstance(value, numbers.Real) or isinstance(value, bool) or not 0 < float(value) < math.inf:
        raise InvalidInput(f"expected {name} as a finite number above 0, got {value!r}")


def check_seed(value: object) -> None:
    """Raise `InvalidInput` unless it is an integer of 64 bits."""
    if not isinstance(value, numbers.Integral) or isinstance(value, bool) or not -(1 << 63) <= int(value) < 1 << 64:
        raise InvalidInput(f"expected a seed as an integer of at most 64 bits, got {value!r}")
