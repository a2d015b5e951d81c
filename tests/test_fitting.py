"""A fit that is ended goes on exactly, whatever kind of prior it is of; what it is given is checked before it begins."""

import math
import os
import signal
import time

import pytest
import torch
from small import assert_equal, digits, small_ddn, start

from discrete_distribution_network.code_prior import CodePrior, fit_codes
from discrete_distribution_network.code_transformer import CodeTransformer
from discrete_distribution_network.errors import InvalidInput
from discrete_distribution_network.fitting import FitCheckpoints, FitInterrupted, read_notes
from discrete_distribution_network.prior import Prior, fit

STEPS = {"steps": 30, "minutes": None, "batch_size": 8, "evaluate_every": 7, "progress": False}


def new(kind, seed=0):
    ddn = small_ddn(patch_size=[None, 4]).eval()
    torch.manual_seed(seed)
    if kind == "codes":
        return CodePrior.of(ddn, dim=8, hidden=8, dropout=0.1), ddn
    return {"heads": Prior, "transformer": CodeTransformer}[kind](ddn, dim=8), ddn


def fitted(kind, checkpoint=None, seed=0, prior=None, **settings):
    """What a fit gives, and its weights."""
    made, ddn = new(kind, seed)
    prior = prior or made
    settings = {**STEPS, "checkpoint": checkpoint, **settings}
    if kind == "codes":
        codes = ddn.encode(digits() / 255)
        figures = fit_codes(prior, codes, codes[:20], **settings)
    else:
        figures = fit(prior, ddn, digits(), digits(20), **settings)
    return figures, {name: value.clone() for name, value in prior.state_dict().items()}


def bits_then(kind, monkeypatch, act):
    """Let `act(times)` be done before each batch, of training or of held-out images, costs its bits."""
    of = CodePrior if kind == "codes" else {"heads": Prior, "transformer": CodeTransformer}[kind]
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
    # its signals were ignored by none: whatever step it came to, the rest is as if it had never ended
    kept = FitCheckpoints(tmp_path / "fitting", resume=True)
    step = int(kept.found.name.removeprefix("step-"))
    figures, _ = fitted(kind, kept, steps=step + 3)
    assert figures.steps == step + 3


def test_the_weights_are_the_best_so_far_when_a_signal_comes(tmp_path, monkeypatch):
    prior, ddn = new("heads")
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


def test_what_resumes_must_be_as_it_began(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        bits_then("heads", patch, lambda times: os.kill(os.getpid(), signal.SIGTERM) if len(times) == 3 else None)
        with pytest.raises(FitInterrupted):
            fitted("heads", FitCheckpoints(tmp_path / "fitting"))
    with pytest.raises(InvalidInput, match="seed 0 and not 1"):
        fitted("heads", FitCheckpoints(tmp_path / "fitting", resume=True), **{"seed": 1} | {}) if False else fit(
            *new("heads"), digits(), digits(20), **STEPS, seed=1, checkpoint=FitCheckpoints(tmp_path / "fitting", resume=True)
        )
