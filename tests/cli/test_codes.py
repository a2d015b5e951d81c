"""`ddn encode` and `ddn decode` with files of codes."""

import errno
import io
import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from commands import refused, run
from PIL import Image

from discrete_distribution_network.cli import images as batches
from discrete_distribution_network.cli.images import load_images
from discrete_distribution_network.codec.bitstream import Reader
from discrete_distribution_network.codec.image_codec import ImageCodec
from discrete_distribution_network.ddn import DDN


def pixels(path):
    return np.asarray(Image.open(path), dtype=np.float32) / 255


def test_one_file_for_many_images(trained, photograph_folder, capsys):
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


def test_an_image_of_its_own_size(trained, photographs, capsys):
    photographs[0].crop((0, 0, 50, 30)).save("photo.png")
    run("encode", "photo.png", "--tile", "--beams", "2")
    run("decode")
    assert Image.open("decoded/00000.png").size == (50, 30)
    photographs[0].crop((0, 0, 50, 31)).save("other.png")
    assert "2 sizes" in refused(capsys, "encode", "photo.png", "other.png", "--tile")


def test_standard_input_and_output(trained, photographs, monkeypatch, capsys):
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


def test_a_code_prior_makes_files_smaller(trained, photograph_folder, capsys):
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


def test_files_of_codes_that_cannot_be_read_are_told(trained, photograph_folder, tmp_path, capsys):
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


def written_json(images):
    Path("codes.json").write_text(images if isinstance(images, str) else json.dumps({"images": images}))


def test_codes_for_people_there_and_back(trained, photograph_folder, capsys):
    run("encode", photograph_folder, "-o", "codes.json")
    ddn = DDN.from_pretrained(trained).eval()
    assert f"24 images, {ddn.bits_per_image / 8:g} bytes each" in capsys.readouterr().out
    run("encode", photograph_folder, "-o", "short.json", "--levels", "1")
    assert "24 images, 0.25 bytes each" in capsys.readouterr().out  # one code of four
    run("decode", "codes.json", "-o", "all")
    run("decode", "codes.json", "-o", "coarse", "--levels", "1")
    run("decode", "short.json", "-o", "short")
    run("encode", photograph_folder, "-o", "codes.ddn")
    run("decode", "codes.ddn", "-o", "packed")
    for folder, other in (("all", "packed"), ("coarse", "short")):
        pairs = zip(sorted(Path(folder).iterdir()), sorted(Path(other).iterdir()), strict=True)
        assert all(one.read_bytes() == two.read_bytes() for one, two in pairs)
    assert "levels from 1 to 1, those of short.json" in refused(capsys, "decode", "short.json", "--levels", "2")


def test_names_in_a_file_become_names_of_files(trained, capsys):
    ddn = DDN.from_pretrained(trained)
    codes = [0] * sum(ddn.codes_per_level)
    names = ["../x", "/etc/passwd", "a\u0000b", "", "..", "x" * 5000, "\U0001f600" * 300, "\ud800", "c:\\d"]
    names.append("line\nend")
    written_json([{"name": name, "codes": codes} for name in names])
    before = set(Path().rglob("*"))
    run("decode", "codes.json")
    new = set(Path().rglob("*")) - before
    assert {path.parent for path in new} == {Path(), Path("decoded")}
    assert len(list(Path("decoded").iterdir())) == len(names)
    assert {"00000-x.png", "00001-passwd.png", "00002-a_b.png", "00003.png", "00009-line_end.png"} <= {
        path.name for path in new
    }


def test_names_that_are_no_utf8_go_there_and_back(trained, photographs, capsys):
    name = os.fsdecode(b"caf\xe9")
    try:
        photographs[0].save(f"{name}.png", format="PNG")
    except OSError:
        pytest.skip("the file system takes no such names")
    for file in ("codes.json", "codes.ddn", f"{name}.json", f"{name}.ddn"):
        run("encode", f"{name}.png", "-o", file)
        run("decode", file, "-o", f"{file}-{name}")
    assert [path.name for path in Path(f"codes.json-{name}").iterdir()] == [f"00000-{name}.png"]


