"""Rollouts: codes by black boxes that score only finished images, a nested Monte Carlo search (Cazenave, 2009).

A classifier says little about unfinished images. So `rollouts` walks are finished by the prior and the linear
conditions, and the best is kept. At each later level at which a black box holds, it is finished again from that level,
half as often as at the level before, since fewer levels are left; the best of all walks so far is kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from discrete_distribution_network.guidance.black_boxes import add_ranks
from discrete_distribution_network.guidance.choice import greedy
from discrete_distribution_network.guidance.conditions import Condition, Scorer
from discrete_distribution_network.guidance.config import GuidanceConfig, Request
from discrete_distribution_network.guidance.selection import GuidedSelection
from discrete_distribution_network.model.network import Network
from discrete_distribution_network.model.tensors import by_level

WALKS_AT_ONCE = 512
"""About the number of walks that are finished together."""


class Finished(NamedTuple):
    """Finished walks of each image.

    Attributes:
        codes: of all levels.
        scores: of the last image by each condition; NaN for linear ones that do not hold at the last level.
    """

    codes: Int[Tensor, "batch walks codes"]
    scores: Float[Tensor, "batch walks conditions"]


def roll_out(network: Network, request: Request, config: GuidanceConfig) -> tuple[list[Tensor], Tensor]:
    """The codes of the best finished walk; with beams the best `beams` are kept, each finished equally often.

    Returns:
        The codes of each level, as its sampler gives them, and the scores (batch, levels, conditions) by black boxes of
        the best walk so far, after each level; NaN for linear conditions.
    """
    shapes = network.code_shapes[: request.levels]
    best = Finished(torch.empty(request.batch_size, config.beams, 0, dtype=torch.long), torch.empty(0))
    history, count, codes_so_far = [], config.rollouts, 0
    for level in range(request.levels):
        if level == 0 or any(one.holds_at(level) for one in request.scorers.values()):
            prefixes = best.codes[:, :, :codes_so_far]
            found = [best] if level else []
            at_once = max(1, WALKS_AT_ONCE // (request.batch_size * prefixes.shape[1]))
            for start in range(0, count, at_once):
                repeated = prefixes.repeat(1, min(at_once, count - start), 1)
                found.append(_finish(network, request, config, repeated, level))
            best = _best(request.conditions, found, config.beams)
            count = max(1, count // 2)
        history.append(best.scores[:, 0])
        codes_so_far += network.codes_per_level[level]
    black = torch.tensor([isinstance(one, Scorer) for one in request.conditions], device=best.scores.device)
    return by_level(best.codes[:, 0], shapes), torch.stack(history, 1).masked_fill(~black, torch.nan)


def _finish(network: Network, request: Request, config: GuidanceConfig, prefixes: Tensor, levels: int) -> Finished:
    """Finish walks that begin with these codes of the first levels, (batch, walks, codes)."""
    batch, walks_per_image = prefixes.shape[:2]
    linear = [i for i in range(len(request.conditions)) if i not in request.scorers]
    unjudged = replace(request, conditions=[request.conditions[i] for i in linear])
    prefix = by_level(prefixes.flatten(0, 1), network.code_shapes[:levels])
    select = GuidedSelection(network, unjudged, config, greedy, prefix, walks_per_image)
    walk = unjudged.walk(network, select, walks_per_image)
    scores = select.scores[-1].new_empty(batch * walks_per_image, len(request.conditions))
    scores[:, linear] = select.scores[-1]
    seen = network.finish(walk).unsqueeze(1)
    for i, one in request.scorers.items():
        scores[:, i] = one.checked_scores(seen, request.levels - 1, walks_per_image)[:, 0]
    return Finished(walk.codes.unflatten(0, (batch, -1)), scores.unflatten(0, (batch, -1)))


def _best(conditions: Sequence[Condition], found: Sequence[Finished], count: int) -> Finished:
    """The best walks of each image, the best first."""
    codes, scores = (torch.cat(parts, 1) for parts in zip(*found, strict=True))
    best = _cost(conditions, scores).topk(min(count, codes.shape[1]), largest=False).indices.unsqueeze(2)
    return Finished(*(own.gather(1, best.expand(-1, -1, own.shape[2])) for own in (codes, scores)))


def _cost(
    conditions: Sequence[Condition], scores: Float[Tensor, "batch walks conditions"]
) -> Float[Tensor, "batch walks"]:
    """One cost of the scores by all conditions, ranked among the walks of an image."""
    weights = [torch.as_tensor(one.weight, dtype=torch.float32).reshape(-1, 1).to(scores.device) for one in conditions]
    parts = [(weights[i], -scores[:, :, i]) for i, one in enumerate(conditions) if isinstance(one, Scorer)]
    linear = [i for i, one in enumerate(conditions) if not isinstance(one, Scorer)]
    if linear:
        cost = sum(-weights[i] * scores[:, :, i].nan_to_num() for i in linear)
        parts.append((torch.stack([weights[i].expand(len(scores), 1) for i in linear]).sum(0), torch.as_tensor(cost)))
    return add_ranks(parts, len(scores))
