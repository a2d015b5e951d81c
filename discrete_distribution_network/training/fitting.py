"""`fit`: a learned prior fitted to the codes of a data set by maximum likelihood; the loop is `fit_loop.Fit`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.data import Subset

from discrete_distribution_network.data.datasets import is_stream, split_indices
from discrete_distribution_network.data.loader import Batch, Loader, first_batch, in_order
from discrete_distribution_network.ddn import DDN
from discrete_distribution_network.errors import DataError, InvalidInput, require_integer, shown
from discrete_distribution_network.prior.base import LearnedPrior, recorded_walk
from discrete_distribution_network.training.fit_checkpoints import FitCheckpoints
from discrete_distribution_network.training.fit_loop import Budget, Fit, digest
from discrete_distribution_network.training.module_optimisation import LEARNING_RATE, prior_matrices
from discrete_distribution_network.training.processes import fast_autocast
from discrete_distribution_network.training.temperatures import LEARNT, choose_temperatures, first_images

LABEL_DROPOUT = 0.1
"""Probability that an image is shown without its label while a prior by class is fitted (classifier-free guidance)."""

MAX_HELD_OUT = 1000
"""Most training images held out to select the weights of a prior."""

EVALUATION_BATCH = 200
"""Held-out images a batch."""


class Fitted(NamedTuple):
    """Result of `fit`, in bits an image.

    Attributes:
        steps: of the optimiser.
        train_bits: negative log-likelihood of the last hundred training batches.
        test_bits: of the held-out images, by the best weights.
        uniform_bits: of uniform codes, without a prior.
    """

    steps: int
    train_bits: float
    test_bits: float
    uniform_bits: float


def fit(
    prior: LearnedPrior,
    ddn: DDN,
    dataset: Any,
    test_dataset: Any,
    *,
    steps: int | None = None,
    minutes: float | None = 5.0,
    batch_size: int = 128,
    learning_rate: float = LEARNING_RATE,
    test_images: int = 1000,
    evaluate_every: int = 200,
    seed: int = 0,
    progress: bool = True,
    max_bad_images: int = 0,
    checkpoint: FitCheckpoints | None = None,
) -> Fitted:
    """Fit a prior to the codes of a data set, in place; the weights with the fewest bits on held-out images are kept.

    Its sampling temperatures are then chosen by the same images (see `temperatures.py`), unless `dataset` is a stream.

    Args:
        dataset, test_dataset: see `discrete_distribution_network.data`; with labels for a prior by class.
        steps, minutes: limits, whichever is reached first; None for no such limit.
        batch_size: images a step, at most the number of images.
        learning_rate: peak learning rate.
        test_images: only the first held-out images, at most this many, are evaluated.
        evaluate_every: steps between two evaluations on held-out images.
        seed: of all random numbers.
        progress: show a progress bar.
        max_bad_images: images that cannot be decoded and are left out before it is an error.
        checkpoint: where the state is saved regularly, and when a signal comes, so that the fit can be resumed
            exactly; call its `clear` once the prior is saved.

    Raises:
        InvalidInput: an argument has the wrong type or is out of range, or the prior is of another network.
        DataError: there are no images, or no labels for a prior by class.
        FitInterrupted: SIGTERM or Ctrl-C came, and there is a `checkpoint`.
    """
    require_integer(test_images, "test_images")
    size = None if is_stream(dataset) else len(dataset)
    budget = Budget(steps, minutes, batch_size, learning_rate, evaluate_every, seed)
    by_class = prior.num_classes is not None
    _check_data(dataset, test_dataset, ddn, by_class, max_bad_images)
    prior.require_network(ddn)
    if size is not None:
        budget.batch_size = min(budget.batch_size, size)
    device, autocast = ddn.start.device, fast_walk(ddn)
    loader = Loader(dataset, ddn, budget.batch_size, seed=budget.seed, max_bad_images=max_bad_images)

    def bits(batch: Batch) -> Tensor:
        with autocast:
            return bits_by_level(prior, ddn, batch).sum()

    def measure() -> Iterator[tuple[float, int]]:
        for batch in in_order(test_dataset, ddn, EVALUATION_BATCH, limit=test_images, max_bad_images=max_bad_images):
            with autocast:
                costs = bits_by_level(prior, ddn, batch)
            yield float(costs.sum()) * len(batch.images), len(batch.images)

    def options() -> dict[str, Any]:
        network = digest(dict(ddn.named_parameters()))
        data = {"network": network, "images": size, "test_images": test_images}
        return {"kind": prior.kind, **prior.arguments, **data}

    was_training = ddn.training
    ddn.eval()
    try:
        prior.to(device)
        begin, matrices = partial(measure_features, prior, ddn), prior_matrices(prior)
        own = Fit(prior, bits, loader.batches, measure, budget, device, checkpoint, options, progress, begin, matrices)
        outcome = own.run()
        if not is_stream(dataset):
            learnt, held_out = (
                first_images(data, ddn, limit, max_bad_images)
                for data, limit in ((dataset, LEARNT), (test_dataset, test_images))
            )
            with autocast:
                choose_temperatures(ddn, prior, learnt, held_out, budget.seed)
    finally:
        ddn.train(was_training)
    return Fitted(outcome.steps, outcome.train_bits, outcome.best, ddn.bits_per_image)


def bits_by_level(prior: LearnedPrior, ddn: DDN, batch: Batch) -> Float[Tensor, " levels"]:
    """The loss of a prior: bits of a batch's codes by level, in bits an image.

    While the prior is in training mode, labels are left out at random (`LABEL_DROPOUT`).
    """
    return prior.bits(ddn, images_of(ddn, batch), labels_of(prior, batch.labels))


def measure_features(prior: LearnedPrior, ddn: DDN, batch: Batch) -> None:
    """Adapt a prior to the network's features, by those of a batch."""
    labels = _labels(batch.labels, prior.num_classes is not None)
    with fast_walk(ddn):
        prior.measure(recorded_walk(ddn, images_of(ddn, batch), labels)[1])


