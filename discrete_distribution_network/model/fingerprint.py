"""8 bytes that tell models apart, so that a file of codes is decoded by the model that made it.

They are of all weights, rounded to bfloat16: the same for a model in bfloat16, float32 and float64. Numbers that went
through float16 may round to another neighbour, so

    a cast model remembers those of the model it was cast from, for as long as its weights stay as they are;
    a model also takes files of its copy in float16, whose fingerprint it can compute.

What cannot be known is what a model was before it was saved in float16.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import NamedTuple, Protocol

import torch
from torch import nn


class CastFrom(NamedTuple):
    """What a cast model was.

    Attributes:
        fingerprints: those of the model before.
        rounded: its own digest after the cast; another one now means that its weights have changed since.
    """

    fingerprints: tuple[bytes, ...]
    rounded: bytes


class Fingerprinted(Protocol):
    """A network, as far as its fingerprint needs it."""

    sizes: list[tuple[int, int]]
    codebook_sizes: list[int]
    code_shapes: list[tuple[int, ...]]
    cast_from: CastFrom | None

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]: ...


def fingerprints(network: Fingerprinted) -> tuple[bytes, ...]:
    """What files of this model, in any precision, may bear; the first is what it writes."""
    own = digest(network)
    if network.cast_from is not None and network.cast_from.rounded == own:
        return network.cast_from.fingerprints
    return tuple(dict.fromkeys((own, digest(network, torch.float16))))


def digest(network: Fingerprinted, by_way_of: torch.dtype | None = None) -> bytes:
    """Of the weights rounded to bfloat16, after another type if one is given."""
    found = hashlib.sha256(repr((network.sizes, network.codebook_sizes, network.code_shapes)).encode())
    for name, parameter in sorted(network.named_parameters()):
        found.update(f"{name} {tuple(parameter.shape)}".encode())
        weights = parameter.detach()
        weights = (weights if by_way_of is None else weights.to(by_way_of)).to("cpu", torch.bfloat16)
        found.update(weights.contiguous().view(torch.int16).numpy().tobytes())
    return found.digest()[:8]
