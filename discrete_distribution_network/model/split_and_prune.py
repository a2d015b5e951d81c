"""Split-and-prune (Algorithm 1 of arXiv 2401.00036): copy a node chosen too often onto one chosen too seldom.

`plan_split_and_prune` turns usage counts into a plan and changes nothing; `apply_plan` copies the rows of parameters
and of the optimiser's moments. Nothing is random, so equal counts give equal plans in every process.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Optimizer


class Plan(NamedTuple):
    """Which node is replaced by a copy of which.

    Attributes:
        swaps: number of pruned nodes, each replaced by a copy of a split one.
        origin: for each of the K nodes, the node whose row it takes; `origin[k] == k` where nothing changes.
        counts: the K usage counts afterwards.
    """

    swaps: int
    origin: list[int]
    counts: list[int]


def plan_split_and_prune(
    counts: Sequence[int], split_thres: float = 2.0, prune_thres: float = 0.5, max_swaps: int | None = 1
) -> Plan:
    """The nodes to split and to prune.

    While the largest share of the counts exceeds `split_thres / K` or the smallest is under `prune_thres / K`, the
    most used node is copied onto the least used one and its count is halved between the two (the pruned node's count
    is dropped). Ties go to the lowest index. A swap that would leave the copied node no more used than the pruned one
    was is not made.

    Args:
        counts: how often each node was chosen.
        split_thres: share of the choices, in units of 1/K, above which a node is split.
        prune_thres: share of the choices, in units of 1/K, below which a node is pruned.
        max_swaps: most swaps in one plan; None for no limit.
    """
    size, total = len(counts), sum(counts)
    limit = size if max_swaps is None else max_swaps
    counts, origin, swaps = list(counts), list(range(size)), 0

    def uneven(largest: int, smallest: int) -> bool:
        return largest * size > split_thres * total or smallest * size < prune_thres * total

    if size < 2 or limit < 1 or not uneven(max(counts), min(counts)):
        return Plan(0, origin, counts)

    largest = [(-count, node) for node, count in enumerate(counts)]
    smallest = [(count, node) for node, count in enumerate(counts)]
    heapq.heapify(largest)
    heapq.heapify(smallest)
    while swaps < limit:
        top, bottom = _valid(largest, counts, -1), _valid(smallest, counts, 1)
        if counts[top] // 2 <= counts[bottom] or not uneven(counts[top], counts[bottom]):
            break
        total -= counts[bottom]
        counts[top], counts[bottom] = counts[top] - counts[top] // 2, counts[top] // 2
        origin[bottom] = origin[top]
        swaps += 1
        for node in (top, bottom):
            heapq.heappush(largest, (-counts[node], node))
            heapq.heappush(smallest, (counts[node], node))
    return Plan(swaps, origin, counts)


def _valid(heap: list[tuple[int, int]], counts: list[int], sign: int) -> int:
    """The node at the top of the heap, once entries with an outdated count are removed."""
    while heap[0][0] != sign * counts[heap[0][1]]:
        heapq.heappop(heap)
    return heap[0][1]


@torch.no_grad()
def apply_plan(plan: Plan, parameters: Iterable[nn.Parameter], optimizer: Optimizer | None = None) -> None:
    """Copy rows in place, of the parameters (K, ...) and of the optimiser's state with K rows.

    The Parameter objects stay the same, so optimisers and wrappers keep their references.
    """
    if not plan.swaps:
        return
    pruned = torch.tensor([node for node, source in enumerate(plan.origin) if node != source])
    copied = torch.tensor(plan.origin)[pruned]
    for parameter in parameters:
        state = {} if optimizer is None else optimizer.state.get(parameter, {})
        for rows in (parameter, *(value for value in state.values() if _has_rows(value, len(parameter)))):
            rows[pruned.to(rows.device)] = rows[copied.to(rows.device)]


def _has_rows(value: object, count: int) -> bool:
    return isinstance(value, Tensor) and value.ndim > 0 and len(value) == count
