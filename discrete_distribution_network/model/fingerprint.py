"""Fingerprints of models, 8 bytes, so that a file of codes is decoded by the model that made it.

A fingerprint is a hash of all weights, rounded to bfloat16: the same for a model in bfloat16, float32 and float64.
Numbers that went through float16 may round to another neighbour, so

    a cast model remembers the fingerprints of the model it was cast from, as long as its weights do not change;
    a model also accepts files of its copy in float16, whose fingerprint it can compute.

The fingerprint from before a model was saved in float16 cannot be recovered.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from torch import nn


class CastFrom(NamedTuple):
    """The model that a cast model was made from.

    Attributes:
        fingerprints: its fingerprints.
        rounded: digest of the model after the cast; if it differs now, the weights have changed since.
    """

    fingerprints: tuple[bytes, ...]
    rounded: bytes


@runtime_checkable
class Fingerprinted(Protocol):
    """The attributes of a network on which its fingerprint depends."""

    sizes: list[tuple[int, int]]
    codebook_sizes: list[int]
    code_shapes: list[tuple[int, ...]]
    cast_from: CastFrom | None

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]: ...


def fingerprints(network: Fingerprinted) -> tuple[bytes, ...]:
    """The fingerprints that files of this model, in any precision, may have; it writes the first."""
    own = digest(network)
    if network.cast_from is not None and network.cast_from.rounded == own:
        return network.cast_from.fingerprints
    return tuple(dict.fromkeys((own, digest(network, torch.float16))))


def digest(network: Fingerprinted, by_way_of: torch.dtype | None = None) -> bytes:
    """8 bytes of the SHA-256 of the weights rounded to bfloat16, first to the type `by_way_of` if it is given."""
    found = hashlib.sha256(repr((network.sizes, network.codebook_sizes, network.code_shapes)).encode())
    for name, parameter in sorted(network.named_parameters()):
        found.update(f"{name} {tuple(parameter.shape)}".encode())
        weights = parameter.detach()
        weights = (weights if by_way_of is None else weights.to(by_way_of)).to("cpu", torch.bfloat16)
        found.update(weights.contiguous().view(torch.int16).numpy().tobytes())
    return found.digest()[:8]
