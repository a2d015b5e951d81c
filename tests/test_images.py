"""Images as a person would see them."""

import numpy as np
import pytest
import torch
from PIL import Image

from discrete_distribution_network.errors import DataError
from discrete_distribution_network.images import find_images, load_image, to_pixels

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
