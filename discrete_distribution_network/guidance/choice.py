"""The choice of a guided walk at one level: a table of what each node costs, and the cheapest nodes of it.

`evaluate` computes the table by the linear conditions, which add up to one cost of every node of every patch without
drawing a candidate. With a prior the table holds the nodes that the prior proposes. `CostTable.cheapest` chooses each
patch's node for itself; where no condition constrains a patch, its node is the prior's first proposal, or uniform.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial, reduce
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from discrete_distribution_network.guidance.conditions import Condition, Measured, Measurement, RatePenalty, Size
from discrete_distribution_network.guidance.config import GuidanceConfig
from discrete_distribution_network.model.candidates import Candidates
from discrete_distribution_network.model.code_distribution import CodeDistribution, at_level, draw_codes
from discrete_distribution_network.model.guided_sampler import GuidedSampler
from discrete_distribution_network.model.tensors import to_patches


@dataclass(frozen=True, eq=False)
class LevelInputs:
    """The inputs of a level's choice for all walks; those of one image lie side by side.

    Args:
        index: of the level, from 0.
        batch_size: the number of images.
    """

    index: int
    sampler: GuidedSampler
    features: Float[Tensor, "walks dim height width"]
    residual: Float[Tensor, "walks channels height width"] | None
    batch_size: int

    @property
    def device(self) -> torch.device:
        return self.features.device

    @property
    def walks(self) -> int:
        return len(self.features)

    @property
    def walks_per_image(self) -> int:
        return self.walks // self.batch_size

    @property
    def size(self) -> Size:
        return self.features.shape[2], self.features.shape[3]

    @cached_property
    def grid(self) -> Size:
        """Rows and columns of patches; (1, 1) without patches."""
        rows, columns = self.sampler.codes_shape(self.features)[1:] or (1, 1)
        return rows, columns

    @property
    def patches(self) -> int:
        return self.grid[0] * self.grid[1]

    def per_walk(self, tensor: Tensor) -> Tensor:
        """(1 or batch, ...) -> (walks, ...)."""
        tensor = tensor.to(self.device).expand(self.batch_size, *tensor.shape[1:])
        return tensor if self.walks_per_image == 1 else tensor.repeat_interleave(self.walks_per_image, 0)

    def weight(self, condition: Condition) -> Float[Tensor, "walks 1"]:
        return self.per_walk(torch.as_tensor(condition.weight, dtype=torch.float32).reshape(-1, 1))

    def cut(self, images: Tensor) -> Tensor:
        """(1 or batch, X, h, w) -> (walks * patches, X, height of a patch, width)."""
        images = self.per_walk(images)
        return to_patches(images, (images.shape[2] // self.grid[0], images.shape[3] // self.grid[1]))

    def area(self, images: Tensor, patch: int) -> Tensor:
        """The view of one patch of images (..., h, w)."""
        height, width = self.size[0] // self.grid[0], self.size[1] // self.grid[1]
        top, left = patch // self.grid[1] * height, patch % self.grid[1] * width
        return images[..., top : top + height, left : left + width]


class PriorStates(NamedTuple):
    """What the priors know of the walks so far.

    Attributes:
        proposing: the state of the prior that proposes nodes.
        rates: the state of the prior of each `RatePenalty`, by the index of the condition.
        accumulated_rate: weighted bits of the codes of each patch (walks, patches) at the levels before with the same
            patches; 0, of shape (), without any.
    """

    proposing: Any
    rates: Mapping[int, Any]
    accumulated_rate: Tensor


class Continuations(NamedTuple):
    """The walks that are kept after a level.

    Attributes:
        parents: the walk that each continues; or one for each patch, where walks are merged.
        columns: the chosen column of the table for each patch.
    """

    parents: Int[Tensor, " walks"] | Int[Tensor, "walks patches"]
    columns: Int[Tensor, "walks patches"]


@dataclass(frozen=True, eq=False)
class CostTable:
    """What each node of a level costs; its columns are all K nodes, or those that a prior proposes.

    Args:
        conditions: all of them, also those that do not hold at this level.
        errors: by the index of each linear condition that holds; those of the patches add up to that of the image.
        cost: the weighted sum of the errors; with black boxes and one patch, of both (see `black_boxes.py`).
        unconstrained: the patches to which no linear condition applies; None if there are none.
        nodes: the node of each column; None for all K in their order.
        scores: by the index of each black box that holds: of every column, if there is one patch, else (walks, 1) of
            the image of the best columns.
    """

    level: LevelInputs
    conditions: Sequence[Condition]
    config: GuidanceConfig
    errors: dict[int, Float[Tensor, "walks patches nodes"]]
    cost: Float[Tensor, "walks patches nodes"]
    unconstrained: Bool[Tensor, "walks patches"] | None
    nodes: Int[Tensor, "walks patches nodes"] | None = None
    scores: dict[int, Float[Tensor, "walks judged"]] = field(default_factory=dict)

    def cheapest(self) -> Int[Tensor, "walks patches"]:
        """The column of the cheapest node, or of one of the `top_k`, of each patch; any where it is unconstrained."""
        best = cheapest(self.cost, self.config)
        if self.unconstrained is None:
            return best
        return torch.where(self.unconstrained, self.any_column(best.shape), best)

    def any_column(self, shape: Sequence[int]) -> Tensor:
        """Columns for unconstrained patches: the first that the prior proposes, or uniform."""
        if self.nodes is not None:
            return torch.zeros(*shape, dtype=torch.long, device=self.level.device)
        return (uniform(shape, self.level.device, self.config.generator) * self.cost.shape[2]).long()

    def nodes_at(self, chosen: Continuations) -> Tensor:
        """The nodes of the chosen columns, (kept walks, patches)."""
        return chosen.columns if self.nodes is None else take(self.nodes, chosen)


def evaluate(
    level: LevelInputs, conditions: Sequence[Condition], config: GuidanceConfig, states: PriorStates
) -> CostTable:
    """The table of a level by its linear conditions, of the nodes that the prior proposes, if there is one."""
    errors = linear_errors(level, conditions, states.rates)
    cost = torch.zeros(level.walks, level.patches, level.sampler.codebook_size, device=level.device)
    for i, error in errors.items():
        cost += level.weight(conditions[i]).unsqueeze(2) * error
    unconstrained = unconstrained_patches(level, [conditions[i] for i in errors])
    table = CostTable(level, conditions, config, errors, cost, unconstrained)
    if config.prior is not None:
        constrained = any(one.holds_at(level.index) for one in conditions)
        nodes = propose(table, config.prior, states.proposing, config.proposals if constrained else 1)
        errors = {i: error.gather(2, nodes) for i, error in errors.items()}
        table = replace(table, errors=errors, cost=cost.gather(2, nodes), nodes=nodes)
    if states.accumulated_rate.shape == table.cost.shape[:2]:
        table = replace(table, cost=table.cost + states.accumulated_rate.unsqueeze(2))
    return table


def linear_errors(
    level: LevelInputs, conditions: Sequence[Condition], rate_states: Mapping[int, Any]
) -> dict[int, Float[Tensor, "walks patches nodes"]]:
    """The errors of all K nodes, in bits for a `RatePenalty`, by the index of each condition that holds."""
    errors: dict[int, Tensor] = {}
    candidates = None
    for i, one in enumerate(conditions):
        if not one.holds_at(level.index):
            continue
        if isinstance(one, Measurement):
            candidates = candidates or level.sampler.candidates(level.features, level.residual)
            errors[i] = squared_errors(level, candidates, one.at(level.size, level.grid))
        elif isinstance(one, RatePenalty):
            errors[i] = rates(level, one, rate_states[i])
    return errors


def squared_errors(
    level: LevelInputs, candidates: Candidates, measured: Measured
) -> Float[Tensor, "walks patches nodes"]:
    target = measured.target
    patch = target.shape[2] // level.grid[0], target.shape[3] // level.grid[1]
    own = level.size[0] // level.grid[0], level.size[1] // level.grid[1]
    distances = candidates.distances(
        level.cut(target),
        mask=None if measured.weight is None else level.cut(measured.weight),
        pixel_map=None if patch == own else partial(F.adaptive_avg_pool2d, output_size=patch),
        channel_map=None if measured.channel_map is None else measured.channel_map.to(level.device),
    )
    return distances.unflatten(0, (level.walks, level.patches)) / target[0].numel()


def rates(level: LevelInputs, penalty: RatePenalty, state: Any) -> Float[Tensor, "walks patches nodes"]:
    """-log2 of the probability of each node."""
    log_probabilities = penalty.prior.logits(level.index, level.features, state).float().log_softmax(1)
    bits = -log_probabilities.reshape(*log_probabilities.shape[:2], level.patches).mT / math.log(2)
    region = penalty.known(level.size, level.grid)
    return bits if region is None else bits * level.cut(region).reshape(level.walks, level.patches, 1)


def unconstrained_patches(level: LevelInputs, conditions: Iterable[Condition]) -> Bool[Tensor, "walks patches"] | None:
    """The patches to which none of the conditions applies; None if there are none."""
    unconstrained = torch.ones(level.walks, level.patches, dtype=torch.bool, device=level.device)
    for one in conditions:
        known = one.known(level.size, level.grid)
        if known is None and not isinstance(one.weight, Tensor) and one.weight > 0:
            return None
        silent = level.weight(one) == 0
        if known is not None:
            outside = level.cut(known).flatten(1).amax(1) == 0
            silent = silent | outside.unflatten(0, (level.walks, level.patches))
        unconstrained &= silent
    return unconstrained


def propose(table: CostTable, prior: CodeDistribution, state: Any, count: int) -> Int[Tensor, "walks patches nodes"]:
    """Up to `count` different nodes for each patch, in the order in which the prior draws them."""
    proposer = _Proposer(table, min(count, table.level.sampler.codebook_size))
    draw_codes(prior, table.level.index, table.level.features, state, proposer)
    return torch.cat(proposer.proposed, 1)


class _Proposer:
    """A `Pick` that draws several nodes without replacement, by the Gumbel-top-k trick (Kool et al., 2019).

    An autoregressive prior continues with the cheapest of them.
    """

    def __init__(self, table: CostTable, count: int):
        self.table, self.count = table, count
        self.temperature = at_level(table.config.temperature, table.level.index)
        self.proposed: list[Tensor] = []

    def __call__(self, logits: Tensor) -> Tensor:
        table, level = self.table, self.table.level
        own = logits.reshape(level.walks, -1, level.sampler.codebook_size)
        done = sum(nodes.shape[1] for nodes in self.proposed)
        noise = -(-uniform(own.shape, level.device, table.config.generator).log()).log()
        nodes = (own / self.temperature + noise if self.temperature else own).topk(self.count).indices
        self.proposed.append(nodes)
        here = slice(done, done + nodes.shape[1])
        best = table.cost[:, here].gather(2, nodes).argmin(2)
        if table.unconstrained is not None:
            best = best.masked_fill(table.unconstrained[:, here], 0)
        return nodes.gather(2, best.unsqueeze(2)).reshape(logits.shape[:-1])


def take(values: Shaped[Tensor, "walks patches nodes"], chosen: Continuations) -> Shaped[Tensor, "chosen patches"]:
    """The values of the chosen columns, one for each patch of the kept walks."""
    parents = chosen.parents if chosen.parents.ndim == 2 else chosen.parents.unsqueeze(1)
    return values[parents, torch.arange(values.shape[1], device=values.device), chosen.columns]


def scores_of(
    chosen: Continuations,
    conditions: Sequence[Condition],
    errors: Mapping[int, Float[Tensor, "walks patches nodes"]],
    scores: Mapping[int, Float[Tensor, "walks judged"]],
) -> Float[Tensor, "chosen conditions"]:
    """The score of the chosen images by each condition, of `CostTable`'s errors and scores; NaN if it does not hold."""
    count, patches = chosen.columns.shape
    by_condition = []
    for i in range(len(conditions)):
        if i in errors:
            by_condition.append(-take(errors[i], chosen).sum(1))
        elif i in scores:
            by_condition.append(scores[i][chosen.parents, chosen.columns[:, 0] if patches == 1 else 0])
        else:
            by_condition.append(torch.full((count,), torch.nan, device=chosen.columns.device))
    return torch.stack(by_condition, 1) if by_condition else torch.empty(count, 0, device=chosen.columns.device)


