"""What files of codes may ask for, and honest work on large images, in a process that may have 2 GiB."""

import json
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import torch
from PIL import Image

from discrete_distribution_network.ddn import DDN

GIB = 1 << 30
BEGIN = """
import json, resource, struct, sys, time, zlib
import torch
resource.setrlimit(resource.RLIMIT_DATA, (2 << 30, 2 << 30))
torch.set_num_threads(1)
from discrete_distribution_network.codec.bitstream import MAGIC, RANGE, UNIFORM, CodeFileError, Header, Level
from discrete_distribution_network.codec.bitstream import _varint, write
from discrete_distribution_network.codec.image_codec import ImageCodec
from discrete_distribution_network.cli.codes import load_codec, read_codes, write_codes, write_images
from discrete_distribution_network.ddn import DDN
from discrete_distribution_network.errors import InvalidInput
from discrete_distribution_network.io.pretrained import released
from pathlib import Path

folder = released("fashion-mnist")
codec = load_codec(folder, "cpu")
codec.decompress(codec.compress(torch.zeros(1, 32, 32)))
levels = tuple(map(Level, codec.ddn.codes_per_level, codec.ddn.codebook_sizes))
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
before, started = peak(), time.process_time()

def refused(do, error=CodeFileError):
    try:
        do()
    except error as told:
        return str(told)
    raise AssertionError("it was taken")
"""
END = """
print(json.dumps({"bytes": peak() - before, "seconds": time.process_time() - started}))
"""


def measured(code, *arguments):
    """What a process of its own takes, beside what the library and the released model do."""
    whole = BEGIN + textwrap.dedent(code) + END
    done = subprocess.run(
        [sys.executable, "-c", whole, *map(str, arguments)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_images_without_codes_take_no_memory():
    """40 bytes that claim any number of images, whose codes take no bits, of any model."""
    taken = measured(
        """
        for images in (10**5, 10**7, 10**12, 2**62):
            told = struct.pack("<B8sBHH", UNIFORM, codec.fingerprint, 1, 32, 32)
            told += b"".join(map(_varint, (images, 1, 1, 1, 1, 1, 0))) + bytes(4)  # one level of one code with K = 1
            head = MAGIC + bytes([1]) + struct.pack("<H", 7 + len(told) + 4) + told
            data = head + struct.pack("<I", zlib.crc32(head))
            assert len(data) <= 50
            refused(lambda: codec.decompress_batch(data))
            refused(lambda: codec.decompress_batch(data, only=[0]))
        """
    )
    assert taken["bytes"] < 0.05 * GIB
    assert taken["seconds"] < 2


def test_a_few_range_coded_bytes_that_claim_a_large_image_are_refused_at_once():
    taken = measured(
        """
        model, tiles = codec._method()[1], 128 * 128
        for count in (2, 700, 3000, 20_000):
            noise = torch.randint(256, (count,), generator=torch.Generator().manual_seed(0)).byte().numpy().tobytes()
            for payload in (noise, bytes(count)):
                data = write(Header(RANGE, model, 1, 4096, 4096, 1, tiles, levels), [payload])
                refused(lambda: codec.decompress(data))
        """
    )
    assert taken["bytes"] < 0.2 * GIB
    assert taken["seconds"] < 15


def test_more_images_than_fit_are_decoded_a_few_at_a_time():
    """1,025 images of 256x256 in one file."""
    taken = measured(
        """
        torch.manual_seed(0)
        ddn = DDN(dim=2, dim_max=4, image_size=256, channels=1, codebook_size=2, levels_per_resolution=1).eval()
        codec = ImageCodec(ddn)
        levels = tuple(map(Level, ddn.codes_per_level, ddn.codebook_sizes))
        header = Header(UNIFORM, codec.fingerprint, 1, 256, 256, 1025, 1, levels)
        codes = torch.randint(2, (1025, sum(ddn.codes_per_level)))
        data = write(header, codec.pack(codes))
        told = refused(lambda: codec.decompress_batch(data), InvalidInput)
        assert "only" in told and "\\n" not in told, told
        some = codec.decompress_batch(data, only=[0, 1024])
        assert torch.allclose(some, ddn.decode(codes[[0, 1024]]).clamp(0, 1), atol=1e-5)
        reader = codec.read(data)
        first = torch.stack([image for image, _ in zip(codec.each(reader), range(3))])
        assert len(reader) == 1025
        assert torch.equal(first, codec.decompress_batch(data, only=range(3)).mul(255).round().byte())
        """
    )
    assert taken["bytes"] < 0.3 * GIB


def test_thousands_of_files_are_encoded_and_decoded_in_batches(tmp_path):
    for place in range(1500):
        Image.fromarray(np.full((40, 40), place % 256, np.uint8)).save(tmp_path / f"{place}.png")
    taken = measured(
        """
        folder = Path(sys.argv[1])
        told = write_codes(codec, [folder], folder / "codes.ddn", False, 4)
        assert told.startswith("1500 images"), told
        stored = read_codes(codec, folder / "codes.ddn", 1)
        write_images(stored, folder / "decoded")
        assert len(list((folder / "decoded").iterdir())) == 1500
        """,
        tmp_path,
    )
    assert taken["bytes"] < 0.1 * GIB


@pytest.mark.parametrize(
    ("height", "width", "most"), [(800, 1000, 0.3), pytest.param(3000, 4000, 0.75, marks=pytest.mark.slow)]
)
def test_a_photograph_of_twelve_megapixels_in_tiles(tmp_path, height, width, most):
    """Of 12 megapixels, or, in seconds, of 1: there and back, range coded and uniformly."""
    rows, columns = np.linspace(0, 4, height)[:, None], np.linspace(0, 5, width)
    Image.fromarray((127 + 127 * np.sin(rows * columns)).astype(np.uint8)).save(tmp_path / "photo.png")
    taken = measured(
        """
        folder = Path(sys.argv[1])
        for name, own in (("ranged", codec), ("uniform", ImageCodec(codec.ddn))):
            write_codes(own, [folder / "photo.png"], folder / f"{name}.ddn", True, None)
            write_images(read_codes(own, folder / f"{name}.ddn", None), folder / name)
        """,
        tmp_path,
    )
    assert taken["bytes"] < most * GIB
    photo, ranged, uniform = (
        np.asarray(Image.open(tmp_path / name)) for name in ("photo.png", "ranged/00000.png", "uniform/00000.png")
    )
    assert np.array_equal(ranged, uniform)
    tile = (slice(320, 352), slice(640, 672))
    own = DDN.from_pretrained("fashion-mnist").eval().reconstruct(torch.tensor(photo[tile])[None, None] / 255)
    assert np.abs(ranged[tile] - own[0, 0].clamp(0, 1).numpy() * 255).max() < 0.6
    assert ranged.shape == (height, width)
