"""Codes <-> bytes: how the latents of images lie in a `.ddn` file. Knows no network and no floating-point number.

A file holds the codes of one or more images of the same size, made by one model:

    magic        4 bytes   89 44 44 4e
    version      1         1
    header       2         bytes of the whole header, its checksum included
    method       1         0: every code of n equally likely values; 1: range coded
    model        8         fingerprint of the model
    channels     1
    height       2         of an image, in pixels
    width        2
    images       varint
    tiles        varint    pieces of an image that have codes of their own, row by row
    levels       varint    number of runs of equal levels; for each how many levels, K, and codes of a level: varints
    payload      varint    bytes after the header
    check        4         CRC-32 of the payload
    check        4         CRC-32 of the header up to here
    payload

Numbers are little-endian; a varint has 7 bits a byte, lowest first, and a high bit where another byte follows. Magic,
version, length and checksum of the header stay where they are in all versions.

With method 0 an image's codes are the digits of one number, each in its own base K (mixed radix), the first the most
significant, written in as many bytes as the largest such number takes, big-endian: the theoretical bits, rounded up.
So an image is found without reading the others. With method 1 the payload begins with a varint for each image, its
bytes; `codec.py` says what is in them. The headerless form of an image is its part of the payload.
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
"""Methods."""

_START = struct.Struct("<4sBH")
_FIXED = struct.Struct("<B8sBHH")
_CHECK = struct.Struct("<I")
MAX_VARINT_BYTES = 9


class CodeFileError(DDNError):
    """A file of codes cannot be read."""


class NotACodeFile(CodeFileError):
    """It does not begin as one."""


class TruncatedCodes(CodeFileError):
    """It ends too early."""


class ExtendedCodes(CodeFileError):
    """It goes on after its end."""


class DamagedCodes(CodeFileError):
    """Its checksum is wrong, or it says what cannot be."""


class NewerCodes(CodeFileError):
    """It is of a version that this library does not know."""


class OtherModelsCodes(CodeFileError):
    """It was made by another model."""


class Level(NamedTuple):
    """Of the codes of one level of a tile: how many there are, and below which number each is."""

    codes: int
    codebook_size: int


class Header(NamedTuple):
    """What a file says of itself.

    Attributes:
        method: UNIFORM or RANGE.
        model: fingerprint, 8 bytes.
        channels, height, width: of an image.
        images: how many.
        tiles: pieces of an image with codes of their own.
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
    """Codes, each below its size, as the digits of one number in ceil(log2 of all possibilities / 8) bytes.

    Raises:
        InvalidInput: a code is not below its size.
    """
    require(len(codes) == len(sizes), f"{len(sizes)} codes", len(codes))
    outside = [(code, size) for code, size in zip(codes, sizes, strict=True) if not 0 <= code < size]
    require(not outside, f"codes in [0, {outside[0][1] if outside else ''})", outside[0][0] if outside else "")
    number, _ = _joined(codes, sizes, 0, len(codes))
    return number.to_bytes(packed_bytes(sizes), "big")


def unpack(data: bytes, sizes: Sequence[int]) -> list[int]:
    """The codes that `pack` wrote.

    Raises:
        TruncatedCodes, ExtendedCodes: there are fewer or more bytes than these sizes make.
        DamagedCodes: the number is larger than any that codes make.
    """
    _check_length(len(data), packed_bytes(sizes))
    number, codes = int.from_bytes(data, "big"), [0] * len(sizes)
    if number >= _product(sizes):
        raise DamagedCodes("expected packed codes, got a number that no codes make; the file is damaged")
    _split(number, sizes, codes, 0, len(sizes))
    return codes


