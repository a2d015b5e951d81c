"""Codes as bytes by the chances of a code prior: there and back, as short as they may be, the same for ever."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_code_prior import SIZES, any_codes, any_prior, fixed_prior

from discrete_distribution_network.bitstream import DamagedCodes
from discrete_distribution_network.code_prior import PRECISION
from discrete_distribution_network.range_coding import AT_ONCE, pack_ranges, unpack_ranges
from discrete_distribution_network.selection import by_level

PRIOR = any_prior().exact()
ENDS = {1: 1, 2: 2, 3: 6, 4: 22}


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 5), st.integers(1, 3), st.sampled_from([1, 2, 3, 4]), st.integers(0, 10**6))
def test_unpack_gives_back_what_was_packed(images, tiles, levels, seed):
    codes = any_codes(images * tiles, seed)[:, : ENDS[levels]]
    parts = pack_ranges(PRIOR, codes, tiles)
    assert len(parts) == images
    assert torch.equal(unpack_ranges(PRIOR, parts, levels, tiles), codes)


def test_more_images_than_are_packed_at_once():
    codes = any_codes(2 * AT_ONCE + 6)
    parts = pack_ranges(PRIOR, codes, 2)
    assert torch.equal(unpack_ranges(PRIOR, parts, 4, 2), codes)
    assert parts[AT_ONCE // 2 + 1] == pack_ranges(PRIOR, codes[AT_ONCE + 2 : AT_ONCE + 4], 2)[0]


def test_likely_codes_are_short_and_no_code_takes_more_than_its_bits_and_two_bytes():
    codes = any_codes(60)
    state, bits = PRIOR.begin(len(codes)), torch.zeros(len(codes), dtype=torch.float64)
    for level, part in enumerate(by_level(codes, PRIOR.grids)):
        counts = PRIOR.counts(level, state).gather(1, part.unsqueeze(1)).double()
        bits += (PRECISION - counts.log2()).flatten(1).sum(1)
        state = PRIOR.follow(level, part, state)
    for part, own in zip(pack_ranges(PRIOR, codes, 1), bits.tolist(), strict=True):
        assert own / 8 - 1 <= len(part) <= math.ceil(own / 8) + 2


def test_golden_bytes():
    """Files that were written must be read for ever."""
    codes = torch.stack([torch.tensor([0, 1, *[i % SIZES[2] for i in range(4)], *range(100, 116)]), *any_codes(2, 9)])
    assert [part.hex() for part in pack_ranges(fixed_prior(), codes, 1)] == GOLDEN
    assert torch.equal(unpack_ranges(fixed_prior(), [bytes.fromhex(part) for part in GOLDEN], 4, 1), codes)


GOLDEN = [
    "001a624f9a0051f57879ce9e4cf7625db14f56533a750eeaaf2d7a7e8039d3f4ac749bedeb2b2d2b13ec",
    "000000b93bc7f5efb768516d96c00bb12ddab3683b1019cc094f410e64103c739de60e9454067bd46a",
    "d7a9dbb9c96575d37cf0bf3078c70974817759d3043a6ba1d9bd339bf878143dc34f92e165f6c00426460a",
]


@pytest.mark.parametrize("change", [lambda x: x[:-1], lambda x: x + b"1", lambda x: x + bytes(4), lambda x: x[::-1]])
def test_bytes_that_no_codes_make_are_refused(change):
    (part,) = pack_ranges(PRIOR, any_codes(1), 1)
    try:
        codes = unpack_ranges(PRIOR, [change(part)], 4, 1)
    except DamagedCodes:
        return
    assert pack_ranges(PRIOR, codes, 1) == [change(part)]  # some other codes, packed as they are
