import math
import struct
import time
import tracemalloc
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from discrete_distribution_network.codec import bitstream
from discrete_distribution_network.codec.bitstream import (
    MAX_WITHOUT_CODES,
    RANGE,
    UNIFORM,
    CodeFileError,
    DamagedCodes,
    ExtendedCodes,
    Header,
    Level,
    NewerCodes,
    NotACodeFile,
    Reader,
    TruncatedCodes,
    pack,
    packed_bytes,
    unpack,
    write,
)
from discrete_distribution_network.errors import InvalidInput

SIZES = st.lists(st.integers(1, 5000), min_size=1, max_size=60)


@st.composite
def codes_and_sizes(draw):
    sizes = draw(SIZES)
    return [draw(st.integers(0, size - 1)) for size in sizes], sizes


@given(codes_and_sizes())
def test_pack_and_unpack_round_trip_in_the_theoretical_bits(both):
    codes, sizes = both
    data = pack(codes, sizes)
    assert unpack(data, sizes) == codes
    assert len(data) == packed_bytes(sizes)
    bits = sum(math.log2(size) for size in sizes)
    assert 8 * len(data) >= bits - 1e-6
    assert 8 * len(data) < bits + 8 + 1e-6


def test_long_codes_take_no_square_of_time():
    sizes = [10] * 40_000
    codes = [(7 * place) % 10 for place in range(len(sizes))]
    assert unpack(pack(codes, sizes), sizes) == codes


def test_bytes_stay_as_they_are():
    assert pack([1, 2, 3], [256, 256, 256]) == bytes([1, 2, 3])
    assert pack([9, 9], [10, 10]) == bytes([99])
    assert pack([1, 0, 1, 1], [2] * 4) == bytes([0b1011])
    header = Header(UNIFORM, bytes(range(8)), 1, 32, 32, 2, 1, (Level(1, 256), Level(1, 256), Level(4, 10)))
    data = write(header, [pack(codes, header.sizes) for codes in ([1, 2, 3, 4, 5, 6], [255, 0, 9, 9, 9, 9])])
    head = "8944444e01 2800 00 0001020304050607 01 2000 2000 02 01 02 02800201 010a04 08 be3a7acb 809bced3"
    assert data.hex() == head.replace(" ", "") + "00276ba0" + "26e9170f"


GOLDEN = "8944444e012c0000000102030405060701200020000201020280020101010a040892a7b5a8"


@pytest.mark.parametrize(("code", "size"), [(-1, 4), (4, 4)])
def test_codes_outside_are_told(code, size):
    with pytest.raises(InvalidInput, match=r"in \[0, 4\)"):
        pack([code], [size])


def test_numbers_no_codes_make_are_damage():
    with pytest.raises(DamagedCodes):
        unpack(bytes([100]), [10, 10])
    with pytest.raises(TruncatedCodes):
        unpack(b"", [10, 10])
    with pytest.raises(ExtendedCodes):
        unpack(bytes(2), [10, 10])


def a_file(images=3):
    header = Header(UNIFORM, b"modelxyz", 3, 40, 24, images, 2, (Level(1, 10), Level(4, 7)))
    parts = [pack([i % 10, 1, 2, 3, 4] * 2, header.sizes * 2) for i in range(images)]
    return header, parts, write(header, parts)


def test_files_give_back_what_was_written_image_by_image():
    header, parts, data = a_file(300)
    reader = Reader(data)
    assert reader.header == header
    assert len(reader) == 300
    assert [reader[i] for i in (0, 7, 299)] == [parts[0], parts[7], parts[299]]
    with pytest.raises(InvalidInput, match="3 images"):
        write(a_file(3)[0], parts[:2])


def test_parts_of_any_length_where_they_are_range_coded():
    header = a_file(3)[0]._replace(method=RANGE)
    parts = [b"abcd", b"", b"x" * 200]
    reader = Reader(write(header, parts))
    assert [reader[i] for i in range(3)] == parts


def sealed(data, **changes):
    """A file whose start is changed, with the header's checksum made anew."""
    length = struct.unpack_from("<H", data, 5)[0]
    head = bytearray(data[: length - 4])
    for place, value in changes.items():
        head[int(place[1:])] = value
    return bytes(head) + struct.pack("<I", zlib.crc32(bytes(head))) + data[length:]


def test_each_fault_has_its_own_error():
    data = a_file()[2]
    for end in range(len(data)):
        with pytest.raises(TruncatedCodes):
            Reader(data[:end])
    with pytest.raises(ExtendedCodes):
        Reader(data + b"\0")
    with pytest.raises(NewerCodes, match="version 2"):
        Reader(sealed(data, _4=2))
    with pytest.raises(NotACodeFile):
        Reader(b"PNG" + data)
    for place in range(4, len(data)):
        for bit in range(8):
            flipped = bytearray(data)
            flipped[place] ^= 1 << bit
            with pytest.raises((DamagedCodes, TruncatedCodes)) as told:
                Reader(bytes(flipped))
            assert told.type is DamagedCodes or place in (5, 6)  # the length of the header itself


