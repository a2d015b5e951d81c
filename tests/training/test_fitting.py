"""A fit that is ended goes on exactly, whatever the kind of prior; what it is given is checked before it begins."""

import errno
import math
import os
import signal
import time

import numpy as np
import pytest
import torch
from small import assert_equal, digits, small_ddn, start
from torch.utils.data import TensorDataset

from discrete_distribution_network.errors import DataError, DDNError, InvalidInput, ModelFileError, OutputError
from discrete_distribution_network.evaluation.classifier import train_classifier
from discrete_distribution_network.io import atomic_folder
from discrete_distribution_network.io.safetensors_file import read_tensors
from discrete_distribution_network.prior.base import LearnedPrior
from discrete_distribution_network.prior.entropy_model import EntropyModel
from discrete_distribution_network.prior.heads import Prior
from discrete_distribution_network.prior.transformer import CodeTransformer
from discrete_distribution_network.random_state import own_random_state
from discrete_distribution_network.training.entropy_fitting import fit_entropy_model
from discrete_distribution_network.training.fit_checkpoints import TENSORS, FitCheckpoints, FitInterrupted, read_notes
from discrete_distribution_network.training.fitting import fit

STEPS = {"steps": 30, "minutes": None, "batch_size": 8, "evaluate_every": 7, "progress": False}


def new(kind, seed=0):
    ddn = small_ddn(patch_size=[None, 4]).eval()
    torch.manual_seed(seed)
    if kind == "codes":
        return EntropyModel.of(ddn, dim=8, hidden=8, dropout=0.1), ddn
    return {"heads": Prior, "transformer": CodeTransformer}[kind](ddn, dim=8), ddn


def fitted(kind, checkpoint=None, seed=0, prior=None, **settings):
    """What a fit gives, and its weights."""
    made, ddn = new(kind, seed)
    prior = prior or made
    settings = {**STEPS, "checkpoint": checkpoint, **settings}
    if kind == "codes":
        codes = ddn.encode(digits() / 255)
        figures = fit_entropy_model(prior, codes, codes[:20], **settings)
    else:
        figures = fit(prior, ddn, digits(), digits(20), **settings)
    return figures, {name: value.clone() for name, value in prior.state_dict().items()}


def bits_then(kind, monkeypatch, act):
    """Let `act(times)` be done before each batch, of training or of held-out images, costs its bits."""
    of = EntropyModel if kind == "codes" else {"heads": Prior, "transformer": CodeTransformer}[kind]
    original, times = of.bits, []

    def bits(self, *arguments):
        times.append(self.training)
        act(times)
        return original(self, *arguments)

    monkeypatch.setattr(of, "bits", bits)


@pytest.fixture(params=["heads", "transformer", "codes"])
def kind(request):
    return request.param


@pytest.mark.parametrize(("moment", "signum"), [("step", signal.SIGTERM), ("measure", signal.SIGINT)])
def test_a_fit_that_a_signal_ended_goes_on_bit_for_bit(tmp_path, monkeypatch, kind, moment, signum):
    whole = fitted(kind)

    def act(times):
        if times == ([True] * 7 + [False] + [True] * 5 if moment == "step" else [True] * 7 + [False]):
            os.kill(os.getpid(), signum)

    with monkeypatch.context() as patch:
        bits_then(kind, patch, act)
        with pytest.raises(FitInterrupted) as stop:
            fitted(kind, FitCheckpoints(tmp_path / "fitting", notes={"kind": kind}))
    assert stop.value.code == 128 + signum
    assert stop.value.steps == (12 if moment == "step" else 7)
    assert math.isfinite(stop.value.best) == (moment == "step")
    assert read_notes(tmp_path / "fitting") == {"kind": kind}
    for _ in range(2):  # also where its last state is taken up again
        figures, weights = fitted(kind, FitCheckpoints(tmp_path / "fitting", resume=True), seed=5)
        assert figures == whole[0]
        assert_equal(weights, whole[1])
    FitCheckpoints(tmp_path / "fitting", overwrite=True).clear()
    assert not (tmp_path / "fitting").exists()


def endless(folder, kind):
    torch.set_num_threads(1)
    fitted(kind, FitCheckpoints(folder, every=0.0), steps=None, minutes=10)


