"""Fault tolerance: values that are not finite, signals, full disks, kills."""

import json
import os
import random
import resource
import signal
import subprocess
import time
import warnings

import pytest
import torch
from small import assert_equal, digits, everything, small_ddn, start, train, trainer
from torch.utils.data import Dataset

from discrete_distribution_network import DDN, Prior
from discrete_distribution_network.errors import DDNError, OutputError
from discrete_distribution_network.io.atomic_file import STAGING
from discrete_distribution_network.signals import NOTED, Interrupted
from discrete_distribution_network.training.report import read_metrics


@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_what_is_not_finite_stops_before_the_optimiser(tmp_path, where):
    train(tmp_path, num_train_steps=5)
    made = trainer(tmp_path, resume=True)
    before = everything(made)
    if where == "loss":
        made.loader.dataset = torch.full((60, 1, 8, 8), torch.nan)
    else:
        made.ddn.start.register_hook(lambda gradient: gradient * torch.nan)
    with pytest.raises(DDNError, match=f"step 5.*{where}"):
        made()
    after = everything(made)
    for name in before.keys() - {name for name in before if name.endswith("counts")}:
        assert torch.equal(before[name], after[name]), name
    assert trainer(tmp_path, resume=True).step == 5


class Killing(Dataset):
    """Sends this process a signal when an image is asked for, once."""

    def __init__(self, number, index):
        self.images, self.number, self.index = digits(), number, index

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        if index == self.index:
            self.index = None
            os.kill(os.getpid(), self.number)
        return self.images[index]


@pytest.fixture
def ctrl_c_heard():
    """Signals act as ever, also where a script's `&` or nohup started pytest with them ignored."""
    before = {number: signal.getsignal(number) for number in NOTED}
    for number in NOTED:
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("ctrl_c_heard")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
@pytest.mark.parametrize("when", ["training", "evaluation"])
def test_signals_save_first(tmp_path, number, when, capsys):
    killing = Killing(number, 40)
    settings = {"dataset": killing} if when == "training" else {"test_dataset": killing, "evaluate_every": 3}
    made = trainer(tmp_path, num_samples=4, progress=True, **settings)
    with pytest.raises(SystemExit) as ended:
        made()
    assert ended.value.code == 128 + number
    assert 1 <= made.step < 20
    assert signal.Signals(number).name in capsys.readouterr().err
    assert signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler)
    assert trainer(tmp_path, resume=True).step == made.step
    assert_equal(DDN.from_pretrained(tmp_path / "results").state_dict(), made.ema.model.state_dict())
    assert not [line for line in read_metrics(tmp_path / "results") if "test" in line]


@pytest.mark.usefixtures("ctrl_c_heard")
def test_a_second_ctrl_c_ends_at_once(tmp_path):
    class Twice(Killing):
        def __getitem__(self, index):
            if index == 40:
                os.kill(os.getpid(), signal.SIGINT)
                os.kill(os.getpid(), signal.SIGINT)
            return self.images[index]

    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, dataset=Twice(signal.SIGINT, 40))


@pytest.mark.usefixtures("ctrl_c_heard")
@pytest.mark.parametrize("number", NOTED)
def test_a_signal_that_was_ignored_stays_so(tmp_path, number):
    signal.signal(number, signal.SIG_IGN)
    assert train(tmp_path, dataset=Killing(number, 40)).step == 20
    assert signal.getsignal(number) is signal.SIG_IGN


@pytest.mark.usefixtures("ctrl_c_heard")
@pytest.mark.parametrize("number", NOTED)
@pytest.mark.parametrize("when", ["trackers", "first images", "last checkpoint", "model", "last look"])
def test_signals_before_the_first_step_and_after_the_last(tmp_path, monkeypatch, number, when):
    made = trainer(tmp_path, num_train_steps=6, dataset=Killing(number, 0 if when == "first images" else None))

    def killing(owner, name):
        original = getattr(owner, name)

        def killed(*args, **kwargs):
            if made.step in (0, 6):
                made.loader.dataset.number = os.kill(os.getpid(), number)
                monkeypatch.setattr(owner, name, original)
            return original(*args, **kwargs)

        monkeypatch.setattr(owner, name, killed)

    places = {
        "trackers": (made.loop, "_require_room"),
        "model": (made.loop, "_save_result"),
        "last look": (made.loop, "_stop"),
    }
    if when == "last checkpoint":
        made.checkpoints.save(0, {}, lambda folder: None)
        killing(made.checkpoints, "save")
    elif when in places:
        killing(*places[when])
    with pytest.raises(Interrupted) as ended:
        made()
    assert ended.value.code == 128 + number
    assert made.step == (1 if when in ("trackers", "first images") else made.step)
    assert trainer(tmp_path, resume=True).step == made.step
    DDN.from_pretrained(tmp_path / "results")


def train_with_little_room(folder, room):
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    with pytest.raises(OSError, match=str(folder / "checkpoints")):
        train(folder, num_train_steps=10, resume=True)
    os._exit(7)


def test_a_full_disk_names_the_path_and_leaves_the_old_ones(tmp_path):
    train(tmp_path, num_train_steps=5)
    size = (tmp_path / "checkpoints" / "step-00000005" / "training.safetensors").stat().st_size
    process = start(train_with_little_room, tmp_path, size - 1000)
    process.join(60)
    assert process.exitcode == 7
    assert trainer(tmp_path, resume=True).step == 5
    assert not list((tmp_path / "checkpoints").glob(f"{STAGING}*"))