def wrong_codes():
    def listed(codes):
        return f'{{"images": [{{"name": "a", "codes": {codes}}}]}}'

    huge, deep = "9" * 400, "[" * 100_000
    for codes in ("[0.0]", "[true]", "[[0]]", "[null]", '["0"]', "[NaN]", "{}", "null", "3", "[]"):
        yield listed(codes)
    for codes in ('""', '"0a"', '"\u00b2"', f"[{huge}]", f"[{'9' * 5000}]", "[-1]", "[4]", f'"{huge}"', deep):
        yield listed(codes)
    yield listed("[" + "0, " * 100 + "0]")
    yield from ("{" * 100_000, '{"images": 3}', '{"images": []}', '{"images": [3]}', "{}", "{", "{\x00")
    yield from ('{"images": [{"codes": [0]}]}', '{"images": [{"name": "a"}]}', '{"images": {"name": "a"}}')
    for name in ("3", "null", "[]", "{}", "true"):
        yield listed("[0]").replace('"a"', name)
    yield '{"images": [{"name": "a", "codes": [0]}, {"name": "b", "codes": [0, 0]}]}'


def test_wrong_codes_are_one_sentence(trained, capsys):
    for told in wrong_codes():
        written_json(told)
        assert len(refused(capsys, "decode", "codes.json")) < 400, told[:80]
        assert not Path("decoded").exists()
    Path("codes.json").write_bytes(b'{"images": "\xff"}')
    assert "codes.json" in refused(capsys, "decode", "codes.json")


def test_files_that_cannot_be_read_or_written_are_named(trained, photograph_folder, capsys):
    assert "none.ddn" in refused(capsys, "decode", "none.ddn")
    assert str(photograph_folder) in refused(capsys, "decode", photograph_folder)
    run("encode", photograph_folder)
    whole = Path("codes.ddn").read_bytes()
    for data in (whole[:-1], whole + b"1", b"hello", b"", whole[:3], whole[:-3] + b"abc"):
        Path("bad.ddn").write_bytes(data)
        assert "bad.ddn" in refused(capsys, "decode", "bad.ddn")
    Path("file").touch()
    assert "file" in refused(capsys, "decode", "-o", "file")
    for out in ("none/codes.ddn", "none/codes.json", photograph_folder):
        assert str(out) in refused(capsys, "encode", photograph_folder, "-o", out)


def test_what_was_written_before_stays(trained, photographs, capsys, monkeypatch):
    photographs[0].save("good.png")
    Path("bad.png").write_bytes(b"no image")
    run("encode", "good.png")
    whole = Path("codes.ddn").read_bytes()
    assert "bad.png" in refused(capsys, "encode", "good.png", "bad.png")
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", lambda *_: (_ for _ in ()).throw(full))
        assert "codes.ddn: No space" in refused(capsys, "encode", "good.png")
    assert Path("codes.ddn").read_bytes() == whole
    assert not list(Path().glob(".saving-*"))


def test_images_go_through_in_batches(trained, photograph_folder, monkeypatch, capsys):
    run("encode", photograph_folder, "-o", "at_once.ddn")
    told = capsys.readouterr().out
    sizes, encode = [], ImageCodec.encode
    monkeypatch.setattr(batches, "BATCH", 5)
    monkeypatch.setattr(
        ImageCodec, "encode", lambda codec, images, levels: sizes.append(len(images)) or encode(codec, images, levels)
    )
    run("encode", photograph_folder, "-o", "in_parts.ddn")
    assert sizes == [5, 5, 5, 5, 4]
    assert capsys.readouterr().out == told.replace("at_once", "in_parts")
    assert Path("in_parts.ddn").read_bytes() == Path("at_once.ddn").read_bytes()


def test_a_closed_standard_input_is_told(trained, capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdin", None)
    assert "standard input" in refused(capsys, "encode", "-")
    assert "standard input" in refused(capsys, "decode", "-")
