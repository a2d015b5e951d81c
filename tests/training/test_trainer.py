"""Training: what a step is, what is told, what is kept, and what it survives."""

import inspect
import json
import math
import os
import random
import resource
import signal
import subprocess
import time
import warnings

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from small import assert_equal, before_splits, digits, everything, small_ddn, start, trainer
from torch.utils.data import Dataset, IterableDataset

from discrete_distribution_network import DDN, Trainer
from discrete_distribution_network.data.datasets import Pixels
from discrete_distribution_network.errors import DataError, DDNError, InvalidInput, ModelFileError, OutputError
from discrete_distribution_network.evaluation.metrics import evaluate
from discrete_distribution_network.io import atomic_folder
from discrete_distribution_network.io.atomic_file import STAGING
from discrete_distribution_network.signals import NOTED, Interrupted
from discrete_distribution_network.training.checkpoints import STATE, read_state
from discrete_distribution_network.training.moving_average import MovingAverage
from discrete_distribution_network.training.report import read_metrics


def train(folder, **kwargs):
    trained = trainer(folder, **kwargs)
    trained()
    return trained


# names and defaults


def test_names_and_defaults_of_the_published_package():
    defaults = {
        name: parameter.default
        for name, parameter in inspect.signature(Trainer).parameters.items()
        if parameter.default is not inspect.Parameter.empty
    }
    published = dict(
        num_train_steps=70_000,
        learning_rate=3e-4,
        weight_decay=1e-3,
        batch_size=32,
        grad_accum_every=1,
        checkpoints_folder="./checkpoints",
        results_folder="./results",
        save_results_every=100,
        checkpoint_every=1000,
        num_samples=16,
        use_ema=True,
        max_grad_norm=0.5,
        apply_grad_penalty_every=4,
    )
    assert published.items() <= defaults.items()
    assert {"adam_kwargs", "accelerate_kwargs", "ema_kwargs"} <= defaults.keys()
    from discrete_distribution_network.training.trainer import Trainer as same

    assert same is Trainer


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"num_train_steps": 0}, "num_train_steps"),
        ({"batch_size": 0}, "batch_size"),
        ({"learning_rate": 0.0}, "learning_rate"),
        ({"hold": 1.0}, "hold"),
        ({"decay": "linear"}, "decay"),
        ({"mixed_precision": "fp8"}, "mixed_precision"),
        ({"ema_kwargs": {"power": 1}}, "power"),
        ({"max_checkpoints": 0}, "checkpoint"),
        ({"max_grad_norm": -1.0}, "max_grad_norm"),
        ({"evaluate_images": 0}, "evaluate_images"),
        ({"num_workers": -1}, "workers"),
        ({"trackers": ["nothing"]}, "nothing"),
        ({"adam_kwargs": {"momentum": 0.9}}, "adam_kwargs.*momentum"),
        ({"adam_kwargs": {"betas": (2.0, 0.9)}}, "adam_kwargs.*beta"),
        ({"accelerate_kwargs": {"precision": "bf16"}}, "accelerate.*precision"),
    ],
)
def test_wrong_arguments_are_one_sentence(tmp_path, wrong, said):
    with pytest.raises(InvalidInput, match=said) as error:
        trainer(tmp_path, **wrong)
    assert "\n" not in str(error.value)


# the step


def test_it_learns(tmp_path):
    images = digits()
    trained = trainer(tmp_path, num_train_steps=400, test_dataset=images)
    before = evaluate(trained.ddn, images)
    after = trained()
    assert after.images == 60
    assert after.error < 0.6 * before.error
    assert after.error == pytest.approx(evaluate(DDN.from_pretrained(tmp_path / "results"), images).error, rel=1e-4)


def test_a_step_is_a_step_of_the_bare_loop(tmp_path):
    settings = {"sampler": {"chain_dropout_prob": 0.0}}
    trained = train(tmp_path, ddn=small_ddn(**settings), num_train_steps=12, channels_last=False)
    bare = small_ddn(**settings).train()
    optimizer = torch.optim.AdamW(bare.parameters(), lr=3e-3, weight_decay=1e-3, fused=True)
    batches = trainer(tmp_path / "other").loader.batches()
    splits = 0
    for _ in range(12):
        loss = bare(next(batches).images / 255)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(bare.parameters(), 0.5)
        optimizer.step()
        splits += bare.split_and_prune_(optimizer)
    assert_equal(bare.state_dict(), trained.ddn.state_dict())
    assert splits == trained.splits > 0


