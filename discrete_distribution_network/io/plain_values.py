"""Constructor arguments as JSON holds them, and back: numbers, strings, lists, objects, and modules of torch.nn.

A module is the name of its class with its non-default arguments:

    {"torch.nn": "GroupNorm", "num_groups": 1, "num_channels": 16}
    {"torch.nn": "Sequential", "modules": [{"torch.nn": "Conv2d", ...}, {"torch.nn": "Tanh"}]}

Anything else, such as a function or a module of another class, is {"not saved": description}.
"""

from __future__ import annotations

import collections.abc
import inspect
import json
import math
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from numbers import Integral, Real
from typing import Any

import torch
from torch import nn

from discrete_distribution_network.errors import InvalidInput

MODULE, PARTS, NAMES, NOT_SAVED = "torch.nn", "modules", "names", "not saved"
"""Keys of a module's class, of the modules in a Sequential and their names (if not 0, 1, ...), of what is left out."""

MAX_MODULES = 256
"""Modules in one description."""

KNOWN = frozenset(
    """
    CELU ELU GELU GLU Hardshrink Hardsigmoid Hardswish Hardtanh Identity LeakyReLU LogSigmoid Mish PReLU RReLU ReLU
    ReLU6 SELU SiLU Sigmoid Softmax Softmax2d Softmin Softplus Softshrink Softsign Tanh Tanhshrink Threshold
    BatchNorm1d BatchNorm2d GroupNorm InstanceNorm1d InstanceNorm2d LayerNorm LocalResponseNorm RMSNorm
    Conv1d Conv2d ConvTranspose1d ConvTranspose2d Linear AlphaDropout Dropout Dropout1d Dropout2d FeatureAlphaDropout
    AdaptiveAvgPool1d AdaptiveAvgPool2d AdaptiveMaxPool1d AdaptiveMaxPool2d AvgPool1d AvgPool2d MaxPool1d MaxPool2d
    ChannelShuffle CircularPad2d ConstantPad2d Flatten PixelShuffle PixelUnshuffle ReflectionPad2d ReplicationPad2d
    Unflatten Upsample UpsamplingBilinear2d UpsamplingNearest2d ZeroPad2d Sequential
    """.split()  # noqa: SIM905
)
"""Classes of torch.nn that are made by their names, and no others."""


def to_plain(value: Any, name: str, left_out: list[str]) -> Any:
    """An argument in plain form; the names of its parts that have none are added to `left_out`."""
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real) and math.isfinite(value):
        return float(value)
    if isinstance(value, Mapping):
        return {str(key): to_plain(one, f"{name}.{key}", left_out) for key, one in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, bytes):
        return [to_plain(one, name, left_out) for one in value]
    described = describe(value) if isinstance(value, nn.Module) else None
    if described is None:
        left_out.append(name)
        own_name = getattr(value, "__qualname__", value if isinstance(value, float) else "")
        return {NOT_SAVED: f"{type(value).__name__} {own_name}".strip()}
    return described


def from_plain(value: Any) -> Any:
    """The inverse of `to_plain`, with new modules.

    Raises:
        InvalidInput: a module is not among `KNOWN`, or there are too many.
    """
    count = sum(MODULE in one for one in _objects(value))
    if count > MAX_MODULES:
        raise InvalidInput(f"expected at most {MAX_MODULES} modules, got {count}; use fewer")
    return _make(value)


