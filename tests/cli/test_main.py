"""The command line: training ends with pictures and a model that the other commands use."""

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import FAST, refused, run
from PIL import Image

from discrete_distribution_network.cli.commands import COMMANDS
from discrete_distribution_network.cli.config import TrainConfig, configured, load_config
from discrete_distribution_network.cli.runs import model_folder
from discrete_distribution_network.cli.train import _new_folder
from discrete_distribution_network.ddn import DDN
from discrete_distribution_network.errors import InvalidInput
from discrete_distribution_network.training.optimisation import Optimisation
from discrete_distribution_network.training.report import read_metrics

PICTURES = {"samples.png", "reconstructions.png", "tree.png", "loss.png"}


def test_a_run_keeps_everything(trained, photograph_folder):
    names = {path.name for path in trained.iterdir()}
    assert names == PICTURES | {
        "checkpoints",
        "config.json",
        "evaluation.json",
        "metrics.jsonl",
        "model",
        "pictures",
    }
    written = json.loads((trained / "evaluation.json").read_text())
    assert written["images"] == 2
    assert len(written["usage_by_level"]) == DDN.from_pretrained(trained).num_levels
    for name in PICTURES:
        assert Image.open(trained / name).size[0] > 100
    options = load_config(trained / "config.json")
    assert options["dataset"] == str(photograph_folder)
    assert options["size"] == (8, 12)
    assert options["steps"] == 6


def test_a_config_repeats_a_run(trained, capsys):
    run("train", "--config", trained / "config.json")
    again = Path("runs/train-2")
    assert (again / "config.json").read_text() == (trained / "config.json").read_text()
    first, second = (DDN.from_pretrained(folder).state_dict() for folder in (trained, again))
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    run("train", f"--config={trained / 'config.json'}", "--seed", "5", "--out", "other")
    assert load_config(Path("other/config.json")) == {**load_config(trained / "config.json"), "seed": 5}


def test_resume_goes_on(trained, photograph_folder, capsys):
    before = DDN.from_pretrained(trained).start
    (trained / "evaluation.json").write_text('{"frechet_samples": 1.0}')
    run("train", "--config", trained / "config.json", "--resume", "--steps", "12")
    assert (trained / "checkpoints" / "step-00000015").is_dir()  # its network has had 3 of 6 steps, and goes on
    assert {"step": 6, "resumed": True} in read_metrics(trained)
    assert not torch.equal(DDN.from_pretrained(trained).start, before)
    assert "frechet_samples" not in json.loads((trained / "evaluation.json").read_text())
    # without --out it is the newest run of the same data set
    capsys.readouterr()
    other = photograph_folder / "even"
    assert f"a run of {other}" in refused(capsys, "train", other, "--resume", *FAST)


def test_the_newest_model_of_a_run_is_used(trained):
    manifest = trained / "model" / "manifest.json"
    assert model_folder(trained) == trained / "model"
    os.utime(manifest, (1, 1))  # an older time, as copies may have, of the same weights
    assert model_folder(trained) == trained / "model"
    ddn = DDN.from_pretrained(trained / "model")
    torch.nn.init.ones_(ddn.start)
    ddn.save_pretrained(trained / "model")
    os.utime(manifest, (1, 1))  # as if a resumed training had saved since
    assert model_folder(trained) == trained / "checkpoints" / "step-00000006"
    shutil.rmtree(trained / "checkpoints")
    assert model_folder(trained) == trained / "model"