def test_accumulated_gradients_are_those_of_the_whole_batch(tmp_path):
    settings = {"sampler": {"chain_dropout_prob": 0.0}}
    whole = train(tmp_path / "a", ddn=small_ddn(**settings), batch_size=8, num_train_steps=6)
    parts = train(tmp_path / "b", ddn=small_ddn(**settings), batch_size=2, grad_accum_every=4, num_train_steps=6)
    assert parts.images == whole.images == 48
    assert parts.splits == whole.splits > 0
    for (name, one), other in zip(whole.ddn.named_parameters(), parts.ddn.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5, msg=name)


def test_accelerate_does_not_divide_a_second_time(tmp_path, monkeypatch):
    plain = train(tmp_path / "a", num_train_steps=4)
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4")
    assert_equal(everything(train(tmp_path / "b", num_train_steps=4)), everything(plain))


def test_random_numbers_of_the_caller_go_on_as_if_nothing_was(tmp_path):
    made = trainer(tmp_path)
    torch.manual_seed(9)
    expected = torch.rand(3)
    torch.manual_seed(9)
    made()
    assert torch.equal(torch.rand(3), expected)


def test_random_numbers_of_other_devices_are_not_touched(tmp_path, monkeypatch):
    def seed(*_):
        raise AssertionError("a device that does not train was seeded")

    made = trainer(tmp_path, num_train_steps=2, save_results_every=1, test_dataset=digits(8))
    for device in (torch.cuda, torch.xpu):
        monkeypatch.setattr(device, "manual_seed_all", seed)
    made()


def test_handlers_of_ones_own(tmp_path):
    from accelerate.utils import DistributedDataParallelKwargs

    handlers = [DistributedDataParallelKwargs(broadcast_buffers=False, bucket_cap_mb=1)]
    train(tmp_path, num_train_steps=2, accelerate_kwargs={"kwargs_handlers": handlers})


def test_learning_rate(tmp_path):
    made = trainer(tmp_path, num_train_steps=100, learning_rate=1.0, warmup_steps=9, decay="cosine", hold=0.5)
    rates = []
    for made.state.progress.step in (0, 4, 9, 50, 75, 100):
        rates.append(made.rate())
    assert rates == pytest.approx([0.1, 0.5, 1.0, 1.0, 0.5, 0.0])
    made = trainer(tmp_path, num_train_steps=100, learning_rate=1.0)
    for made.state.progress.step in (0, 50, 99):
        assert made.rate() == 1.0


def test_splits_end_where_asked(tmp_path):
    assert train(tmp_path / "a", split_every=100).splits == 0
    assert train(tmp_path / "b", split_until=0.0).splits == 0
    assert 0 < train(tmp_path / "c", split_until=0.2).splits < train(tmp_path / "d").splits


def test_the_clock_can_end_it(tmp_path):
    started = time.monotonic()
    trained = train(tmp_path, num_train_steps=10**9, max_minutes=0.02, decay="cosine")
    assert 1.2 <= trained.seconds < time.monotonic() - started < 20
    assert trained.rate() == 0


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_is_finite_and_chooses_in_float32(tmp_path, monkeypatch, precision):
    from discrete_distribution_network.model.candidates import LinearCandidates

    dtypes = set()
    original = LinearCandidates.distances

    def watched(self, *args, **kwargs):
        distances = original(self, *args, **kwargs)
        dtypes.add(distances.dtype)
        return distances

    monkeypatch.setattr(LinearCandidates, "distances", watched)
    trained = train(tmp_path, mixed_precision=precision)
    assert dtypes == {torch.float32}
    assert all(value.isfinite().all() for value in everything(trained).values())
    assert all(parameter.dtype == torch.float32 for parameter in trained.ddn.parameters())
    # the model itself is not wrapped: afterwards it is as ever, and can be trained again
    assert "forward" not in vars(trained.ddn)
    assert trained.ddn(torch.rand(2, 1, 8, 8), return_intermediates=True)[1][1][-1].dtype == torch.float32
    train(tmp_path / "again", ddn=trained.ddn)


@pytest.mark.parametrize("settings", [{"codebook_size": 1}, {"codebook_size": 2}, {"image_size": (7, 5)}])
def test_one_node_two_nodes_odd_sizes_and_batches_of_one(tmp_path, settings):
    height, width = settings.get("image_size", (8, 8))
    images = digits()[:, :, :height, :width]
    trained = train(tmp_path, ddn=small_ddn(**settings), dataset=images, batch_size=1, num_train_steps=130)
    assert all(value.isfinite().all() for value in everything(trained).values())
    assert (trained.splits == 0) == (settings.get("codebook_size") == 1)


