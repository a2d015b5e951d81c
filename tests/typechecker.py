"""beartype, but for what it cannot check: a method that gives `Self`."""

from collections.abc import Callable
from typing import Any, Self

from beartype import BeartypeConf, beartype


def typechecked(function: Callable[..., Any]) -> Callable[..., Any]:
    gives = function.__annotations__.get("return")
    return function if gives is Self or gives == "Self" else beartype(conf=BeartypeConf(is_pep484_tower=True))(function)
