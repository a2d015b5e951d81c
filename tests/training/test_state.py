"""Checkpoints resume a training bit for bit, and warn where they do not."""

import json
import os
import signal
import warnings

import pytest
import torch
from safetensors.torch import load_file
from small import Faulty, assert_equal, before_splits, digits, everything, small_ddn, train, trainer
from torch.utils.data import IterableDataset

from discrete_distribution_network import DDN
from discrete_distribution_network.errors import DataError, InvalidInput, ModelFileError
from discrete_distribution_network.io import atomic_folder
from discrete_distribution_network.signals import Interrupted
from discrete_distribution_network.training.checkpoints import STATE, read_state

SETTINGS = {
    "plain": {},
    "dropout": {"ddn_kwargs": {"dropout": 0.3, "sampler": {"stochastic": True}}},
    "augmented": {"augment": lambda image: image.flip(-1) if torch.rand(()) < 0.5 else image},
    "accumulated": {"grad_accum_every": 2, "batch_size": 4},
    "no average": {"use_ema": False},
    "average": {"ema_kwargs": {"beta": 0.9, "update_every": 3, "update_after_step": 4}},
    "muon": {"muon_learning_rate": 0.02},
    "bf16": {"mixed_precision": "bf16"},
    "counts fade": {"ddn_kwargs": {"sampler": {"count_window": 64, "max_swaps": 1}}},
    "adversarial": {"ddn_kwargs": {"use_adversarial_loss": True, "discr_base_dim": 4}},
    "schedule": {"decay": "cosine", "warmup_steps": 13, "split_every": 3},
}


@pytest.mark.parametrize("name", SETTINGS)
def test_resumed_equals_uninterrupted_bit_for_bit(tmp_path, name):
    settings = dict(SETTINGS[name])
    network = settings.pop("ddn_kwargs", {})
    # 60 images, 8 a batch: step 10 is in the middle of the second epoch; the schedule is that of 20 steps
    whole = train(tmp_path / "whole", ddn=small_ddn(**network), **settings)
    stopped = trainer(tmp_path / "parts", ddn=small_ddn(**network), test_dataset=digits(20), **settings)
    with pytest.raises(Interrupted):
        stop_at(stopped, 10)()
    continued = trainer(tmp_path / "parts", ddn=small_ddn(**network), resume=True, save_results_every=3, **settings)
    assert continued.step == 10
    continued()
    assert_equal(everything(whole), everything(continued))


def stop_at(made, step):
    """The training, which a signal will end after so many steps: the step after the signal sees it."""
    return before_splits(made, lambda: made.step == step - 2 and os.kill(os.getpid(), signal.SIGTERM))


class Numbers(IterableDataset):
    """A stream that turns its images around at random; some of them cannot be read."""

    def __init__(self, bad=()):
        self.bad = bad

    def __iter__(self):
        self.place = -1
        return self

    def __next__(self):
        self.place += 1
        if self.place == 60:
            raise StopIteration
        if self.place in self.bad:
            raise OSError(f"image {self.place} is broken")
        image = digits()[self.place]
        return image.flip(-1) if torch.rand(()) < 0.5 else image


@pytest.mark.parametrize("bad", [(), (3, 70, 41)])
def test_streams_resume_too(tmp_path, bad):
    settings = {"dataset": Numbers(bad), "max_bad_images": len(bad), "save_results_every": 7}
    whole = train(tmp_path / "whole", checkpoint_every=10, **settings)
    assert len(whole.loader.faults) == len([place for place in bad if place < 60])
    continued = trainer(tmp_path / "whole", resume=tmp_path / "whole/checkpoints/step-00000010", **settings)
    continued()
    assert_equal(everything(whole), everything(continued))


def test_a_checkpoint_is_a_model_folder(tmp_path):
    trained = train(tmp_path)
    loaded = DDN.from_pretrained(tmp_path / "checkpoints" / "step-00000020")
    assert_equal(loaded.state_dict(), trained.ema.model.state_dict())


def squared(query, candidates):
    return (query - candidates).square().sum(-1)[:, None]


MODULES = {"norm_module": torch.nn.GroupNorm(1, 8), "post_network_activation": torch.nn.Tanh()}


def test_a_network_with_a_function_trains_saves_and_resumes(tmp_path):
    def network():
        return small_ddn(sampler={**MODULES, "distance_fn": squared}, dim=8)

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        whole = train(tmp_path / "whole", ddn=network(), num_train_steps=6)
    messages = [str(one.message) for one in caught if "config.json" in str(one.message)]
    assert len(messages) == 1
    assert "guided_sampler_kwargs.distance_fn" in messages[0]
    train(tmp_path / "parts", ddn=network(), num_train_steps=3)
    continued = train(tmp_path / "parts", ddn=network(), num_train_steps=6, resume=True)
    assert_equal(everything(whole), everything(continued))
    assert_equal(load_file(tmp_path / "parts/results/model/model.safetensors"), whole.ema.model.state_dict())


