import copy
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
from small import colour_ddn, digits, small_ddn

from discrete_distribution_network.codec import image_codec as codec_module
from discrete_distribution_network.codec.bitstream import (
    UNIFORM,
    CodeFileError,
    DamagedCodes,
    ExtendedCodes,
    Header,
    Level,
    NewerCodes,
    OtherModelsCodes,
    Reader,
    TruncatedCodes,
    packed_bytes,
    write,
)
from discrete_distribution_network.codec.image_codec import ImageCodec, fingerprint
from discrete_distribution_network.ddn import DDN
from discrete_distribution_network.errors import DDNError, InvalidInput
from discrete_distribution_network.guidance.conditions import RatePenalty
from discrete_distribution_network.model import fingerprint as fingerprint_module
from discrete_distribution_network.model import pixels
from discrete_distribution_network.model.tensors import resize
from discrete_distribution_network.prior.entropy_model import EntropyModel
from discrete_distribution_network.training.entropy_fitting import fit_entropy_model
from discrete_distribution_network.viz.pictures import to_pil

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
    from tests.codec.test_bitstream import sealed

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


EXACT, HALF, HALF_MEAN, BRAIN, BRAIN_MEAN = 5e-5, 0.1, 1e-3, 0.3, 5e-3
"""What docs/codes.md promises: differences of pixels in float32 and float64, float16, bfloat16."""


def test_any_batch_size_number_of_threads_and_precision_reads_the_same_codes():
    ddn, images = small_ddn().eval(), digits(40) / 255
    data = ImageCodec(ddn).compress_batch(images)
    want = ImageCodec(ddn).decompress_batch(data)
    threads = torch.get_num_threads()
    for number in (1, 2, 3):
        torch.set_num_threads(number)
        back = ImageCodec(ddn, batch_size=number).decompress_batch(data)
        torch.testing.assert_close(back, want, atol=EXACT, rtol=0)
    torch.set_num_threads(threads)
    for kind, limit in ((torch.float64, EXACT), (torch.float16, HALF), (torch.bfloat16, BRAIN)):
        back = ImageCodec(small_ddn().eval().to(kind)).decompress_batch(data)
        torch.testing.assert_close(back, want, atol=limit, rtol=0)


@pytest.mark.parametrize("name", ["fashion-mnist", "fashion-mnist-by-class"])
def test_released_models_draw_the_same_in_any_layout_and_nearly_in_any_precision(name):
    """See benchmarks/numerics.py for the figures."""
    ddn = DDN.from_pretrained(name).eval()
    codes = torch.randint(256, (8, 64), generator=torch.Generator().manual_seed(0))
    want = ImageCodec(ddn).decode(codes, (32, 32))
    for kind, limit, mean in (
        (torch.float32, EXACT, EXACT),
        (torch.float64, EXACT, EXACT),
        (torch.float16, HALF, HALF_MEAN),
        (torch.bfloat16, BRAIN, BRAIN_MEAN),
    ):
        other = DDN.from_pretrained(name).eval().to(kind).to(memory_format=torch.channels_last)
        apart = (ImageCodec(other, batch_size=3).decode(codes, (32, 32)) - want).abs()
        assert float(apart.max()) < limit, kind
        assert float(apart.mean()) < mean, kind


def test_pixels_may_be_floats_or_uint8_and_nothing_else():
    ddn, images = colour_ddn(), torch.randint(256, (3, 3, 20, 30), generator=torch.Generator().manual_seed(2)).byte()
    codec = ImageCodec(ddn)
    assert codec.compress_batch(images) == codec.compress_batch(images / 255)
    assert codec.compress(images[0]) == codec.compress(images[0] / 255)
    assert codec.compress(images[0].double() / 255) == codec.compress(images[0] / 255)
    for dtype in (torch.float16, torch.bfloat16):
        assert codec.decompress(codec.compress((images[0] / 255).to(dtype))).shape == (3, 20, 30)
    for wrong, words in (
        (images[0].numpy(), "as a tensor, got a ndarray"),
        (to_pil(images[0] / 255), "as a tensor, got a Image"),
        (images[0].long(), "int64"),
        (images[0] > 3, "bool"),
        (torch.full((3, 8, 8), math.nan), "finite"),
        (torch.full((3, 8, 8), math.inf), "finite"),
        (images[0, :1], "of shape"),
        (images[0, 0], "of shape"),
        (images[0, :, :0], "with pixels"),
        ([images[0]], "as a tensor, got a list"),
    ):
        with pytest.raises(InvalidInput, match=words):
            codec.compress(wrong)
        with pytest.raises(InvalidInput):
            codec.compress_batch(wrong[None] if isinstance(wrong, torch.Tensor) else wrong)
    with pytest.raises(InvalidInput, match="a batch of at least 1"):
        codec.compress_batch(images[:0])
    pixels._warned_of.clear()
    with pytest.warns(UserWarning, match=r"pixels in \[0, 1\]"):
        codec.compress(images[0].float())