def images_of(ddn: DDN, batch: Batch) -> Tensor:
    """The images of a batch as the network takes them."""
    return batch.images_on(ddn.start.device).to(ddn.start.dtype)


def labels_of(prior: LearnedPrior, labels: Tensor | None) -> Tensor | None:
    """The labels of a batch for a prior by class, some left out while it is in training mode; None for other priors.

    Raises:
        DataError: there are none.
    """
    labels = _labels(labels, prior.num_classes is not None)
    if labels is not None and prior.training:  # for `sample` with a guidance_scale, which also asks without a class
        labels = labels.masked_fill(torch.rand(len(labels)) < LABEL_DROPOUT, -1)
    return labels


def hold_out(dataset: Any, test_dataset: Any = None) -> tuple[Any, Any]:
    """Training images to fit a prior to, and at most `MAX_HELD_OUT` that select its weights and its temperatures.

    So the test images select nothing. Of a stream all are for fitting, and the test images for selection.

    Raises:
        DataError: there are fewer than two images, or a stream has no test images.
    """
    if is_stream(dataset):
        if test_dataset is None:
            raise DataError(
                "expected a stream with test images to select the weights of a prior, got none; give some, or train "
                "without a prior"
            )
        return dataset, test_dataset
    count = len(dataset)
    if count < 2:
        raise DataError(f"expected at least 2 images, one to fit a prior to and one to select its weights, got {count}")
    learnt, held_out = split_indices(count, min(0.1, MAX_HELD_OUT / count))
    return Subset(dataset, learnt), Subset(dataset, held_out)


def fast_walk(ddn: DDN) -> AbstractContextManager[Any]:
    """`fast_autocast` on the device of a float32 network; no autocast for a network of another type."""
    return fast_autocast(ddn.start.device) if ddn.start.dtype == torch.float32 else nullcontext()


def _check_data(dataset: Any, test_dataset: Any, ddn: DDN, by_class: bool, max_bad_images: int) -> None:
    """Raise before the fit begins if a data set has no images, or no labels for a prior by class."""
    for name, data in (("images to fit a prior to", dataset), ("held-out images", test_dataset)):
        if not (hasattr(data, "__iter__") or hasattr(data, "__getitem__")):
            raise InvalidInput(f"expected {name} as a data set, got {shown(data)}; see data.datasets")
        if is_stream(data):  # which perhaps can be read only once
            continue
        if len(data) == 0:
            raise DataError(f"expected {name}, got {len(data)}; give at least one")
        _labels(first_batch(data, ddn, 1, max_bad_images).labels, by_class)


def _labels(labels: Tensor | None, by_class: bool) -> Tensor | None:
    if by_class and labels is None:
        raise DataError("expected a label with every image to fit a prior by class, got images without; give labels")
    return labels if by_class else None