def test_headers_that_lie_make_nothing_large():
    header, parts, _ = a_file()
    for changed in (
        header._replace(images=3, levels=(Level(2**40, 2),)),
        header._replace(images=3, tiles=2**50),
        header._replace(levels=(Level(1, 2**50),) * 4000),
        header._replace(channels=0),
        header._replace(method=7),
    ):
        with pytest.raises(CodeFileError):
            Reader(write(changed, parts))


def without_codes(images):
    """A file of images whose codes, each of one possible value, take no bytes."""
    told = struct.pack("<B8sBHH", UNIFORM, b"modelxyz", 1, 8, 8)
    told += b"".join(map(bitstream._varint, (images, 1, 1, 1, 1, 1, 0))) + struct.pack("<I", zlib.crc32(b""))
    head = bitstream.MAGIC + b"\x01" + struct.pack("<H", 7 + len(told) + 4) + told
    return head + struct.pack("<I", zlib.crc32(head))


def test_images_without_codes_are_no_list():
    header = Header(UNIFORM, b"modelxyz", 1, 8, 8, 3, 1, (Level(1, 1),))
    assert write(header, [b""] * 3) == without_codes(3)
    tracemalloc.start()
    reader = Reader(without_codes(MAX_WITHOUT_CODES))
    assert len(reader) == MAX_WITHOUT_CODES
    assert reader[MAX_WITHOUT_CODES - 1] == b""
    for images in (MAX_WITHOUT_CODES + 1, 10**7, 2**62):
        with pytest.raises(DamagedCodes, match="a byte for each"):
            Reader(without_codes(images))
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()


def test_places_are_looked_up_when_they_are_asked_for():
    header = a_file(3)[0]._replace(method=RANGE, images=200_000)
    data = write(header, [b""] * 200_000)
    tracemalloc.start()
    reader = Reader(data)
    assert tracemalloc.get_traced_memory()[1] < 1 << 16
    assert reader[199_999] == b""
    assert tracemalloc.get_traced_memory()[1] < 20 * len(data)
    tracemalloc.stop()
    for place in (200_000, -200_001):
        with pytest.raises(IndexError):
            reader[place]
    header = header._replace(images=2)
    lying = write(header, [b"abcd", b"ef"])
    start = len(lying) - 8
    for index in (b"\x04\x03", b"\x04\x01", b"\x7f\x02", b"\x80\x80"):
        payload = index + lying[start + 2 :]
        changed = Reader(with_payload(lying[:start], payload))
        with pytest.raises(DamagedCodes):
            changed[0]


def with_payload(head, payload):
    """The file of a header with another payload of the same length."""
    told = head[:-8] + struct.pack("<I", zlib.crc32(payload))
    return told + struct.pack("<I", zlib.crc32(told)) + payload


def test_what_has_no_place_in_a_header_is_told():
    header = Header(UNIFORM, bytes(8), 1, 8, 8, 1, 1, (Level(1, 4),))
    for changed, words in (
        (header._replace(channels=300), "at most 255 channels"),
        (header._replace(height=65536), "at most 65535 pixels of height"),
        (header._replace(width=65536), "at most 65535 pixels of width"),
        (header._replace(levels=(Level(1, 4),) * 4097), "at most 4096 levels"),
        (header._replace(levels=tuple(Level(2**56 + place, 2**62) for place in range(4000))), "at most 65535 bytes"),
    ):
        with pytest.raises(InvalidInput, match=words):
            write(changed, [b"\0"])
    for data in ("text", None, [1], memoryview(b"")):
        with pytest.raises(InvalidInput, match="the bytes of a file"):
            Reader(data)
    assert len(Reader(bytearray(write(header, [b"\0"])))) == 1


def test_an_image_of_a_million_codes_takes_seconds():
    sizes = [256] * 750_000
    codes = [place * place % 251 for place in range(len(sizes))]
    started = time.process_time()
    assert unpack(pack(codes, sizes), sizes) == codes
    assert time.process_time() - started < 10


@settings(max_examples=500, deadline=None)
@given(st.binary(max_size=200), st.booleans())
def test_any_bytes_are_read_or_refused(noise, begun):
    data = (bitstream.MAGIC + b"\x01" if begun else b"") + noise
    with pytest.raises(CodeFileError):
        Reader(data)


@settings(max_examples=500, deadline=None)
@given(st.data())
def test_headers_of_any_bytes_are_read_or_refused(data):
    """With a right checksum, so that what they say is looked at."""
    told = data.draw(st.binary(min_size=0, max_size=80))
    head = bitstream.MAGIC + b"\x01" + struct.pack("<H", 7 + len(told) + 4) + told
    whole = head + struct.pack("<I", zlib.crc32(head)) + data.draw(st.binary(max_size=40))
    try:
        reader = Reader(whole)
    except CodeFileError:
        return
    assert len(reader) >= 1