def accumulated_rate(table: CostTable, before: Tensor, chosen: Continuations) -> Tensor:
    """The rate so far of the chosen walks, (walks, patches), which later levels add to the costs of their nodes.

    It is gathered also at levels where no penalty holds. Before the first penalty, and where the patches change, it is
    0, of shape ().
    """
    rate = torch.zeros(())
    if before.shape == table.cost.shape[:2]:
        rate = take(before.unsqueeze(2), chosen._replace(columns=torch.zeros_like(chosen.columns)))
    penalties = [i for i in table.errors if isinstance(table.conditions[i], RatePenalty)]
    if not penalties:
        return rate
    weighted = (table.level.weight(table.conditions[i]).unsqueeze(2) * table.errors[i] for i in penalties)
    return rate + reduce(torch.add, (take(part, chosen) for part in weighted))


def cheapest(cost: Float[Tensor, "walks patches nodes"], config: GuidanceConfig) -> Int[Tensor, "walks patches"]:
    """The column of the least cost, or of one of the `top_k` least."""
    top_k = min(config.top_k, cost.shape[2])
    if top_k == 1:
        return cost.argmin(2)
    candidates = cost.topk(top_k, largest=False).indices
    drawn = (uniform(cost.shape[:2], cost.device, config.generator) * top_k).long()
    return candidates.gather(2, drawn.unsqueeze(2)).squeeze(2)


def uniform(shape: Sequence[int], device: torch.device, generator: torch.Generator | None) -> Tensor:
    """Uniform random numbers in (0, 1)."""
    numbers = torch.rand(*shape, generator=generator, device=device if generator is None else generator.device)
    numbers = numbers.to(device)
    return numbers.clamp(torch.finfo(numbers.dtype).tiny, 1 - torch.finfo(numbers.dtype).eps)


Strategy = Callable[[CostTable, Tensor, int], Continuations]
"""A table, the best column of each patch (walks, patches), the number of walks to keep per image -> those walks."""


def greedy(table: CostTable, best: Int[Tensor, "walks patches"], count: int) -> Continuations:
    """Every walk is kept, and continues with its own cheapest nodes."""
    return Continuations(torch.arange(table.level.walks, device=table.level.device), best)