def test_two_trainings_take_two_folders(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with _new_folder(TrainConfig(), "train") as first, _new_folder(TrainConfig(), "train") as second:
        assert (first, second) == (Path("runs/train"), Path("runs/train-2"))


def test_sample_reconstruct_encode_decode(trained, photograph_folder, capsys):
    run("sample", "--num", "5", "--seed", "1")
    first = Path("samples.png").read_bytes()
    run("sample", "--num", "5", "--seed", "1", "--model", trained / "model")
    assert Path("samples.png").read_bytes() == first
    files = sorted(photograph_folder.rglob("*.jpg"))[:2]
    run("reconstruct", *files, "--out", "rows.png")
    assert Image.open("rows.png").size[0] > 100
    assert "000.jpg: error" in capsys.readouterr().out
    run("encode", photograph_folder, "-o", "codes.json")
    codes = json.loads(Path("codes.json").read_text())["images"]
    assert len(codes) == 24
    run("decode", "codes.json")
    pictures = sorted(Path("decoded").iterdir())
    assert len(pictures) == 24
    assert pictures[0].name == "00000-000.png"
    ddn = DDN.from_pretrained(trained).eval()
    expected = ddn.decode(torch.tensor([codes[0]["codes"]]))[0].clamp(0, 1)
    shown = torch.from_numpy(np.array(Image.open(pictures[0]))).permute(2, 0, 1) / 255
    assert (shown - expected).abs().max() < 0.6 / 255
    run("decode", "codes.json", "--out", "coarse", "--levels", "1")
    assert len(list(Path("coarse").iterdir())) == 24


def test_prior_then_sample_and_evaluate(trained, torchvision, capsys):
    assert "prior by class" in refused(capsys, "sample", "--label", "1")
    run("prior", trained, "--minutes", "0.02", "--dim", "8", "--by-class")
    assert "by the prior, after" in capsys.readouterr().out
    pictures = {}
    for name, options in {
        "mixed": [],
        "one": ["--label", "1"],
        "uniform": ["--uniform"],
        "cold": ["--temperature", "0"],
    }.items():
        run("sample", "--num", "4", "--seed", "1", "--out", f"{name}.png", *options)
        pictures[name] = Path(f"{name}.png").read_bytes()
    assert len({pictures[name] for name in ("mixed", "uniform", "cold")}) == 3
    assert "labels" in refused(capsys, "sample", "--label", "7")
    run("prior", trained, "--minutes", "0.02", "--dim", "8")
    run("evaluate", trained, "--samples", "10")
    figures = json.loads((trained / "evaluation.json").read_text())
    assert figures["frechet_samples_drawn"] == "by the prior"
    run("evaluate", trained, "--samples", "10", "--temperature", "0.7")
    figures = json.loads((trained / "evaluation.json").read_text())
    assert figures["frechet_samples_drawn"] == "by the prior at temperature 0.7"
    run("prior", trained, "--kind", "transformer", "--minutes", "0.02", "--dim", "8")
    run("sample", "--num", "4", "--seed", "1", "--out", "transformer.png")
    assert Path("transformer.png").read_bytes() not in pictures.values()
    # a model that was trained on has no use for it
    run("train", "--config", trained / "config.json", "--resume", "--steps", "8", "--no-prior")
    with pytest.warns(UserWarning, match="of another model and is left out"):
        run("sample")
    assert "drawn uniformly" in capsys.readouterr().out
    run("sample", "--uniform")
    run("evaluate", "--features", "none")
    run("evaluate", "--samples", "10", "--uniform")
    assert json.loads((trained / "evaluation.json").read_text())["frechet_samples_drawn"] == "uniformly"


def test_info(trained, capsys):
    run("info", trained)
    told = capsys.readouterr().out
    ddn = DDN.from_pretrained(trained)
    for said in (
        f"{ddn.num_levels} levels",
        f"{ddn.bits_per_image:g} bits",
        "step 3",
        "step 6",
        "error",
        "nodes pruned",
        "bits an image",
    ):
        assert said in told
    assert len([line for line in told.splitlines() if line.strip()[:1].isdigit()]) == ddn.num_levels
    run("info", trained / "model")
    assert "8x12 with 3 channels" in capsys.readouterr().out


def test_evaluate_with_a_classifier_of_the_labels(trained, torchvision, capsys):
    run("evaluate", trained, "--samples", "20")
    written = json.loads((trained / "evaluation.json").read_text())
    assert "right on its test images" in written["frechet_features"]
    assert written["frechet_drawn"] == 20
    assert min(written["frechet_samples"], written["frechet_reconstructions"], written["frechet_floor"]) >= 0
    run("info", trained)
    assert "frechet_floor" in capsys.readouterr().out
    assert "Inception" in refused(capsys, "evaluate", trained, "--features", "weights.pth")


def test_a_model_still_in_training_can_be_used(trained, capsys):
    shutil.rmtree(trained / "model")
    run("sample", "--num", "2")
    run("info", trained)
    assert "step-00000006" in capsys.readouterr().out


def test_an_existing_folder_is_never_emptied(photograph_folder, tmp_path, capsys):
    out = tmp_path / "out"
    out.mkdir()
    (out / "keep.txt").write_text("mine")
    assert "holds files" in refused(capsys, "train", photograph_folder, "--out", out, *FAST)
    assert [path.name for path in out.iterdir()] == ["keep.txt"]
    run("train", photograph_folder, "--out", out, "--overwrite", *FAST)
    assert (out / "keep.txt").read_text() == "mine"
    DDN.from_pretrained(out)


def test_bad_input_is_one_line(photograph_folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    assert "quickstart" in refused(capsys, "sample")
    assert "empty" in refused(capsys, "train", "empty")
    assert "check the path" in refused(capsys, "train", "missing")
    assert "a data set, got none" in refused(capsys, "train")
    train = ["train", photograph_folder, *FAST]
    assert "batch of 64" in refused(capsys, *train, "--batch-size", "64")
    assert "channels" in refused(capsys, *train, "--channels", "2")
    assert "num_train_steps" in refused(capsys, *train, "--steps", "0")
    assert "test share" in refused(capsys, *train, "--test-share", "0")
    assert "minutes" in refused(capsys, "train", photograph_folder, "--minutes", "0")
    assert "codebook_size" in refused(capsys, *train, "--codebook-size", "0")
    assert "--device" in refused(capsys, *train, "--device", "abacus")
    assert "nowhere.json" in refused(capsys, "train", "--config", "nowhere.json")
    assert "elsewhere" in refused(capsys, "sample", "--model", "elsewhere")
    assert not Path("runs").exists()
    DDN(dim=4, dim_max=4, image_size=8).save_pretrained("runs/small/model")
    Path("runs/small/config.json").write_text('{"colour": 1}')
    assert "colour" in refused(capsys, "train", "--config", "runs/small/config.json")
    Path("text.png").write_text("no image")
    assert "text.png" in refused(capsys, "reconstruct", "text.png")
    assert "got none" in refused(capsys, "encode")
    assert "ending" in refused(capsys, "sample", "--out", "picture")
    assert "nowhere" in refused(capsys, "sample", "--out", "nowhere/picture.png")
    assert "codes.ddn" in refused(capsys, "decode")
    for codes, said in (
        ("[1, 77]", "level 1"),
        ("[0.5, 1]", "integer"),
        ("[]", "codes of shape"),
        ("7", "codes.json"),
    ):
        Path("codes.json").write_text(f'{{"images": [{{"name": "a", "codes": {codes}}}]}}')
        assert said in refused(capsys, "decode", "codes.json", "--model", "runs/small/model"), codes
    assert "--dataset" in refused(capsys, "evaluate", "runs/small/model")
    (photograph_folder / "broken.png").write_text("no image")
    with pytest.raises(SystemExit):
        run(*train, "--steps", "30")
    assert "broken.png, which cannot be decoded" in capsys.readouterr().err.splitlines()[-1]
    run(*train, "--steps", "30", "--max-bad-images", "1", "--out", "tolerant")


def test_augmentation_by_name(photograph_folder, tmp_path, torchvision, capsys):
    augmented = ["train", photograph_folder, *FAST, "--out", tmp_path / "out", "--augment"]
    assert "Sharpest" in refused(capsys, *augmented, "Sharpest")
    assert "Resize" in refused(capsys, *augmented, "Resize")
    run(*augmented, "RandomHorizontalFlip", "ColorJitter")
    assert load_config(tmp_path / "out" / "config.json")["augment"] == ("RandomHorizontalFlip", "ColorJitter")


def test_ctrl_c_saves_and_ends_with_its_code(photograph_folder, tmp_path, monkeypatch, capsys):
    original, calls = Optimisation.split_and_prune, []

    def interrupted(self, *args):
        calls.append(None)
        if len(calls) == 3:
            os.kill(os.getpid(), signal.SIGINT)
        return original(self, *args)

    monkeypatch.setattr(Optimisation, "split_and_prune", interrupted)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "evaluation.json").write_text("{}")  # of a model that is overwritten
    with pytest.raises(SystemExit) as ended:
        run("train", photograph_folder, "--out", tmp_path / "out", "--overwrite", *FAST)
    assert ended.value.code == 130
    assert "stopped by SIGINT after 4 steps" in capsys.readouterr().err
    DDN.from_pretrained(tmp_path / "out")
    assert not (tmp_path / "out" / "evaluation.json").exists()


@pytest.mark.parametrize("command", [[], *([name] for name in COMMANDS)])
def test_help_needs_no_torch_and_takes_a_second(command):
    code = (
        f"import sys; sys.argv = {['ddn', *command, '--help']}\ntry:\n"
        " from discrete_distribution_network.cli.main import main; main()\n"
        "except SystemExit as end: assert not end.code\nassert 'torch' not in sys.modules"
    )
    started = time.monotonic()
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)
    assert time.monotonic() - started < 3  # a second, on a machine that does nothing else


