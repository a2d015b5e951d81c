"""`ddn encode` and `ddn decode` with files of codes."""

import io
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from PIL import Image
from test_cli import refused, run, trained  # noqa: F401

from discrete_distribution_network.bitstream import Reader
from discrete_distribution_network.codec import ImageCodec
from discrete_distribution_network.ddn import DDN
from discrete_distribution_network.runs import load_images


def pixels(path):
    return np.asarray(Image.open(path), dtype=np.float32) / 255


def test_one_file_for_many_images(trained, photograph_folder, capsys):  # noqa: F811
    run("encode", photograph_folder)
    told = capsys.readouterr().out
    data = Path("codes.ddn").read_bytes()
    reader = Reader(data)
    assert len(reader) == 24
    assert f"{len(data)} bytes" in told
    run("decode")
    written = sorted(Path("decoded").iterdir())
    assert [path.name for path in written] == [f"{index:05d}.png" for index in range(24)]
    ddn = DDN.from_pretrained(trained).eval()
    _, images = load_images([photograph_folder], ddn)
    expected = ddn.reconstruct(images[3:4])[0].clamp(0, 1).permute(1, 2, 0).numpy()
    assert np.abs(pixels(written[3]) - expected).max() < 0.6 / 255
    run("decode", "--out", "coarse", "--levels", "1")
    run("encode", photograph_folder, "--levels", "1", "-o", "short.ddn")
    run("decode", "short.ddn", "-o", "short")
    assert Path("short.ddn").stat().st_size < len(data)
    assert Path("short/00000.png").read_bytes() == Path("coarse/00000.png").read_bytes()
    assert "without 00000.png" in refused(capsys, "decode")


def test_an_image_of_its_own_size(trained, photographs, capsys):  # noqa: F811
    photographs[0].crop((0, 0, 50, 30)).save("photo.png")
    run("encode", "photo.png", "--tile", "--beams", "2")
    run("decode")
    assert Image.open("decoded/00000.png").size == (50, 30)
    photographs[0].crop((0, 0, 50, 31)).save("other.png")
    assert "2 sizes" in refused(capsys, "encode", "photo.png", "other.png", "--tile")


def test_standard_input_and_output(trained, photographs, monkeypatch, capsys):  # noqa: F811
    photographs[0].save("photo.png")
    run("encode", "photo.png", "-o", "direct.ddn")
    given, out = io.BytesIO(Path("photo.png").read_bytes()), io.BytesIO()
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=given))
    monkeypatch.setattr(sys, "stdout", SimpleNamespace(buffer=out, write=lambda text: None, flush=lambda: None))
    run("encode", "-", "-o", "-")
    assert out.getvalue() == Path("direct.ddn").read_bytes()
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(out.getvalue())))
    out.seek(0)
    out.truncate()
    run("decode", "-", "-o", "-")
    monkeypatch.undo()
    picture = Image.open(io.BytesIO(out.getvalue()))
    assert picture.size == (12, 8)


def test_a_code_prior_makes_files_smaller(trained, photograph_folder, capsys):  # noqa: F811
    run("encode", photograph_folder, "-o", "plain.ddn")
    run("prior", trained, "--kind", "codes", "--minutes", "0.03", "--dim", "8")
    run("encode", photograph_folder, "-o", "ranged.ddn")
    plain, ranged = (sum(map(len, Reader(Path(name).read_bytes()))) for name in ("plain.ddn", "ranged.ddn"))
    assert ranged < plain
    run("decode", "plain.ddn", "-o", "plain")
    run("decode", "ranged.ddn", "-o", "ranged")
    for path in Path("plain").iterdir():
        assert path.read_bytes() == (Path("ranged") / path.name).read_bytes()
    run("encode", photograph_folder, "-o", "cheap.ddn", "--rate", "0.1")
    assert sum(map(len, Reader(Path("cheap.ddn").read_bytes()))) <= ranged


def test_files_of_codes_that_cannot_be_read_are_told(trained, photograph_folder, tmp_path, capsys):  # noqa: F811
    run("encode", photograph_folder)
    data = Path("codes.ddn").read_bytes()
    other = DDN(dim=4, dim_max=8, image_size=(8, 12), codebook_size=4)
    for name, content, said in (
        ("short.ddn", data[:-3], "copy the file again"),
        ("long.ddn", data + b"1", "cut off"),
        ("text.ddn", b"hello", "begins with"),
        ("other.ddn", ImageCodec(other).compress(torch.rand(3, 8, 12)), "use that one"),
    ):
        Path(name).write_bytes(content)
        assert said in refused(capsys, "decode", name), name
    assert "one image for the standard output" in refused(capsys, "decode", "-o", "-")
    assert "rate" in refused(capsys, "encode", photograph_folder, "--rate", "1")
