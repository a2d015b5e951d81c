"""Figures: PSNR, the use of nodes, and what a model does on held-out images."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from discrete_distribution_network.conditioning import CondFn, conditioning_inputs
from discrete_distribution_network.data.loader import in_order
from discrete_distribution_network.ddn import DDN
from discrete_distribution_network.errors import DataError, require_integer


def psnr(error: float) -> float:
    """Peak signal-to-noise ratio in dB of a mean squared error of pixels in [0, 1]."""
    return math.inf if error == 0 else -10 * math.log10(error)


def usage(counts: Tensor) -> float:
    """The share of nodes in use, (0, 1]: the perplexity of usage counts (K,) over K; 1 where all are used alike."""
    counts = counts.cpu()
    total = counts.sum()
    if total == 0:
        return 1 / len(counts)
    share = counts[counts > 0].double() / total
    return float(torch.exp(-(share * share.log()).sum())) / len(counts)


def counts_by_level(codes: Tensor, codebook_sizes: Sequence[int], codes_per_level: Sequence[int]) -> list[Tensor]:
    """How often each node is chosen at each level in codes (B, number of codes): one (K,) a level."""
    return [
        torch.bincount(part.flatten(), minlength=size)
        for part, size in zip(codes.split(list(codes_per_level), dim=1), codebook_sizes, strict=True)
    ]


def usage_by_level(codes: Tensor, codebook_sizes: Sequence[int], codes_per_level: Sequence[int]) -> list[float]:
    """`usage` of each level in codes (B, number of codes)."""
    return [usage(counts) for counts in counts_by_level(codes, codebook_sizes, codes_per_level)]


class Evaluation(NamedTuple):
    """Figures on held-out images, pixels in [0, 1].

    Attributes:
        images: how many.
        error: mean squared error of the reconstructions.
        psnr: of that error, in dB.
        bits_per_image: length of the code.
        error_by_level: of the chosen candidate at each level's own size.
        usage_by_level: perplexity of the choices over K, in (0, 1].
    """

    images: int
    error: float
    psnr: float
    bits_per_image: float
    error_by_level: list[float]
    usage_by_level: list[float]


def renamed_cond_fn(cond_fn: CondFn | None, make_cond: CondFn | None) -> CondFn | None:
    """`cond_fn`, also under its name until version 0.3."""
    if make_cond is None:
        return cond_fn
    warnings.warn("make_cond is now cond_fn; the old name goes in the next release", DeprecationWarning, stacklevel=3)
    return make_cond


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
    make_cond: CondFn | None = None,
) -> Evaluation:
    """Reconstruct images, each once, and measure.

    Args:
        dataset: see `data.py`.
        limit: only the first so many.
        rank, ranks, total: in several processes, the number of this one, how many there are, and what sums a tensor
            over all of them.
        stopped: asked after each batch; ends early if true.
        max_bad_images: how many images that cannot be decoded are left out before it is an error.
        cond_fn: what images are shown with; see `conditioning_inputs.py`.
    """
    cond_fn = renamed_cond_fn(cond_fn, make_cond)
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
        error = (walk.outputs[-1].float() - images).square().mean()
        weights = torch.cat((error.new_ones(1), error[None], walk.losses.float()))
        errors += weights.cpu().double() * len(images)
        counts += torch.cat(counts_by_level(walk.codes, sizes, ddn.codes_per_level)).cpu()
        if stopped():
            break
    if total is not None:
        errors, counts = total(errors), total(counts)
    images, error, *by_level = errors.tolist()
    if images == 0:
        raise DataError("expected images to measure with, got none; give a data set with some")
    return Evaluation(
        images=round(images),
        error=error / images,
        psnr=psnr(error / images),
        bits_per_image=ddn.bits_per_image,
        error_by_level=[value / images for value in by_level],
        usage_by_level=[usage(part) for part in counts.split(sizes)],
    )
