"""Metrics: PSNR, usage of nodes, and the reconstruction of held-out images."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Int, Shaped
from torch import Tensor

from discrete_distribution_network._renamed import renamed_argument
from discrete_distribution_network.conditioning import CondFn, conditioning_inputs
from discrete_distribution_network.data.loader import in_order
from discrete_distribution_network.ddn import DDN
from discrete_distribution_network.errors import DataError, require_integer
from discrete_distribution_network.model.tensors import counts_by_level


def psnr(error: float) -> float:
    """Peak signal-to-noise ratio in dB of a mean squared error of pixels in [0, 1]."""
    return math.inf if error == 0 else -10 * math.log10(error)


def usage(counts: Shaped[Tensor, " nodes"]) -> float:
    """The perplexity of usage counts over K, in (0, 1]; 1 where all nodes are chosen equally often."""
    counts = counts.cpu()
    total = counts.sum()
    if total == 0:
        return 1 / len(counts)
    share = counts[counts > 0].double() / total
    return float(torch.exp(-(share * share.log()).sum())) / len(counts)


def usage_by_level(
    codes: Int[Tensor, "batch codes"], codebook_sizes: Sequence[int], codes_per_level: Sequence[int]
) -> list[float]:
    """`usage` of each level."""
    return [usage(counts) for counts in counts_by_level(codes, codebook_sizes, codes_per_level)]


class Evaluation(NamedTuple):
    """Metrics on held-out images, pixels in [0, 1].

    Attributes:
        images: number of images.
        error: mean squared error of the reconstructions.
        psnr: of the mean error, in dB.
        bits_per_image: length of the code.
        error_by_level: mean squared error of the chosen candidates, at the size of each level.
        usage_by_level: see `usage`.
    """

    images: int
    error: float
    psnr: float
    bits_per_image: float
    error_by_level: list[float]
    usage_by_level: list[float]


@renamed_argument("make_cond", "cond_fn")
@torch.no_grad()
def evaluate(
    ddn: DDN,
    dataset: Any,
    batch_size: int = 100,
    limit: int | None = None,
    *,
    rank: int = 0,
    ranks: int = 1,
    total: Callable[[Tensor], Tensor] | None = None,
    stopped: Callable[[], bool] = lambda: False,
    max_bad_images: int = 0,
    cond_fn: CondFn | None = None,
) -> Evaluation:
    """Metrics of reconstructions, of each image once.

    Args:
        dataset: see `data/datasets.py`.
        batch_size: images per batch.
        limit: number of images, the first of the data set; None for all.
        rank, ranks, total: with several processes, the rank of this one, their number, and a function that sums a
            tensor over them.
        stopped: called after each batch; True ends the evaluation early.
        max_bad_images: number of undecodable images that are left out before an error is raised.
        cond_fn: function from images to the condition of the network; see `conditioning.py`.

    Raises:
        DataError: there are no images, or too many cannot be decoded.
    """
    require_integer(batch_size, "batch_size")
    require_integer(1 if limit is None else limit, "limit")
    sizes = ddn.codebook_sizes
    errors = torch.zeros(2 + ddn.num_levels, dtype=torch.float64)  # images, error, error of each level
    counts = torch.zeros(sum(sizes), dtype=torch.long)
    share = in_order(dataset, ddn, batch_size, rank=rank, ranks=ranks, limit=limit, max_bad_images=max_bad_images)
    for batch in share:
        images = batch.images.to(ddn.start.device, ddn.start.dtype)
        walk = ddn.encode_walk(images, **conditioning_inputs(ddn, images, batch.labels, cond_fn))
        assert walk.losses is not None
        error = (ddn.finish(walk).float() - images).square().mean()
        weights = torch.cat((error.new_ones(1), error[None], walk.losses.float()))
        errors += weights.cpu().double() * len(images)
        counts += torch.cat(counts_by_level(walk.codes, sizes, ddn.codes_per_level)).cpu()
        if stopped():
            break
    if total is not None:
        errors, counts = total(errors), total(counts)
    images, error, *by_level = errors.tolist()
    if images == 0:
        raise DataError("expected images to evaluate on, got 0; give a data set that is not empty")
    return Evaluation(
        images=round(images),
        error=error / images,
        psnr=psnr(error / images),
        bits_per_image=ddn.bits_per_image,
        error_by_level=[value / images for value in by_level],
        usage_by_level=[usage(part) for part in counts.split(sizes)],
    )
