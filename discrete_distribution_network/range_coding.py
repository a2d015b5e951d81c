"""Codes <-> bytes by a `CodePrior`: likely codes take fewer bits. The coder is constriction's.

The counts of a prior are integers that sum to 2^16, so their shares are dyadic numbers that float64 holds exactly, and
what decodes is in step with what encoded on every machine.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import constriction
import numpy as np
import torch
from torch import Tensor

from discrete_distribution_network.bitstream import DamagedCodes
from discrete_distribution_network.code_prior import PRECISION, CodePrior
from discrete_distribution_network.selection import by_level

queue = constriction.stream.queue
CHANCES = constriction.stream.model.Categorical(perfect=False)
"""What the coder is told of each code: a row of chances."""

WORD = 4
"""Bytes of a word of the range coder."""

AT_ONCE = 64
"""Tiles whose chances are computed at once."""


def pack_ranges(prior: CodePrior, codes: Tensor, tiles: int) -> list[bytes]:
    """The codes (images * tiles, number of codes) of all levels, or of the first, as the bytes of each image."""
    return [part for some in codes.split(_rows(tiles)) for part in _packed(prior, some, tiles)]


def unpack_ranges(prior: CodePrior, parts: Sequence[bytes], levels: int, tiles: int) -> Tensor:
    """The codes (images * tiles, number of codes) that `pack_ranges` wrote.

    Raises:
        DamagedCodes: they are not what it writes.
    """
    step = _rows(tiles) // tiles
    chunks = (parts[start : start + step] for start in range(0, len(parts), step))
    return torch.cat([_unpacked(prior, chunk, levels, tiles) for chunk in chunks])


def _rows(tiles: int) -> int:
    return max(1, AT_ONCE // tiles) * tiles


def _packed(prior: CodePrior, codes: Tensor, tiles: int) -> Iterator[bytes]:
    shapes = prior.code_shapes[: prior.levels_of(codes.shape[1])]
    state, columns, shares = prior.begin(len(codes)), [], []
    for level, part in enumerate(by_level(codes, shapes)):
        columns.append(_by_image(part.reshape(len(part), 1, -1), tiles)[..., 0].int().numpy())
        shares.append(_shares(prior, level, state, tiles))
        state = prior.follow(level, part, state)
    for image in range(len(codes) // tiles):
        yield _shortest([own[image] for own in columns], [own[image] for own in shares])


def _unpacked(prior: CodePrior, parts: Sequence[bytes], levels: int, tiles: int) -> Tensor:
    coders = [queue.RangeDecoder(_words(part)) for part in parts]
    state, found, columns, shares = prior.begin(len(parts) * tiles), [], [], []
    for level in range(levels):
        own = _shares(prior, level, state, tiles)
        try:
            decoded = [coder.decode(CHANCES, rows) for coder, rows in zip(coders, own, strict=True)]
        except AssertionError as error:
            raise _damaged() from error
        columns.append(decoded)
        shares.append(own)
        # place by place, all tiles of each -> tile by tile
        codes = torch.from_numpy(np.stack(decoded)).long().unflatten(1, (-1, tiles)).mT.flatten(0, 1)
        found.append(codes)
        state = prior.follow(level, codes, state)
    for image, part in enumerate(parts):
        if _shortest([own[image] for own in columns], [own[image] for own in shares]) != part:
            raise _damaged()
    return torch.cat(found, 1)


def _damaged() -> DamagedCodes:
    return DamagedCodes("expected range-coded codes, got bytes that no codes make; copy them again")


def _shares(prior: CodePrior, level: int, state: Tensor, tiles: int) -> np.ndarray:
    """The chances of a level's codes, float64 (images, places * tiles, K)."""
    counts = prior.counts(level, state).flatten(2)
    return _by_image(counts, tiles).double().div(1 << PRECISION).numpy()


def _by_image(values: Tensor, tiles: int) -> Tensor:
    """(images * tiles, X, places) -> (images, places * tiles, X)."""
    return values.cpu().unflatten(0, (-1, tiles)).permute(0, 3, 1, 2).flatten(1, 2).contiguous()


def _shortest(columns: Sequence[np.ndarray], shares: Sequence[np.ndarray]) -> bytes:
    """The codes of an image, each column with its chances.

    The coder ends with a whole word; of that as few bytes are kept as decode to the same codes.
    """
    encoder = queue.RangeEncoder()
    for column, own in zip(columns, shares, strict=True):
        encoder.encode(column, CHANCES, own)
    whole: bytes = encoder.get_compressed().astype(">u4").tobytes()
    for length in range(max(0, len(whole) - WORD), len(whole)):
        lower = int.from_bytes(whole[:length], "big")
        for number in (lower, lower + 1):  # cut off, or rounded up
            if number < 1 << 8 * length:
                short = number.to_bytes(length, "big")
                if _makes(short, columns, shares):
                    return short
    return whole


def _makes(data: bytes, columns: Sequence[np.ndarray], shares: Sequence[np.ndarray]) -> bool:
    """Whether bytes that go on with zeros decode to these columns."""
    decoder = queue.RangeDecoder(_words(data))
    try:
        return all(
            np.array_equal(decoder.decode(CHANCES, own), column) for column, own in zip(columns, shares, strict=True)
        )
    except AssertionError:
        return False


def _words(data: bytes) -> np.ndarray:
    return np.frombuffer(data + bytes(-len(data) % WORD), ">u4").astype(np.uint32)