def not_saved(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """The name and the description of each argument that has no plain form."""
    if isinstance(value, dict):
        if NOT_SAVED in value:
            yield name, str(value[NOT_SAVED])
        else:
            for key, one in value.items():
                yield from not_saved(one, f"{name}.{key}" if name else key)


def describe(module: nn.Module) -> dict[str, Any] | None:
    """The plain form of a module of torch.nn; None unless a module made from it is equal but for its weights."""
    kind = type(module).__name__
    if kind not in KNOWN or type(module) is not getattr(nn, kind, None):
        return None
    plain: dict[str, Any] = {MODULE: kind}
    if isinstance(module, nn.Sequential):
        plain[PARTS] = [None if part is None else describe(part) for part in module._modules.values()]
        if None in plain[PARTS]:
            return None
        if list(module._modules) != [str(place) for place in range(len(module))]:
            plain[NAMES] = list(module._modules)
    else:
        plain |= _non_default_arguments(module)
    try:
        json.dumps(plain, allow_nan=False)
        with torch.device("meta"):
            made = from_plain(plain)
        return plain if _traits(made) == _traits(module) else None
    except Exception:  # whatever a constructor or a comparison raises, the form cannot be relied on
        return None


def _non_default_arguments(module: nn.Module) -> dict[str, Any]:
    """The non-default arguments that a module was made with, read from its attributes."""
    found = {}
    for name, parameter in inspect.signature(type(module)).parameters.items():
        if name in ("device", "dtype") or not hasattr(module, name):
            continue
        value, default = getattr(module, name), parameter.default
        if isinstance(default, bool) and not isinstance(value, bool):  # a bias that is there
            value = value is not None
        if value is not default and (type(value) is not type(default) or value != default):
            found[name] = list(value) if isinstance(value, tuple) else value
    return found


def _traits(module: nn.Module) -> Any:
    """What equal modules share: their `repr`, their attributes, and the names and shapes of their weights."""
    return (
        repr(module),
        [(name, tensor.shape) for name, tensor in module.state_dict().items()],
        [name for name, _ in module.named_parameters()],
        [
            {name: value for name, value in vars(part).items() if name not in ("_parameters", "_buffers", "_modules")}
            | {"training": None}
            for _, part in module.named_modules(remove_duplicate=False)
        ],
    )


def _objects(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        yield value
    if isinstance(value, dict | list):
        for one in value.values() if isinstance(value, dict) else value:
            yield from _objects(one)


def _make(value: Any) -> Any:
    if isinstance(value, list):
        return [_make(one) for one in value]
    if not isinstance(value, dict):
        return value
    if MODULE not in value:
        return {name: _make(one) for name, one in value.items()}
    kind = value[MODULE]
    if not isinstance(kind, str) or kind not in KNOWN:
        raise InvalidInput(f"expected one of {len(KNOWN)} modules of torch.nn, got {kind!r:.80}; give it when loading")
    rest = {name: one for name, one in value.items() if name != MODULE}
    if kind != "Sequential":
        return getattr(nn, kind)(**{name: tuple(one) if isinstance(one, list) else one for name, one in rest.items()})
    parts = _make(rest.get(PARTS))
    if not isinstance(parts, list) or not all(isinstance(part, nn.Module) for part in parts):
        raise InvalidInput(f"expected a list of modules in a Sequential, got {rest.get(PARTS)!r:.80}")
    made = nn.Sequential()
    for name, part in zip(rest.get(NAMES, map(str, range(len(parts)))), parts, strict=True):
        made.add_module(name, part)
    return made


def argument_names(cls: type) -> list[str]:
    """The names of a constructor's arguments."""
    parameters = list(inspect.signature(cls.__init__).parameters.values())[1:]  # type: ignore[misc]
    return [one.name for one in parameters if one.kind not in (one.VAR_KEYWORD, one.VAR_POSITIONAL)]


def takes_more(cls: type) -> bool:
    """Whether a constructor takes any keyword argument (`**kwargs`)."""
    parameters = inspect.signature(cls.__init__).parameters.values()  # type: ignore[misc]
    return any(one.kind == one.VAR_KEYWORD for one in parameters)


def bind_arguments(cls: type, *args: Any, **kwargs: Any) -> dict[str, Any]:
    """The arguments of a constructor's call, by their names."""
    bound = inspect.signature(cls.__init__).bind_partial(None, *args, **kwargs).arguments  # type: ignore[misc]
    names = argument_names(cls)
    return {name: value for name, value in bound.items() if name in names} | kwargs


def check_types(owner: type, values: dict[str, Any], name: str = "") -> None:
    """Raise `InvalidInput` unless these values have the types that a class's constructor annotates.

    Args:
        name: of the argument that is a dictionary of these values; all must then be arguments of `owner`.
    """
    try:
        hints = typing.get_type_hints(owner.__init__)  # type: ignore[misc]
    except NameError:  # types that are imported for type checkers alone
        hints = {}
    for argument, value in values.items():
        if name and argument not in hints:
            raise InvalidInput(f"{name} has no {argument!r:.80}")
        if argument in hints and not _has_type(value, hints[argument]):
            raise InvalidInput(f"{argument} is {value!r:.80}, no {inspect.formatannotation(hints[argument])}")


def _has_type(value: Any, hint: Any) -> bool:
    """Whether a plain value, or a module, has a type."""
    origin, arguments = typing.get_origin(hint) or hint, typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return any(_has_type(value, one) for one in arguments)
    if origin in (list, tuple, collections.abc.Sequence):
        return isinstance(value, list) and all(_has_type(one, arguments[0]) for one in value)
    if origin is collections.abc.Callable:
        return callable(value)
    if hint in (int, float):
        return isinstance(value, int if hint is int else int | float) and not isinstance(value, bool)
    if hint is bool:
        return isinstance(value, bool) or (isinstance(value, int) and value in (0, 1))
    return origin is Any or isinstance(value, origin)