def test_without_a_config_the_options_are_the_default_ones(capsys):
    assert configured([]) == configured(["train", "--out", "x"]) == configured(["train", "--config"]) == {}
    with pytest.raises(SystemExit) as ended:
        run()
    assert ended.value.code == 2
    assert "quickstart" in capsys.readouterr().err


def test_every_option_of_training_is_kept(tmp_path):
    TrainConfig("somewhere", levels=(1, 2), augment=("RandomHorizontalFlip",)).save(tmp_path / "config.json")
    options = load_config(tmp_path / "config.json")
    fields = {field.name for field in dataclasses.fields(TrainConfig)}
    assert options.keys() == fields - {"config", "out", "resume", "overwrite"}
    assert TrainConfig(**options) == TrainConfig("somewhere", levels=(1, 2), augment=("RandomHorizontalFlip",))
    (tmp_path / "config.json").write_text("[1, 2")
    with pytest.raises(InvalidInput, match=r"config\.json"):
        load_config(tmp_path / "config.json")
    wrong = {
        "batch_size": "many",
        "size": [8],
        "levels": [1, "2"],
        "precision": "fp8",
        "ema": 1,
        "seed": True,
        "minutes": "x",
    }
    for name, value in wrong.items():
        (tmp_path / "config.json").write_text(json.dumps({name: value}))
        with pytest.raises(InvalidInput, match=name):
            load_config(tmp_path / "config.json")
    (tmp_path / "config.json").write_text(json.dumps({"size": [8, 8], "minutes": 1, "levels": None, "workers": 2}))
    assert load_config(tmp_path / "config.json")["size"] == (8, 8)


@pytest.mark.slow
def test_quickstart_reaches_its_figures(tmp_path):
    """Three minutes on two cores: error at most 0.002, and perplexity of the choices over K at least 0.6."""
    run("quickstart", "--out", tmp_path / "run")
    figures = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    assert figures["error"] <= 0.002
    assert min(figures["usage_by_level"]) >= 0.6
