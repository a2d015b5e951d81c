"""The images that evaluations compare, in batches (B, C, H, W) in [0, 1]: of a data set, reconstructed, or drawn."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from discrete_distribution_network.conditioning import conditioning_inputs
from discrete_distribution_network.data.loader import in_order
from discrete_distribution_network.ddn import DDN
from discrete_distribution_network.model.code_distribution import Aim, CodeDistribution, Own, Temperature
from discrete_distribution_network.prior.companions import number_of_classes

BATCH = 100
"""Images in a batch."""


def real(
    ddn: DDN, dataset: Any, limit: int | None = None, batch_size: int = BATCH, max_bad_images: int = 0
) -> Iterator[Tensor]:
    """The first images of a data set, as many as `limit`, as the network takes them."""
    for batch in in_order(dataset, ddn, batch_size, limit=limit, max_bad_images=max_bad_images):
        yield batch.images.to(ddn.start.device)


def reconstructed(
    ddn: DDN, dataset: Any, limit: int | None = None, batch_size: int = BATCH, max_bad_images: int = 0
) -> Iterator[Tensor]:
    """The reconstructions of these images."""
    for batch in in_order(dataset, ddn, batch_size, limit=limit, max_bad_images=max_bad_images):
        originals = batch.images.to(ddn.start.device, ddn.start.dtype)
        inputs = conditioning_inputs(ddn, originals, batch.labels, None)
        yield ddn.reconstruct(originals, **inputs).float().clamp(0, 1)


def drawn(
    ddn: DDN,
    count: int,
    batch_size: int = BATCH,
    seed: int = 0,
    prior: CodeDistribution | Own | None = "own",
    temperature: Temperature | Aim | None = None,
) -> Iterator[Tensor]:
    """Samples; classes take turns where the network or the prior is conditioned on them.

    Args:
        prior, temperature: see `DDN.sample`.
    """
    generator = torch.Generator().manual_seed(seed)
    classes = number_of_classes(ddn, ddn.resolved(prior))
    for done in range(0, count, batch_size):
        numbers = torch.arange(done, min(done + batch_size, count))
        labels = None if classes is None else numbers % classes
        images = ddn.sample(len(numbers), generator=generator, prior=prior, temperature=temperature, labels=labels)
        yield images.float().clamp(0, 1)
