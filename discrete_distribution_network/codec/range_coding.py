"""Codes <-> bytes by range coding with an `EntropyModel`: likely codes take fewer bits. The coder is constriction's.

The integer probabilities of an entropy model sum to 2^16, so as fractions they are dyadic numbers, which float64 holds
exactly: encoder and decoder agree on every machine.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import constriction
import numpy as np
import torch
from jaxtyping import Integer
from torch import Tensor

from discrete_distribution_network.codec.bitstream import DamagedCodes
from discrete_distribution_network.model.tensors import by_level
from discrete_distribution_network.prior.entropy_model import PRECISION, EntropyModel

queue = constriction.stream.queue
CATEGORICAL = constriction.stream.model.Categorical(perfect=False)
"""The coder's model of a code: a row of probabilities."""

WORD, STATE = 4, 8
"""Bytes of a word of the range coder, and of each number of its state."""

TILES_AT_ONCE, PROBABILITIES_AT_ONCE = 64, 1 << 18
"""Most tiles of whole images, and most probabilities, that are computed at once."""


def pack_ranges(
    model: EntropyModel, codes: Integer[Tensor, "images_tiles codes"], levels: int, tiles: int
) -> list[bytes]:
    """The codes of the first `levels` levels of images as the bytes of each image."""
    packed: list[bytes] = []
    step = max(1, _tiles_at_once(model) // tiles) * tiles
    for chunk in (codes[start : start + step] for start in range(0, len(codes), step)):
        coders = [queue.RangeEncoder() for _ in range(len(chunk) // tiles)]
        walk = _Walk(model, tiles, len(chunk))
        for level, part in enumerate(by_level(chunk, model.code_shapes[:levels])):
            columns = _by_image(part.reshape(len(part), 1, -1), tiles)[..., 0].int().numpy()
            start = 0
            for probabilities in walk.probabilities(level):
                stop = start + probabilities.shape[1]
                for coder, own, rows in zip(coders, columns, probabilities, strict=True):
                    coder.encode(own[start:stop], CATEGORICAL, rows)
                start = stop
            if level + 1 < levels:
                walk.follow(level, part)
        packed += map(_shortest, coders)
    return packed


def unpack_ranges(
    model: EntropyModel, parts: Sequence[bytes], levels: int, tiles: int
) -> Integer[Tensor, "images_tiles codes"]:
    """The inverse of `pack_ranges`.

    Decoded codes are encoded again at once, so bytes that `pack_ranges` does not write are refused as soon as they are
    used up: memory and time are bounded by the codes that the bytes can hold, whatever number of tiles a file claims.

    Raises:
        DamagedCodes: `pack_ranges` writes no such bytes.
    """
    least = least_bytes(model, levels, tiles)
    for part in parts:
        if least > len(part):
            raise _damaged(part)
    step = max(1, _tiles_at_once(model) // tiles)
    chunks = (parts[start : start + step] for start in range(0, len(parts), step))
    empty = torch.empty(0, sum(map(math.prod, model.grids[:levels])), dtype=torch.long)
    return torch.cat([empty, *(_unpacked(model, chunk, levels, tiles) for chunk in chunks)])


def least_bytes(model: EntropyModel, levels: int, tiles: int) -> int:
    """A lower bound of the bytes of an image: a node has at most 1 - (K - 1) / 2^16, since each has at least 2^-16."""
    pairs = zip(model.grids[:levels], model.codebook_sizes, strict=False)
    bits = sum(-math.prod(grid) * math.log2(1 - (size - 1) / (1 << PRECISION)) for grid, size in pairs)
    return math.floor(tiles * bits / 8) - STATE


def _tiles_at_once(model: EntropyModel) -> int:
    most = max(math.prod(grid) * size for grid, size in zip(model.grids, model.codebook_sizes, strict=True))
    return min(TILES_AT_ONCE, PROBABILITIES_AT_ONCE // most)


def _unpacked(model: EntropyModel, parts: Sequence[bytes], levels: int, tiles: int) -> Tensor:
    decoders = [queue.RangeDecoder(_words(part)) for part in parts]
    encoders = [queue.RangeEncoder() for _ in parts]
    walk, found = _Walk(model, tiles, len(parts) * tiles), []
    for level in range(levels):
        columns: list[list[np.ndarray]] = [[] for _ in parts]
        for probabilities in walk.probabilities(level):
            for part, decoder, encoder, rows, own in zip(
                parts, decoders, encoders, probabilities, columns, strict=True
            ):
                try:
                    own.append(decoder.decode(CATEGORICAL, rows))
                except AssertionError as error:
                    raise _damaged(part) from error
                encoder.encode(own[-1], CATEGORICAL, rows)
                if WORD * encoder.pos()[0] > len(part):
                    raise _damaged(part)
        decoded = np.stack([np.concatenate(own) for own in columns])
        # (images, places * tiles) -> (images * tiles, places)
        codes = torch.from_numpy(decoded).unflatten(1, (-1, tiles)).mT.flatten(0, 1)
        found.append(codes)
        if level + 1 < levels:
            walk.follow(level, codes)
    for part, encoder in zip(parts, encoders, strict=True):
        if _shortest(encoder) != part:
            raise _damaged(part)
    return torch.cat(found, 1).long()


def _damaged(part: bytes) -> DamagedCodes:
    return DamagedCodes(
        f"expected bytes that the range coder wrote, got {len(part)} that it never writes; copy the file again"
    )


class _Walk:
    """The probabilities of the codes of tiles, level after level, in parts that fit into memory.

    Between levels the states of all tiles are kept as float32, which holds them exactly.

    Args:
        tiles: of an image.
        count: tiles of all images; if they are too many to be computed at once, of one image.
    """

    def __init__(self, model: EntropyModel, tiles: int, count: int):
        self.model, self.tiles = model, tiles
        self.whole = count <= _tiles_at_once(model)
        self.step = count if self.whole else max(1, min(1024, PROBABILITIES_AT_ONCE // max(model.codebook_sizes)))
        self.sizes = [min(self.step, count - start) for start in range(0, count, self.step)]
        self.states: list[Tensor] = []

    def _states(self) -> Iterator[Tensor]:
        """Of each part; before the first level they are made on demand."""
        yield from (state.double() for state in self.states) if self.states else map(self.model.begin, self.sizes)

    def probabilities(self, level: int) -> Iterator[np.ndarray]:
        """Parts of the probabilities of a level, float64 (images, places * tiles, K), place by place."""
        for place in [None] if self.whole else range(math.prod(self.model.grids[level])):
            for state in self._states():
                counts = self.model.counts(level, state, place).flatten(2)
                yield _by_image(counts, self.tiles if self.whole else len(state)).double().div(1 << PRECISION).numpy()

    def follow(self, level: int, codes: Tensor) -> None:
        """Update the states with the codes (tiles, ...) of a level."""
        parts = zip(codes.long().split(self.step), self._states(), strict=True)
        self.states = [self.model.follow(level, part, state).float() for part, state in parts]


def _by_image(values: Tensor, tiles: int) -> Tensor:
    """(images * tiles, X, places) -> (images, places * tiles, X)."""
    return values.cpu().unflatten(0, (-1, tiles)).permute(0, 3, 1, 2).flatten(1, 2).contiguous()


def _shortest(encoder: Any) -> bytes:
    """The bytes of an encoder, without those at the end that decoding does not need.

    The coder ends with a whole word. Of it as few bytes are kept as decode, followed by zeros, to the same codes: to a
    number in the coder's final interval [lower, lower + width).
    """
    written, (lower, width) = encoder.pos()
    whole: bytes = encoder.get_compressed().astype(">u4").tobytes()
    total = WORD * written + STATE
    value = int.from_bytes(whole, "big") << 8 * (total - len(whole))
    lower = value - (value - lower) % (1 << 8 * STATE)  # the coder gives its last bytes alone
    for length in range(max(0, len(whole) - WORD), len(whole)):
        cut = int.from_bytes(whole[:length], "big")
        for number in (cut, cut + 1):  # rounded down, or up
            if number < 1 << 8 * length and lower <= number << 8 * (total - length) < lower + width:
                return number.to_bytes(length, "big")
    return whole


def _words(data: bytes) -> np.ndarray:
    return np.frombuffer(data + bytes(-len(data) % WORD), ">u4").astype(np.uint32)
