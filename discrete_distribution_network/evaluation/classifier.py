"""A small classifier, trained on the labels of a data set: features for Fréchet distances, accuracy of samples."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from discrete_distribution_network.data.datasets import is_stream
from discrete_distribution_network.data.loader import Batch, ImageShape, Loader, in_order, in_unit_range
from discrete_distribution_network.errors import DataError, require, require_integer, require_positive, require_seed
from discrete_distribution_network.random_state import own_random_state

MAX_CLASSES = 100_000
"""Labels are integers below this number."""


class NoClasses(DataError):
    """A data set has no labels, or labels outside [0, number of classes)."""


class Classifier(nn.Module):
    """Three convolutions, each followed by pooling, and two linear layers, from images in [0, 1] to logits.

    Args:
        channels: of the images.
        num_classes: number of classes.
        width: channels of the first convolution; each further one doubles them.
        dim: number of features.
    """

    def __init__(self, channels: int, num_classes: int, width: int = 32, dim: int = 128):
        super().__init__()
        require(2 <= num_classes <= MAX_CLASSES, f"2 to {MAX_CLASSES} classes", num_classes)
        widths = [channels, width, 2 * width, 4 * width]
        layers: list[nn.Module] = []
        for before, after in pairwise(widths):
            convolution = nn.Conv2d(before, after, 3, padding=1)
            layers += [convolution, nn.BatchNorm2d(after), nn.ReLU(), nn.MaxPool2d(2, ceil_mode=True)]
        self.body = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(widths[-1] * 16, dim))
        self.head = nn.Linear(dim, num_classes)

    def features(self, images: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch dim"]:
        """The features of images in [0, 1]."""
        return F.relu(self.body(images.to(self.head.weight.dtype)))

    def forward(self, images: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch classes"]:
        return self.head(self.features(images))


def train_classifier(
    dataset: Any,
    shape: ImageShape,
    classes: int | None = None,
    *,
    epochs: int = 3,
    batch_size: int = 128,
    learning_rate: float = 3e-3,
    seed: int = 0,
    device: str | torch.device = "cpu",
    max_bad_images: int = 0,
) -> Classifier:
    """A classifier trained on a data set; the same for the same seed, machine and number of threads.

    Args:
        dataset: with a length and labels from 0 on; see `data/datasets.py`.
        shape: an object with `image_size` and `channels`, such as a DDN.
        classes: number of classes; None to count them with `num_classes`.
        epochs: passes over the data set.
        batch_size: images per step.
        learning_rate: the highest learning rate.
        seed: of the weights and of the order of the images.
        device: of the classifier.
        max_bad_images: number of undecodable images that are left out before an error is raised.

    Raises:
        NoClasses: the data set has no labels, or fewer than two classes.
        DataError: it has no images, or is a stream.
    """
    require_integer(epochs, "epochs")
    require_integer(batch_size, "batch_size")
    require_positive(learning_rate, "learning_rate")
    require_seed(seed)
    if is_stream(dataset):
        raise DataError("expected a data set with a length to train a classifier on, got a stream; store it first")
    if len(dataset) == 0:
        raise DataError("expected images to train a classifier on, got 0; give a data set that is not empty")
    if classes is None:
        classes = num_classes(dataset, shape, max_bad_images)
    if classes < 2:
        raise NoClasses(f"expected labels of at least 2 classes for a classifier, got {classes}; add another class")
    loader = Loader(dataset, shape, min(batch_size, len(dataset)), seed=seed, max_bad_images=max_bad_images)
    assert loader.per_epoch is not None
    steps = epochs * loader.per_epoch
    with own_random_state() as seeded:
        seeded(seed)
        classifier = Classifier(shape.channels, classes).to(device).train()
    optimizer = torch.optim.AdamW(classifier.parameters(), lr=learning_rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, total_steps=max(2, steps))
    for _, batch in zip(range(steps), loader.batches(), strict=False):
        loss = F.cross_entropy(classifier(in_unit_range(batch.images.to(device))), labels_of(batch, classes).to(device))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return classifier.eval().requires_grad_(False)


def num_classes(dataset: Any, shape: ImageShape, max_bad_images: int = 0) -> int:
    """The largest label of a data set plus one; every item is read.

    Raises:
        NoClasses: an image has no label, or one outside [0, `MAX_CLASSES`).
        DataError: it has no images.
    """
    highest = -1
    for batch in in_order(dataset, shape, 1000, max_bad_images=max_bad_images):
        highest = max(highest, int(labels_of(batch).max()))
    if highest < 0:
        raise DataError("expected images whose labels number the classes, got 0; give a data set that is not empty")
    return 1 + highest


@torch.no_grad()
def accuracy(classifier: Classifier, dataset: Any, shape: ImageShape, max_bad_images: int = 0) -> float:
    """The share of a data set's images that are classified by their label.

    Args:
        dataset, shape, max_bad_images: see `train_classifier`.
    """
    correct = count = 0
    device = next(classifier.parameters()).device
    for batch in in_order(dataset, shape, 500, max_bad_images=max_bad_images):
        correct += int((classifier(batch.images.to(device)).argmax(1).cpu() == labels_of(batch)).sum())
        count += len(batch.images)
    return correct / max(1, count)


def labels_of(batch: Batch, classes: int = MAX_CLASSES) -> Int[Tensor, " batch"]:
    """The labels of a batch.

    Raises:
        NoClasses: there are none, or one is outside [0, `classes`).
    """
    if batch.labels is None:
        raise NoClasses("expected a label with every image, got images without; a classifier needs labels")
    lowest, highest = int(batch.labels.min()), int(batch.labels.max())
    if lowest < 0 or highest >= classes:
        raise NoClasses(
            f"expected labels that number the classes, in [0, {classes}), got {lowest if lowest < 0 else highest}; "
            "number them from 0 on"
        )
    return batch.labels
