"""Figures: PSNR and the use of nodes."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor


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


def usage_by_level(codes: Tensor, codebook_sizes: Sequence[int], codes_per_level: Sequence[int]) -> list[float]:
    """`usage` of each level in codes (B, number of codes)."""
    return [
        usage(torch.bincount(part.flatten(), minlength=size))
        for part, size in zip(codes.split(list(codes_per_level), dim=1), codebook_sizes, strict=True)
    ]
