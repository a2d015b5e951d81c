"""Guidance: a walk whose images fit conditions, without gradients and without training.

Four strategies over one table of costs a level (`choice.py`):

    greedy           each level takes the nodes that fit best
    beams            the best walks of each image are kept at every level (`search.py`)
    beams by patch   the same for each patch by itself, by linear conditions (`search.py`)
    rollouts         black boxes score only finished images (`rollouts.py`)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from discrete_distribution_network.guidance.choice import greedy
from discrete_distribution_network.guidance.conditions import Condition, ScoreFn
from discrete_distribution_network.guidance.config import GuidanceConfig, Request
from discrete_distribution_network.guidance.rollouts import roll_out
from discrete_distribution_network.guidance.scorers import Custom
from discrete_distribution_network.guidance.search import beam_search, beams
from discrete_distribution_network.guidance.selection import GuidedSelection
from discrete_distribution_network.model.network import Network, evaluating
from discrete_distribution_network.model.walk import Walk


class Guided(NamedTuple):
    """The result of guidance.

    Attributes:
        images: (B, C, H, W).
        codes: int64 (B, number of codes).
        scores: of the image chosen at each level by each condition, higher is better: minus a mean squared error, minus
            bits, or what the black box gave; NaN where a condition does not hold.
    """

    images: Float[Tensor, "batch channels height width"]
    codes: Int[Tensor, "batch codes"]
    scores: Float[Tensor, "batch levels conditions"]


def as_conditions(given: Condition | ScoreFn | Sequence[Condition | ScoreFn]) -> list[Condition]:
    """One or several conditions, or bare callables from images to scores, as a list of conditions."""
    conditions = given if isinstance(given, Sequence) else [given]
    return [one if isinstance(one, Condition) else Custom(one) for one in conditions]


def guided_walk(
    network: Network, request: Request, config: GuidanceConfig
) -> tuple[Walk, Float[Tensor, "batch levels conditions"]]:
    """The walk that fits the conditions best, by the strategy of the config, and its scores; see `Guided`.

    Raises:
        InvalidInput: a condition does not fit, or gives no scores; the message names it.
    """
    request.check(network)
    codes: list[Tensor] = []
    judged = None
    with evaluating(network):
        if config.rollouts:
            codes, judged = roll_out(network, request, config)
        elif config.beams > 1 and not request.scorers:
            codes = beam_search(network, request, config)
        select = GuidedSelection(network, request, config, beams if config.beams > 1 else greedy, codes)
        walk = request.walk(network, select)
    scores = torch.stack(select.scores, 1)
    return walk, scores if judged is None else torch.where(judged.isnan(), scores, judged)
