"""Constructor arguments as JSON holds them, and back: numbers, strings, lists, objects, and modules of torch.nn.

A module is the name of its class with those arguments that are not the default ones:

    {"torch.nn": "GroupNorm", "num_groups": 1, "num_channels": 16}
    {"torch.nn": "Sequential", "modules": [{"torch.nn": "Conv2d", ...}, {"torch.nn": "Tanh"}]}

What has no such form, such as a function or a class of one's own, is {"not saved": what it was}.
"""

from __future__ import annotations

import inspect
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from numbers import Integral, Real
from typing import Any

import torch
from torch import nn

from discrete_distribution_network.errors import InvalidInput

MODULE, PARTS, NAMES, NOT_SAVED = "torch.nn", "modules", "names", "not saved"
"""Keys of a module's class, of the modules in a Sequential and their names (if no numbers), of what is left out."""

MOST_MODULES = 256
"""Modules that are made of one description."""

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
"""Classes of torch.nn that are made by their names; no others are."""


def to_plain(value: Any, name: str, left_out: list[str]) -> Any:
    """An argument as JSON holds it; the names of what in it has no such form are added to `left_out`."""
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
        what = getattr(value, "__qualname__", value if isinstance(value, float) else "")
        return {NOT_SAVED: f"{type(value).__name__} {what}".strip()}
    return described


def from_plain(value: Any) -> Any:
    """What `to_plain` was given, with new modules.

    Raises:
        InvalidInput: a module is not among `KNOWN`, or there are too many.
    """
    count = sum(MODULE in one for one in _objects(value))
    if count > MOST_MODULES:
        raise InvalidInput(f"expected at most {MOST_MODULES} modules, got {count}; use fewer")
    return _made(value)


def not_saved(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """The name of each argument among these that has no plain form, and what it was."""
    if isinstance(value, dict):
        if NOT_SAVED in value:
            yield name, str(value[NOT_SAVED])
        else:
            for key, one in value.items():
                yield from not_saved(one, f"{name}.{key}" if name else key)


def describe(module: nn.Module) -> dict[str, Any] | None:
    """The plain form of a module of torch.nn; None unless what is made of it is like the module."""
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
        plain |= _arguments(module)
    try:
        json.dumps(plain, allow_nan=False)
        with torch.device("meta"):
            made = from_plain(plain)
        return plain if _traits(made) == _traits(module) else None
    except Exception:  # whatever a constructor or a comparison says, the form is not one to rely on
        return None


def _arguments(module: nn.Module) -> dict[str, Any]:
    """Those arguments that a module was made with that are plain and not the default ones, by its attributes."""
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
    """What like modules have in common: what they say of themselves, their attributes, and their weights' shapes."""
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


def _made(value: Any) -> Any:
    if isinstance(value, list):
        return [_made(one) for one in value]
    if not isinstance(value, dict):
        return value
    if MODULE not in value:
        return {name: _made(one) for name, one in value.items()}
    kind = value[MODULE]
    if not isinstance(kind, str) or kind not in KNOWN:
        raise InvalidInput(f"expected one of {len(KNOWN)} modules of torch.nn, got {kind!r:.80}; give it when loading")
    rest = {name: one for name, one in value.items() if name != MODULE}
    if kind != "Sequential":
        return getattr(nn, kind)(**{name: tuple(one) if isinstance(one, list) else one for name, one in rest.items()})
    parts = _made(rest.get(PARTS))
    if not isinstance(parts, list) or not all(isinstance(part, nn.Module) for part in parts):
        raise InvalidInput(f"expected a list of modules in a Sequential, got {rest.get(PARTS)!r:.80}")
    made = nn.Sequential()
    for name, part in zip(rest.get(NAMES, map(str, range(len(parts)))), parts, strict=True):
        made.add_module(name, part)
    return made