def test_images_of_any_number_of_channels(tmp_path):
    train(tmp_path, ddn=small_ddn(channels=5), dataset=torch.rand(20, 5, 8, 8), save_results_every=5)
    assert not (tmp_path / "results" / "pictures").exists()


@pytest.mark.slow
def test_compiled(tmp_path):
    # chance is drawn in another order there, so none is
    settings = {"sampler": {"chain_dropout_prob": 0.0}}
    plain, compiled = (
        train(tmp_path / name, ddn=small_ddn(**settings), num_train_steps=8, compile=name == "compiled")
        for name in ("plain", "compiled")
    )
    assert plain.splits == compiled.splits > 0
    assert compiled.ddn.state_dict().keys() == plain.ddn.state_dict().keys()
    for (name, one), other in zip(plain.ddn.named_parameters(), compiled.ddn.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-2, atol=1e-4, msg=name)


# the moving average


def test_the_moving_average_by_hand():
    ddn = small_ddn()
    average = MovingAverage(ddn, beta=0.5, update_every=2)
    expected = None
    for step in range(1, 9):
        with torch.no_grad():
            for parameter in ddn.parameters():
                parameter.add_(torch.randn_like(parameter))
        average.update(step)
        if step % 2 == 0:
            updates = step // 2
            beta = min(0.5, (1 + updates) / (10 + updates))
            now = ddn.start.detach().clone()
            expected = average_of(expected, now, beta, ddn)
            torch.testing.assert_close(average.model.start, expected)


def average_of(before, now, beta, ddn):
    # the average begins as the model it was made of
    first = small_ddn().start.detach() if before is None else before
    return beta * first + (1 - beta) * now


def test_splits_reach_the_moving_average(tmp_path):
    made = trainer(tmp_path)
    sampler, mirrored = made.ddn.samplers[0], made.ema.model.samplers[0]
    sampler.counts.copy_(torch.tensor([500, 100, 100, 100, 100, 100, 100, 0]))
    with torch.no_grad():
        mirrored.keys.weight.normal_()
    made.optimisation.split_and_prune()
    assert torch.equal(sampler.keys.weight[7], sampler.keys.weight[0])
    assert torch.equal(mirrored.keys.weight[7], mirrored.keys.weight[0])
    assert not torch.equal(mirrored.keys.weight[7], sampler.keys.weight[7])


def test_without_a_moving_average_the_model_is_the_result(tmp_path):
    trained = train(tmp_path, use_ema=False)
    assert trained.result is trained.ddn
    assert_equal(DDN.from_pretrained(tmp_path / "results" / "model").state_dict(), trained.ddn.state_dict())


# what is told


def test_figures_pictures_and_trackers(tmp_path):
    trained = train(
        tmp_path,
        num_train_steps=20,
        test_dataset=digits(30),
        evaluate_every=10,
        save_results_every=10,
        trackers=["tensorboard"],
    )
    lines = read_metrics(tmp_path / "results")
    figures = [line for line in lines if "loss" in line]
    assert [line["step"] for line in figures] == [5, 10, 15, 20]
    last = figures[-1]
    assert len(last["loss_by_level"]) == len(last["usage_by_level"]) == trained.ddn.num_levels
    assert sum(last["loss_by_level"]) / trained.ddn.num_levels == pytest.approx(last["loss"])
    assert last["epoch"] == pytest.approx(20 / 7)
    assert last["splits"] == trained.splits
    assert last["images_per_second"] > 0
    assert all(0 < share <= 1 for share in last["usage_by_level"])
    assert [(line["step"], line["test"]["images"]) for line in lines if "test" in line] == [(10, 30), (20, 30)]
    names = {path.name for path in (tmp_path / "results" / "pictures").iterdir()}
    assert names == {f"{what}-{step:08d}.png" for what in ("samples", "reconstructions") for step in (10, 20)}
    assert list((tmp_path / "results").rglob("events.out.tfevents*"))


def test_a_line_that_a_kill_cut_off_is_passed_over(tmp_path):
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "metrics.jsonl").write_text('{"step": 1}\n{"step": 2, "lo')
    train(tmp_path, resume=True, num_train_steps=5)
    assert [line["step"] for line in read_metrics(tmp_path / "results")] == [1, 5]
    train(tmp_path, overwrite=True, num_train_steps=10)
    assert [line["step"] for line in read_metrics(tmp_path / "results")] == [5, 10]


