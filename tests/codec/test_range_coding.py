"""Codes as bytes by the probabilities of an entropy model: there and back, short, the same for ever."""

import hashlib
import math

import pytest
import torch
from entropy import SIZES, any_codes, any_model, fixed_model
from hypothesis import given, settings
from hypothesis import strategies as st

from discrete_distribution_network.codec import range_coding
from discrete_distribution_network.codec.bitstream import DamagedCodes
from discrete_distribution_network.codec.range_coding import TILES_AT_ONCE, least_bytes, pack_ranges, unpack_ranges
from discrete_distribution_network.model.tensors import by_level
from discrete_distribution_network.prior.entropy_model import PRECISION

MODEL = any_model().exact()
ENDS = {1: 1, 2: 2, 3: 6, 4: 22}


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 5), st.integers(1, 3), st.sampled_from([1, 2, 3, 4]), st.integers(0, 10**6))
def test_unpack_gives_back_what_was_packed(images, tiles, levels, seed):
    codes = any_codes(images * tiles, seed)[:, : ENDS[levels]]
    parts = pack_ranges(MODEL, codes, levels, tiles)
    assert len(parts) == images
    assert torch.equal(unpack_ranges(MODEL, parts, levels, tiles), codes)


def test_more_images_than_are_packed_at_once():
    codes = any_codes(2 * TILES_AT_ONCE + 6)
    parts = pack_ranges(MODEL, codes, 4, 2)
    assert torch.equal(unpack_ranges(MODEL, parts, 4, 2), codes)
    assert parts[TILES_AT_ONCE // 2 + 1] == pack_ranges(MODEL, codes[TILES_AT_ONCE + 2 : TILES_AT_ONCE + 4], 4, 2)[0]


def test_likely_codes_are_short_and_no_code_takes_more_than_its_bits_and_two_bytes():
    codes = any_codes(60)
    state, bits = MODEL.begin(len(codes)), torch.zeros(len(codes), dtype=torch.float64)
    for level, part in enumerate(by_level(codes, MODEL.grids)):
        counts = MODEL.counts(level, state).gather(1, part.unsqueeze(1)).double()
        bits += (PRECISION - counts.log2()).flatten(1).sum(1)
        state = MODEL.follow(level, part, state)
    for part, own in zip(pack_ranges(MODEL, codes, 4, 1), bits.tolist(), strict=True):
        assert own / 8 - 1 <= len(part) <= math.ceil(own / 8) + 2


def test_golden_bytes():
    """Files that were written must be read for ever."""
    codes = torch.stack([torch.tensor([0, 1, *[i % SIZES[2] for i in range(4)], *range(100, 116)]), *any_codes(2, 9)])
    assert [part.hex() for part in pack_ranges(fixed_model(), codes, 4, 1)] == GOLDEN
    assert torch.equal(unpack_ranges(fixed_model(), [bytes.fromhex(part) for part in GOLDEN], 4, 1), codes)


GOLDEN = [
    "001a624f9a0051f57879ce9e4cf7625db14f56533a750eeaaf2d7a7e8039d3f4ac749bedeb2b2d2b13ec",
    "000000b93bc7f5efb768516d96c00bb12ddab3683b1019cc094f410e64103c739de60e9454067bd46a",
    "d7a9dbb9c96575d37cf0bf3078c70974817759d3043a6ba1d9bd339bf878143dc34f92e165f6c00426460a",
]


@pytest.mark.parametrize("change", [lambda x: x[:-1], lambda x: x + b"1", lambda x: x + bytes(4), lambda x: x[::-1]])
def test_bytes_that_no_codes_make_are_refused(change):
    (part,) = pack_ranges(MODEL, any_codes(1), 4, 1)
    try:
        codes = unpack_ranges(MODEL, [change(part)], 4, 1)
    except DamagedCodes:
        return
    assert pack_ranges(MODEL, codes, 4, 1) == [change(part)]  # some other codes, packed as they are


def test_golden_bytes_of_an_image_of_many_tiles():
    """Its chances are computed in parts, and the file is as one that had them all at once."""
    codes = any_codes(300, 5)
    (part,) = pack_ranges(fixed_model(), codes, 4, 300)
    assert len(part) == GOLDEN_TILES[0]
    assert hashlib.sha256(part).hexdigest() == GOLDEN_TILES[1]
    assert torch.equal(unpack_ranges(fixed_model(), [part], 4, 300), codes)


GOLDEN_TILES = (12311, "e467df6f7cb4588adaa5bfb3ef1e42d5cb6985fb55d8897d04653c990cec9488")


@pytest.mark.parametrize("at_once", [1, 5, 300, 5000, 1 << 18])
def test_parts_of_any_size_write_the_same_bytes(at_once, monkeypatch):
    codes = any_codes(2 * 12)
    want = pack_ranges(MODEL, codes, 4, 12)
    monkeypatch.setattr(range_coding, "PROBABILITIES_AT_ONCE", at_once)
    assert pack_ranges(MODEL, codes, 4, 12) == want
    assert torch.equal(unpack_ranges(MODEL, want, 4, 12), codes)


def test_bytes_that_are_used_up_end_the_work():
    """Of a million claimed tiles only so many are looked at as there are bytes for."""
    noise = torch.randint(256, (300_000,), generator=torch.Generator().manual_seed(3)).byte().numpy().tobytes()
    seen, counts = [], MODEL.counts

    def watched(level, state, place):
        seen.append(len(state))
        return counts(level, state, place)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MODEL, "counts", watched)
        for length in (0, 3, 100, 10_000):
            with pytest.raises(DamagedCodes):
                unpack_ranges(MODEL, [noise[:length]], 4, 10**6)
        assert not seen  # too few for any codes
        with pytest.raises(DamagedCodes):
            unpack_ranges(MODEL, [noise[:200_000]], 4, 4 * 10**5)
    assert 0 < sum(seen) < 3 * 10**6


def test_the_least_bytes_of_codes_are_no_more_than_any_codes_take():
    """The likeliest of all chances, 1 - (K - 1) / 2^16, for every code."""
    model = any_model()
    with torch.no_grad():
        for level in model.levels:
            level.score.weight.zero_()
            level.score.bias.fill_(-100)
            level.score.bias[-1] = 7
    model.exact()
    assert int(model.counts(3, model.begin(1).expand(-1, -1, 4, 4)).amax()) == 2**16 - SIZES[3] + 1
    codes = torch.cat([torch.full((5000, end), size - 1) for end, size in zip((1, 1, 4, 16), SIZES, strict=True)], 1)
    (part,) = pack_ranges(model, codes, 4, 5000)
    assert 0 < least_bytes(model, 4, 5000) <= len(part) < least_bytes(model, 4, 5000) + 20
    assert torch.equal(unpack_ranges(model, [part], 4, 5000), codes)
    assert unpack_ranges(model, pack_ranges(model, codes[:0], 4, 1), 4, 1).shape == (0, 22)
