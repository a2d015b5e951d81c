"""A checkpoint is whole or not there; the newest whole one is found; others are passed over with a warning."""

import os
import shutil
import warnings

import pytest
from safetensors.torch import load_file
from small import small_ddn, trainer

from discrete_distribution_network.errors import InvalidInput, ModelFileError
from discrete_distribution_network.io import atomic_folder
from discrete_distribution_network.training.checkpoints import STATE, Checkpoints, read_state


def save(checkpoints, step, text="weights"):
    return checkpoints.save(step, {"step": step}, lambda folder: (folder / "weights").write_text(text))


def newest(checkpoints):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return checkpoints.newest_whole()


def test_the_newest_is_found_and_the_oldest_deleted(tmp_path):
    checkpoints = Checkpoints(tmp_path / "new", keep=2)
    assert newest(checkpoints) is None
    for step in (1, 2, 30):
        save(checkpoints, step)
    assert newest(checkpoints) == tmp_path / "new" / "step-00000030"
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["step-00000002", "step-00000030"]
    assert read_state(newest(checkpoints))["step"] == 30
    with pytest.raises(InvalidInput, match="at least 1 checkpoint"):
        Checkpoints(tmp_path, keep=0)


def test_newest_is_what_was_saved_last_also_at_a_smaller_step(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=None)
    save(checkpoints, 50)
    save(checkpoints, 10, "first")
    again = save(checkpoints, 10, "second")
    assert newest(checkpoints) == again
    assert (again / "weights").read_text() == "second"
    assert (tmp_path / "step-00000010" / "weights").read_text() == "first"


def test_the_order_of_saving_counts_where_the_clock_goes_back(tmp_path, monkeypatch):
    checkpoints = Checkpoints(tmp_path, keep=1)
    monkeypatch.setattr("time.time_ns", lambda: 1000)
    save(checkpoints, 1)
    monkeypatch.setattr("time.time_ns", lambda: 10)
    assert newest(checkpoints).name == "step-00000001"
    save(checkpoints, 2)
    assert newest(checkpoints).name == "step-00000002"


@pytest.mark.parametrize("damage", ["truncated", "flipped", "missing", "manifest", "empty manifest", "no manifest"])
def test_a_damaged_one_is_passed_over_by_name(tmp_path, damage):
    checkpoints = Checkpoints(tmp_path)
    save(checkpoints, 1)
    last = save(checkpoints, 2)
    if damage == "truncated":
        os.truncate(last / "weights", 3)
    elif damage == "flipped":
        (last / "weights").write_text("weighty")
    elif damage == "missing":
        (last / "weights").unlink()
    elif damage == "empty manifest":
        (last / atomic_folder.MANIFEST).write_text("[]")
    elif damage == "manifest":
        (last / atomic_folder.MANIFEST).write_text("{")
    else:
        (last / atomic_folder.MANIFEST).unlink()
    with pytest.warns(UserWarning, match="step-00000002 is not whole"):
        assert checkpoints.newest_whole() == tmp_path / "step-00000001"
    with pytest.raises(ModelFileError, match="step-00000002"):
        atomic_folder.verify(last)


def test_one_without_its_state_is_no_checkpoint(tmp_path):
    last = save(Checkpoints(tmp_path), 2)
    (last / STATE).unlink()
    with pytest.warns(UserWarning, match="step-00000002"):
        assert Checkpoints(tmp_path).newest_whole() is None
    with pytest.raises(ModelFileError, match="step-00000002"):
        read_state(last)


def test_an_unfinished_one_is_ignored_with_a_warning(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    save(checkpoints, 1)
    unfinished = tmp_path / f"{atomic_folder.STAGING}step-00000002-{2**22 + 1}"  # no such process
    shutil.copytree(tmp_path / "step-00000001", unfinished)
    with pytest.warns(UserWarning, match="not finished"):
        assert checkpoints.newest_whole() == tmp_path / "step-00000001"
    save(checkpoints, 3)
    assert not unfinished.exists()


def test_a_failure_leaves_the_old_ones_and_nothing_else(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=1)
    save(checkpoints, 1)

    def fail(folder):
        (folder / "weights").write_text("half")
        raise OSError(28, "No space left on device", str(folder / "weights"))

    with pytest.raises(OSError, match="No space left"):
        checkpoints.save(2, {}, fail)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]


def test_nothing_stands_in_its_place_before_it_is_whole(tmp_path):
    def fill(folder):
        (folder / "weights").write_text("half")
        assert not list(tmp_path.glob("step-*"))

    Checkpoints(tmp_path).save(1, {}, fill)
    assert sorted(path.name for path in (tmp_path / "step-00000001").iterdir()) == ["manifest.json", STATE, "weights"]


def test_foreign_folders_are_left_alone(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=1)
    theirs = ("step-mine", "notes", "step-00000001-copy", ".saving-mine", f".saving-step-00000009-{os.getppid()}")
    for name in theirs:
        (tmp_path / name).mkdir(parents=True)
    for step in (1, 2, 3):
        save(checkpoints, step)
    assert {path.name for path in tmp_path.iterdir()} == {"step-00000003", *theirs}


def test_the_files_of_a_checkpoint_stay_what_they_were(tmp_path):
    """Version 0.3 reads and writes these; a change of one of these names would lose every running training."""
    trainer(tmp_path, num_train_steps=2, decay="cosine", split_until=0.5)()
    folder = tmp_path / "checkpoints" / "step-00000002"
    files = {path.name for path in folder.iterdir()}
    assert files >= {"model.safetensors", "config.json", "training.safetensors", "training.json"}
    state = read_state(folder)
    assert list(state) == ["saved_at", "step", "images", "seconds", "splits", "faults", "scaler", "exact"]
    assert list(state["exact"]) == [
        "seed",
        "batch_size",
        "grad_accum_every",
        "processes",
        "images",
        "learning_rate",
        "muon_learning_rate",
        "warmup_steps",
        "decay",
        "split_every",
        "max_grad_norm",
        "adam",
        "beta",
        "update_every",
        "num_train_steps",
        "hold",
        "split_until",
        "precision",
        "moving average",
        "images' fingerprint",
    ]
    tensors = load_file(folder / "training.safetensors")
    names = small_ddn().state_dict().keys()
    moments = {name for name, _ in small_ddn().named_parameters()}
    expected = {f"weights/{name}" for name in names}
    expected |= {f"optimizer/{name}/{field}" for name in moments for field in ("step", "exp_avg", "exp_avg_sq")}
    assert tensors.keys() == expected
