"""`SampleFigures`: how near samples are to held-out images, in features, where there are few of these."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from discrete_distribution_network.errors import DataError
from discrete_distribution_network.evaluation.coverage import covered
from discrete_distribution_network.evaluation.frechet import FeatureNet, frechet_distance, statistics
from discrete_distribution_network.evaluation.kernel_distance import KernelDistance, kernel_distance

COMPARED = 3000
"""Most images of a set for precision, recall and nearest neighbours."""

Features = Float[Tensor, "images features"]


class SampleFigures(NamedTuple):
    """Samples compared with real images in some features.

    Attributes:
        kernel: kernel distance of samples to test images.
        kernel_reconstructions: of the reconstructed test images to the test images; None without any.
        kernel_floor: of training to test images.
        frechet: Fréchet distance of samples to all real images, training and test.
        frechet_floor: of as many training images, chosen at random, to all real images.
        precision, recall: share of samples within the test images, and of test images within the samples
            (arXiv 1904.06991).
        nearest_training: median distance of a sample to its nearest training image, divided by that of a test image:
            well below 1 for copies.
        nearer_than_test: share of samples that are nearer to a training image than the median test image is; 0.5 for
            samples like test images.
    """

    kernel: KernelDistance
    kernel_reconstructions: KernelDistance | None
    kernel_floor: KernelDistance
    frechet: float
    frechet_floor: float
    precision: float
    recall: float
    nearest_training: float
    nearer_than_test: float

    def by_name(self) -> dict[str, float]:
        """The figures as numbers: a kernel distance, and its standard error as NAME_error; none that is None."""
        found: dict[str, float] = {}
        for name, value in self._asdict().items():
            if isinstance(value, KernelDistance):
                found |= {name: value.mean, f"{name}_error": value.error}
            elif value is not None:
                found[name] = value
        return found


@torch.no_grad()
def features_of(net: FeatureNet, batches: Iterable[Tensor]) -> Features:
    """The features of batches of images (B, C, H, W) in [0, 1], on the CPU.

    Raises:
        DataError: there are fewer than two images.
    """
    parts = [net(images).float().cpu() for images in batches]
    if sum(map(len, parts)) < 2:
        raise DataError(f"expected at least 2 images to compare, got {sum(map(len, parts))}; give more")
    return torch.cat(parts)


def sample_figures(
    samples: Features, reconstructions: Features | None, train: Features, test: Features, seed: int = 0
) -> SampleFigures:
    """The figures of samples by features of the images; see `features_of`.

    Args:
        seed: of the subsets that are compared.
    """
    generator = torch.Generator().manual_seed(seed)

    def some(own: Features, count: int) -> Features:
        return own[torch.randperm(len(own), generator=generator)[:count]]

    real = statistics(_itself, [train, test])
    few, few_test = some(samples, COMPARED), some(test, COMPARED)
    nearest, nearest_test = (_nearest(own, train) for own in (few, few_test))
    return SampleFigures(
        kernel=kernel_distance(samples, test, seed=seed),
        kernel_reconstructions=None if reconstructions is None else kernel_distance(reconstructions, test, seed=seed),
        kernel_floor=kernel_distance(train, test, seed=seed),
        frechet=frechet_distance(statistics(_itself, [samples]), real),
        frechet_floor=frechet_distance(statistics(_itself, [some(train, len(samples))]), real),
        precision=covered(few, few_test),
        recall=covered(few_test, few),
        nearest_training=float(nearest.median() / nearest_test.median()),
        nearer_than_test=float((nearest < nearest_test.median()).float().mean()),
    )


def _itself(features: Tensor) -> Tensor:
    return features


def _nearest(points: Features, among: Features) -> Float[Tensor, " points"]:
    """The distance of each point to the nearest of others."""
    return torch.cat([torch.cdist(part, among).amin(1) for part in points.split(500)])