# what is kept


SETTINGS = {
    "plain": {},
    "dropout": {"ddn_kwargs": {"dropout": 0.3, "sampler": {"stochastic": True}}},
    "augmented": {"augment": lambda image: image.flip(-1) if torch.rand(()) < 0.5 else image},
    "accumulated": {"grad_accum_every": 2, "batch_size": 4},
    "no average": {"use_ema": False},
    "average": {"ema_kwargs": {"beta": 0.9, "update_every": 3, "update_after_step": 4}},
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

    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        whole = train(tmp_path / "whole", ddn=network(), num_train_steps=6)
    said = [str(one.message) for one in told if "config.json" in str(one.message)]
    assert len(said) == 1
    assert "guided_sampler_kwargs.distance_fn" in said[0]
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
    with pytest.raises(ModelFileError, match="found none"):
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
    # nor is anything said where one of the two is not known, as by older checkpoints
    saved = tmp_path / "checkpoints" / "step-00000005"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        state = read_state(saved)
        del state["exact"]["images' fingerprint"], state["exact"]["precision"]
        (saved / STATE).write_text(json.dumps(state))
        atomic_folder.write_manifest(saved)
        trainer(tmp_path, resume=True)
        trainer(tmp_path, resume=True)


# for scripts of the published package


def test_dictionaries_are_the_arguments(tmp_path, monkeypatch):
    class ImageDataset(Dataset):
        def __init__(self, folder, image_size, exts=("jpg",)):
            self.images = digits(size=image_size)

        def __len__(self):
            return len(self.images)

        def __getitem__(self, index):
            return self.images[index]

    monkeypatch.setattr("discrete_distribution_network.training.trainer.ImageDataset", ImageDataset)
    network = dict(dim=4, dim_max=8, image_size=8, channels=1, guided_sampler_kwargs={"chain_dropout_prob": 0.0})
    settings = dict(checkpoints_folder=tmp_path / "c", results_folder=tmp_path / "r", num_train_steps=2, batch_size=4)
    made = Trainer(network, dataset={"folder": "photos", "image_size": 8}, progress=False, **settings)
    made()
    assert made.unwrapped_model is made.ddn
    assert made.is_main is True
    assert made.unwrapped_model.dim == 4 if hasattr(made.ddn, "dim") else True
    for wrong, said in (
        ({"dataset": {"folder": "photos"}}, "ImageDataset.*image_size"),
        ({"dataset": {"train": digits()}}, "ImageDataset.*train"),
        ({"ddn": {"dimension": 4}}, "DDN.*dimension"),
        ({"ddn": torch.nn.Linear(1, 1)}, "a Linear"),
    ):
        with pytest.raises(InvalidInput, match=said):
            trainer(tmp_path, **wrong)


def test_sample_writes_a_picture_of_the_moving_average(tmp_path, monkeypatch):
    made = trainer(tmp_path)
    torch.manual_seed(1)
    images = made.sample("begin.png")
    torch.manual_seed(1)
    assert torch.equal(images, made.ema.model.sample(4).clamp(0, 1))
    assert images.shape == (4, 1, 8, 8)
    assert Image.open(tmp_path / "results" / "begin.png").size[0] > 8
    made()
    made.sample(tmp_path / "elsewhere" / "end.png")
    monkeypatch.chdir(tmp_path)
    made.sample("results/here.png")
    assert (tmp_path / "elsewhere" / "end.png").exists()
    assert (tmp_path / "results" / "here.png").exists()
    by_class = trainer(tmp_path / "b", ddn=small_ddn(num_classes=10), dataset=Pixels(digits(), torch.arange(60) % 10))
    assert by_class.sample("classes.png").shape == (4, 1, 8, 8)
    with pytest.raises(OutputError, match=r"results/begin\.png/x\.png"):
        made.sample(tmp_path / "results/begin.png/x.png")


def test_figures_and_images_of_ones_own(tmp_path):
    made = trainer(tmp_path, trackers=["tensorboard"], overwrite=True)
    made.log({"before": torch.tensor(1.5), "more": {"deep": [1, math.nan]}}, step=7)
    logged = []

    def log():
        if made.step == 3:
            made.log(loss=0.25, note="mine")
            made.log(0.5)
            made.log_images(torch.rand(4, 3, 8, 8), step=2)
            made.log_images("test/first", digits(2))
            made.log_images({"grey": torch.rand(1, 8, 8)}, pillow=Image.new("RGB", (9, 9)))
            made.log_images("several", [Image.new("L", (8, 8)), torch.zeros(3, 8, 8)])
            logged.extend(made.report.trackers)

    before_splits(made, log)()
    assert len(logged) == 1
    made.log(after=2)
    lines = read_metrics(tmp_path / "results")
    assert lines[0] == {"step": 7, "before": 1.5, "more": {"deep": [1, None]}}
    assert {"step": 3, "loss": 0.25, "note": "mine"} in lines
    assert {"step": 3, "value": 0.5} in lines
    assert lines[-1] == {"step": 20, "after": 2}
    names = {path.name for path in (tmp_path / "results" / "pictures").iterdir()}
    assert names == {
        "images-00000002.png",
        "test-first-00000003.png",
        "grey-00000003.png",
        "pillow-00000003.png",
        "several-00000003.png",
        "samples-00000020.png",
        "reconstructions-00000020.png",
    }
    for wrong in (torch.rand(4, 5, 8, 8), "picture", [torch.rand(3, 8, 8), torch.rand(3, 9, 9)], torch.rand(8)):
        with pytest.raises(InvalidInput):
            made.log_images(wrong)


def test_a_checkpoint_of_a_given_name(tmp_path):
    made = train(tmp_path, max_checkpoints=1)
    assert made.save("checkpoint.20.pt") == tmp_path / "checkpoints" / "checkpoint.20.pt"
    with pytest.raises(InvalidInput, match=r"checkpoint\.20\.pt, which is there"):
        made.save("checkpoint.20.pt")
    longer = train(tmp_path, max_checkpoints=1, resume=True, num_train_steps=25)
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["checkpoint.20.pt", "step-00000025"]
    longer.load("checkpoint.20.pt")
    assert longer.step == 20
    assert_equal(everything(longer), everything(made))


# what it survives


class Faulty(Dataset):
    """Every twentieth image is broken."""

    def __len__(self):
        return 60

    def __getitem__(self, index):
        if index % 20 == 3:
            raise DataError(f"expected an image, got file {index}")
        return digits()[index], index % 10


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


def train_to_the_end(folder):
    """Saves every third step; resumes by itself."""
    torch.set_num_threads(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of unfinished saves
        train(folder, num_train_steps=90, checkpoint_every=3, resume=True, test_dataset=digits(8), evaluate_every=10)
    (folder / "done").write_text("")


def test_killed_at_50_random_moments_it_resumes_and_ends_the_same(tmp_path):
    uninterrupted = start(train_to_the_end, tmp_path / "whole")
    uninterrupted.join(120)
    chance, kills, rounds, unfinished, resumed = random.Random(50), 0, 0, 0, 0
    while kills < 50:
        folder, rounds = tmp_path / f"killed-{rounds}", rounds + 1
        folder.mkdir()
        while not (folder / "done").exists():
            there = saved(folder)
            process = start(train_to_the_end, folder)
            # every other time it may get on, so that a slow machine comes to an end too
            while kills % 2 and process.is_alive() and saved(folder) == there:
                time.sleep(0.002)
            if kills < 50:
                process.join(chance.uniform(0, 0.4))
                kills += process.exitcode is None
                process.kill()
            process.join(120)
            assert process.exitcode in (0, -signal.SIGKILL)
            resumed += bool(there)
            unfinished += any((folder / "checkpoints").glob(f"{STAGING}*"))
        whole, killed = (trainer(run, num_train_steps=90, resume=True) for run in (tmp_path / "whole", folder))
        assert whole.step == killed.step == 90
        assert_equal(everything(whole), everything(killed))
    # else the moments were no test: most resumed from a checkpoint, and some came in the middle of a save
    assert resumed >= 25
    assert unfinished >= 1


def saved(folder):
    return sorted(path.name for path in (folder / "checkpoints").glob("step-*"))


# data


def test_images_and_labels_bad_images_and_too_few(tmp_path):
    with pytest.raises(DataError, match=r"got file \d+"):
        train(tmp_path / "a", dataset=Faulty())
    trained = train(tmp_path / "b", dataset=Faulty(), max_bad_images=3)
    assert len(trained.loader.faults) == 3
    assert read_metrics(tmp_path / "b/results")[-1]["bad_images"] == 3
    assert len(trainer(tmp_path / "b", dataset=Faulty(), max_bad_images=3, resume=True).loader.faults) == 3
    with pytest.raises(DataError, match="batch of 64 images, got 60"):
        trainer(tmp_path / "c", batch_size=64)
