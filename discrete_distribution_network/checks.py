"""Arguments that are numbers, as Python has them: one sentence where they are of another kind or out of their range."""

from __future__ import annotations

import math
import numbers

from discrete_distribution_network.errors import InvalidInput


def check_count(name: str, value: object) -> int:
    """An integer of at least 1.

    Raises:
        InvalidInput: it is none; the message calls it `name`.
    """
    if not isinstance(value, numbers.Integral) or isinstance(value, bool) or int(value) < 1:
        raise InvalidInput(f"expected {name} as an integer of at least 1, got {value!r}")
    return int(value)


def check_positive(name: str, value: object) -> float:
    """A finite number above 0.

    Raises:
        InvalidInput: it is none; the message calls it `name`.
    """
    if not isinstance(value, numbers.Real) or isinstance(value, bool) or not 0 < value < math.inf:  # type: ignore[operator]
        raise InvalidInput(f"expected {name} as a finite number above 0, got {value!r}")
    return float(value)


def check_seed(value: object) -> int:
    """A seed as PyTorch takes it.

    Raises:
        InvalidInput: it is no integer of 64 bits.
    """
    if not isinstance(value, numbers.Integral) or isinstance(value, bool) or not -(1 << 63) <= int(value) < 1 << 64:
        raise InvalidInput(f"expected a seed as an integer of at most 64 bits, got {value!r}")
    return int(value)