@pytest.mark.parametrize("kind", ["heads", "codes"])
def test_a_fit_that_was_killed_goes_on_from_its_last_checkpoint(tmp_path, kind):
    process, deadline = start(endless, tmp_path / "fitting", kind), time.monotonic() + 60
    while len(list((tmp_path / "fitting").glob("step-*"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    process.kill()
    process.join()
    with pytest.raises(InvalidInput, match="--resume"):
        FitCheckpoints(tmp_path / "fitting")
    kept = FitCheckpoints(tmp_path / "fitting", resume=True)
    step = int(kept.found.name.removeprefix("step-"))
    figures, _ = fitted(kind, kept, steps=step + 3)
    assert figures.steps == step + 3


def test_the_weights_are_the_best_so_far_when_a_signal_comes(tmp_path, monkeypatch):
    prior, _ = new("heads")
    before = {name: value.clone() for name, value in prior.state_dict().items()}
    bits_then("heads", monkeypatch, lambda times: os.kill(os.getpid(), signal.SIGTERM) if len(times) == 3 else None)
    with pytest.raises(FitInterrupted):
        fitted("heads", FitCheckpoints(tmp_path / "fitting"), prior=prior)
    assert_equal(before, prior.state_dict())  # none were measured
    assert not prior.training


def test_without_a_checkpoint_a_signal_acts_as_ever(monkeypatch):
    bits_then("heads", monkeypatch, lambda times: os.kill(os.getpid(), signal.SIGINT) if len(times) == 3 else None)
    with pytest.raises(KeyboardInterrupt):
        fitted("heads")


def stopped(kind, folder, monkeypatch, after=3, **settings):
    """A fit that a signal ended after so many steps."""
    with monkeypatch.context() as patch:
        bits_then(kind, patch, lambda times: os.kill(os.getpid(), signal.SIGTERM) if len(times) == after else None)
        with pytest.raises(FitInterrupted):
            fitted(kind, FitCheckpoints(folder), **settings)


def test_what_goes_on_must_be_as_it_began(tmp_path, monkeypatch, kind):
    folder = tmp_path / "fitting"
    with pytest.raises(ModelFileError, match="found none; begin one, without --resume"):
        FitCheckpoints(folder, resume=True)
    stopped(kind, folder, monkeypatch)
    with pytest.raises(InvalidInput, match=r"--resume.*--overwrite"):
        FitCheckpoints(folder)
    with pytest.raises(InvalidInput, match="got both"):
        FitCheckpoints(folder, resume=True, overwrite=True)
    for settings, said in (({"seed": 1}, "seed 0 and not 1"), ({"batch_size": 4}, "batch_size 8 and not 4")):
        with pytest.raises(InvalidInput, match=said):
            refit(kind, FitCheckpoints(folder, resume=True), **settings)
    with pytest.raises(InvalidInput, match=r"network|codes"):
        refit(kind, FitCheckpoints(folder, resume=True), ddn=small_ddn(seed=4, patch_size=[None, 4]))
    # begun anew, nothing of it is left
    figures, weights = fitted(kind, FitCheckpoints(folder, overwrite=True))
    again = fitted(kind)
    assert figures == again[0]
    assert_equal(weights, again[1])


def refit(kind, checkpoint, ddn=None, **settings):
    prior, own = new(kind)
    ddn = ddn or own
    settings = {**STEPS, "checkpoint": checkpoint, **settings}
    if kind == "codes":
        codes = ddn.encode(digits() / 255)
        return fit_entropy_model(prior, codes, codes[:20], **settings)
    return fit(prior, ddn, digits(), digits(20), **settings)


def test_a_damaged_checkpoint_is_passed_over(tmp_path, monkeypatch):
    folder = tmp_path / "fitting"
    with monkeypatch.context() as patch:
        bits_then("heads", patch, lambda times: os.kill(os.getpid(), signal.SIGTERM) if len(times) == 5 else None)
        with pytest.raises(FitInterrupted):
            fitted("heads", FitCheckpoints(folder, every=0.0))
    newest = max(folder.glob("step-*"))
    (newest / TENSORS).write_bytes(b"nothing")
    with pytest.warns(UserWarning, match="not whole"):
        kept = FitCheckpoints(folder, resume=True)
    whole = fitted("heads")
    figures, weights = fitted("heads", kept)
    assert figures == whole[0]
    assert_equal(weights, whole[1])
    for path in folder.glob("step-*"):
        (path / TENSORS).write_bytes(b"nothing")
    with pytest.warns(UserWarning, match="not whole"), pytest.raises(ModelFileError, match="none that is whole"):
        FitCheckpoints(folder, resume=True)


def test_a_full_disk_names_the_folder_and_keeps_what_was_there(tmp_path, monkeypatch):
    folder = tmp_path / "fitting"
    stopped("heads", folder, monkeypatch)
    before = sorted(folder.rglob("*"))
    with monkeypatch.context() as patch:
        patch.setattr(atomic_folder, "fsync", full_disk)
        with pytest.raises(OutputError, match="fitting"):
            fitted("heads", FitCheckpoints(folder, resume=True, every=0.0))
    assert sorted(folder.rglob("*")) == before


def full_disk(path):
    raise OSError(errno.ENOSPC, "No space left on device")


def test_only_what_was_made_here_is_removed(tmp_path, monkeypatch):
    folder = tmp_path / "fitting"
    stopped("heads", folder, monkeypatch)
    (folder / "mine.txt").write_text("mine")
    (folder / "step-by-step").mkdir()
    FitCheckpoints(folder, resume=True).clear()
    assert sorted(path.name for path in folder.iterdir()) == ["mine.txt", "step-by-step"]


@pytest.mark.parametrize("wrong", [0, -1, 1.5, "2", True, math.nan, [3]])
def test_wrong_arguments_are_one_sentence(wrong):
    prior, ddn = new("heads")
    codes = ddn.encode(digits(9) / 255)
    for name in ("steps", "minutes", "batch_size", "evaluate_every", "learning_rate", "test_images"):
        if wrong == 1.5 and name in ("minutes", "learning_rate"):
            continue
        settings = {"steps": 1, "minutes": None, "progress": False, name: wrong}
        with pytest.raises(InvalidInput, match=f"{name}.*, got "):
            fit(prior, ddn, digits(), digits(20), **settings)
        if name != "test_images":
            with pytest.raises(InvalidInput, match=f"{name}.*, got "):
                fit_entropy_model(new("codes")[0], codes, codes, **settings)
    for seed in (1.5, "0", None, 1 << 64):
        with pytest.raises(InvalidInput, match="seed"):
            fit(prior, ddn, digits(), digits(20), steps=1, seed=seed, progress=False)


def test_numbers_of_numpy_are_numbers(tmp_path):
    prior, ddn = new("heads")
    settings = {"steps": np.int64(2), "minutes": np.float32(9), "batch_size": np.int32(8), "seed": np.int64(1)}
    kept = FitCheckpoints(tmp_path / "fitting")
    assert fit(prior, ddn, digits(), digits(20), checkpoint=kept, progress=False, **settings).steps == 2
    codes = ddn.encode(digits(9) / 255)
    assert fit_entropy_model(new("codes")[0], codes, codes, progress=False, **settings).steps == 2


def test_data_that_cannot_be_fitted_to_is_one_sentence_before_any_step(monkeypatch):
    prior, ddn = new("heads")
    monkeypatch.setattr(LearnedPrior, "bits", None)
    settings = {"steps": 3, "minutes": None, "progress": False}
    unlabelled, labelled = list(digits()), [(image, 0) for image in digits()]
    for data, held_out, error, said in (
        (digits(0), digits(), DataError, "images to fit a prior to, got 0"),
        (digits(), [], DataError, "held-out images, got 0"),
        (None, digits(), InvalidInput, "as a data set, got None"),
        (digits(), 5, InvalidInput, "as a data set, got 5"),
        (digits(9, size=9), digits(), DataError, "9"),
    ):
        with pytest.raises(error, match=said):
            fit(prior, ddn, data, held_out, **settings)
    by_class = Prior(ddn, dim=8, num_classes=2)
    for data, held_out in ((unlabelled, labelled), (labelled, unlabelled)):
        with pytest.raises(DataError, match="label with every image"):
            fit(by_class, ddn, data, held_out, **settings)
    with pytest.raises(InvalidInput, match="of this network"):
        fit(Prior(small_ddn(codebook_size=5), dim=8), ddn, digits(), digits(), **settings)


def test_codes_that_cannot_be_fitted_to_are_one_sentence():
    prior, ddn = new("codes")
    codes = ddn.encode(digits(9) / 255)
    settings = {"steps": 1, "minutes": None, "progress": False}
    for wrong, said in (
        (codes[:0], "at least one image"),
        (codes[:, :-1], r"\(N, "),
        (codes.tolist(), r"got \[\["),
        (codes.float(), "integers"),
        (codes + 8, "level 0"),
        (codes - 9, "level 0"),
    ):
        for pair in ((wrong, codes), (codes, wrong)):
            with pytest.raises(InvalidInput, match=said):
                fit_entropy_model(prior, *pair, **settings)
    with pytest.raises(InvalidInput, match="made exact"):
        fit_entropy_model(prior.exact(), codes, codes, **settings)


def test_what_is_not_finite_ends_a_fit_at_once(tmp_path, monkeypatch, kind):
    with pytest.raises(DDNError, match="finite"):
        fitted(kind, FitCheckpoints(tmp_path / "fitting", every=0.0), learning_rate=1e30)
    kept = FitCheckpoints(tmp_path / "fitting", resume=True)
    tensors = read_tensors(kept.found / TENSORS)
    assert all(bool(value.isfinite().all()) for name, value in tensors.items() if name.startswith("best/"))


def test_random_numbers_of_other_devices_are_left_alone(monkeypatch):
    """`torch.manual_seed` seeds every device, and `fork_rng(devices=[])` puts back the CPU's alone."""
    prior, ddn = new("heads")
    before = torch.get_rng_state()
    monkeypatch.setattr(torch, "manual_seed", None)
    fit(prior, ddn, digits(), digits(20), **STEPS)
    train_classifier(TensorDataset(digits(), torch.arange(60) % 2), ddn, epochs=1)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_device_is_seeded_and_put_back(monkeypatch):
    class Device:
        state = torch.arange(8, dtype=torch.uint8)

        def get_rng_state(self, device):
            return self.state

        def set_rng_state(self, state, device):
            self.state = state

    own = Device()
    monkeypatch.setattr(torch, "get_device_module", lambda device: own)
    monkeypatch.setattr(torch, "Generator", lambda device: generator)
    generator = torch._C.Generator()
    before = own.state
    with own_random_state("cuda:1") as seed:
        seed(7)
        assert torch.equal(own.state, torch._C.Generator().manual_seed(7).get_state())
        first = torch.rand(3)
        seed(7)
        assert torch.equal(torch.rand(3), first)
    assert own.state is before