@pytest.fixture
def small_disk(tmp_path):
    """Makes a folder with room for so many bytes, or one that cannot be written at all."""
    mounted = []

    def make(room):
        folder = tmp_path / f"disk-{len(mounted)}"
        folder.mkdir()
        options = f"size={room}" if room else "ro"
        if subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], capture_output=True).returncode:
            pytest.skip("no file system can be mounted here")
        mounted.append(folder)
        return folder

    yield make
    for folder in mounted:
        subprocess.run(["umount", folder], check=True)


FULL = {
    "checkpoint": ("checkpoints", "checkpoints", 64, {}),
    "figures": ("results", "metrics.jsonl", 4, {"num_train_steps": 150, "log_every": 1}),
    "picture": ("results", "pictures/.*-00000002.png", 8, {"save_results_every": 2}),
    "model": ("results", "model", 16, {}),
}


@pytest.mark.parametrize("what", FULL)
def test_a_full_disk_is_an_error_that_names_the_file(tmp_path, small_disk, what):
    name, file, pages, settings = FULL[what]
    disk = small_disk(pages * 1024)
    ddn = small_ddn(dim=16, dim_max=32)
    with pytest.raises(OutputError, match=f"{disk}.*{file}.*No space left") as error:
        train(
            tmp_path,
            ddn=ddn,
            **{"num_train_steps": 6, "checkpoint_every": 100, f"{name}_folder": disk / name, **settings},
        )
    assert "\n" not in str(error.value)
    assert not [path for path in disk.rglob("*") if path.is_file() and path.stat().st_size == 0]
    assert not [path for path in disk.rglob("*") if path.name.startswith(STAGING)]
    for line in (disk / name / "metrics.jsonl").read_text().splitlines() if what == "figures" else ():
        json.loads(line)


@pytest.mark.parametrize("name", ["checkpoints", "results"])
def test_a_folder_that_cannot_be_written_is_said_before_the_first_step(tmp_path, small_disk, name):
    disk = small_disk(0)
    (tmp_path / "file").write_text("")
    for folder in (disk, disk / "below", tmp_path / "file" / "below"):
        made = trainer(tmp_path, **{f"{name}_folder": folder})
        with pytest.raises(OutputError, match=f"cannot write {folder}: .*; free space"):
            made()
        assert made.step == 0


def test_what_killed_writers_left_is_removed(tmp_path):
    nobody, somebody = 2**22 + 1, os.getppid()
    left = [
        tmp_path / "checkpoints" / f"{STAGING}step-00000002-{nobody}",
        tmp_path / "results" / f"{STAGING}{nobody}-0.jsonl",
        tmp_path / "results" / "pictures" / f"{STAGING}{nobody}-12.png",
    ]
    theirs = [
        tmp_path / "results" / f"{STAGING}{somebody}-0.jsonl",
        tmp_path / "results" / f"{STAGING}mine-0",
        tmp_path / "results" / ".saving",
    ]
    train(tmp_path, num_train_steps=2, save_results_every=1)
    left[0].mkdir()
    for path in (*left[1:], *theirs):
        path.write_text("")
    with pytest.warns(UserWarning, match="not finished"):
        train(tmp_path, num_train_steps=2, resume=True)
    assert not [path for path in left if path.exists()]
    assert all(path.exists() for path in theirs)


def to_the_end(folder):
    """A training of a network, its decoder and its prior, that resumes by itself."""
    ddn = small_ddn(patch_size=[None, 4], decoder_dim=4)
    settings = {"num_train_steps": 90, "checkpoint_every": 3, "test_dataset": digits(8), "evaluate_every": 10}
    return trainer(folder, ddn, prior=Prior(ddn, dim=8), resume=True, **settings)


def train_to_the_end(folder):
    """Saves every third step; resumes by itself."""
    torch.set_num_threads(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of unfinished saves
        to_the_end(folder)()
    (folder / "done").write_text("")


@pytest.mark.parametrize("kills", [8, pytest.param(50, marks=pytest.mark.slow)])
def test_killed_at_random_moments_it_resumes_and_ends_the_same(tmp_path, kills):
    uninterrupted = start(train_to_the_end, tmp_path / "whole")
    uninterrupted.join(120)
    chance, killed, rounds, unfinished, resumed = random.Random(50), 0, 0, 0, 0
    while killed < kills:
        folder, rounds = tmp_path / f"killed-{rounds}", rounds + 1
        folder.mkdir()
        while not (folder / "done").exists():
            there = saved(folder)
            process = start(train_to_the_end, folder)
            # every other time it may get on, so that a slow machine comes to an end too
            while killed % 2 and process.is_alive() and saved(folder) == there:
                time.sleep(0.002)
            if killed < kills:
                process.join(chance.uniform(0, 0.4))
                killed += process.exitcode is None
                process.kill()
            process.join(120)
            assert process.exitcode in (0, -signal.SIGKILL)
            resumed += bool(there)
            unfinished += any((folder / "checkpoints").glob(f"{STAGING}*"))
        whole, other = (to_the_end(run) for run in (tmp_path / "whole", folder))
        assert whole.step == other.step == 90
        assert_equal(everything(whole), everything(other))
    # else the moments were no test: most resumed from a checkpoint, and some came in the middle of a save
    assert resumed >= kills // 2
    assert unfinished >= kills // 50


def saved(folder):
    return sorted(path.name for path in (folder / "checkpoints").glob("step-*"))
