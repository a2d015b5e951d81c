"""`ddn guide`, and trainings with something to go by."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import FAST, refused, run
from PIL import Image

from discrete_distribution_network.cli.guide import known_part
from discrete_distribution_network.ddn import DDN


def files(folder, count=2):
    return sorted(folder.rglob("*.jpg"))[:count]


@pytest.fixture
def stroke(tmp_path):
    pixels = np.zeros((8, 12, 4), dtype=np.uint8)
    pixels[2:4, 3:9] = (200, 30, 30, 255)
    path = tmp_path / "stroke.png"
    Image.fromarray(pixels).save(path)
    return path


@pytest.mark.parametrize(
    ("kinds", "options"),
    [
        ("inpaint", ["--missing", "bottom", "--beams", "2"]),
        ("colorize", []),
        ("superres", ["--pixels", "3"]),
        ("lowbit", ["--bits", "2"]),
        ("edges", []),
        ("like", ["--levels", "2", "--top-k", "2"]),
        ("inpaint+colorize+edges", []),
    ],
)
def test_guides_by_what_files_show(trained, photograph_folder, capsys, kinds, options):
    two = files(photograph_folder)
    run("guide", kinds, *two, "--num", "3", "--seed", "1", "--folder", "each", *options)
    assert "6 images in guided.png" in capsys.readouterr().out
    columns = len(kinds.split("+")) + 3 + 1
    width, height = Image.open("guided.png").size
    assert width / height == pytest.approx(columns * 12 / (2 * 8), rel=0.1)
    assert {path.name for path in Path("each").iterdir()} == {f"{p.stem}-{i}.png" for p in two for i in range(3)}
    first = Path("guided.png").read_bytes()
    run("guide", kinds, *two, "--num", "3", "--seed", "1", *options)
    assert Path("guided.png").read_bytes() == first


def test_guides_by_strokes_and_masks(trained, stroke, photograph_folder, tmp_path, capsys):
    run("guide", "strokes", stroke, "--num", "2")
    Image.fromarray(np.pad(np.full((4, 12), 255, np.uint8), ((0, 4), (0, 0)))).save(tmp_path / "mask.png")
    assert known_part(str(tmp_path / "mask.png"), (8, 12))[0, 0].mean(1).tolist() == [0.0] * 4 + [1.0] * 4
    run("guide", "inpaint", *files(photograph_folder), "--missing", tmp_path / "mask.png")
    assert "transparent" in refused(capsys, "guide", "strokes", *files(photograph_folder))
    assert "no-such.png" in refused(capsys, "guide", "inpaint", stroke, "--missing", "no-such.png")


def test_bad_options_are_told(trained, photograph_folder, capsys):
    assert "got paint" in refused(capsys, "guide", "paint")
    assert "at least one image file" in refused(capsys, "guide", "inpaint")
    assert "--label" in refused(capsys, "guide", "classify")
    assert "--text" in refused(capsys, "guide", "clip")
    assert "--pixels from 1 to 8" in refused(capsys, "guide", "superres", *files(photograph_folder), "--pixels", "9")
    assert "classes in [0, 2)" in refused(capsys, "guide", "classify", "--label", "7")


def test_known_parts():
    for name, mean in (("left", 0.5), ("right", 0.5), ("top", 0.5), ("bottom", 0.5), ("centre", 0.75)):
        mask = known_part(name, (8, 12))
        assert float(mask.mean()) == mean
    assert known_part("left", (4, 4))[0, 0, 0].tolist() == [0, 0, 1, 1]
    assert known_part("bottom", (4, 4))[0, 0, :, 0].tolist() == [1, 1, 0, 0]


@pytest.fixture
def labelled(tmp_path):
    """A folder of IDX files: dark images of class 0, bright ones of class 1."""
    import gzip

    folder = tmp_path / "idx"
    folder.mkdir()
    for part, count in (("train", 40), ("t10k", 10)):
        labels = (np.arange(count) % 2).astype(np.uint8)
        noise = np.random.default_rng(0).integers(0, 50, (count, 8, 8))
        images = (noise + labels[:, None, None] * 200).astype(np.uint8)
        head = (0x0803).to_bytes(4, "big") + b"".join(n.to_bytes(4, "big") for n in images.shape)
        (folder / f"{part}-images-idx3-ubyte.gz").write_bytes(gzip.compress(head + images.tobytes()))
        head = (0x0801).to_bytes(4, "big") + count.to_bytes(4, "big")
        (folder / f"{part}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(head + labels.tobytes()))
    return folder


def test_a_network_by_class_from_training_to_samples(labelled, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    options = [*FAST[:-3], "--size", "8", "8", "--channels", "1", "--steps", "60", "--learning-rate", "0.01"]
    run("train", labelled, *options, "--by-class", "--out", "run")
    ddn = DDN.from_pretrained("run")
    assert ddn.num_classes == 2
    assert json.loads(Path("run/config.json").read_text())["by_class"] is True
    run("prior", "run", "--steps", "60", "--dim", "8")
    run("sample", "--model", "run", "--label", "1", "--num", "16", "--seed", "0")
    bright = np.asarray(Image.open("samples.png")).mean()
    run("sample", "--model", "run", "--label", "0", "--num", "16", "--seed", "0")
    assert bright > np.asarray(Image.open("samples.png")).mean()
    run("evaluate", "run", "--samples", "20")
    run("guide", "classify", "--model", "run", "--label", "1", "--num", "2")
    assert Path("run/model/classifier.safetensors").is_file()
    run("info", "run")
    assert "classes    2" in capsys.readouterr().out


@pytest.mark.parametrize(("cond", "channels"), [("grey", 1), ("edges", 1), ("low", 3)])
def test_a_network_shown_other_images(photograph_folder, tmp_path, monkeypatch, cond, channels):
    monkeypatch.chdir(tmp_path)
    run("train", photograph_folder, *FAST, "--cond", cond, "--out", "run")
    ddn = DDN.from_pretrained("run")
    assert ddn.cond_channels == channels
    images = torch.rand(2, channels, 8, 12)
    assert ddn.sample(cond=images).shape == (2, 3, 8, 12)
    run("evaluate", "run", "--features", "none")
