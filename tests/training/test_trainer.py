"""`Trainer`: names and defaults of the published package, and what scripts call on it."""

import inspect
import math

import pytest
import torch
from PIL import Image
from small import assert_equal, before_splits, digits, everything, small_ddn, train, trainer
from torch.utils.data import Dataset

from discrete_distribution_network import DDN, Trainer
from discrete_distribution_network.data.datasets import Pixels
from discrete_distribution_network.errors import InvalidInput, OutputError
from discrete_distribution_network.evaluation.metrics import evaluate
from discrete_distribution_network.training.report import read_metrics


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
    ("wrong", "message"),
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
def test_wrong_arguments_are_one_sentence(tmp_path, wrong, message):
    with pytest.raises(InvalidInput, match=message) as error:
        trainer(tmp_path, **wrong)
    assert "\n" not in str(error.value)


def test_it_learns(tmp_path):
    images = digits()
    trained = trainer(tmp_path, num_train_steps=250, test_dataset=images)
    before = evaluate(trained.ddn, images)
    after = trained()
    assert after.images == 60
    assert after.error < 0.6 * before.error
    assert after.error == pytest.approx(evaluate(DDN.from_pretrained(tmp_path / "results"), images).error, rel=1e-4)


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
    for wrong, message in (
        ({"dataset": {"folder": "photos"}}, "ImageDataset.*image_size"),
        ({"dataset": {"train": digits()}}, "ImageDataset.*train"),
        ({"ddn": {"dimension": 4}}, "DDN.*dimension"),
        ({"ddn": torch.nn.Linear(1, 1)}, "a Linear"),
    ):
        with pytest.raises(InvalidInput, match=message):
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
    with pytest.raises(OutputError, match=r"results/begin\.png: "):
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
