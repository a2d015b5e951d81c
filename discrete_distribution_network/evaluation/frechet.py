"""Fréchet distance between two sets of images: |m_a - m_b|^2 + tr(S_a + S_b - 2 (S_a S_b)^(1/2)).

The distance of two Gaussians fitted to features of the images (Heusel et al., arXiv 1706.08500). It depends on the
network of the features and on the number of images, so state both, and the distance between training and test images
as the floor.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float64
from torch import Tensor

from discrete_distribution_network.ddn import DDN
from discrete_distribution_network.errors import DataError, ModelFileError, require, require_integer, require_seed
from discrete_distribution_network.evaluation.compared import drawn, real, reconstructed
from discrete_distribution_network.model.code_distribution import Aim, CodeDistribution, Own, Temperature

INCEPTION_FILE = "weights-inception-2015-12-05-6726825d.pth"

FeatureNet = Callable[[Tensor], Tensor]
"""Images (B, C, H, W) in [0, 1] -> features (B, F)."""


class Statistics(NamedTuple):
    """The number of images, and the mean and covariance of their features."""

    images: int
    mean: Float64[Tensor, " features"]
    covariance: Float64[Tensor, "features features"]


@torch.no_grad()
def statistics(net: FeatureNet, batches: Iterable[Tensor]) -> Statistics:
    """The statistics of the features of batches of images (B, C, H, W) in [0, 1]."""
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
    """The squared Fréchet distance of two Gaussians, as FID is."""
    require(a.mean.shape == b.mean.shape, f"features of {len(a.mean)} numbers", len(b.mean))
    values, vectors = torch.linalg.eigh(a.covariance)
    root = vectors * values.clamp_min(0).sqrt() @ vectors.T
    # the eigenvalues of S_a S_b are those of S_a^(1/2) S_b S_a^(1/2), which is symmetric
    both = torch.linalg.eigvalsh(root @ b.covariance @ root).clamp_min(0).sqrt().sum()
    apart = (a.mean - b.mean).square().sum()
    return max(0.0, float(apart + a.covariance.trace() + b.covariance.trace() - 2 * both))


class FrechetFigures(NamedTuple):
    """Fréchet distances to the test images, all in the same features.

    Attributes:
        samples: of `drawn` samples of the model.
        reconstructions: of the reconstructed test images.
        floor: of the first `drawn` training images, or all if there are fewer; a perfect model would reach it.
        drawn: number of samples.
        test_images: number of test images.
    """

    samples: float
    reconstructions: float
    floor: float
    drawn: int
    test_images: int


def check_drawn(count: object) -> None:
    """Raise `InvalidInput` unless it is an integer of at least 2 samples."""
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
    prior: CodeDistribution | Own | None = "own",
    temperature: Temperature | Aim | None = None,
) -> FrechetFigures:
    """Fréchet distances of samples, reconstructions and training images to the test images.

    Args:
        net: of the features, such as `inception` or `Classifier.features`.
        train, test: data sets; see `data/datasets.py`.
        count: number of samples.
        batch_size: images per batch.
        seed: of the samples.
        max_bad_images: number of undecodable images of each data set that are left out before an error is raised.
        prior, temperature: see `DDN.sample`. Classes take turns where prior or network are conditioned on them.

    Raises:
        DataError: a data set has fewer than 2 images.
    """
    check_drawn(count)
    require_integer(batch_size, "batch_size")
    require_seed(seed)
    settings = {"batch_size": batch_size, "max_bad_images": max_bad_images}
    test_statistics = statistics(net, real(ddn, test, **settings))
    train_statistics = statistics(net, real(ddn, train, count, **settings))
    reconstruction_statistics = statistics(net, reconstructed(ddn, test, **settings))
    samples = drawn(ddn, count, batch_size, seed, prior, temperature)
    return FrechetFigures(
        samples=frechet_distance(statistics(net, samples), test_statistics),
        reconstructions=frechet_distance(reconstruction_statistics, test_statistics),
        floor=frechet_distance(train_statistics, test_statistics),
        drawn=count,
        test_images=test_statistics.images,
    )


def inception(weights: str | Path | None = None, device: str = "cpu") -> FeatureNet:
    """The 2048 features of the Inception network that FID usually uses, through torchmetrics.

    Args:
        weights: path of torch-fidelity's file `INCEPTION_FILE`; by default in the folder of torch.hub.
        device: of the network.

    Raises:
        ModelFileError: the packages or the weights are missing, or the file holds more than tensors.
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
        raise ModelFileError(f"expected the weights of Inception, but there is no file {path}; give its path")
    try:
        # refused here if it holds more than tensors: the package itself would unpickle it and so run its code
        torch.load(path, weights_only=True, map_location="meta")
        net = NoTrainInceptionV3(
            name="inception-v3-compat", features_list=["2048"], feature_extractor_weights_path=str(path)
        )
    except Exception as error:
        raise ModelFileError(
            f"expected the weights of Inception in {path}, but {error}; give the path of {INCEPTION_FILE}"
        ) from error
    net = net.to(device).eval()

    def features(images: Tensor) -> Tensor:
        colour = images.expand(-1, 3, -1, -1).clamp(0, 1)
        return net(colour.mul(255).round().byte()).flatten(1)

    return features
