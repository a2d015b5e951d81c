"""Codes <-> bytes by a `EntropyModel`: likely codes take fewer bits. The coder is constriction's.

The counts of a prior are integers that sum to 2^16, so their shares are dyadic numbers that float64 holds exactly, and
what decodes is in step with what encoded on every machine.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import constriction
import numpy as np
import torch
from torch import Tensor

from discrete_distribution_network.codec.bitstream import DamagedCodes
from discrete_distribution_network.codec.entropy_model import PRECISION, EntropyModel
from discrete_distribution_network.model.tensors import by_level

queue = constriction.stream.queue
CHANCES = constriction.stream.model.Categorical(perfect=False)
"""What the coder is told of each code: a row of chances."""

WORD, STATE = 4, 8
"""Bytes of a word of the range coder, and of the numbers of its state."""

AT_ONCE, CHANCES_AT_ONCE = 64, 1 << 18
"""Most tiles of whole images, and most chances, that are computed at once."""


def pack_ranges(prior: EntropyModel, codes: Tensor, tiles: int) -> list[bytes]:
    """The codes (images * tiles, number of codes) of all levels, or of the first, as the bytes of each image."""
    levels = prior.levels_of(codes.shape[1])
    packed: list[bytes] = []
    step = max(1, _tiles_at_once(prior) // tiles) * tiles
    for some in (codes[start : start + step] for start in range(0, len(codes), step)):
        parts = by_level(some, prior.code_shapes[:levels])
        coders = [queue.RangeEncoder() for _ in range(len(some) // tiles)]
        walk = _Walk(prior, tiles, len(some))
        for level, part in enumerate(parts):
            columns = _by_image(part.reshape(len(part), 1, -1), tiles)[..., 0].int().numpy()
            start = 0
            for shares in walk.shares(level):
                stop = start + shares.shape[1]
                for coder, own, rows in zip(coders, columns, shares, strict=True):
                    coder.encode(own[start:stop], CHANCES, rows)
                start = stop
            if level + 1 < levels:
                walk.follow(level, part)
        packed += map(_shortest, coders)
    return packed


def unpack_ranges(prior: EntropyModel, parts: Sequence[bytes], levels: int, tiles: int) -> Tensor:
    """The codes (images * tiles, number of codes) that `pack_ranges` wrote.

    What is decoded is encoded again beside it, so bytes that it does not write are told as soon as they are used up:
    memory and time are bounded by the codes that so many bytes hold, whatever number of tiles is said.

    Raises:
        DamagedCodes: they are not what it writes.
    """
    for part in parts:
        if least_bytes(prior, levels, tiles) > len(part):
            raise _damaged()
    step = max(1, _tiles_at_once(prior) // tiles)
    chunks = (parts[start : start + step] for start in range(0, len(parts), step))
    nothing = torch.empty(0, sum(map(math.prod, prior.grids[:levels])), dtype=torch.long)
    return torch.cat([nothing, *(_unpacked(prior, chunk, levels, tiles) for chunk in chunks)])


def least_bytes(prior: EntropyModel, levels: int, tiles: int) -> int:
    """Bytes that the codes of an image take at least, since each of K codes has a chance of at least 2^-16."""
    pairs = zip(prior.grids[:levels], prior.codebook_sizes, strict=False)
    bits = sum(-math.prod(grid) * math.log2(1 - (size - 1) / (1 << PRECISION)) for grid, size in pairs)
    return math.floor(tiles * bits / 8) - STATE


def _tiles_at_once(prior: EntropyModel) -> int:
    most = max(math.prod(grid) * size for grid, size in zip(prior.grids, prior.codebook_sizes, strict=True))
    return min(AT_ONCE, CHANCES_AT_ONCE // most)


def _unpacked(prior: EntropyModel, parts: Sequence[bytes], levels: int, tiles: int) -> Tensor:
    decoders = [queue.RangeDecoder(_words(part)) for part in parts]
    encoders = [queue.RangeEncoder() for _ in parts]
    walk, found = _Walk(prior, tiles, len(parts) * tiles), []
    for level in range(levels):
        columns: list[list[np.ndarray]] = [[] for _ in parts]
        for shares in walk.shares(level):
            for part, decoder, encoder, rows, own in zip(parts, decoders, encoders, shares, columns, strict=True):
                try:
                    own.append(decoder.decode(CHANCES, rows))
                except AssertionError as error:
                    raise _damaged() from error
                encoder.encode(own[-1], CHANCES, rows)
                if WORD * encoder.pos()[0] > len(part):
                    raise _damaged()
        decoded = np.stack([np.concatenate(own) for own in columns])
        # place by place, all tiles of each -> tile by tile
        codes = torch.from_numpy(decoded).unflatten(1, (-1, tiles)).mT.flatten(0, 1)
        found.append(codes)
        if level + 1 < levels:
            walk.follow(level, codes)
    for part, encoder in zip(parts, encoders, strict=True):
        if _shortest(encoder) != part:
            raise _damaged()
    return torch.cat(found, 1).long()


def _damaged() -> DamagedCodes:
    return DamagedCodes("expected range-coded codes, got bytes that no codes make; copy them again")


class _Walk:
    """The chances of the codes of tiles, level after level, a part of them at a time.

    Between levels the states of all tiles are kept as float32, which holds them exactly.

    Args:
        tiles: of an image.
        count: tiles of all images; if they are too many to be computed at once, of one image.
    """

    def __init__(self, prior: EntropyModel, tiles: int, count: int):
        self.prior, self.tiles = prior, tiles
        self.whole = count <= _tiles_at_once(prior)
        self.step = count if self.whole else max(1, min(1024, CHANCES_AT_ONCE // max(prior.codebook_sizes)))
        self.sizes = [min(self.step, count - start) for start in range(0, count, self.step)]
        self.states: list[Tensor] = []

    def _states(self) -> Iterator[Tensor]:
        """Of the parts; before the first level they are made as they are asked for."""
        yield from (state.double() for state in self.states) if self.states else map(self.prior.begin, self.sizes)

    def shares(self, level: int) -> Iterator[np.ndarray]:
        """The chances of a level's codes, float64 (images, some, K): place by place, all tiles of each."""
        for place in [None] if self.whole else range(math.prod(self.prior.grids[level])):
            for state in self._states():
                counts = self.prior.counts(level, state, place).flatten(2)
                yield _by_image(counts, self.tiles if self.whole else len(state)).double().div(1 << PRECISION).numpy()

    def follow(self, level: int, codes: Tensor) -> None:
        """Go on with the codes (tiles, ...) of a level."""
        parts = zip(codes.long().split(self.step), self._states(), strict=True)
        self.states = [self.prior.follow(level, part, state).float() for part, state in parts]


