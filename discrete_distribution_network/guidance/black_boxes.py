"""Black boxes at one level: they score the candidates in chunks, and their scores are added to the table.

Scores and errors have no common unit. So where there are several black boxes, or linear conditions beside them, the
nodes are ranked by each and the weighted ranks are added (as in zero-shot generation of arXiv 2401.00036). With
patches they score the nodes of one patch after the other, with the rest of the image as it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import reduce

import torch
from jaxtyping import Float, Int
from torch import Tensor

from discrete_distribution_network.guidance.choice import CostTable, cheapest, greedy
from discrete_distribution_network.guidance.conditions import Scorer, Size
from discrete_distribution_network.model.candidates import nodes_at_once
from discrete_distribution_network.model.tensors import resize

NUMBERS_PER_PIXEL = 16
"""A black box is assumed to make 16 numbers of each pixel; its chunks of candidates are smaller by this factor."""


def judge(
    table: CostTable, scorers: Mapping[int, Scorer], image_size: Size
) -> tuple[CostTable, Int[Tensor, "walks patches"]]:
    """The table with the scores of black boxes, and the best column of each patch.

    Args:
        scorers: at least one: those that hold at the level, by the index of the condition.
        image_size: at which they see the candidates.
    """
    if table.level.patches > 1:
        return _patch_after_patch(table, scorers, image_size)
    scores = _scores(table, scorers, image_size)
    cost = combined_cost(table, table.cost[:, 0], scores, pools=table.level.batch_size).unsqueeze(1)
    table = replace(table, cost=cost, unconstrained=None, scores=scores)
    return table, table.cheapest()


def _patch_after_patch(table: CostTable, scorers: Mapping[int, Scorer], image_size: Size) -> tuple[CostTable, Tensor]:
    """Coordinate descent over the patches, once, from the nodes that are cheapest by the linear conditions."""
    level = table.level
    best = table.cheapest().clone()
    codes = table.nodes_at(greedy(table, best, 1)).reshape(-1, *level.grid)
    image = level.sampler.draw(level.features, codes, level.residual).output
    chosen_scores: dict[int, Tensor] = {}
    for patch in range(level.patches):
        scores = _scores(table, scorers, image_size, patch, image)
        cost = combined_cost(table, table.cost[:, patch], scores, pools=level.walks)
        best[:, patch] = cheapest(cost.unsqueeze(1), table.config)[:, 0]
        column = best[:, patch].unsqueeze(1)
        chosen_scores = {i: own.gather(1, column) for i, own in scores.items()}
        node = column if table.nodes is None else table.nodes[:, patch].gather(1, column)
        chosen = level.sampler.candidates(level.features, level.residual, patch).at(node.squeeze(1))
        level.area(image, patch).copy_(chosen)
    return replace(table, scores=chosen_scores), best


def _scores(
    table: CostTable,
    scorers: Mapping[int, Scorer],
    image_size: Size,
    patch: int | None = None,
    image: Tensor | None = None,
) -> dict[int, Float[Tensor, "walks nodes"]]:
    """The scores of all nodes of the table; or of one patch's nodes, with the rest of the images as it is."""
    level, count = table.level, table.cost.shape[2]
    candidates = level.sampler.candidates(level.features, level.residual, patch)
    pixels = candidates.shape[0] * image_size[0] * image_size[1]
    step = nodes_at_once(level.device, NUMBERS_PER_PIXEL * level.walks * pixels)
    parts: dict[int, list[Tensor]] = {i: [] for i in scorers}
    for start in range(0, count, step):
        stop = min(start + step, count)
        if table.nodes is None:
            images = candidates.nodes(start, stop)
        else:
            proposed = table.nodes[:, patch or 0, start:stop]
            images = torch.stack([candidates.at(own) for own in proposed.unbind(1)], 1)
        if patch is not None and image is not None:
            whole = image.unsqueeze(1).repeat(1, stop - start, 1, 1, 1)
            level.area(whole, patch).copy_(images)
            images = whole
        seen = resize(images.flatten(0, 1), image_size).unflatten(0, images.shape[:2])
        for i, scorer in scorers.items():
            parts[i].append(scorer.checked_scores(seen, level.index, level.walks_per_image))
    return {i: torch.cat(own, 1) for i, own in parts.items()}


def combined_cost(
    table: CostTable,
    cost: Float[Tensor, "walks nodes"],
    scores: Mapping[int, Float[Tensor, "walks nodes"]],
    pools: int,
) -> Float[Tensor, "walks nodes"]:
    """One cost by the linear conditions' cost and the black boxes' scores; see `add_ranks` for `pools`."""
    parts = [(table.level.weight(table.conditions[i]), -own) for i, own in scores.items()]
    if table.errors:
        parts.append((reduce(torch.add, (table.level.weight(table.conditions[i]) for i in table.errors)), cost))
    return add_ranks(parts, pools)


def add_ranks(
    parts: Sequence[tuple[Float[Tensor, "#walks 1"], Float[Tensor, "walks nodes"]]], pools: int
) -> Float[Tensor, "walks nodes"]:
    """Pairs of weights and costs as one cost: the only one, or the weighted sum of their ranks.

    Args:
        pools: the number of groups of neighbouring walks within each of which nodes are ranked.
    """
    if len(parts) == 1:
        return parts[0][1]
    return sum(
        (weight * own.reshape(pools, -1).argsort(1).argsort(1).reshape_as(own) for weight, own in parts),
        torch.zeros_like(parts[0][1]),
    )
