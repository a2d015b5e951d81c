"""`--resume` goes on with the run's own options; what is given is laid over them and said."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from commands import FAST, refused, run

from discrete_distribution_network.cli.commands import Quickstart
from discrete_distribution_network.cli.config import TrainConfig, load_config
from discrete_distribution_network.cli.options import newest_run, resolve_options, same_data
from discrete_distribution_network.cli.train import with_preset
from discrete_distribution_network.ddn import DDN
from discrete_distribution_network.training.report import read_metrics

KEPT = ["--chain-dropout", "0.2", "--seed", "7", "--learning-rate", "0.001"]


@pytest.fixture
def kept(photograph_folder, tmp_path, monkeypatch):
    """The folder of a run under ./runs, as far as resuming looks at it before it loads a checkpoint."""
    monkeypatch.chdir(tmp_path)
    folder = Path("runs/train")
    (folder / "checkpoints" / "step-00000006").mkdir(parents=True)
    network = TrainConfig(str(photograph_folder), size=(8, 12), steps=6, dim=4, dim_max=8, codebook_size=4)
    with_preset(network).save(folder / "config.json")
    return folder


@pytest.fixture
def steps(monkeypatch):
    """The options and folders that trainings are started with, which then do nothing."""
    started = []
    monkeypatch.setattr("discrete_distribution_network.cli.train.train", lambda config, name: started.append(config))
    return started


def test_without_options_the_runs_own_hold(photograph_folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    run("train", photograph_folder, *FAST, *KEPT)
    before = load_config(Path("runs/train/config.json"))
    capsys.readouterr()
    run("train", photograph_folder, "--resume", "--steps", "8")
    said = capsys.readouterr().out.splitlines()
    assert [line for line in said if "(was" in line] == ["steps: 8 (was 6)"]
    assert load_config(Path("runs/train/config.json")) == before | {"steps": 8}
    assert {"step": 6, "resumed": True} in read_metrics("runs/train")
    assert {sampler.chain_dropout_prob for sampler in DDN.from_pretrained("runs/train").samplers} == {0.2}
    run("train", photograph_folder, "--resume", "--steps", "9", "--size", "8", "12", "--seed", "7")
    assert "size" not in capsys.readouterr().out  # given, but as it was
    # neither data set nor folder: the newest run
    run("train", "--resume", "--batch-size", "4", "--trackers", "--steps", "9")
    said = capsys.readouterr().out
    assert "batch-size: 4 (was 8)\n" in said


def test_what_the_network_is_cannot_change(kept, photograph_folder, capsys):
    before = (kept / "config.json").read_bytes()
    for options, said in (
        (["--size", "16", "16"], "size: 16 16 (was 8 12)"),
        (["--codebook-size", "8", "--dim", "8"], "dim: 8 (was 4), codebook-size: 8 (was 4)"),
        (["--channels", "1"], "channels: 1 (was 3)"),
        (["--levels", "1", "1"], "levels: 1 1 (was"),
        (["--by-class"], "by-class: yes (was no)"),
        (["--cond", "grey"], "cond: grey (was none)"),
        (["--adversarial", "1"], "adversarial: 1.0 (was 0.0)"),
    ):
        error = refused(capsys, "train", photograph_folder, "--resume", *options)
        assert said in error
        assert "--resume" in error
        assert len(error) < 400
    assert (kept / "config.json").read_bytes() == before


def test_a_time_goes_before_the_steps_of_a_run(kept, steps):
    run("train", "--resume", "--minutes", "3")
    assert (steps[0].steps, steps[0].minutes, steps[0].out) == (None, 3, Path("runs/train"))
    run("train", "--config", kept / "config.json", "--minutes=4")
    assert (steps[1].steps, steps[1].minutes) == (None, 4)
    run("train", "--resume", "--minutes", "3", "--steps", "8")
    assert steps[2].steps == 8


def test_a_config_goes_over_the_run_and_what_is_given_over_both(kept, steps):
    TrainConfig("elsewhere", batch_size=5, steps=11).save(Path("other.json"))
    run("train", "--out", kept, "--resume", "--config", "other.json", "--batch-size", "3")
    assert (steps[0].batch_size, steps[0].steps, steps[0].dataset, steps[0].out) == (3, 11, "elsewhere", kept)


def test_out_names_the_run_and_may_be_new(kept, steps):
    run("train", "--resume", "--out", kept)
    assert steps[0].size == (8, 12)
    run("train", "photos", "--resume", "--out", "new")
    assert (steps[1].size, steps[1].dataset, steps[1].out) == ((64, 64), "photos", Path("new"))


def test_every_spelling_of_a_folder_is_that_folder(kept, photograph_folder, steps):
    Path("linked").symlink_to(photograph_folder)
    here = photograph_folder.name
    for name in (here, f"{here}/", f"./{here}", f"{here}//", f"../{Path.cwd().name}/{here}", "linked", "./linked/"):
        run("train", name, "--resume")
        assert (steps[-1].out, steps[-1].dataset) == (Path("runs/train"), str(photograph_folder))
    assert same_data("mnist-digits", "mnist-digits")
    assert not same_data("mnist-digits", "fashion-mnist")
    assert not same_data("owner/name", "owner/other")


def test_a_run_of_another_data_set_is_not_resumed(kept, photograph_folder, capsys):
    for other in (photograph_folder / "even", "fashion-mnist", "nowhere"):
        assert f"a run of {other}" in refused(capsys, "train", other, "--resume")


def test_a_run_whose_options_cannot_be_read_is_passed_over(kept, photograph_folder):
    Path("runs/train-9").mkdir()
    Path("runs/train-9/config.json").write_text("{")
    with pytest.warns(UserWarning, match="train-9 is passed over"):
        assert newest_run("train*", str(photograph_folder)) == Path("runs/train")


@pytest.mark.parametrize("dataset", [[], ["fashion-mnist"]])
def test_quickstart_too(tmp_path, monkeypatch, steps, dataset):
    monkeypatch.chdir(tmp_path)
    folder = Path("runs/quickstart-2")
    folder.mkdir(parents=True)
    Quickstart("fashion-mnist", chain_dropout=0.3, minutes=50.0).save(folder / "config.json")
    run("quickstart", *dataset, "--resume")
    assert (steps[0].out, steps[0].dataset, steps[0].chain_dropout, steps[0].minutes) == (
        folder,
        "fashion-mnist",
        0.3,
        50,
    )


def test_several_processes_must_name_the_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert "--out" in refused(capsys, "train", "--resume")


def test_the_flowers_script_too(tmp_path):
    script = Path(__file__).parents[2] / "train_oxford_flowers.py"
    folder = tmp_path / "runs" / "oxford-flowers"
    folder.mkdir(parents=True)
    TrainConfig("photos", size=(16, 16), minutes=1.0).save(folder / "config.json")
    code = (
        "import runpy, sys; sys.argv = ['x', '--resume', '--seed', '3']\n"
        "import discrete_distribution_network.cli.train as t\n"
        "t.train = lambda config, name: print(config.size, config.dataset, config.out, config.seed, name)\n"
        f"runpy.run_path({str(script)!r}, run_name='__main__')"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, env=os.environ)
    assert done.stdout == "(16, 16) photos runs/oxford-flowers 3 oxford-flowers\n", done.stderr


def test_options_are_parsed_once_where_nothing_is_resumed():
    seen = []
    resolve_options(lambda training: seen.append(training) or TrainConfig(**training), ["train", "x"])
    assert seen == [{}]