def test_the_limit_is_on_what_is_decoded_at_once(monkeypatch):
    ddn, images = small_ddn().eval(), digits(30) / 255
    codec = ImageCodec(ddn)
    data = codec.compress_batch(images)
    whole = codec.decompress_batch(data)
    monkeypatch.setattr(codec_module, "MAX_PIXELS", 10 * 64)
    with pytest.raises(InvalidInput, match=r"only, at most 10$"):
        codec.decompress_batch(data)
    with pytest.raises(InvalidInput, match="30 images of 8x8"):
        codec.decompress_batch(data, only=range(30))
    torch.testing.assert_close(codec.decompress_batch(data, only=[29, 0, 29]), whole[[29, 0, 29]])
    assert codec.compress_batch(images) == data  # any number of them
    monkeypatch.setattr(codec_module, "PIXELS_AT_ONCE", 7 * 64)
    each = torch.stack(list(codec.each(codec.read(data), 2)))
    monkeypatch.undo()
    assert torch.equal(each, codec.decompress_batch(data, 2).mul(255).round().byte())


def test_what_cannot_be_decoded_is_not_written():
    codec = ImageCodec(small_ddn().eval())
    large = torch.zeros(1, 1, 1).expand(1, 8192, 8193)
    with pytest.raises(InvalidInput, match="at most 67108864 pixels, got 8192x8193"):
        codec.compress(large)
    with pytest.raises(InvalidInput, match="sides of at most 65535"):
        codec.compress(torch.zeros(1, 1, 1).expand(1, 1, 65536))
    header = Header(UNIFORM, codec.fingerprint, 1, 8192, 8193, 1, 1024 * 1025, (Level(1, 8),))
    with pytest.raises(DamagedCodes, match="at most 67108864 pixels"):
        codec.decompress_batch(write(header, [bytes(packed_bytes(header.sizes * header.tiles))]), only=[0])
    with pytest.raises(InvalidInput, match="at most 255 channels, got 300"):
        ImageCodec(small_ddn(channels=300))
    with pytest.raises(InvalidInput, match="at most 4096 levels"):
        ImageCodec(small_ddn(image_size=4, dim=1, dim_max=1, codebook_size=2, levels_per_resolution=4097))
    with pytest.raises(InvalidInput, match="at least 2 candidates"):
        ImageCodec(small_ddn(levels_per_resolution=[1, 1], codebook_size=[1, 8]))


@pytest.mark.parametrize("wrong", [True, 2.0, "2", 0, -1, 99, None])
def test_levels_indices_and_arguments_that_are_none(wrong):
    ddn, images = small_ddn().eval(), digits(3) / 255
    codec = ImageCodec(ddn)
    data, packed = codec.compress_batch(images), codec.pack(ddn.encode(images))
    if wrong is not None:
        for do in (
            lambda: codec.compress_batch(images, wrong),
            lambda: codec.decompress_batch(data, wrong),
            lambda: codec.unpack(packed, wrong),
            lambda: codec.each(codec.read(data), wrong),
        ):
            with pytest.raises(InvalidInput, match="levels from 1 to 4"):
                do()
    if wrong != 0:
        with pytest.raises(InvalidInput, match="indices from 0 and below 3"):
            codec.decompress_batch(data, only=[0, wrong])
    if wrong != 99:
        for name in ("beams", "batch_size"):
            if not (name == "batch_size" and wrong is None):
                with pytest.raises(InvalidInput, match=name):
                    ImageCodec(ddn, **{name: wrong})


def test_no_places_and_no_codes_are_nothing():
    ddn, images = small_ddn().eval(), digits(3) / 255
    for codec in (ImageCodec(ddn), ImageCodec(ddn, EntropyModel.of(ddn, dim=4, hidden=4).exact())):
        data = codec.compress_batch(images)
        assert codec.decompress_batch(data, only=[]).shape == (0, 1, 8, 8)
        assert codec.unpack([]).shape == (0, 4)
        assert codec.pack(torch.empty(0, 4, dtype=torch.long)) == []
        for only in (1, "0", 1.5, {0}, iter([0]), torch.tensor([0])):
            with pytest.raises(InvalidInput, match="as a list of integers"):
                codec.decompress_batch(data, only=only)
        for wrong in (torch.zeros(2, 4), torch.full((2, 4), 8), torch.full((2, 4), -1), torch.zeros(2, 5).long(), [1]):
            with pytest.raises(InvalidInput, match="codes"):
                codec.pack(wrong)
        for wrong in ("text", None, 3):
            with pytest.raises(InvalidInput, match="bytes of a file"):
                codec.decompress(wrong)


def forgetful(seed=3):
    """A model with weights that float16 rounds otherwise than bfloat16 does."""
    ddn = small_ddn(seed=seed).eval()
    with torch.no_grad():
        ddn.start.flatten()[0] = 1 + 2**-8 + 2**-20
    return ddn


