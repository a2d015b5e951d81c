"""Fréchet distance between two sets of images, in the features of a stated network.

The distance of two Gaussians fitted to the features, |m_a - m_b|^2 + tr(S_a + S_b - 2 (S_a S_b)^(1/2)) (Heusel et al.,
arXiv 1706.08500). It says nothing without the network and the number of images; beside it belongs the distance between
training and test images, the floor.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from discrete_distribution_network.conditioning import conditioning_inputs
from discrete_distribution_network.data.loader import Batch, in_order
from discrete_distribution_network.ddn import DDN
from discrete_distribution_network.errors import DataError, ModelFileError, require, require_integer, require_seed
from discrete_distribution_network.model.code_distribution import CodeDistribution

FeatureNet = Callable[[Tensor], Tensor]
"""Images (B, C, H, W) in [0, 1] -> features (B, F)."""


class Statistics(NamedTuple):
    """Of the features of images: how many, their mean (F,), their covariance (F, F), in float64."""

    images: int
    mean: Tensor
    covariance: Tensor


@torch.no_grad()
def statistics(net: FeatureNet, batches: Iterable[Tensor]) -> Statistics:
    """The statistics of the features of batches of images (B, C, H, W)."""
    count, total, squares = 0, None, None
    for images in batches:
        features = net(images)
        require(
            features.ndim == 2 and len(features) == len(images), f"features ({len(images)}, F)", tuple(features.shape)
        )
        features = features.cpu().double()
        count += len(features)
        total = features.sum(0) + (0 if total is None else total)
        squares = features.T @ features + (0 if squares is None else squares)
    if count < 2 or total is None or squares is None:
        raise DataError(f"expected at least 2 images for a Fréchet distance, got {count}; give more")
    mean = total / count
    return Statistics(count, mean, (squares - count * mean.outer(mean)) / (count - 1))


def frechet_distance(a: Statistics, b: Statistics) -> float:
    """The squared Fréchet distance of two Gaussians, as FID is: at least 0."""
    require(a.mean.shape == b.mean.shape, f"features of {len(a.mean)} numbers", len(b.mean))
    values, vectors = torch.linalg.eigh(a.covariance)
    root = vectors * values.clamp_min(0).sqrt() @ vectors.T
    # the eigenvalues of S_a S_b are those of S_a^(1/2) S_b S_a^(1/2), which is symmetric
    both = torch.linalg.eigvalsh(root @ b.covariance @ root).clamp_min(0).sqrt().sum()
    apart = (a.mean - b.mean).square().sum()
    return max(0.0, float(apart + a.covariance.trace() + b.covariance.trace() - 2 * both))


class FrechetFigures(NamedTuple):
    """Distances to the test images, all in the same features.

    Attributes:
        samples: of `drawn` samples of the model.
        reconstructions: of the test images' own reconstructions.
        floor: of as many training images, if there are so many: what a perfect model would have.
        drawn: number of samples.
        test_images: number of test images.
    """

    samples: float
    reconstructions: float
    floor: float
    drawn: int
    test_images: int


def check_drawn(count: object) -> None:
    """Raise `InvalidInput` unless it is a number of samples that a distance can be measured of."""
    require_integer(count, "samples")
    require(count != 1, "at least 2 samples for a Fréchet distance", 1, "10000 is usual")


def frechet_figures(
    ddn: DDN,
    net: FeatureNet,
    train: Any,
    test: Any,
    count: int = 10_000,
    batch_size: int = 100,
    seed: int = 0,
    max_bad_images: int = 0,
    prior: CodeDistribution | None = None,
    temperature: float | Sequence[float] = 1.0,
) -> FrechetFigures:
    """The Fréchet distance of `count` samples to the test images, with the floor beside it.

    Args:
        net: any callable; see `inception` and `classifier.py`.
        train, test: data sets; see `data.py`.
        max_bad_images: how many images that cannot be decoded are left out of each before it is an error.
        prior: how the samples are drawn, of one class after the other if it, or the network, is one by
            class; uniformly if None.
        temperature: of the prior; see `DDN.sample`.
    """
    check_drawn(count)
    require_integer(batch_size, "batch_size")
    require_seed(seed)
    device, kind, generator = ddn.start.device, ddn.start.dtype, torch.Generator().manual_seed(seed)

    def batches(dataset: Any, limit: int | None = None) -> Iterator[Batch]:
        return in_order(dataset, ddn, batch_size, limit=limit, max_bad_images=max_bad_images)

    def images(dataset: Any, limit: int | None = None) -> Iterator[Tensor]:
        for batch in batches(dataset, limit):
            yield batch.images.to(device)

    def reconstructed() -> Iterator[Tensor]:
        for batch in batches(test):
            shown = batch.images.to(device, kind)
            yield ddn.reconstruct(shown, **conditioning_inputs(ddn, shown, batch.labels, None)).float().clamp(0, 1)

    real = statistics(net, images(test))
    learnt = statistics(net, images(train, limit=count))
    again = statistics(net, reconstructed())
    classes = ddn.num_classes or getattr(prior, "num_classes", None)

    def samples() -> Iterator[Tensor]:
        for done in range(0, count, batch_size):
            places = torch.arange(done, min(done + batch_size, count))
            labels = None if classes is None else places % classes
            drawn = ddn.sample(len(places), generator=generator, prior=prior, temperature=temperature, labels=labels)
            yield drawn.float().clamp(0, 1)

    drawn = statistics(net, samples())
    return FrechetFigures(
        samples=frechet_distance(drawn, real),
        reconstructions=frechet_distance(again, real),
        floor=frechet_distance(learnt, real),
        drawn=count,
        test_images=real.images,
    )


def inception(weights: str | Path | None = None, device: str = "cpu") -> FeatureNet:
    """The 2048 features of the Inception network that FID is usually measured with (through torchmetrics).

    Args:
        weights: torch-fidelity's file weights-inception-2015-12-05-6726825d.pth; None for where torch.hub keeps it.

    Raises:
        ModelFileError: the packages or the weights are not there, or the file holds more than tensors.
    """
    try:
        from torchmetrics.image.fid import NoTrainInceptionV3
    except (ImportError, RuntimeError) as error:  # RuntimeError: a torchvision built for another torch
        raise ModelFileError(
            f"expected the packages torchmetrics and torch-fidelity, but {error}; "
            "run: pip install 'discrete-distribution-network[inception]'"
        ) from error
    path = Path(torch.hub.get_dir(), "checkpoints", INCEPTION_FILE) if weights is None else Path(weights)
    if not path.is_file():
        raise ModelFileError(f"expected the weights of Inception in {path}, found none; give the path of that file")
    try:
        # a look first that runs no code: the package itself would unpickle whatever is in the file
        torch.load(path, weights_only=True, map_location="meta")
        net = NoTrainInceptionV3(
            name="inception-v3-compat", features_list=["2048"], feature_extractor_weights_path=str(path)
        )
    except Exception as error:
        raise ModelFileError(f"expected the weights of Inception in {path}, got something else ({error})") from error
    net = net.to(device).eval()

    def features(images: Tensor) -> Tensor:
        colour = images.expand(-1, 3, -1, -1).clamp(0, 1)
        return net(colour.mul(255).round().byte()).flatten(1)

    return features


INCEPTION_FILE = "weights-inception-2015-12-05-6726825d.pth"
