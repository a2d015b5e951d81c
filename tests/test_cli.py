"""The command line: training ends with pictures and a model that the other commands use."""

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from discrete_distribution_network import cli
from discrete_distribution_network.ddn import DDN
from discrete_distribution_network.errors import DataError, DDNError
from discrete_distribution_network.trainer import Recipe, evaluate, fit

FAST = ["--minutes", "0.05", "--dim", "4", "--dim-max", "8", "--codebook-size", "4", "--batch-size", "8"]
PICTURES = {"samples.png", "reconstructions.png", "tree.png", "loss.png"}


def run(*arguments):
    cli.main([str(argument) for argument in arguments])


def refused(capsys, *arguments):
    with pytest.raises(SystemExit) as stop:
        run(*arguments)
    assert stop.value.code == 2
    error = capsys.readouterr().err.strip()
    assert "\n" not in error
    return error


@pytest.fixture
def folder(tmp_path):
    """A folder of real photographs' look-alikes: smooth colour gradients."""
    images = tmp_path / "images"
    images.mkdir()
    generator = np.random.default_rng(0)
    for index in range(24):
        corners = Image.fromarray(generator.integers(0, 255, (2, 2, 3), dtype=np.uint8))
        corners.resize((20, 14), Image.Resampling.BILINEAR).save(images / f"{index}.png")
    return images


def test_train_then_sample_and_reconstruct(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    run("train", folder, "--size", "8", "12", *FAST)
    out = Path("runs/train")
    assert {path.name for path in out.iterdir()} >= PICTURES | {"config.json", "model.safetensors", "run.json"}
    written = json.loads((out / "run.json").read_text())
    assert written["steps"] > 0
    assert len(written["test"]["usage_by_level"]) == DDN.from_pretrained(out).num_levels
    for name in PICTURES:
        assert Image.open(out / name).size[0] > 100
    run("sample", "--num", "5", "--seed", "1")
    first = Path("samples.png").read_bytes()
    run("sample", "--num", "5", "--seed", "1", "--model", out)
    assert Path("samples.png").read_bytes() == first
    run("reconstruct", folder / "0.png", folder / "1.png", "--out", "rows.png")
    assert Image.open("rows.png").size[0] > 100
    assert "0.png: error" in capsys.readouterr().out


def test_an_existing_folder_is_never_emptied(folder, tmp_path, capsys):
    out = tmp_path / "out"
    out.mkdir()
    (out / "keep.txt").write_text("mine")
    assert "--overwrite" in refused(capsys, "train", folder, "--out", out, *FAST)
    run("train", folder, "--out", out, "--overwrite", "--size", "8", "8", *FAST)
    assert (out / "keep.txt").read_text() == "mine"
    assert (out / "model.safetensors").exists()


def test_bad_input_is_one_line(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "quickstart" in refused(capsys, "sample")
    assert str(empty) in refused(capsys, "train", empty)
    assert "no folder" in refused(capsys, "train", "missing")
    assert "batch of 64" in refused(capsys, "train", folder, "--batch-size", "64", "--size", "8", "8")
    assert "channels" in refused(capsys, "train", folder, "--channels", "2")
    assert "minutes" in refused(capsys, "train", folder, "--minutes", "0")
    assert "codebook_size" in refused(capsys, "train", folder, "--codebook-size", "0")
    assert "elsewhere" in refused(capsys, "sample", "--model", "elsewhere")
    DDN(dim=4, dim_max=4, image_size=8).save_pretrained("runs/small")
    (tmp_path / "text.png").write_text("no image")
    assert "text.png" in refused(capsys, "reconstruct", "text.png")
    assert "--device" in refused(capsys, "train", folder, "--device", "abacus")
    assert "ending" in refused(capsys, "sample", "--out", "picture")
    assert "nowhere" in refused(capsys, "sample", "--out", "nowhere/picture.png")
    (folder / "broken.png").write_text("no image")
    assert "broken.png" in refused(capsys, "train", folder, "--size", "8", "8")
    assert not list(Path("runs/train").glob("*"))


def test_ctrl_c_saves_what_was_learnt(folder, tmp_path, monkeypatch, capsys):
    out, steps = tmp_path / "out", 0
    original = DDN.split_and_prune_

    def interrupted(self, optimizer=None):
        nonlocal steps
        steps += 1
        if steps == 3:
            raise KeyboardInterrupt
        return original(self, optimizer)

    monkeypatch.setattr(DDN, "split_and_prune_", interrupted)
    run("train", folder, "--out", out, "--size", "8", "8", *FAST)
    assert "stopped after 3 steps" in capsys.readouterr().err
    assert json.loads((out / "run.json").read_text())["steps"] == 3
    DDN.from_pretrained(out)


def test_help_needs_no_torch():
    started = time.monotonic()
    code = (
        "import sys; sys.argv = ['ddn', '--help']\ntry:\n from discrete_distribution_network.cli import main; main()\n"
    )
    code += "except SystemExit: pass\nassert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)
    assert time.monotonic() - started < 5


def test_training_is_reproducible_by_seed():
    images = torch.randint(0, 256, (40, 1, 8, 8), dtype=torch.uint8)

    def weights():
        torch.manual_seed(3)
        ddn = DDN(dim=4, dim_max=8, image_size=8, channels=1, codebook_size=4)
        fit(ddn, images, Recipe(length=12, timed=False, batch_size=8), seed=1, progress=False)
        return ddn.state_dict()

    first, second = weights(), weights()
    assert all(torch.equal(value, second[name]) for name, value in first.items())


def test_a_loss_that_is_not_finite_stops_before_the_step():
    ddn = DDN(dim=4, dim_max=8, image_size=8, channels=1, codebook_size=4)
    torch.nn.init.constant_(ddn.start, torch.inf)
    before = ddn.samplers[0].keys.weight.clone()
    with pytest.raises(DDNError, match="finite"):
        fit(
            ddn, torch.zeros(8, 1, 8, 8, dtype=torch.uint8), Recipe(length=2, timed=False, batch_size=8), progress=False
        )
    assert torch.equal(ddn.samplers[0].keys.weight, before)


@pytest.mark.slow
def test_quickstart_reaches_its_figures(tmp_path):
    """Three minutes on two cores: error at most 0.008, at least 70% of the nodes of every level in use."""
    run("quickstart", "--out", tmp_path / "run")
    figures = json.loads((tmp_path / "run" / "run.json").read_text())["test"]
    assert figures["error"] <= 0.008
    assert min(figures["usage_by_level"]) >= 0.7


def test_fewer_images_than_a_batch():
    ddn = DDN(dim=4, dim_max=8, image_size=8, channels=1, codebook_size=4)
    with pytest.raises(DataError, match="got 5"):
        fit(ddn, torch.zeros(5, 1, 8, 8, dtype=torch.uint8), Recipe(batch_size=8))


def test_evaluation_counts_every_image_once():
    ddn = DDN(dim=4, dim_max=8, image_size=8, channels=1, codebook_size=4)
    images = torch.randint(0, 256, (25, 1, 8, 8), dtype=torch.uint8)
    whole, parts = evaluate(ddn, images, 25), evaluate(ddn, images, 10)
    error = (ddn.reconstruct(images / 255) - images / 255).square().mean()
    assert whole.error == pytest.approx(float(error), rel=1e-5)
    assert parts.error == pytest.approx(whole.error, rel=1e-5)
    assert parts.usage_by_level == pytest.approx(whole.usage_by_level)
