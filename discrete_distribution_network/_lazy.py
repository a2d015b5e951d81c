"""Names of a package that are imported when first used, so that importing the package does not import PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def lazy(package: str, home: Mapping[str, str]) -> Callable[[str], Any]:
    """A `__getattr__` (PEP 562) for a package.

    Args:
        package: its `__name__`.
        home: name -> the module below the package that defines it, or "..package.module" of another package.
    """

    def get(name: str) -> Any:
        if name not in home:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        module = home[name]
        return getattr(import_module(module if module.startswith(".") else f".{module}", package), name)

    return get