def packed_bytes(sizes: Sequence[int]) -> int:
    """How many bytes `pack` makes: the bits of all possibilities, rounded up."""
    return -(-(_product(sizes) - 1).bit_length() // 8)


def _product(sizes: Sequence[int]) -> int:
    """Of all of them; equal ones by their power, so that long ones take no square of time."""
    return math.prod(size**times for size, times in Counter(sizes).items())


def _joined(codes: Sequence[int], sizes: Sequence[int], start: int, stop: int) -> tuple[int, int]:
    """The number of these codes, and how many there could be; by halves, so that long ones take no square of time."""
    if stop - start <= 8:
        number, count = 0, 1
        for place in range(start, stop):
            number, count = number * sizes[place] + codes[place], count * sizes[place]
        return number, count
    middle = (start + stop) // 2
    (high, before), (low, after) = _joined(codes, sizes, start, middle), _joined(codes, sizes, middle, stop)
    return high * after + low, before * after


def _split(number: int, sizes: Sequence[int], codes: list[int], start: int, stop: int) -> None:
    if stop - start <= 8:
        for place in reversed(range(start, stop)):
            number, codes[place] = divmod(number, sizes[place])
        return
    middle = (start + stop) // 2
    after = _product(sizes[middle:stop])
    bits = after.bit_length() - 1
    # a long division takes a square of time, a shift does not
    high, low = (number >> bits, number & (after - 1)) if after == 1 << bits else divmod(number, after)
    _split(high, sizes, codes, start, middle)
    _split(low, sizes, codes, middle, stop)


# files


def write(header: Header, parts: Sequence[bytes]) -> bytes:
    """A whole file of the packed codes of its images.

    Raises:
        InvalidInput: the header says what has no place in a file.
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
    told = _FIXED.pack(header.method, header.model, header.channels, header.height, header.width)
    told += b"".join(map(_varint, (header.images, header.tiles, len(runs))))
    told += b"".join(_varint(number) for level, times in runs for number in (times, level.codebook_size, level.codes))
    told += _varint(len(payload)) + _CHECK.pack(zlib.crc32(payload))
    length = _START.size + len(told) + _CHECK.size
    if length > MAX_HEADER:
        raise InvalidInput(
            f"expected levels that take at most {MAX_HEADER} bytes to tell, got {length}; use fewer kinds"
        )
    told = _START.pack(MAGIC, VERSION, length) + told
    return told + _CHECK.pack(zlib.crc32(told)) + payload


class Reader:
    """A file of codes, looked at before anything is taken from it; `reader[i]` are the packed codes of an image.

    Where they lie is looked up when they are asked for, so that the header alone costs nothing.

    Args:
        data: the whole file.

    Raises:
        CodeFileError: of the kind that says what is wrong; nothing larger than the file is made.
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
        told = data[:length]
        if len(told) < length:
            raise TruncatedCodes(f"expected a header of {length} bytes, got {len(told)}; copy the file again")
        if length < _START.size + _CHECK.size or zlib.crc32(told[: -_CHECK.size]) != _CHECK.unpack(told[-4:])[0]:
            raise DamagedCodes("expected the header as it was written, got other bytes; copy the file again")
        if version > VERSION:
            raise NewerCodes(f"expected a file of version {VERSION}, got version {version}; use a newer library")
        self.header, payload, check = _header(told[_START.size : -_CHECK.size])
        _check_length(len(data) - length, payload)
        if zlib.crc32(memoryview(data)[length:]) != check:
            raise DamagedCodes("expected the codes as they were written, got other bytes; copy the file again")
        self._start, self._payload = length, payload
        if self.header.method == UNIFORM and self._each * self.header.images != payload:
            raise DamagedCodes(f"expected {self.header.images} times {self._each} bytes of codes, got {payload}")

    @cached_property
    def _each(self) -> int:
        """Bytes of each image's codes, where they are equally many."""
        return packed_bytes(self.header.sizes * self.header.tiles)

    @cached_property
    def _index(self) -> array[int]:
        """Where in the file the codes of each image begin, and where the last ones end."""
        scan = _Scan(self._data, self._start, self._start + self._payload)
        starts = array("q", [0])
        for _ in range(len(self)):
            starts.append(starts[-1] + scan.varint())
            if starts[-1] > self._payload:
                break
        if scan.place + starts[-1] != self._start + self._payload:
            raise DamagedCodes("expected codes of the lengths that the file says, got others; copy the file again")
        return array("q", (scan.place + start for start in starts))

    def __len__(self) -> int:
        return self.header.images

    def __getitem__(self, image: int) -> bytes:
        image = range(len(self))[image]
        if self.header.method == UNIFORM:
            start = self._start + image * self._each
            return self._data[start : start + self._each]
        return self._data[self._index[image] : self._index[image + 1]]


def _header(told: bytes) -> tuple[Header, int, int]:
    """What a header says, the bytes of the payload and its checksum."""
    scan = _Scan(told)
    method, model, channels, height, width = _FIXED.unpack(scan.take(_FIXED.size))
    images, tiles, runs = scan.varint(), scan.varint(), scan.varint()
    levels: list[Level] = []
    for _ in range(runs):
        times, size, codes = scan.varint(), scan.varint(), scan.varint()
        if len(levels) + times > MAX_LEVELS:
            raise DamagedCodes(f"expected at most {MAX_LEVELS} levels, got more")
        levels += [Level(codes, size)] * times
    payload, (check,) = scan.varint(), _CHECK.unpack(scan.take(_CHECK.size))
    header = Header(method, model, channels, height, width, images, tiles, tuple(levels))
    numbers = (images, tiles, len(levels), height, width, channels, *(number for level in levels for number in level))
    if method not in (UNIFORM, RANGE) or min(numbers) < 1 or scan.place != len(told):
        raise DamagedCodes("expected a header that says what can be, got another")
    # every code of at least two values takes bits, so what is said is at most so large
    if method == UNIFORM and images * tiles * sum(_bits(level) for level in levels) > 8 * (payload + images):
        raise DamagedCodes(f"expected more than {payload} bytes for these images")
    if images > max(payload, 0 if method == RANGE else MAX_WITHOUT_CODES):
        raise DamagedCodes(f"expected at least a byte for each of {images} images, got {payload}")
    return header, payload, check


MAX_LEVELS = 4096
"""More are taken for damage."""

MAX_WITHOUT_CODES = 1 << 16
"""As are more images than this whose codes, all of one possible value, take no bytes."""

MAX_CHANNELS, MAX_SIDE, MAX_HEADER = (1 << 8) - 1, (1 << 16) - 1, (1 << 16) - 1
"""What the numbers of the header have room for."""


def _bits(level: Level) -> int:
    """The bits of a level, rounded down code by code; of one value, which takes none, counted as one."""
    return level.codes * max(1, level.codebook_size.bit_length() - 1)


def _check_length(found: int, wanted: int) -> None:
    if found < wanted:
        raise TruncatedCodes(f"expected {wanted} bytes of codes, got {found}; copy the file again")
    if found > wanted:
        raise ExtendedCodes(f"expected {wanted} bytes of codes, got {found}; cut off what was added")


def _varint(number: int) -> bytes:
    out = bytearray()
    while number >= 0x80:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


class _Scan:
    """Reads the bytes from `place` to `stop`."""

    def __init__(self, data: bytes, place: int = 0, stop: int | None = None):
        self.data, self.place, self.stop = data, place, len(data) if stop is None else stop

    def take(self, count: int) -> bytes:
        self.place += count
        if self.place > self.stop:
            raise DamagedCodes("expected more numbers in the file, got their end; copy it again")
        return self.data[self.place - count : self.place]

    def varint(self) -> int:
        number = 0
        for place in range(MAX_VARINT_BYTES):
            (byte,) = self.take(1)
            number |= (byte & 0x7F) << 7 * place
            if byte < 0x80:
                return number
        raise DamagedCodes("expected a number, got one that does not end")