def _by_image(values: Tensor, tiles: int) -> Tensor:
    """(images * tiles, X, places) -> (images, places * tiles, X)."""
    return values.cpu().unflatten(0, (-1, tiles)).permute(0, 3, 1, 2).flatten(1, 2).contiguous()


def _shortest(encoder: Any) -> bytes:
    """What an encoder wrote.

    It ends with a whole word; of that as few bytes are kept as decode, if zeros follow, to the same codes: those that
    are still in the range [lower, lower + width) of the coder at its end.
    """
    written, (lower, width) = encoder.pos()
    whole: bytes = encoder.get_compressed().astype(">u4").tobytes()
    total = WORD * written + STATE
    value = int.from_bytes(whole, "big") << 8 * (total - len(whole))
    lower = value - (value - lower) % (1 << 8 * STATE)  # the bytes before are those of the whole
    for length in range(max(0, len(whole) - WORD), len(whole)):
        cut = int.from_bytes(whole[:length], "big")
        for number in (cut, cut + 1):  # cut off, or rounded up
            if number < 1 << 8 * length and lower <= number << 8 * (total - length) < lower + width:
                return number.to_bytes(length, "big")
    return whole


def _words(data: bytes) -> np.ndarray:
    return np.frombuffer(data + bytes(-len(data) % WORD), ">u4").astype(np.uint32)
