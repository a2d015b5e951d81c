"""`GuidedSelection`: the selection of a guided walk, by any of the strategies."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from discrete_distribution_network.guidance.black_boxes import judge
from discrete_distribution_network.guidance.choice import (
    Continuations,
    LevelInputs,
    PriorStates,
    Strategy,
    accumulated_rate,
    evaluate,
    linear_errors,
    scores_of,
)
from discrete_distribution_network.guidance.conditions import RatePenalty
from discrete_distribution_network.guidance.config import GuidanceConfig, Request
from discrete_distribution_network.model.guided_sampler import GuidedSampler
from discrete_distribution_network.model.network import Network
from discrete_distribution_network.model.tensors import gather_state, gather_walks
from discrete_distribution_network.model.walk import Branches, Features, Residual


class GuidedSelection:
    """A selection for `Network.walk`: the nodes that fit the conditions best.

    Args:
        strategy: decides which walks are kept; at the last level the best one of each image.
        prefix: the codes of the first levels, which are taken as they are, shaped as the samplers give them.
        walks_per_image: the number of walks of each image at the first level.

    Attributes:
        scores: of each level without prefix, or of all if the prefix has all, the score of every walk by each
            condition, (walks, conditions).
    """

    def __init__(
        self,
        network: Network,
        request: Request,
        config: GuidanceConfig,
        strategy: Strategy,
        prefix: Sequence[Tensor] = (),
        walks_per_image: int = 1,
    ):
        self.request, self.config, self.strategy, self.prefix = request, config, strategy, prefix
        self.image_size = network.image_size
        self.penalties = {i: one for i, one in enumerate(request.conditions) if isinstance(one, RatePenalty)}
        walks, labels = request.batch_size * walks_per_image, config.prior_labels
        if labels is not None:
            labels = labels.repeat_interleave(walks_per_image)
        self.states = PriorStates(
            None if config.prior is None else config.prior.begin(walks, labels),
            {i: one.prior.begin(walks, None) for i, one in self.penalties.items()},
            torch.zeros(()),
        )
        self.scores: list[Tensor] = []

    def __call__(self, level: int, sampler: GuidedSampler, features: Features, residual: Residual | None) -> Branches:
        inputs = LevelInputs(level, sampler, features, residual, self.request.batch_size)
        return self._replay(inputs) if level < len(self.prefix) else self._choose(inputs)

    def _replay(self, level: LevelInputs) -> Branches:
        codes = self.prefix[level.index]
        parents = torch.arange(len(codes), device=codes.device)
        if len(self.prefix) == self.request.levels:  # there is no level left to choose: the walk is for its scores
            errors = linear_errors(level, self.request.conditions, self.states.rates)
            chosen = Continuations(parents, codes.reshape(len(codes), -1))
            self.scores.append(scores_of(chosen, self.request.conditions, errors, {}))
        self._follow(level.index, codes, parents)
        return Branches(*level.sampler.draw(level.features, codes, level.residual), parents)

    def _choose(self, level: LevelInputs) -> Branches:
        table = evaluate(level, self.request.conditions, self.config, self.states)
        scorers = {i: one for i, one in self.request.scorers.items() if one.holds_at(level.index)}
        table, best = judge(table, scorers, self.image_size) if scorers else (table, table.cheapest())
        chosen = self.strategy(table, best, 1 if level.index == self.request.levels - 1 else self.config.beams)
        rate = accumulated_rate(table, self.states.accumulated_rate, chosen)
        self.states = self.states._replace(accumulated_rate=rate)
        parents = chosen.parents
        if parents.ndim == 1:  # merged walks have no scores
            scores = scores_of(chosen, table.conditions, table.errors, table.scores)
            self.scores = [own[parents] for own in self.scores] + [scores]
        else:
            parents = parents[:, 0] if level.patches == 1 else parents.reshape(-1, *level.grid)
        codes = table.nodes_at(chosen).reshape(len(parents), *level.sampler.codes_shape(level.features)[1:])
        residual = None if level.residual is None else gather_walks(level.residual, parents)
        step = level.sampler.draw(gather_walks(level.features, parents), codes, residual)
        self._follow(level.index, codes, parents)
        return Branches(step.output, codes, None, parents)

    def _follow(self, level: int, codes: Tensor, parents: Tensor) -> None:
        """Let the priors follow the codes of walks that continue `parents`."""
        prior, states = self.config.prior, self.states
        self.states = states._replace(
            proposing=None if prior is None else prior.follow(level, codes, gather_state(states.proposing, parents)),
            rates={
                i: self.penalties[i].prior.follow(level, codes, gather_state(state, parents))
                for i, state in states.rates.items()
            },
        )
