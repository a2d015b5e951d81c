"""Kernel distance (KID) between two sets of images: the squared maximum mean discrepancy of their features.

It is unbiased for any number of images, where a Fréchet distance of few images and many features has a large floor
(Bińkowski et al., arXiv 1801.01401).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from discrete_distribution_network.errors import require, require_integer

SUBSETS, SUBSET_SIZE = 100, 500
"""Subsets of each set, by default, and the most images in one."""


class KernelDistance(NamedTuple):
    """The mean over subsets and its standard error."""

    mean: float
    error: float


def kernel_distance(
    a: Float[Tensor, "images features"],
    b: Float[Tensor, "others features"],
    subsets: int = SUBSETS,
    size: int = SUBSET_SIZE,
    seed: int = 0,
) -> KernelDistance:
    """The squared maximum mean discrepancy with the kernel (x . y / features + 1)^3, averaged over random subsets.

    Args:
        a, b: features of the images of each set.
        subsets: their number.
        size: images of either set in a subset, at most as many as the smaller set has.
        seed: of the subsets.
    """
    require_integer(subsets, "subsets")
    size = min(size, len(a), len(b))
    require(size >= 2, "at least 2 images in each set", size)
    generator, found = torch.Generator().manual_seed(seed), []
    for _ in range(subsets):
        one, other = (own[torch.randperm(len(own), generator=generator)[:size]].double() for own in (a, b))
        found.append(_discrepancy(one, other))
    values = torch.tensor(found, dtype=torch.float64)
    return KernelDistance(float(values.mean()), float(values.std() / subsets**0.5) if subsets > 1 else 0.0)


def _discrepancy(a: Float64[Tensor, "images features"], b: Float64[Tensor, "images features"]) -> float:
    """The unbiased estimate: an image is not compared with itself."""
    number, scale = len(a), a.shape[1]

    def kernel(one: Tensor, other: Tensor) -> Tensor:
        return (one @ other.T / scale + 1) ** 3

    within = sum(float(own.sum() - own.diagonal().sum()) for own in (kernel(a, a), kernel(b, b)))
    return within / (number * (number - 1)) - 2 * float(kernel(a, b).mean())
