"""The format of `.ddn` files: codes <-> bytes, without PyTorch and without floating-point numbers.

A file holds the codes of one or more images of one size, encoded by one model:

    magic        4 bytes   89 44 44 4e
    version      1         1
    header       2         bytes of the whole header, its checksum included
    method       1         0: uniform, every code of K equally likely values; 1: range coded
    model        8         fingerprint of the model
    channels     1
    height       2         of an image, in pixels
    width        2
    images       varint
    tiles        varint    of an image, each with codes of its own, row by row
    levels       varint    number of runs of equal levels; for each its length, K, and codes of a level: varints
    payload      varint    bytes after the header
    check        4         CRC-32 of the payload
    check        4         CRC-32 of the header up to here
    payload

Numbers are little-endian; a varint has 7 bits a byte, lowest first, and a high bit if another byte follows (LEB128).
Magic, version, length and checksum of the header have the same place in all versions.

With method 0 an image's codes are the digits of one number in mixed radix, each in base K of its level, the first the
most significant, written big-endian in as many bytes as the largest such number takes: the theoretical bits, rounded
up. All images take equally many bytes, so one is read without the others. With method 1 the payload begins with a
varint for each image, the number of its bytes, which `range_coding.py` describes. The headerless form of an image is
its part of the payload.
"""

from __future__ import annotations

import math
import struct
import zlib
from array import array
from collections import Counter
from collections.abc import Sequence
from functools import cached_property
from itertools import groupby
from typing import NamedTuple

from discrete_distribution_network.errors import DDNError, InvalidInput, require

MAGIC, VERSION = b"\x89DDN", 1
UNIFORM, RANGE = 0, 1
"""Methods of a file."""

_START = struct.Struct("<4sBH")
_FIXED = struct.Struct("<B8sBHH")
_CHECK = struct.Struct("<I")
MAX_VARINT_BYTES = 9


class CodeFileError(DDNError):
    """A file of codes cannot be read."""


class NotACodeFile(CodeFileError):
    """The file does not begin with the magic bytes."""


class TruncatedCodes(CodeFileError):
    """The file ends too early."""


class ExtendedCodes(CodeFileError):
    """The file has bytes after its end."""


class DamagedCodes(CodeFileError):
    """A checksum of the file is wrong, or its content is impossible."""


class NewerCodes(CodeFileError):
    """The file is of a version newer than this library."""


class OtherModelsCodes(CodeFileError):
    """The file was encoded by another model."""


class Level(NamedTuple):
    """Number of codes of a level of a tile, and K, which each of them is below."""

    codes: int
    codebook_size: int


class Header(NamedTuple):
    """The header of a file.

    Attributes:
        method: UNIFORM or RANGE.
        model: fingerprint, 8 bytes.
        channels, height, width: of an image.
        images: number of images.
        tiles: number of tiles of an image.
        levels: of a tile.
    """

    method: int
    model: bytes
    channels: int
    height: int
    width: int
    images: int
    tiles: int
    levels: tuple[Level, ...]

    @property
    def sizes(self) -> list[int]:
        """K of each code of a tile."""
        return [level.codebook_size for level in self.levels for _ in range(level.codes)]


# one number


def pack(codes: Sequence[int], sizes: Sequence[int]) -> bytes:
    """Codes as one number in mixed radix: ceil(sum of log2(size) / 8) bytes.

    Args:
        codes: each in [0, size).
        sizes: K of each code.

    Raises:
        InvalidInput: a code is out of its range.
    """
    require(len(codes) == len(sizes), f"{len(sizes)} codes", len(codes))
    outside = [(code, size) for code, size in zip(codes, sizes, strict=True) if not 0 <= code < size]
    if outside:
        code, size = outside[0]
        raise InvalidInput(f"expected codes in [0, {size}), got {code}")
    number, _ = _joined(codes, sizes, 0, len(codes))
    return number.to_bytes(packed_bytes(sizes), "big")


def unpack(data: bytes, sizes: Sequence[int]) -> list[int]:
    """The inverse of `pack`.

    Raises:
        TruncatedCodes, ExtendedCodes: fewer or more bytes than codes of these sizes take.
        DamagedCodes: the number is larger than that of any codes.
    """
    _check_length(len(data), packed_bytes(sizes))
    number, codes = int.from_bytes(data, "big"), [0] * len(sizes)
    if number >= _product(sizes):
        raise DamagedCodes(
            f"expected packed codes below the product of all K, got 0x{data[:8].hex()}...; copy the file again"
        )
    _split(number, sizes, codes, 0, len(sizes))
    return codes


