"""The model of a run, and what lies beside it: device, prior, classifier, options and data set."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import constants
from jaxtyping import Int
from torch import Tensor

from discrete_distribution_network.cli.config import TrainConfig, load_config
from discrete_distribution_network.cli.options import newest_run
from discrete_distribution_network.data.datasets import Split
from discrete_distribution_network.data.sources import open_data
from discrete_distribution_network.ddn import DDN
from discrete_distribution_network.errors import InvalidInput, ModelFileError
from discrete_distribution_network.evaluation.classifier import Classifier, train_classifier
from discrete_distribution_network.io.atomic_file import check_writable, write_bytes
from discrete_distribution_network.io.atomic_folder import MANIFEST
from discrete_distribution_network.io.pretrained import MODEL, released
from discrete_distribution_network.io.run_folder import CHECKPOINTS, CONFIG
from discrete_distribution_network.io.safetensors_file import Shapes, load_checked, safetensors_bytes
from discrete_distribution_network.prior.companions import number_of_classes
from discrete_distribution_network.training.checkpoints import Checkpoints


def resolve_device(name: str) -> torch.device:
    """The device of this name; auto is the accelerator if there is one.

    Raises:
        InvalidInput: this machine has no such device.
    """
    best = torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    if name in ("auto", best.type):
        return best
    if name != "cpu":
        devices = " or ".join(dict.fromkeys((best.type, "cpu")))
        raise InvalidInput(f"expected a --device of this machine, got {name}; use {devices}")
    return torch.device("cpu")


def model_folder(folder: Path | None) -> Path:
    """The folder of a model: the given one, or the newest complete model or checkpoint of a run.

    It is searched by reading a whole checkpoint, so call it once.

    Args:
        folder: run or model folder, or the name of an included model; the newest run under ./runs if None.
    """
    if folder is not None and (included := released(folder)) is not None:
        return included
    folder = folder or newest_run()
    if not folder.is_dir():
        raise ModelFileError(f"expected a run or a model folder at {folder}, found none; give one that training wrote")
    checkpoint = Checkpoints(folder / CHECKPOINTS).newest_whole()
    if not (folder / MODEL / CONFIG).is_file():
        return checkpoint or folder
    if checkpoint is None:
        return folder / MODEL
    # a training that runs, or was killed, has newer checkpoints than the model of when it last ended
    own, saved = folder / MODEL / MANIFEST, checkpoint / MANIFEST
    if not own.is_file() or (_checksum(own) != _checksum(saved) and saved.stat().st_mtime > own.stat().st_mtime):
        return checkpoint
    return folder / MODEL


def _checksum(manifest: Path) -> str | None:
    """The checksum of the weights in a manifest."""
    try:
        return json.loads(manifest.read_text(encoding="utf-8")).get(constants.SAFETENSORS_SINGLE_FILE)
    except (ValueError, AttributeError):
        return None


def load_model(folder: Path, device: str, alone: bool = False) -> DDN:
    """The model in a model folder (see `model_folder`), in evaluation mode on a device.

    Args:
        alone: leave out its prior, so that codes are sampled uniformly, and its entropy model.
    """
    ddn = DDN.from_pretrained(folder, alone=alone).to(resolve_device(device))
    return ddn.to(memory_format=torch.channels_last).eval()  # type: ignore[call-overload]  # convolutions are faster


def labels_for(ddn: DDN, count: int, label: int | None) -> Int[Tensor, " count"] | None:
    """Classes of `count` samples: `label`, or all in turn if None; None if neither network nor prior has classes."""
    classes = number_of_classes(ddn, ddn.prior)
    if classes is None:
        return None
    return torch.arange(count) % classes if label is None else torch.full((count,), label)


CLASSIFIER = "classifier.safetensors"
"""Weights of a `Classifier` in the folder of the model whose images it classifies."""


def classifier_of(ddn: DDN, folder: Path | None, weights: Path | None = None) -> Classifier:
    """The classifier in a file, or beside a model; trained on the run's data set and saved there if there is none.

    Args:
        folder: run or model folder; the newest run if None.
        weights: a file of weights.
    """
    own = model_folder(folder) / CLASSIFIER
    path = own if weights is None else weights
    if path.is_file():

        def make(shapes: Shapes, channels: int) -> Classifier:
            return Classifier(channels, *shapes["head.bias"][:1])

        expected = f"the weights of a classifier in {path}"
        return load_checked(make, ddn.channels, path, expected, ddn.start.device).eval().requires_grad_(False)
    if weights is not None:
        raise ModelFileError(f"expected the weights of a classifier in {path}, found no file; check the path")
    check_writable(own.parent)
    config = run_config(folder or newest_run())
    split = open_dataset(config, None, ddn)
    classifier = train_classifier(split.train, ddn, device=ddn.start.device, max_bad_images=config.max_bad_images)
    write_bytes(own, safetensors_bytes(classifier.state_dict()))
    return classifier


def run_config(run: Path) -> TrainConfig:
    """The options of a run; the default ones for a model folder."""
    if (run / MODEL).is_dir() and (run / CONFIG).is_file():
        return TrainConfig(**load_config(run / CONFIG))
    return TrainConfig()


def open_dataset(config: TrainConfig, dataset: str | None, ddn: DDN) -> Split:
    """A data set in the size and channels of a model.

    Args:
        dataset: its name; the run's own if None.
    """
    name = dataset or config.dataset
    if not name:
        raise InvalidInput(f"expected a run with its {CONFIG}, got only a model; name the data set with --dataset")
    return open_data(name, ddn.image_size, ddn.channels, config.test_share, config.streaming)


def training_images(run: Path | None, dataset: str | None, ddn: DDN) -> Any:
    """The training images of a run or of another data set; of Fashion-MNIST for an included model."""
    if dataset is None and run is not None and released(run) is not None:
        dataset = "fashion-mnist"
    return open_dataset(run_config(run or newest_run()), dataset, ddn).train


CARD, EXAMPLE = "classes.json", "example.png"
"""Beside an included model: the names of its classes, and an image to begin with."""


def class_names(folder: Path) -> list[str] | None:
    """The names of the classes of an included model; None where they are not known."""
    card = folder / CARD
    return json.loads(card.read_text(encoding="utf-8"))["classes"] if card.is_file() else None
