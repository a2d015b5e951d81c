"""`ddn tree`, `interpolate`, `neighbours`, `cluster`, and a Taiji-DDN from end to end."""

import json
from pathlib import Path

import numpy as np
import pytest
from commands import FAST, refused, run
from PIL import Image

from discrete_distribution_network.ddn import DDN


def files(folder, count):
    return sorted(folder.rglob("*.jpg"))[:count]


def test_the_tree_in_every_way(trained, photograph_folder, capsys):
    run("tree", "--out", "grids.png")
    width, height = Image.open("grids.png").size
    assert width == height == 32 * 27
    run("tree", "--kind", "branches", "--out", "branches.png")
    run("tree", *files(photograph_folder, 1), "--kind", "path", "--out", "path.png")
    run("tree", *files(photograph_folder, 3), "--kind", "walk", "--out", "walk.gif")
    ddn = DDN.from_pretrained(trained)
    assert Image.open("walk.gif").n_frames >= ddn.num_levels
    assert "22 images in grids.png" in capsys.readouterr().out
    assert ".gif" in refused(capsys, "tree", *files(photograph_folder, 1), "--kind", "walk", "--out", "walk.jpg")
    assert "got none" in refused(capsys, "tree", "--kind", "path")


def test_grids_show_images_and_shares(trained):
    run("tree", "--out", "grids.png")
    pixels = np.asarray(Image.open("grids.png")).astype(int)
    orange = (np.abs(pixels - np.array([214, 90, 20])).sum(-1) < 10).sum()
    assert orange > 50
    assert pixels.std() > 20


def test_between_two_images(trained, photograph_folder, capsys):
    two = files(photograph_folder, 2)
    run("interpolate", *two, "--steps", "4", "--beams", "2")
    width, height = Image.open("between.png").size
    assert width / height == pytest.approx(6 * 12 / 8, rel=0.1)
    assert "--steps of at least 3" in refused(capsys, "interpolate", *two, "--steps", "2")


def test_neighbours_and_clusters(trained, photograph_folder, capsys):
    image = files(photograph_folder, 5)[4]
    run("neighbours", image, photograph_folder, "--num", "3")
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4
    assert "distance 0.0000" in lines[0]
    run("cluster", photograph_folder, "--levels", "2")
    assert "clusters of 24 images" in capsys.readouterr().out
    assert Image.open("clusters.png").size[0] > 100


def test_taiji(photograph_folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    options = [option if option != "4" or FAST[i - 1] != "--codebook-size" else "2" for i, option in enumerate(FAST)]
    run("train", photograph_folder, *options)
    run("encode", photograph_folder, "--out", "codes.json")
    first = json.loads(Path("codes.json").read_text())["images"][0]["codes"]
    assert isinstance(first, str)
    assert set(first) <= {"0", "1"}
    run("decode", "codes.json", "--out", "from-bits")
    run("encode", photograph_folder)
    run("decode", "--out", "from-file")
    ddn = DDN.from_pretrained("runs/train")
    assert ddn.bits_per_image == len(first)
    one, other = (sorted(Path(name).iterdir())[0].read_bytes() for name in ("from-bits", "from-file"))
    assert one == other
    run("tree")
    run("sample", "--num", "2")
