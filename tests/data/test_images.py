"""Images as a person would see them."""

import os
import struct
import warnings

import numpy as np
import pytest
import torch
from PIL import Image, PngImagePlugin

from discrete_distribution_network.data.image_folder import find_images, readable_extensions
from discrete_distribution_network.data.images import decoding_errors, load_image, load_whole, to_pixels
from discrete_distribution_network.errors import DataError, InvalidInput

GREY = np.linspace(0, 255, 64, dtype=np.uint8).reshape(8, 8)


def test_modes_come_out_alike(tmp_path):
    Image.fromarray(GREY).save(tmp_path / "l.png")
    Image.fromarray(GREY.astype(np.uint16) * 257).save(tmp_path / "sixteen.png")
    Image.fromarray(GREY).convert("P").save(tmp_path / "p.png")
    Image.fromarray(GREY).convert("RGB").convert("CMYK").save(tmp_path / "cmyk.tif")
    Image.fromarray(np.stack([GREY] * 3 + [np.full_like(GREY, 255)], -1)).save(tmp_path / "rgba.png")
    Image.fromarray(np.stack([GREY, np.full_like(GREY, 255)], -1), "LA").save(tmp_path / "la.png")
    Image.fromarray(GREY / np.float32(255)).save(tmp_path / "float.tif")
    for path in find_images(tmp_path):
        for channels in (1, 3):
            image = load_image(path, (8, 8), channels)
            assert image.shape == (channels, 8, 8), path
            assert image.dtype == torch.uint8
            assert (image.int() - torch.from_numpy(GREY).int()).abs().max() <= 1, path


def test_transparency_shows_the_background(tmp_path):
    Image.new("RGBA", (4, 4), (10, 20, 30, 0)).save(tmp_path / "clear.png")
    assert (load_image(tmp_path / "clear.png", (4, 4), 3) == 255).all()
    assert (load_image(tmp_path / "clear.png", (4, 4), 3, background=7) == 7).all()


def test_rotated_by_exif_comes_upright(tmp_path):
    picture = np.zeros((8, 8), np.uint8)
    picture[:, :4] = 255  # bright on the left
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    Image.fromarray(picture).save(tmp_path / "turned.jpg", exif=exif, quality=100)
    upright = load_image(tmp_path / "turned.jpg", (8, 8), 1)[0].float()
    assert upright[:3].mean() > 200
    assert upright[5:].mean() < 50


def test_first_frame_of_an_animation(tmp_path):
    frames = [Image.new("L", (4, 4), value) for value in (200, 10)]
    frames[0].save(tmp_path / "moving.gif", save_all=True, append_images=frames[1:])
    assert (load_image(tmp_path / "moving.gif", (4, 4), 1) == 200).all()


def test_cropped_not_squashed(tmp_path):
    wide = np.zeros((10, 30), np.uint8)
    wide[:, 10:20] = 255
    Image.fromarray(wide).save(tmp_path / "wide.png")
    assert (load_image(tmp_path / "wide.png", (10, 10), 1) == 255).all()


def test_what_is_no_image_is_named(tmp_path):
    (tmp_path / "text.png").write_text("not an image")
    Image.fromarray(GREY).save(tmp_path / "whole.png")
    (tmp_path / "half.png").write_bytes((tmp_path / "whole.png").read_bytes()[:60])
    for name in ("text.png", "half.png"):
        with pytest.raises(DataError, match=name):
            load_image(tmp_path / name, (8, 8), 1)


def test_a_decompression_bomb_is_refused(tmp_path, monkeypatch):
    Image.fromarray(GREY).save(tmp_path / "large.png")
    for limit in (50, 10):  # Pillow warns over the limit, and raises over twice the limit
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        with pytest.raises(DataError, match=r"large\.png"):
            load_image(tmp_path / "large.png", (8, 8), 1)


def test_a_large_jpeg_is_decoded_small_and_alike(tmp_path):
    gradient = Image.fromarray(np.linspace(0, 255, 64, dtype=np.uint8).reshape(8, 8)).resize((800, 600), 2)
    gradient.save(tmp_path / "large.jpg", quality=95)
    quick = load_image(tmp_path / "large.jpg", (32, 32), 1).int()
    whole = to_pixels(gradient, (32, 32), 1).int()
    assert (quick - whole).abs().max() <= 4


def test_a_pillow_image_is_not_changed():
    image = Image.fromarray(GREY)
    assert torch.equal(to_pixels(image, (8, 8), 1)[0], torch.from_numpy(GREY))
    assert torch.equal(to_pixels(image, (8, 8), 3)[2], torch.from_numpy(GREY))


