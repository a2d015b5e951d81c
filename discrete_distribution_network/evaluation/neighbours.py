"""Search by code: images whose walks begin alike look alike."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from discrete_distribution_network.ddn import DDN
from discrete_distribution_network.errors import require


def common_levels(ddn: DDN, query: Tensor, codes: Tensor) -> Tensor:
    """At how many of the first levels the codes (B, number of codes) are those of `query` (number of codes,): (B,)."""
    parts = zip(codes.split(ddn.codes_per_level, 1), query.split(ddn.codes_per_level), strict=True)
    equal = torch.stack([(part == own).all(1) for part, own in parts], 1)
    return equal.long().cumprod(1).sum(1)


class Neighbours(NamedTuple):
    """The nearest images: their places, how many first levels they share, and their squared distance to the query."""

    places: Tensor
    levels: Tensor
    distances: Tensor


def neighbours(
    ddn: DDN,
    query: Tensor,
    codes: Tensor,
    count: int = 10,
    batch_size: int = 500,
    decoded: Tensor | None = None,
) -> Neighbours:
    """Of images with these codes (B, number of codes) the `count` nearest to an image by its code alone.

    First those that share most levels with it; among those, by the distance of what the codes decode to.

    Args:
        query: the code (number of codes,) of the image.
        decoded: what the codes decode to, (B, C, H, W), if that is known: many queries then take little time.
    """
    require(1 <= count <= len(codes), f"1 to {len(codes)} neighbours", count)
    levels = common_levels(ddn, query, codes)
    wanted = ddn.decode(query.unsqueeze(0))
    parts = (ddn.decode(part) for part in codes.split(batch_size)) if decoded is None else decoded.split(batch_size)
    distances = torch.cat([(images - wanted).square().sum((1, 2, 3)) for images in parts])
    # two stable sorts: by distance, then by levels
    order = distances.argsort()
    order = order[levels[order].argsort(descending=True, stable=True)][:count]
    return Neighbours(order, levels[order], distances[order])


def clusters(ddn: DDN, codes: Tensor, levels: int) -> list[tuple[tuple[int, ...], Tensor]]:
    """Images with these codes by the codes of their first levels: pairs of these and the places, the largest first."""
    require(1 <= levels <= ddn.num_levels, f"levels from 1 to {ddn.num_levels}", levels)
    first = codes[:, : sum(ddn.codes_per_level[:levels])]
    kinds, which = first.unique(dim=0, return_inverse=True)
    groups = [(tuple(kind.tolist()), (which == index).nonzero()[:, 0]) for index, kind in enumerate(kinds)]
    return sorted(groups, key=lambda group: (-len(group[1]), group[0]))
