"""Retrieval by code: images that share the codes of the first levels look alike."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from discrete_distribution_network.ddn import DDN
from discrete_distribution_network.errors import require


def common_levels(ddn: DDN, query: Int[Tensor, " codes"], codes: Int[Tensor, "images codes"]) -> Int[Tensor, " images"]:
    """The number of first levels at which the codes of each image equal those of the query."""
    parts = zip(codes.split(ddn.codes_per_level, 1), query.split(ddn.codes_per_level), strict=True)
    equal = torch.stack([(part == own).all(1) for part, own in parts], 1)
    return equal.long().cumprod(1).sum(1)


class Neighbours(NamedTuple):
    """The images nearest to a query, the nearest first.

    Attributes:
        places: their indices.
        levels: number of first levels that they share with the query.
        distances: squared distances of the decoded images.
    """

    places: Int[Tensor, " count"]
    levels: Int[Tensor, " count"]
    distances: Float[Tensor, " count"]


def neighbours(
    ddn: DDN,
    query: Int[Tensor, " codes"],
    codes: Int[Tensor, "images codes"],
    count: int = 10,
    batch_size: int = 500,
    decoded: Float[Tensor, "images channels height width"] | None = None,
) -> Neighbours:
    """The images nearest to a query by their codes alone: most common levels first, then smallest distance.

    Args:
        query: codes of the query.
        codes: of the images to search.
        count: number of neighbours.
        batch_size: images decoded at once.
        decoded: the decoded `codes`, in [0, 1], to save time over many queries.
    """
    require(1 <= count <= len(codes), f"1 to {len(codes)} neighbours", count)
    levels = common_levels(ddn, query, codes)
    target = ddn.decode(query.unsqueeze(0))
    parts = (ddn.decode(part) for part in codes.split(batch_size)) if decoded is None else decoded.split(batch_size)
    distances = torch.cat([(images - target).square().sum((1, 2, 3)) for images in parts])
    # two stable sorts: by distance, then by levels
    order = distances.argsort()
    order = order[levels[order].argsort(descending=True, stable=True)][:count]
    return Neighbours(order, levels[order], distances[order])


def clusters(ddn: DDN, codes: Int[Tensor, "images codes"], levels: int) -> list[tuple[tuple[int, ...], Tensor]]:
    """Images grouped by the codes of their first levels.

    Returns:
        Pairs of these codes and the indices of the images, the largest group first.
    """
    require(1 <= levels <= ddn.num_levels, f"levels from 1 to {ddn.num_levels}", levels)
    first = codes[:, : sum(ddn.codes_per_level[:levels])]
    kinds, which = first.unique(dim=0, return_inverse=True)
    groups = [(tuple(kind.tolist()), (which == index).nonzero()[:, 0]) for index, kind in enumerate(kinds)]
    return sorted(groups, key=lambda group: (-len(group[1]), group[0]))