def test_find_images(tmp_path):
    with pytest.raises(DataError, match="no folder"):
        find_images(tmp_path / "missing")
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(DataError, match="none among its 1 files"):
        find_images(tmp_path)
    (tmp_path / "below").mkdir()
    Image.fromarray(GREY).save(tmp_path / "below" / "UPPER.JPG")
    assert [path.name for path in find_images(tmp_path)] == ["UPPER.JPG"]


def exif_block(tag, kind, content, order="<", orientation=6):
    """An EXIF block of an orientation and one other tag, of any type."""
    sizes = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 7: 1, 10: 8, 11: 4, 12: 8}
    entries = sorted(
        [(0x0112, 3, 1, struct.pack(order + "H", orientation)), (tag, kind, len(content) // sizes[kind], content)]
    )
    directory, beyond = struct.pack(order + "H", len(entries)), b""
    for name, type_, count, value in entries:
        if len(value) > 4:
            value, beyond = struct.pack(order + "I", 8 + 2 + 12 * len(entries) + 4 + len(beyond)), beyond + value
        directory += struct.pack(order + "HHI", name, type_, count) + value.ljust(4, b"\0")
    start = b"II*\0" if order == "<" else b"MM\0*"
    return b"Exif\0\0" + start + struct.pack(order + "I", 8) + directory + bytes(4) + beyond


WRONG_TAGS = {
    "ResolutionUnit as text": (296, 2, b"inch\0"),
    "XResolution as text": (282, 2, b"72 dpi\0"),
    "XResolution as a byte": (282, 1, b"\7"),
    "Make as a float": (271, 11, struct.pack("<f", 2.5)),
    "DocumentName as a fraction": (269, 5, struct.pack("<II", 1, 0)),
    "a signed fraction -1/0": (282, 10, struct.pack("<ii", -1, 0)),
    "NaN": (282, 12, struct.pack("<d", float("nan"))),
    "DateTime as a number": (306, 4, bytes(4)),
}


@pytest.mark.parametrize("wrong", WRONG_TAGS)
@pytest.mark.parametrize("ending", ["jpg", "png", "webp"])
def test_an_exif_tag_of_a_wrong_type_does_not_matter(tmp_path, ending, wrong):
    picture = np.zeros((8, 12, 3), np.uint8)
    picture[:, :6] = 255  # bright on the left
    path = tmp_path / f"turned.{ending}"
    options = {"lossless": True} if ending == "webp" else {"quality": 100} if ending == "jpg" else {}
    Image.fromarray(picture).save(path, exif=exif_block(*WRONG_TAGS[wrong]), **options)
    with Image.open(path) as opened:
        given = to_pixels(opened, (12, 8), 1)
    for upright in (load_image(path, (12, 8), 1), load_whole(path, 1), given):
        assert upright.shape == (1, 12, 8)
        assert upright[0, :5].min() > 200
        assert upright[0, 7:].max() < 50


def test_every_orientation_is_turned_upright(tmp_path):
    upright = np.arange(24, dtype=np.uint8).reshape(4, 6) * 10
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.T,
        6: upright.T[::-1],
        7: upright.T[::-1, ::-1],
        8: upright.T[:, ::-1],
    }
    for orientation, pixels in stored.items():
        exif = Image.Exif()
        exif[0x0112] = orientation
        for ending in ("png", "tif"):
            path = tmp_path / f"{orientation}.{ending}"
            Image.fromarray(np.ascontiguousarray(pixels)).save(path, exif=exif)
            assert np.array_equal(load_whole(path, 1)[0].numpy(), upright), path
    # numbers that are scaled are turned too
    exif[0x0112] = 6
    Image.fromarray(np.ascontiguousarray(stored[6]).astype(np.uint16) * 257).save(tmp_path / "16.png", exif=exif)
    assert np.array_equal(load_whole(tmp_path / "16.png", 1)[0].numpy(), upright)


def tiff(path, values):
    Image.fromarray(values).save(path)
    return load_image(path, values.shape, 1)[0]


@pytest.mark.parametrize("odd", [1.01, 1.4, 30.0, 1e30, np.nan, np.inf, -np.inf, -0.2])
def test_one_odd_pixel_of_a_float_image_changes_that_pixel_alone(tmp_path, odd):
    values = GREY.astype(np.float32) / 255
    values[2, 3] = odd
    shown = tiff(tmp_path / "float.tif", values).numpy().astype(int)
    expected = GREY.astype(int)
    expected[2, 3] = 255 if odd > 1 else 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert abs(shown - expected).max() <= 1


def test_numbers_of_32_bits_are_scaled_by_what_they_reach(tmp_path):
    for name, values in (
        ("8 bits as integers", GREY.astype(np.int32)),
        ("16 bits as integers", GREY.astype(np.int32) * 257),
        ("31 bits", (GREY / 255 * (2**31 - 1)).astype(np.int32)),
        ("8 bits as floats", GREY.astype(np.float32)),
        ("resized 8 bits as floats", np.clip(GREY.astype(np.float32) * 1.01 - 1, -3, 260)),
        ("16 bits as floats", GREY.astype(np.float32) * 257),
        ("16 bits", GREY.astype(np.uint16) * 257),
    ):
        shown = tiff(tmp_path / "numbers.tif", values).numpy().astype(int)
        assert abs(shown - GREY.astype(int)).max() <= 2, name
        assert abs(to_pixels(Image.fromarray(values), (8, 8), 1)[0].numpy().astype(int) - GREY).max() <= 2, name
    outlier = GREY.astype(np.int32)
    outlier[0, 0] = 300
    assert abs(tiff(tmp_path / "outlier.tif", outlier).numpy().astype(int)[1:] - GREY[1:]).max() <= 1
    # a dark image of 16 bits stays dark
    assert tiff(tmp_path / "dark.tif", np.full((8, 8), 200, np.uint16)).max() <= 1
    Image.fromarray(np.full((8, 8), 200, np.uint16)).save(tmp_path / "dark.png")
    assert load_image(tmp_path / "dark.png", (8, 8), 1).max() <= 1
    assert (tiff(tmp_path / "nothing.tif", np.full((8, 8), np.nan, np.float32)) == 0).all()


def test_unsigned_numbers_of_32_bits(tmp_path):
    values = (GREY.astype(np.uint64) * (2**32 - 1) // 255).astype(np.uint32)
    path = tmp_path / "unsigned.tif"
    Image.fromarray(values.view(np.int32)).save(path)
    signed, unsigned = (struct.pack("<HHIHH", 339, 3, 1, kind, 0) for kind in (2, 1))  # SampleFormat
    assert path.read_bytes().count(signed) == 1
    path.write_bytes(path.read_bytes().replace(signed, unsigned))
    assert abs(load_image(tmp_path / "unsigned.tif", (8, 8), 1)[0].numpy().astype(int) - GREY).max() <= 1


FORMATS = ("png", "jpg", "webp", "tif", "gif", "bmp", "avif", "qoi", "dds", "ico", "ppm", "tga", "jp2", "sgi", "pcx")


@pytest.mark.parametrize("ending", FORMATS)
def test_a_damaged_file_of_any_format_and_ending_is_named(tmp_path, ending):
    if f".{ending}" not in readable_extensions() or Image.registered_extensions()[f".{ending}"] not in Image.SAVE:
        pytest.skip(f"this Pillow does not write .{ending}")
    noise = np.random.default_rng(0).integers(0, 256, (20, 20, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / f"whole.{ending}")
    whole, numbers, refused = (tmp_path / f"whole.{ending}").read_bytes(), np.random.default_rng(1), []
    for index in range(60):
        content = bytearray(whole)
        if index % 3 == 0:
            content = content[: int(numbers.integers(len(whole)))]
        for _ in range(int(numbers.integers(1, 20))):
            if content:
                content[int(numbers.integers(min(len(content), 200)))] = int(numbers.integers(256))
        path = tmp_path / "damaged.png"
        path.write_bytes(content)
        try:
            load_image(path, (8, 8), 3)
        except DataError as error:
            refused.append(str(error))
    assert refused
    assert all("damaged.png" in sentence and "\n" not in sentence for sentence in refused)


@pytest.mark.parametrize(
    "error", [RuntimeError("torn"), MemoryError(), IndexError(), RecursionError("deep"), KeyError(3)]
)
def test_whatever_a_decoder_raises_names_the_file(tmp_path, monkeypatch, error):
    Image.new("L", (4, 4)).save(tmp_path / "some.png")

    def fail(*_):
        raise error

    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", fail)
    with pytest.raises(DataError, match=r"some\.png, which cannot be decoded \(.+\)"):
        load_image(tmp_path / "some.png", (4, 4), 1)
    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        load_image(tmp_path / "some.png", (4, 4), 1)


def test_errors_of_our_own_pass_and_missing_files_are_said(tmp_path):
    with pytest.raises(InvalidInput, match=r"^strokes$"), decoding_errors("a file"):
        raise InvalidInput("strokes")
    with pytest.raises(DataError, match=r"found no file .*nothing\.png"):
        load_image(tmp_path / "nothing.png", (4, 4), 1)
    for error in (FileNotFoundError, ValueError):
        with pytest.raises(DataError) as raised, decoding_errors(os.fsdecode(b"caf\xe9.png")):
            raise error("no")
        assert "caf\\udce9.png" in str(raised.value).encode("utf-8").decode()