def test_a_network_with_modules_of_torch_needs_no_word(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train(tmp_path, ddn=small_ddn(sampler=MODULES, dim=8), num_train_steps=5)
    assert "GroupNorm" in (tmp_path / "results" / "model" / "config.json").read_text()


def test_resume_with_another_batch_size_says_so(tmp_path):
    train(tmp_path, num_train_steps=5)
    with pytest.warns(UserWarning, match="not exactly.*batch_size 8 -> 4, grad_accum_every 1 -> 3"):
        continued = trainer(tmp_path, batch_size=4, grad_accum_every=3, resume=True)
    continued()
    assert continued.step == 20
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        trainer(tmp_path, batch_size=4, grad_accum_every=3, resume=True)


def test_resume_falls_back_to_the_last_whole_checkpoint(tmp_path):
    train(tmp_path)
    file = tmp_path / "checkpoints" / "step-00000020" / "training.safetensors"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with pytest.warns(UserWarning, match="step-00000020 is not whole"):
        assert trainer(tmp_path, resume=True).step == 15
    with pytest.raises(ModelFileError, match="step-00000020"):
        trainer(tmp_path, resume=file.parent)


def test_resume_of_another_network_lists_what_differs(tmp_path):
    train(tmp_path, num_train_steps=5)
    with pytest.raises(ModelFileError, match=r"counts has shape \(8,\), not \(16,\)"):
        trainer(tmp_path, ddn=small_ddn(codebook_size=16), resume=True)
    with pytest.raises(ModelFileError, match="missing"):
        trainer(tmp_path, ddn=small_ddn(levels_per_resolution=3), resume=True)


def test_resume_without_a_checkpoint_begins(tmp_path):
    assert trainer(tmp_path, resume=True).step == 0
    with pytest.raises(ModelFileError, match="there is none in"):
        trainer(tmp_path).load()


@pytest.mark.parametrize("name", ["checkpoints", "results"])
def test_folders_that_hold_files_are_left_alone(tmp_path, name):
    (tmp_path / name).mkdir()
    (tmp_path / name / "mine.txt").write_text("mine")
    with pytest.raises(InvalidInput, match=f"{name}, which holds files"):
        trainer(tmp_path)
    train(tmp_path, overwrite=True, num_train_steps=5)
    train(tmp_path, resume=True, num_train_steps=10)
    assert (tmp_path / name / "mine.txt").read_text() == "mine"
    (tmp_path / "file").write_text("")
    with pytest.raises(InvalidInput, match="a folder to write into"):
        trainer(tmp_path, results_folder=tmp_path / "file")


def test_overwritten_checkpoints_are_not_resumed(tmp_path):
    train(tmp_path, num_train_steps=20)
    second = train(tmp_path, num_train_steps=10, overwrite=True, seed=1)
    continued = trainer(tmp_path, resume=True, seed=1)
    assert continued.step == 10
    assert_equal(everything(continued), everything(second))


def test_overwritten_and_killed_before_the_first_save(tmp_path):
    train(tmp_path, num_train_steps=20)
    with pytest.raises(DataError):
        train(tmp_path, overwrite=True, seed=1, dataset=Faulty())
    assert trainer(tmp_path, resume=True, seed=1).step == 0


def test_what_was_learnt_is_kept_before_it_is_looked_at(tmp_path):
    for name, settings in (("a", {"evaluate_every": 5}), ("b", {"num_train_steps": 5})):
        with pytest.raises(DataError, match="file 3"):
            train(tmp_path / name, test_dataset=Faulty(), checkpoint_every=5, num_samples=2, **settings)
        assert trainer(tmp_path / name, resume=True).step == 5


def test_a_checkpoint_of_another_folder(tmp_path):
    train(tmp_path / "a")
    continued = trainer(tmp_path / "b", resume=tmp_path / "a/checkpoints/step-00000020")
    continued()
    assert continued.step == 20
    assert trainer(tmp_path / "b", resume=True).step == 20


def test_another_recipe_is_said(tmp_path):
    train(tmp_path, num_train_steps=5)
    with pytest.warns(
        UserWarning,
        match=r"images 60 -> 40, learning_rate 0\.003 -> 0\.1, decay none -> cosine, max_grad_norm 0\.5 -> 9",
    ):
        trainer(tmp_path, resume=True, dataset=digits(40), learning_rate=0.1, decay="cosine", max_grad_norm=9)


def test_other_images_of_the_same_number_are_said(tmp_path, monkeypatch):
    marks = iter(["aa", "aa", "bb", "aa", None])
    monkeypatch.setattr("discrete_distribution_network.training.state.fingerprint", lambda dataset: next(marks))
    train(tmp_path, num_train_steps=5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        trainer(tmp_path, resume=True)
    with pytest.warns(UserWarning, match="not exactly as if never ended: images' fingerprint aa -> bb$"):
        trainer(tmp_path, resume=True)
    # a setting that an older checkpoint lacks counts as unchanged
    saved = tmp_path / "checkpoints" / "step-00000005"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        state = read_state(saved)
        del state["exact"]["images' fingerprint"], state["exact"]["precision"]
        (saved / STATE).write_text(json.dumps(state))
        atomic_folder.write_manifest(saved)
        trainer(tmp_path, resume=True)
        trainer(tmp_path, resume=True)
