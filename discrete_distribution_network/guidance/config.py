"""`Request`: the conditions of a guided walk and its inputs. `GuidanceConfig`: the options of its search."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Integer, Shaped
from torch import Tensor

from discrete_distribution_network.errors import require, require_integer
from discrete_distribution_network.guidance.conditions import Condition, Scorer
from discrete_distribution_network.model.code_distribution import CodeDistribution, Temperature, check_temperature
from discrete_distribution_network.model.network import Network
from discrete_distribution_network.model.walk import Selection, Walk

TEMPERATURE = 0.7
"""Of a prior that guides; lower where its own is lower."""


@dataclass(frozen=True, eq=False)
class GuidanceConfig:
    """The options of a guided walk's search; see `DDN.guide`.

    Args:
        top_k: choose at random among the k cheapest nodes; 1 with beams, which follow the cheapest.
        beams: the number of walks that are followed for each image.
        generator: source of random numbers; None for PyTorch's own.
        prior: proposes the nodes among which the conditions choose; None for all K.
        proposals: the number of nodes that it proposes for each choice.
        temperature: of the prior.
        prior_labels: classes, for a prior by class.
        rollouts: the number of complete walks, for each beam, that black boxes score at first; 0 if they score the
            candidates of each level.
    """

    top_k: int = 1
    beams: int = 1
    generator: torch.Generator | None = None
    prior: CodeDistribution | None = None
    proposals: int = 128
    temperature: Temperature = TEMPERATURE
    prior_labels: Integer[Tensor, " batch"] | None = None
    rollouts: int = 0

    def __post_init__(self) -> None:
        for name, count in (("top_k", self.top_k), ("beams", self.beams), ("proposals", self.proposals)):
            require_integer(count, name)
        require_integer(self.rollouts, "rollouts", 0)
        require(self.beams == 1 or self.top_k == 1, "top_k=1 with beams, which follow the best", self.top_k)
        check_temperature(self.temperature)


@dataclass(frozen=True, eq=False)
class Request:
    """The conditions of a guided walk, and the arguments of `Network.walk`.

    Args:
        conditions: linear ones and black boxes, in the order of the scores.
        batch_size: the number of images.
        levels: the number of levels that are walked.
        labels, cond: see `Network.walk`.
    """

    conditions: Sequence[Condition]
    batch_size: int
    levels: int
    labels: Integer[Tensor, " batch"] | None = None
    cond: Shaped[Tensor, "batch channels height width"] | None = None

    @property
    def scorers(self) -> dict[int, Scorer]:
        """The black boxes, by the index of the condition."""
        return {i: one for i, one in enumerate(self.conditions) if isinstance(one, Scorer)}

    def check(self, network: Network) -> None:
        """Raise `InvalidInput` unless the conditions fit the network and the batch."""
        for one in self.conditions:
            beyond = sorted(level for level in one.levels or () if level >= network.num_levels)
            require(not beyond, f"levels of {one} below {network.num_levels}", beyond)
            one.check(self.batch_size, network.channels, network.image_size)

    def walk(self, network: Network, select: Selection, walks_per_image: int = 1) -> Walk:
        """A walk of these levels; the walks of one image lie side by side."""
        labels, cond = self.labels, self.cond
        if walks_per_image > 1:
            labels = None if labels is None else labels.repeat_interleave(walks_per_image, 0)
            cond = None if cond is None else cond.repeat_interleave(walks_per_image, 0)
        return network.walk(select, self.batch_size * walks_per_image, self.levels, labels, cond)
