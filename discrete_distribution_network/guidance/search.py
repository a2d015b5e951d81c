"""Beam search: at every level the best `beams` walks of each image are kept."""

from __future__ import annotations

from dataclasses import replace
from itertools import groupby

import torch
from jaxtyping import Float, Int
from torch import Tensor

from discrete_distribution_network.guidance.black_boxes import combined_cost
from discrete_distribution_network.guidance.choice import Continuations, CostTable, greedy, uniform
from discrete_distribution_network.guidance.config import GuidanceConfig, Request
from discrete_distribution_network.guidance.selection import GuidedSelection
from discrete_distribution_network.model.network import Network
from discrete_distribution_network.model.tensors import by_level

Options = tuple[Float[Tensor, "walks options"], Int[Tensor, "walks options patches"]]
"""The possible continuations of each walk: their costs, and their columns of the table."""


def beams(table: CostTable, best: Int[Tensor, "walks patches"], count: int) -> Continuations:
    """The strategy that keeps the best `count` of all continuations of an image's walks."""
    level = table.level
    if level.walks_per_image == count == 1:
        return greedy(table, best, count)
    if level.patches == 1:
        cost, columns = _every_node(table)
    elif table.scores:
        cost, columns = _judged(table, best)
    else:
        cost, columns = _one_patch_changed(table, best, count)
    pool = cost.reshape(level.batch_size, -1)
    taken = pool.topk(min(count, pool.shape[1]), largest=False).indices
    offset = torch.arange(level.batch_size, device=level.device).unsqueeze(1) * pool.shape[1]
    taken = (taken + offset).flatten()
    return Continuations(taken // cost.shape[1], columns.flatten(0, 1)[taken])


def _every_node(table: CostTable) -> Options:
    """Every node of the one patch."""
    cost = table.cost[:, 0]
    if table.unconstrained is not None:
        random = uniform(cost.shape, table.level.device, table.config.generator)
        cost = torch.where(table.unconstrained, random, cost)
    columns = torch.arange(cost.shape[1], device=table.level.device).expand(table.level.walks, -1)
    return cost, columns.unsqueeze(2)


def _judged(table: CostTable, best: Tensor) -> Options:
    """The best nodes only: black boxes have scored no other image as a whole."""
    cost = table.cost.gather(2, best.unsqueeze(2)).sum(1)
    return combined_cost(table, cost, table.scores, pools=table.level.batch_size), best.unsqueeze(1)


def _one_patch_changed(table: CostTable, best: Tensor, count: int) -> Options:
    """The best nodes, and the same with another node in the one patch where that costs least."""
    lowest = table.cost.gather(2, best.unsqueeze(2))
    if table.unconstrained is not None:
        lowest = lowest.masked_fill(table.unconstrained.unsqueeze(2), 0)
    increase = (table.cost - lowest).scatter(2, best.unsqueeze(2), torch.inf)
    if table.unconstrained is not None:
        increase = increase.masked_fill(table.unconstrained.unsqueeze(2), torch.inf)
    others, nodes = min(count - 1, increase[0].numel()), increase.shape[2]
    least, place = increase.flatten(1).topk(others, largest=False)
    cost = lowest.sum((1, 2)).unsqueeze(1) + torch.cat((torch.zeros_like(lowest[:, 0]), least), 1)
    columns = best.unsqueeze(1).repeat(1, 1 + others, 1)
    columns[:, 1:].scatter_(2, (place // nodes).unsqueeze(2), (place % nodes).unsqueeze(2))
    return cost, columns


def beams_by_patch(table: CostTable, best: Int[Tensor, "walks patches"], count: int) -> Continuations:
    """The strategy that keeps the best `count` continuations of every patch by itself.

    The first new walk is merged from the best continuation of each patch, the second from the second best, and so on.
    """
    level, nodes = table.level, table.cost.shape[2]
    pool = table.cost.reshape(level.batch_size, level.walks_per_image, level.patches, -1).transpose(1, 2).flatten(2)
    taken = pool.topk(min(count, pool.shape[2]), largest=False).indices.mT  # (batch, new walks, patches)
    walk, column = taken // nodes, taken % nodes
    if table.unconstrained is not None:
        # each walk keeps its own unconstrained patches, so that what a prior draws fits its earlier levels
        unconstrained = table.unconstrained.unflatten(0, (level.batch_size, level.walks_per_image))[:, :1]
        own = torch.arange(column.shape[1], device=level.device).clamp_max(level.walks_per_image - 1)
        walk = torch.where(unconstrained, own[:, None], walk)
        column = torch.where(unconstrained, table.any_column(column.shape), column)
    offset = torch.arange(level.batch_size, device=level.device).reshape(-1, 1, 1) * level.walks_per_image
    return Continuations((walk + offset).flatten(0, 1), column.flatten(0, 1))


def beam_search(network: Network, request: Request, config: GuidanceConfig) -> list[Tensor]:
    """The codes of a beam search by linear conditions, of each level as its sampler gives them.

    Levels with the same patches are searched together, each patch with its own beams, since the choices of patches
    hardly depend on each other: features and images of a new walk are merged from those of its parents. At the edges of
    patches the merged features differ from the network's own, so the codes are walked again before the next levels.
    """
    shapes = network.code_shapes[: request.levels]
    codes: list[Tensor] = []
    for _, group in groupby(shapes):
        stop = len(codes) + len(list(group))
        first = replace(request, levels=stop)
        walk = first.walk(network, GuidedSelection(network, first, config, beams_by_patch, codes))
        codes = by_level(walk.codes, shapes[:stop])
    return codes