def packed_bytes(sizes: Sequence[int]) -> int:
    """Number of bytes of packed codes."""
    return -(-(_product(sizes) - 1).bit_length() // 8)


def _product(sizes: Sequence[int]) -> int:
    """Product of all sizes, by powers of equal ones: one by one takes quadratic time."""
    return math.prod(size**count for size, count in Counter(sizes).items())


def _joined(codes: Sequence[int], sizes: Sequence[int], start: int, stop: int) -> tuple[int, int]:
    """The number of the codes from `start` to `stop` and the product of their sizes, by halves (divide and conquer)."""
    if stop - start <= 8:
        number, count = 0, 1
        for index in range(start, stop):
            number, count = number * sizes[index] + codes[index], count * sizes[index]
        return number, count
    middle = (start + stop) // 2
    (high, before), (low, after) = _joined(codes, sizes, start, middle), _joined(codes, sizes, middle, stop)
    return high * after + low, before * after


def _split(number: int, sizes: Sequence[int], codes: list[int], start: int, stop: int) -> None:
    """The inverse of `_joined`, into `codes`."""
    if stop - start <= 8:
        for index in reversed(range(start, stop)):
            number, codes[index] = divmod(number, sizes[index])
        return
    middle = (start + stop) // 2
    after = _product(sizes[middle:stop])
    bits = after.bit_length() - 1
    # a long division takes quadratic time, a shift linear
    high, low = (number >> bits, number & (after - 1)) if after == 1 << bits else divmod(number, after)
    _split(high, sizes, codes, start, middle)
    _split(low, sizes, codes, middle, stop)


# files


def write(header: Header, parts: Sequence[bytes]) -> bytes:
    """The content of a file.

    Args:
        parts: the packed codes of each image.

    Raises:
        InvalidInput: a number is too large for the header.
    """
    require(len(parts) == header.images, f"the codes of {header.images} images", len(parts))
    for name, value, most in (
        ("channels", header.channels, MAX_CHANNELS),
        ("pixels of height", header.height, MAX_SIDE),
        ("pixels of width", header.width, MAX_SIDE),
        ("levels", len(header.levels), MAX_LEVELS),
    ):
        require(value <= most, f"at most {most} {name} in a file", value)
    index = b"".join(_varint(len(part)) for part in parts) if header.method == RANGE else b""
    payload = index + b"".join(parts)
    runs = [(level, len(list(group))) for level, group in groupby(header.levels)]
    head = _FIXED.pack(header.method, header.model, header.channels, header.height, header.width)
    head += b"".join(map(_varint, (header.images, header.tiles, len(runs))))
    head += b"".join(_varint(number) for level, length in runs for number in (length, level.codebook_size, level.codes))
    head += _varint(len(payload)) + _CHECK.pack(zlib.crc32(payload))
    total = _START.size + len(head) + _CHECK.size
    if total > MAX_HEADER:
        raise InvalidInput(
            f"expected levels that take at most {MAX_HEADER} bytes in the header, got {total}; use fewer kinds of them"
        )
    head = _START.pack(MAGIC, VERSION, total) + head
    return head + _CHECK.pack(zlib.crc32(head)) + payload


class Reader:
    """A validated file of codes; `reader[i]` is the packed codes of image i.

    The places of range-coded images are read on first use.

    Args:
        data: the whole file.

    Raises:
        CodeFileError: the subclass that names the fault; nothing larger than the file is allocated.
    """

    def __init__(self, data: bytes):
        if not isinstance(data, bytes | bytearray):
            raise InvalidInput(f"expected the bytes of a file of codes, got a {type(data).__name__}; read the file")
        self._data = data
        if data[:4] != MAGIC[: len(data)]:
            raise NotACodeFile(f"expected a file of codes, which begins with {MAGIC!r}, got {data[:4]!r}")
        if len(data) < _START.size:
            raise TruncatedCodes(f"expected a file of codes, got its first {len(data)} bytes; copy it again")
        _, version, length = _START.unpack_from(data)
        head = data[:length]
        if len(head) < length:
            raise TruncatedCodes(f"expected a header of {length} bytes, got {len(head)}; copy the file again")
        if length < _START.size + _CHECK.size or zlib.crc32(head[: -_CHECK.size]) != _CHECK.unpack(head[-4:])[0]:
            raise DamagedCodes(f"expected a header with a valid checksum, got {head[-4:].hex()}; copy the file again")
        if version > VERSION:
            raise NewerCodes(f"expected a file of version {VERSION}, got version {version}; use a newer library")
        self.header, payload, check = _header(head[_START.size : -_CHECK.size])
        _check_length(len(data) - length, payload)
        if (found := zlib.crc32(memoryview(data)[length:])) != check:
            raise DamagedCodes(f"expected codes with checksum {check:08x}, got {found:08x}; copy the file again")
        self._start, self._payload = length, payload
        if self.header.method == UNIFORM and self._bytes_per_image * self.header.images != payload:
            raise DamagedCodes(
                f"expected {self.header.images} times {self._bytes_per_image} bytes of codes, got {payload}; copy the "
                "file again"
            )

    @cached_property
    def _bytes_per_image(self) -> int:
        """With method UNIFORM."""
        return packed_bytes(self.header.sizes * self.header.tiles)

    @cached_property
    def _index(self) -> array[int]:
        """Offsets in the file at which the codes of each image begin, and at which the last ones end."""
        scan = _Scan(self._data, self._start, self._start + self._payload)
        starts = array("q", [0])
        for _ in range(len(self)):
            starts.append(starts[-1] + scan.varint())
            if starts[-1] > self._payload:
                break
        if scan.place + starts[-1] != self._start + self._payload:
            raise DamagedCodes(
                f"expected images of {self._payload} bytes in all, their lengths included, got "
                f"{scan.place - self._start + starts[-1]}; copy the file again"
            )
        return array("q", (scan.place + start for start in starts))

    def __len__(self) -> int:
        return self.header.images

    def __getitem__(self, image: int) -> bytes:
        image = range(len(self))[image]
        if self.header.method == UNIFORM:
            start = self._start + image * self._bytes_per_image
            return self._data[start : start + self._bytes_per_image]
        return self._data[self._index[image] : self._index[image + 1]]


def _header(data: bytes) -> tuple[Header, int, int]:
    """The header in these bytes, the number of bytes of the payload, and its checksum."""
    scan = _Scan(data)
    method, model, channels, height, width = _FIXED.unpack(scan.take(_FIXED.size))
    images, tiles, runs = scan.varint(), scan.varint(), scan.varint()
    levels: list[Level] = []
    for _ in range(runs):
        length, size, codes = scan.varint(), scan.varint(), scan.varint()
        if len(levels) + length > MAX_LEVELS:
            raise DamagedCodes(f"expected at most {MAX_LEVELS} levels, got {len(levels) + length}; copy the file again")
        levels += [Level(codes, size)] * length
    payload, (check,) = scan.varint(), _CHECK.unpack(scan.take(_CHECK.size))
    header = Header(method, model, channels, height, width, images, tiles, tuple(levels))
    numbers = (images, tiles, len(levels), height, width, channels, *(number for level in levels for number in level))
    if method not in (UNIFORM, RANGE) or min(numbers) < 1 or scan.place != len(data):
        raise DamagedCodes(
            f"expected a header of method {UNIFORM} or {RANGE}, numbers of at least 1 and no further bytes, got method "
            f"{method}, a number of {min(numbers)} and {len(data) - scan.place} further bytes; copy the file again"
        )
    # every code takes at least a bit, unless K = 1, which bounds the numbers of a valid header by the file's size
    if method == UNIFORM and images * tiles * sum(_bits(level) for level in levels) > 8 * (payload + images):
        raise DamagedCodes(f"expected more bytes for {images} images, got {payload}; copy the file again")
    if images > max(payload, 0 if method == RANGE else MAX_WITHOUT_CODES):
        raise DamagedCodes(f"expected at least a byte for each of {images} images, got {payload}; copy the file again")
    return header, payload, check


MAX_LEVELS = 4096
"""A header with more is damaged."""

MAX_WITHOUT_CODES = 1 << 16
"""A header with more images whose codes take no bytes, all K being 1, is damaged."""

MAX_CHANNELS, MAX_SIDE, MAX_HEADER = (1 << 8) - 1, (1 << 16) - 1, (1 << 16) - 1
"""Largest values that fit into the fields of the header."""


def _bits(level: Level) -> int:
    """A lower bound of the bits of a level, each code rounded down; with K = 1, which takes none, one a code."""
    return level.codes * max(1, level.codebook_size.bit_length() - 1)


def _check_length(found: int, expected: int) -> None:
    if found < expected:
        raise TruncatedCodes(f"expected {expected} bytes of codes, got {found}; copy the file again")
    if found > expected:
        raise ExtendedCodes(f"expected {expected} bytes of codes, got {found}; cut off what was added")


def _varint(number: int) -> bytes:
    out = bytearray()
    while number >= 0x80:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


class _Scan:
    """Reads bytes from `place` to `stop`, one field after the other."""

    def __init__(self, data: bytes, place: int = 0, stop: int | None = None):
        self.data, self.place, self.stop = data, place, len(data) if stop is None else stop

    def take(self, count: int) -> bytes:
        self.place += count
        if self.place > self.stop:
            raise DamagedCodes(
                f"expected a field of at most {self.stop - self.place + count} bytes, got {count}; copy the file again"
            )
        return self.data[self.place - count : self.place]

    def varint(self) -> int:
        number = 0
        for index in range(MAX_VARINT_BYTES):
            (byte,) = self.take(1)
            number |= (byte & 0x7F) << 7 * index
            if byte < 0x80:
                return number
        raise DamagedCodes(
            f"expected a varint of at most {MAX_VARINT_BYTES} bytes, got a longer one; copy the file again"
        )