@pytest.mark.parametrize("ranged", [False, True])
def test_copies_in_any_precision_read_each_others_files(ranged):
    ddn, images = forgetful(), digits(20) / 255
    prior = EntropyModel.of(ddn, dim=4, hidden=4).exact() if ranged else None
    assert fingerprint(ddn) != fingerprint_module.digest(ddn, torch.float16)
    copies = [
        ddn,
        copy.deepcopy(ddn).half(),
        copy.deepcopy(ddn).to(torch.float16).to(memory_format=torch.channels_last),
        copy.deepcopy(copy.deepcopy(ddn).half()),
        copy.deepcopy(ddn).half().float(),
        copy.deepcopy(ddn).half().bfloat16(),
        copy.deepcopy(ddn).bfloat16(),
        copy.deepcopy(ddn).double(),
        torch.nn.ModuleList([copy.deepcopy(ddn)]).half()[0],
    ]
    files = [ImageCodec(own, prior).compress_batch(images) for own in copies]
    for own in copies:
        codec = ImageCodec(own, prior)
        assert codec.fingerprint == fingerprint(ddn)
        want = codec.decompress_batch(files[0])
        assert float((want - ImageCodec(ddn, prior).decompress_batch(files[0])).abs().mean()) < 0.01
        for data in files:
            assert codec.decompress_batch(data).shape == images.shape


def test_a_model_that_was_saved_in_float16_says_what_it_does_not_know(tmp_path):
    ddn, images = forgetful(), digits(2) / 255
    data = ImageCodec(ddn).compress_batch(images)
    copy.deepcopy(ddn).half().save_pretrained(tmp_path)
    loaded = DDN.from_pretrained(tmp_path)
    own = ImageCodec(loaded).compress_batch(images)
    for reader in (ddn, copy.deepcopy(ddn).half(), copy.deepcopy(ddn).bfloat16(), loaded, loaded.half()):
        assert ImageCodec(reader).decompress_batch(own).shape == images.shape
    with pytest.raises(OtherModelsCodes, match="before it was saved in float16"):
        ImageCodec(loaded).decompress_batch(data)
    with pytest.raises(OtherModelsCodes, match=r"use that one$"):
        ImageCodec(small_ddn(seed=9)).decompress_batch(data)


@pytest.mark.parametrize("kind", [torch.float32, torch.float16, torch.bfloat16])
def test_other_weights_are_another_model(kind):
    ddn, images = forgetful().to(kind), digits(4) / 255
    codec = ImageCodec(ddn)
    own, data = fingerprint(ddn), codec.compress_batch(images)
    assert codec.decompress_batch(data).shape == images.shape
    with torch.no_grad():
        for parameter in ddn.parameters():
            parameter.add_(torch.randn(parameter.shape).to(parameter) / 4)
    assert fingerprint(ddn) != own
    assert codec.fingerprint == fingerprint(ddn)
    with pytest.raises(OtherModelsCodes):
        codec.decompress_batch(data)
    assert fingerprint(ddn.half()) == fingerprint(ddn)
    assert fingerprint(ddn) != own


def test_the_released_models_keep_their_fingerprints():
    """Files that were written are read for ever."""
    for name, own in RELEASED_FINGERPRINTS.items():
        ddn = DDN.from_pretrained(name)
        assert fingerprint(ddn).hex() == own
        for kind in (torch.float16, torch.bfloat16, torch.float64):
            assert fingerprint(ddn.to(kind)).hex() == own


RELEASED_FINGERPRINTS = {"fashion-mnist": "11ce0a5b53221e42", "fashion-mnist-by-class": "07f8f3c527e252ae"}


def learnt(ddn, images):
    """A prior of the codes of these images, fitted so far that likely codes are known."""
    codes, prior = ddn.encode(images), EntropyModel.of(ddn, dim=16, hidden=16)
    fit_entropy_model(prior, codes, codes, steps=60, minutes=None, learning_rate=1e-2, progress=False)
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
    data = ImageCodec(ddn, EntropyModel.of(ddn, dim=8, hidden=8).exact()).compress(image)
    with pytest.raises(InvalidInput, match="entropy model that the file was range coded with"):
        ImageCodec(ddn).decompress(data)
    with pytest.raises(OtherModelsCodes):
        ImageCodec(ddn, EntropyModel.of(ddn, dim=8, hidden=8).exact()).decompress(data)


def test_any_batch_size_and_number_of_threads_writes_the_same_range_coded_bytes():
    ddn, images = colour_ddn(), torch.rand(70, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    codes, prior = ddn.encode(images), EntropyModel.of(ddn, dim=8, hidden=8).exact()
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
    codes = ddn.encode_walk(images, beams=8, also=[RatePenalty(prior, weight=rate)]).codes
    found = costs.gather(1, (8 * codes[:, :1] + codes[:, 1:]))[:, 0]
    torch.testing.assert_close(found, costs.amin(1), atol=1e-5, rtol=1e-4)


def test_a_prior_that_does_not_fit_is_told():
    ddn = colour_ddn()
    with pytest.raises(InvalidInput, match="a prior of this model's codes"):
        ImageCodec(ddn, EntropyModel.of(small_ddn(), dim=8, hidden=8))
    with pytest.raises(InvalidInput, match="an entropy model with a rate"):
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
