import math
import random
import resource
import struct
import subprocess
import sys
import time
import zlib

import pytest
import torch
from small import digits, small_ddn
from test_guidance import colour_ddn

from discrete_distribution_network.bitstream import (
    CodeFileError,
    DamagedCodes,
    ExtendedCodes,
    NewerCodes,
    OtherModelsCodes,
    Reader,
    TruncatedCodes,
)
from discrete_distribution_network.code_prior import CodePrior, fit_codes
from discrete_distribution_network.codec import ImageCodec, fingerprint
from discrete_distribution_network.conditions import Cheap
from discrete_distribution_network.ddn import DDN
from discrete_distribution_network.errors import DDNError, InvalidInput
from discrete_distribution_network.selection import resize

HEADER = 39


def photo(height, width, channels=3):
    """Smooth colours of any size."""
    rows, columns = torch.linspace(0, 1, height)[:, None], torch.linspace(0, 1, width)
    return torch.stack([(rows * (i + 1) + columns).sin().abs() for i in range(channels)])


@pytest.mark.parametrize(("height", "width"), [(16, 16), (5, 7), (16, 40), (33, 17)])
def test_an_image_of_any_size_comes_back_as_its_tiles(height, width):
    ddn = colour_ddn()
    codec, image = ImageCodec(ddn), photo(height, width)
    data = codec.compress(image)
    back = codec.decompress(data)
    assert back.shape == image.shape
    rows, columns = -(-height // 16), -(-width // 16)
    bits = rows * columns * ddn.bits_per_image
    header = Reader(data).header
    assert header.tiles == rows * columns
    assert len(Reader(data)[0]) == math.ceil(bits / 8)
    assert len(data) == HEADER + math.ceil(bits / 8)
    for row in range(rows):
        for column in range(columns):
            part = (slice(None), slice(16 * row, 16 * row + 16), slice(16 * column, 16 * column + 16))
            if part[1].stop <= height and part[2].stop <= width:
                own = ddn.reconstruct(image[part].unsqueeze(0))[0].clamp(0, 1)
                torch.testing.assert_close(back[part], own)


def test_fewer_levels_are_a_coarser_image_and_a_smaller_file():
    ddn, image = colour_ddn(), photo(16, 16)
    codec = ImageCodec(ddn)
    whole = codec.compress(image)
    for levels in (1, 2, 4):
        coarse = resize(ddn.reconstruct(image.unsqueeze(0), levels=levels), (16, 16))[0].clamp(0, 1)
        torch.testing.assert_close(codec.decompress(whole, levels), coarse)
        short = codec.compress(image, levels)
        assert len(short) < len(whole)
        torch.testing.assert_close(codec.decompress(short), coarse)
    with pytest.raises(InvalidInput, match="levels from 1 to 4"):
        codec.decompress(short, 5)


def test_many_images_in_one_file_with_random_access():
    ddn, images = small_ddn().eval(), digits(30) / 255
    codec = ImageCodec(ddn, batch_size=7)
    data = codec.compress_batch(images)
    torch.testing.assert_close(codec.decompress_batch(data), ddn.reconstruct(images).clamp(0, 1))
    some = codec.decompress_batch(data, only=[29, 3])
    torch.testing.assert_close(some, ddn.reconstruct(images[[29, 3]]).clamp(0, 1))
    assert len(data) == HEADER - 3 + 30 * math.ceil(ddn.bits_per_image / 8)
    with pytest.raises(InvalidInput, match="decompress_batch"):
        codec.decompress(data)


def test_headerless_codes():
    ddn, images = colour_ddn(codebook_size=[10, 7, 32, 3, 256, 5]), photo(16, 16).unsqueeze(0)
    codes = ddn.encode(images)
    codec = ImageCodec(ddn)
    (part,) = codec.pack(codes)
    assert len(part) == math.ceil(ddn.bits_per_image / 8)
    assert torch.equal(codec.unpack([part]), codes)
    first = codes[:, : sum(ddn.codes_per_level[:3])]
    assert torch.equal(codec.unpack(codec.pack(first), 3), first)


def test_five_faults_five_errors():
    ddn = colour_ddn()
    codec = ImageCodec(ddn)
    data = codec.compress(photo(16, 16))
    with pytest.raises(TruncatedCodes):
        codec.decompress(data[:-1])
    with pytest.raises(ExtendedCodes):
        codec.decompress(data + b"x")
    flipped = bytearray(data)
    flipped[-1] ^= 4
    with pytest.raises(DamagedCodes):
        codec.decompress(bytes(flipped))
    from test_bitstream import sealed

    with pytest.raises(NewerCodes):
        codec.decompress(sealed(data, _4=9))
    with pytest.raises(OtherModelsCodes):
        ImageCodec(small_ddn(channels=3, image_size=16)).decompress(data)
    huge = sealed(data, **{f"_{place}": 255 for place in (17, 18, 19, 20)})
    with pytest.raises(CodeFileError):
        codec.decompress(huge)


def test_the_fingerprint_is_of_the_weights_in_any_precision(tmp_path):
    ddn = small_ddn()
    own = fingerprint(ddn)
    ddn.save_pretrained(tmp_path)
    assert fingerprint(DDN.from_pretrained(tmp_path)) == own
    assert fingerprint(small_ddn(seed=4)) != own
    assert fingerprint(small_ddn().bfloat16()) == own
    ddn.samplers[0].counts += 1
    assert fingerprint(ddn) == own
    with torch.no_grad():
        ddn.start[0, 0, 0, 0] += 0.1
    assert fingerprint(ddn) != own


def test_any_batch_size_number_of_threads_and_precision_reads_the_same_codes():
    ddn, images = small_ddn().eval(), digits(40) / 255
    data = ImageCodec(ddn).compress_batch(images)
    want = ImageCodec(ddn).decompress_batch(data)
    threads = torch.get_num_threads()
    for number in (1, 2, 3):
        torch.set_num_threads(number)
        torch.testing.assert_close(ImageCodec(ddn, batch_size=number).decompress_batch(data), want, atol=1e-5, rtol=0)
    torch.set_num_threads(threads)
    half = small_ddn().eval().bfloat16()
    torch.testing.assert_close(ImageCodec(half).decompress_batch(data), want, atol=0.03, rtol=0)
    torch.testing.assert_close(ImageCodec(small_ddn().eval().double()).decompress_batch(data), want, atol=1e-5, rtol=0)


def learnt(ddn, images):
    """A prior of the codes of these images, fitted so far that likely codes are known."""
    codes, prior = ddn.encode(images), CodePrior.of(ddn, dim=16, hidden=16)
    fit_codes(prior, codes, codes, steps=60, minutes=None, learning_rate=1e-2, progress=False)
    return prior


def test_range_coded_files_are_smaller_where_codes_are_known(tmp_path):
    ddn, images = colour_ddn(), photo(16, 16).unsqueeze(0) * torch.rand(200, 1, 1, 1)
    prior = learnt(ddn, images)
    codec, plain = ImageCodec(ddn, prior), ImageCodec(ddn)
    data = codec.compress_batch(images)
    torch.testing.assert_close(codec.decompress_batch(data), plain.decompress_batch(plain.compress_batch(images)))
    torch.testing.assert_close(codec.decompress_batch(data, only=[150]), codec.decompress_batch(data)[150:151])
    codes = ddn.encode(images)
    packed = codec.pack(codes)
    assert torch.equal(codec.unpack(packed), codes)
    bits = prior.cost(codes) * len(codes)
    assert bits / 8 <= sum(map(len, packed)) <= bits / 8 + 1.5 * len(images)
    first = codes[:, : sum(ddn.codes_per_level[:3])]
    assert torch.equal(codec.unpack(codec.pack(first), 3), first)
    assert len(data) < 0.8 * len(plain.compress_batch(images))
    big = photo(70, 50)
    torch.testing.assert_close(codec.decompress(codec.compress(big)), plain.decompress(plain.compress(big)))
    two = torch.stack((big, big.flip(1)))
    torch.testing.assert_close(
        codec.decompress_batch(codec.compress_batch(two)), plain.decompress_batch(plain.compress_batch(two))
    )
    uniform = plain.compress_batch(images)
    torch.testing.assert_close(codec.decompress_batch(uniform), plain.decompress_batch(uniform))


def test_range_coded_files_want_the_prior_that_wrote_them():
    ddn, image = colour_ddn(), photo(16, 16)
    data = ImageCodec(ddn, CodePrior.of(ddn, dim=8, hidden=8).exact()).compress(image)
    with pytest.raises(InvalidInput, match="code prior of the model"):
        ImageCodec(ddn).decompress(data)
    with pytest.raises(OtherModelsCodes):
        ImageCodec(ddn, CodePrior.of(ddn, dim=8, hidden=8).exact()).decompress(data)


def test_any_batch_size_and_number_of_threads_writes_the_same_range_coded_bytes():
    ddn, images = colour_ddn(), torch.rand(70, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    codes, prior = ddn.encode(images), CodePrior.of(ddn, dim=8, hidden=8).exact()
    codec = ImageCodec(ddn, prior)
    want, threads = codec.pack(codes), torch.get_num_threads()
    for number in (1, 2, 3):
        torch.set_num_threads(number)
        assert [codec.pack(own.unsqueeze(0))[0] for own in codes[::9]] == want[::9]
        assert torch.equal(codec.unpack(want[5:9]), codes[5:9])
    torch.set_num_threads(threads)


def test_a_rate_makes_files_smaller_and_images_worse():
    ddn, images = colour_ddn(), photo(16, 16).unsqueeze(0) * torch.rand(64, 1, 1, 1)
    prior = learnt(ddn, images)
    sizes, errors = [], []
    for codec in (ImageCodec(ddn, prior), ImageCodec(ddn, prior, rate=1e-2)):
        data = codec.compress_batch(images)
        sizes.append(len(data))
        errors.append(float((codec.decompress_batch(data) - images).square().mean()))
    assert sizes[1] < 0.9 * sizes[0]
    assert errors[1] > errors[0]


@pytest.mark.parametrize("rate", [1e-3, 1e-2, 1e-1])
def test_enough_beams_with_a_rate_find_the_best_of_all_codes(rate):
    ddn, images = small_ddn(levels_per_resolution=[0, 2]).eval(), digits(12) / 255
    with torch.no_grad():
        for sampler in ddn.samplers:
            sampler.keys.weight.normal_(0, 0.3)
    prior = learnt(ddn, images)
    every = torch.cartesian_prod(torch.arange(8), torch.arange(8))
    drawn, bits = ddn.decode(every), torch.tensor([prior.cost(codes.unsqueeze(0)) for codes in every])
    costs = (drawn - images.unsqueeze(1)).square().mean((2, 3, 4)) + rate * bits
    codes = ddn.encode_walk(images, beams=8, also=[Cheap(prior, weight=rate)]).codes
    found = costs.gather(1, (8 * codes[:, :1] + codes[:, 1:]))[:, 0]
    torch.testing.assert_close(found, costs.amin(1), atol=1e-5, rtol=1e-4)


def test_a_prior_that_does_not_fit_is_told():
    ddn = colour_ddn()
    with pytest.raises(InvalidInput, match="a prior of this model's codes"):
        ImageCodec(ddn, CodePrior.of(small_ddn(), dim=8, hidden=8))
    with pytest.raises(InvalidInput, match="a code prior where rate"):
        ImageCodec(ddn, rate=0.1)


def test_bitstream_knows_no_torch():
    code = "import sys; from discrete_distribution_network import bitstream; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.slow
def test_ten_minutes_of_broken_files_give_images_or_errors_of_the_library():
    """Files with bytes changed, cut, doubled and put in, half of them with checksums made anew."""
    ddn, images = colour_ddn(), torch.rand(20, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    codecs = [ImageCodec(ddn), ImageCodec(ddn, learnt(ddn, images))]
    whole = [codec.compress_batch(images[:n]) for codec in codecs for n in (1, 5)]
    random_, started, tries, read = random.Random(0), time.monotonic(), 0, 0
    while time.monotonic() - started < 600:
        data = bytearray(random_.choice(whole))
        for _ in range(random_.randint(1, 4)):
            place = random_.randrange(len(data) + 1)
            kind = random_.randrange(4)
            if kind == 0 and place < len(data):
                data[place] = random_.randrange(256)
            elif kind == 1:
                del data[place : place + random_.randint(1, 8)]
            elif kind == 2:
                data[place:place] = random_.randbytes(random_.randint(1, 8))
            else:
                data[place:place] = data[place : place + random_.randint(1, 40)]
        if random_.random() < 0.7 and len(data) > 11:
            data = bytearray(with_right_checksums(bytes(data)))
        try:
            image = random_.choice(codecs).decompress_batch(bytes(data))
            read += 1
            assert image.ndim == 4
        except DDNError:
            pass
        tries += 1
    assert tries > 1000
    assert read > 0
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    assert used < 2000, f"{used} MiB"


def with_right_checksums(data):
    """The same bytes, with header length, payload's and header's checksums as they should be."""
    length = min(struct.unpack_from("<H", data, 5)[0], len(data))
    if length < 19:
        return data
    head = bytearray(data[:length])
    struct.pack_into("<I", head, length - 8, zlib.crc32(data[length:]))
    struct.pack_into("<I", head, length - 4, zlib.crc32(bytes(head[: length - 4])))
    return bytes(head) + data[length:]
