"""How a guided walk chooses: at every level what the conditions like best, on one path or along several at once.

Linear conditions (`Measurement`) add up to one distance, which a level computes for all K candidates without drawing
one. Black boxes (`Scorer`) get the candidates in chunks. Where both are there, or several black boxes, the nodes are
ranked by each and the ranks are added, weighted (as in zero-shot generation of arXiv 2401.00036), since their scores
have no common unit.

With patches each patch chooses for itself: by a measurement at once; by a black box one patch after the other, the
others staying as they are. Where no condition says anything of a patch, its node is drawn by the prior, or uniformly.
Unfinished images say little to a classifier; with rollouts (`roll_out`) black boxes see nothing but finished ones.

Letters: B images, M walks of each (beams), P patches of the level, n nodes that are looked at, K of them without a
prior.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from itertools import groupby
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from discrete_distribution_network.errors import require, require_integer
from discrete_distribution_network.guidance.conditions import (
    Condition,
    Measured,
    Measurement,
    RatePenalty,
    Scorer,
    Size,
)
from discrete_distribution_network.model.candidates import Candidates, nodes_at_once
from discrete_distribution_network.model.code_distribution import (
    CodeDistribution,
    Temperature,
    at_level,
    check_temperature,
    draw_codes,
)
from discrete_distribution_network.model.guided_sampler import GuidedSampler
from discrete_distribution_network.model.tensors import by_level, gather_state, gather_walks, resize, to_patches
from discrete_distribution_network.model.walk import Branches, Selection, Walk

SEEN_AT_ONCE = 16
"""A black box makes about so many numbers of each pixel that it sees; chunks are smaller by this factor."""


class Guided(NamedTuple):
    """What a guided walk gives.

    Attributes:
        images: (B, C, H, W).
        codes: int64 (B, number of codes).
        scores: what each condition says of the image chosen at each level, (B, L, number of conditions), higher is
            better: minus a mean squared error, or what the black box gave; NaN where a condition does not hold.
    """

    images: Tensor
    codes: Tensor
    scores: Tensor


class Guidance:
    """A selection for `DDN.walk`: what the conditions like best.

    Args:
        conditions: see `conditions.py`; already checked.
        batch_size: B.
        num_levels: L; the best of the walks is taken at the last.
        image_size: (height, width) at which black boxes see the candidates.
        top_k: choose at random among the k best.
        beams: M, how many walks of each image are followed.
        prior: draws the `proposals` nodes of each choice, among which the conditions choose; see `prior.py`.
        temperature: of the prior; one, or one for each level of the network.
        labels: for a prior by class, (B,).
        given: the codes of the first levels, which are taken as they are, shaped as the samplers give them.
        by_patch: let every patch have beams of its own, as `search` does.
        each: follow so many walks of each image that know nothing of one another, and ask no black box, as `roll_out`
            does; 0 for `beams`.
    """

    def __init__(
        self,
        conditions: Sequence[Condition],
        batch_size: int,
        num_levels: int,
        image_size: Size,
        top_k: int = 1,
        beams: int = 1,
        generator: torch.Generator | None = None,
        prior: CodeDistribution | None = None,
        proposals: int = 128,
        temperature: Temperature = 0.7,
        labels: Tensor | None = None,
        given: Sequence[Tensor] = (),
        by_patch: bool = False,
        each: int = 0,
    ):
        for name, count in (("top_k", top_k), ("beams", beams), ("proposals", proposals)):
            require_integer(count, name)
        require(beams == 1 or top_k == 1, "top_k=1 with beams, which follow the best", top_k)
        check_temperature(temperature)
        self.conditions, self.batch_size, self.num_levels = conditions, batch_size, num_levels
        self.image_size, self.top_k, self.beams, self.generator = image_size, top_k, beams, generator
        self.prior, self.proposals, self.temperature = prior, proposals, temperature
        self.given, self.by_patch, self.each = given, by_patch, each
        rows = batch_size * max(1, each)
        if labels is not None and each > 1:
            labels = labels.repeat_interleave(each)
        self.state = None if prior is None else prior.begin(rows, labels)
        self.costs = {
            i: (one.prior, one.prior.begin(rows, None))
            for i, one in enumerate(conditions)
            if isinstance(one, RatePenalty)
        }
        """The prior of each condition that knows one, and its state."""
        self.spent = torch.zeros(())
        """What the codes of every walk took so far by these, as long as patches lie alike, (B * M, P)."""
        self.scores: list[Tensor] = []
        """Of each level so far what each condition says of every walk, (B * M, number of conditions)."""

    def __call__(self, level: int, sampler: GuidedSampler, features: Tensor, residual: Tensor | None) -> Branches:
        if level < len(self.given):
            codes = self.given[level]
            rows = torch.arange(len(codes), device=codes.device)
            if len(self.given) == self.num_levels:  # nothing is left to choose, so this is to tell what was chosen
                self.scores.append(
                    _Choice(self, level, sampler, features, residual).told(codes.reshape(len(codes), -1))
                )
            self._follow(level, codes, rows)
            return Branches(*sampler.draw(features, codes, residual), rows)
        choice = _Choice(self, level, sampler, features, residual)
        rows, nodes = choice.best(1 if level == self.num_levels - 1 else self.beams)
        codes = nodes.reshape(len(rows), *sampler.codes_shape(features)[1:])
        step = sampler.draw(
            gather_walks(features, rows), codes, None if residual is None else gather_walks(residual, rows)
        )
        self._follow(level, codes, rows)
        if not self.by_patch:
            self.scores = [own[rows] for own in self.scores] + [choice.said]
        return Branches(step.output, codes, None, rows)

    def _follow(self, level: int, codes: Tensor, rows: Tensor) -> None:
        """Let the priors know the codes, of walks that continue these rows."""
        if self.prior is not None:
            self.state = self.prior.follow(level, codes, gather_state(self.state, rows))
        self.costs = {
            i: (prior, prior.follow(level, codes, gather_state(state, rows)))
            for i, (prior, state) in self.costs.items()
        }

    def random(self, shape: Sequence[int], device: torch.device) -> Tensor:
        """Uniform numbers in (0, 1), from the generator."""
        source = device if self.generator is None else self.generator.device
        numbers = torch.rand(*shape, generator=self.generator, device=source).to(device)
        return numbers.clamp(torch.finfo(numbers.dtype).tiny, 1 - torch.finfo(numbers.dtype).eps)


class _Choice:
    """The choice at one level, among n nodes (K, or those that the prior proposes) in R = B * M rows of P patches.

    Attributes:
        said: what each condition says of the chosen images, (rows, number of conditions), once they are chosen.
    """

    said: Tensor

    def __init__(
        self, guidance: Guidance, level: int, sampler: GuidedSampler, features: Tensor, residual: Tensor | None
    ):
        self.guidance, self.level, self.sampler = guidance, level, sampler
        self.features, self.residual, self.device = features, residual, features.device
        self.rows = len(features)
        self.walks = self.rows // guidance.batch_size
        self.size: Size = (features.shape[2], features.shape[3])
        grid = sampler.codes_shape(features)[1:] or (1, 1)
        self.grid: Size = (grid[0], grid[1])
        self.patches = self.grid[0] * self.grid[1]
        asked = (one for one in enumerate(guidance.conditions) if not (guidance.each and isinstance(one[1], Scorer)))
        self.active = [(i, one) for i, one in asked if one.holds_at(level)]
        self.count, self.nodes, self.errors = sampler.codebook_size, None, self._errors()
        self.loose = self._without_evidence()
        if guidance.prior is not None and level >= len(guidance.given):
            self.nodes = nodes = self._proposed(guidance.prior)
            self.count = nodes.shape[2]
            self.errors = {i: error.gather(2, nodes) for i, error in self.errors.items()}

    def best(self, walks: int) -> tuple[Tensor, Tensor]:
        """The best `walks` of each image: the rows (R',) that they continue and their nodes (R', P)."""
        scorers = [(i, one) for i, one in self.active if isinstance(one, Scorer)]
        cost = self._cost()
        if self.guidance.spent.shape == cost.shape[:2]:
            cost += self.guidance.spent.unsqueeze(2)
        loose = self.loose
        scores: dict[int, Tensor] = {}
        if not scorers:
            best = self._pick(cost, loose)
        elif self.patches == 1:
            scores = {i: own.unsqueeze(1) for i, own in self._scores(scorers).items()}
            cost = self._added(cost[:, 0], {i: own[:, 0] for i, own in scores.items()}, pooled=True).unsqueeze(1)
            best, loose = self._pick(cost, None), None
        else:
            best, scores = self._patch_after_patch(scorers, cost, self._pick(cost, loose))
        rows = torch.arange(self.rows, device=self.device)
        if self.guidance.by_patch:
            rows, best = self._branch_by_patch(cost, loose, walks)
        elif not self.guidance.each and (self.walks > 1 or walks > 1):
            rows, best = self._branch(cost, loose, best, walks, scores if self.patches > 1 else {})
        places = torch.arange(self.patches, device=self.device)
        each = rows if rows.ndim == 2 else rows.unsqueeze(1)  # (R', P or 1)
        self._spend(each, places, best)
        nodes = best if self.nodes is None else self.nodes[each, places, best]
        if rows.ndim == 2:
            return rows[:, 0] if self.patches == 1 else rows.reshape(-1, *self.grid), nodes
        self.said = self._told(scores, rows, best)
        return rows, nodes

    def _cost(self) -> Tensor:
        """What the linear conditions say together of every node, (R, P, n)."""
        cost = torch.zeros(self.rows, self.patches, self.count, device=self.device)
        for i, error in self.errors.items():
            cost += self._weight(self.guidance.conditions[i]).unsqueeze(2) * error
        return cost

    def _spend(self, rows: Tensor, places: Tensor, best: Tensor) -> None:
        """Add what the codes take to what those before took, so that walks which took much do not come out ahead."""
        cheap = [i for i in self.errors if isinstance(self.guidance.conditions[i], RatePenalty)]
        if cheap:
            before = self.guidance.spent
            before = before[rows, places] if before.shape == (self.rows, self.patches) else torch.zeros_like(best)
            own = (self._weight(self.guidance.conditions[i]).unsqueeze(2) * self.errors[i] for i in cheap)
            self.guidance.spent = before + sum(part[rows, places, best] for part in own)

    def told(self, nodes: Tensor) -> Tensor:
        """What each linear condition says of these nodes (R, P): (R, number of conditions)."""
        return self._told({}, torch.arange(self.rows, device=self.device), nodes)

    def _told(self, scores: dict[int, Tensor], rows: Tensor, best: Tensor) -> Tensor:
        columns = []
        for i in range(len(self.guidance.conditions)):
            own = self.errors.get(i, scores.get(i))
            if own is None:
                columns.append(torch.full((len(rows),), torch.nan, device=self.device))
            elif own.ndim == 1:
                columns.append(own[rows])
            else:
                chosen = own[rows].gather(2, best.unsqueeze(2)).sum((1, 2))
                columns.append(-chosen if i in self.errors else chosen)
        return torch.stack(columns, 1)

    # what is looked at

    def _proposed(self, prior: CodeDistribution) -> Tensor:
        """Nodes (R, P, n) as the prior would draw them one after the other, none twice.

        Where the prior draws patch after patch, each knows what the linear conditions like best of those before it.
        """
        wanted = min(self.guidance.proposals, self.count) if self.active else 1
        cost, loose, temperature = self._cost(), self.loose, at_level(self.guidance.temperature, self.level)
        proposed: list[Tensor] = []

        def pick(logits: Tensor) -> Tensor:
            own = logits.reshape(self.rows, -1, self.sampler.codebook_size)
            done = sum(part.shape[1] for part in proposed)
            noise = -(-self.guidance.random(own.shape, self.device).log()).log()
            nodes = (own / temperature + noise if temperature else own).topk(wanted).indices
            proposed.append(nodes)
            here = slice(done, done + nodes.shape[1])
            best = cost[:, here].gather(2, nodes).argmin(2)
            if loose is not None:
                best = best.masked_fill(loose[:, here], 0)
            return nodes.gather(2, best.unsqueeze(2)).reshape(logits.shape[:-1])

        draw_codes(prior, self.level, self.features, self.guidance.state, pick)
        return torch.cat(proposed, 1)

    # what the conditions say

    def _errors(self) -> dict[int, Tensor]:
        """The error (R, P, n), or the bits, of every node; those of the patches add up to those of the image."""
        errors: dict[int, Tensor] = {}
        candidates = None
        for i, one in self.active:
            if isinstance(one, Measurement):
                candidates = candidates or self.sampler.candidates(self.features, self.residual)
                error = self._error(candidates, one.at(self.size, self.grid))
            elif isinstance(one, RatePenalty):
                prior, state = self.guidance.costs[i]
                chances = prior.logits(self.level, self.features, state).float().log_softmax(1)
                error = -chances.reshape(*chances.shape[:2], self.patches).mT / math.log(2)
                region = one.known(self.size, self.grid)
                if region is not None:
                    error = error * self._cut(region).reshape(self.rows, self.patches, 1)
            else:
                continue
            errors[i] = error
        return errors

    def _error(self, candidates: Candidates, measured: Measured) -> Tensor:
        target = measured.target
        cell = target.shape[2] // self.grid[0], target.shape[3] // self.grid[1]
        own = self.size[0] // self.grid[0], self.size[1] // self.grid[1]
        distances = candidates.distances(
            self._cut(target),
            mask=None if measured.weight is None else self._cut(measured.weight),
            pixel_map=None if cell == own else partial(F.adaptive_avg_pool2d, output_size=cell),
            channel_map=None if measured.channel_map is None else measured.channel_map.to(self.device),
        )
        return distances.unflatten(0, (self.rows, self.patches)) / target[0].numel()

    def _without_evidence(self) -> Tensor | None:
        """Of which patches (R, P) no linear condition says anything; None if that is so of none."""
        loose = torch.ones(self.rows, self.patches, dtype=torch.bool, device=self.device)
        for i in self.errors:
            one = self.guidance.conditions[i]
            known = one.known(self.size, self.grid)
            if known is None and not isinstance(one.weight, Tensor) and one.weight > 0:
                return None
            silent = self._weight(one) == 0
            if known is not None:
                silent = silent | (self._cut(known).flatten(1).amax(1) == 0).unflatten(0, (self.rows, self.patches))
            loose &= silent
        return loose

    def _scores(
        self, scorers: list[tuple[int, Scorer]], patch: int | None = None, image: Tensor | None = None
    ) -> dict[int, Tensor]:
        """The scores (R, n) of all nodes; of one patch's nodes, with the rest of the image (R, C, h, w) as it is."""
        candidates = self.sampler.candidates(self.features, self.residual, patch)
        size = self.guidance.image_size
        pixels = candidates.shape[0] * size[0] * size[1]
        step = nodes_at_once(self.device, SEEN_AT_ONCE * self.rows * pixels)
        parts: dict[int, list[Tensor]] = {i: [] for i, _ in scorers}
        for start in range(0, self.count, step):
            stop = min(start + step, self.count)
            if self.nodes is None:
                images = candidates.nodes(start, stop)
            else:
                proposed = self.nodes[:, patch or 0, start:stop]
                images = torch.stack([candidates.at(own) for own in proposed.unbind(1)], 1)
            if patch is not None and image is not None:
                whole = image.unsqueeze(1).repeat(1, stop - start, 1, 1, 1)
                self._area(whole, patch).copy_(images)
                images = whole
            seen = resize(images.flatten(0, 1), size).unflatten(0, images.shape[:2])
            for i, scorer in scorers:
                parts[i].append(scorer.checked(seen, self.level, self.walks))
        return {i: torch.cat(own, 1) for i, own in parts.items()}

    def _patch_after_patch(
        self, scorers: list[tuple[int, Scorer]], cost: Tensor, best: Tensor
    ) -> tuple[Tensor, dict[int, Tensor]]:
        """Every patch in turn, by measurements and black boxes, from the nodes (R, P) of a first choice.

        Returns:
            nodes (R, P), and what the black boxes say of the image in the end, (R,) each.
        """
        best = best.clone()
        nodes = best if self.nodes is None else self.nodes.gather(2, best.unsqueeze(2)).squeeze(2)
        codes = nodes.reshape(-1, *self.grid)
        image = self.sampler.draw(self.features, codes, self.residual).output
        said: dict[int, Tensor] = {}
        for patch in range(self.patches):
            scores = self._scores(scorers, patch, image)
            best[:, patch] = self._pick(self._added(cost[:, patch], scores).unsqueeze(1), None)[:, 0]
            index = best[:, patch].unsqueeze(1)
            said = {i: own.gather(1, index).squeeze(1) for i, own in scores.items()}
            node = index if self.nodes is None else self.nodes[:, patch].gather(1, index)
            chosen = self.sampler.candidates(self.features, self.residual, patch).at(node.squeeze(1))
            self._area(image, patch).copy_(chosen)
        return best, said

    def _added(self, cost: Tensor, scores: dict[int, Tensor], pooled: bool = False) -> Tensor:
        """One cost (R, n) of the linear conditions' cost and the black boxes' scores: their ranks, if several.

        Nodes are ranked among those of their row, or (pooled) among those of all walks of the image.
        """
        measured = sum(self._weight(self.guidance.conditions[i]) for i in self.errors)
        parts = [(self._weight(self.guidance.conditions[i]), -own) for i, own in scores.items()]
        if isinstance(measured, Tensor):
            parts.append((measured, cost))
        return ranked(parts, self.guidance.batch_size if pooled else len(cost))

    # the choice

    def _pick(self, cost: Tensor, loose: Tensor | None) -> Tensor:
        """The cheapest node (or one of the `top_k`) of each patch, (R, P); any node where there is no evidence."""
        top_k = min(self.guidance.top_k, self.count)
        if top_k == 1:
            best = cost.argmin(2)
        else:
            several = cost.topk(top_k, largest=False).indices
            which = (self.guidance.random(cost.shape[:2], self.device) * top_k).long()
            best = several.gather(2, which.unsqueeze(2)).squeeze(2)
        return best if loose is None else torch.where(loose, self._anything(best.shape), best)

    def _anything(self, shape: Sequence[int]) -> Tensor:
        """Nodes where nothing is asked: the first that the prior proposes, or any."""
        if self.nodes is not None:
            return torch.zeros(*shape, dtype=torch.long, device=self.device)
        return (self.guidance.random(shape, self.device) * self.count).long()

    def _branch(
        self, cost: Tensor, loose: Tensor | None, best: Tensor, walks: int, scores: dict[int, Tensor]
    ) -> tuple[Tensor, Tensor]:
        """The best `walks` of all continuations of an image's walks: rows (R',) and nodes (R', P).

        Continuations of a walk are, with one patch, its nodes; with more, the best of every patch, and the same with
        another node in the one patch where that costs least. After black boxes with patches there is but one.
        """
        batch = self.guidance.batch_size
        if scores:
            cost = cost.gather(2, best.unsqueeze(2)).sum(1)
            total = self._added(cost, {i: own.unsqueeze(1) for i, own in scores.items()}, pooled=True)
            options = best.unsqueeze(1)
        elif self.patches == 1:
            total = cost[:, 0]
            if loose is not None:
                total = torch.where(loose, self.guidance.random(total.shape, self.device), total)
            options = torch.arange(self.count, device=self.device).expand(self.rows, -1).unsqueeze(2)
        else:
            lowest = cost.gather(2, best.unsqueeze(2))
            if loose is not None:
                lowest = lowest.masked_fill(loose.unsqueeze(2), 0)
            more = (cost - lowest).scatter(2, best.unsqueeze(2), torch.inf)
            if loose is not None:
                more = more.masked_fill(loose.unsqueeze(2), torch.inf)
            others = min(walks - 1, more[0].numel())
            increase, place = more.flatten(1).topk(others, largest=False)
            total = lowest.sum((1, 2)).unsqueeze(1) + torch.cat((torch.zeros_like(lowest[:, 0]), increase), 1)
            options = best.unsqueeze(1).repeat(1, 1 + others, 1)
            options[:, 1:].scatter_(2, (place // self.count).unsqueeze(2), (place % self.count).unsqueeze(2))
        pool = total.reshape(batch, -1)
        taken = pool.topk(min(walks, pool.shape[1]), largest=False).indices
        offset = torch.arange(batch, device=self.device).unsqueeze(1) * pool.shape[1]
        taken = (taken + offset).flatten()
        return taken // total.shape[1], options.flatten(0, 1)[taken]

    def _branch_by_patch(self, cost: Tensor, loose: Tensor | None, walks: int) -> tuple[Tensor, Tensor]:
        """The best `walks` continuations of every patch: rows (R', P) and nodes (R', P).

        A new walk is put together of patches of several: the first of what is best for each, and so on.
        """
        batch = self.guidance.batch_size
        pool = cost.reshape(batch, self.walks, self.patches, -1).transpose(1, 2).flatten(2)
        taken = pool.topk(min(walks, pool.shape[2]), largest=False).indices.mT  # (B, M', P)
        walk, node = taken // self.count, taken % self.count
        if loose is not None:
            # where nothing is asked a walk goes on as it is: what is drawn there fits what was drawn before
            loose = loose.unflatten(0, (batch, self.walks))[:, :1].expand_as(node)
            own = torch.arange(node.shape[1], device=self.device).clamp_max(self.walks - 1)
            walk, node = torch.where(loose, own[:, None], walk), torch.where(loose, self._anything(node.shape), node)
        rows = walk + torch.arange(batch, device=self.device).reshape(-1, 1, 1) * self.walks
        return rows.flatten(0, 1), node.flatten(0, 1)

    # rows and patches

    def _of_rows(self, tensor: Tensor) -> Tensor:
        """(1 or B, ...) -> (R, ...)."""
        tensor = tensor.to(self.device).expand(self.guidance.batch_size, *tensor.shape[1:])
        return tensor if self.walks == 1 else tensor.repeat_interleave(self.walks, 0)

    def _weight(self, condition: Condition) -> Tensor:
        """(R, 1)."""
        return self._of_rows(torch.as_tensor(condition.weight, dtype=torch.float32).reshape(-1, 1))

    def _cut(self, images: Tensor) -> Tensor:
        """(1 or B, X, h, w) -> (R * P, X, height of a cell, width)."""
        images = self._of_rows(images)
        return to_patches(images, (images.shape[2] // self.grid[0], images.shape[3] // self.grid[1]))

    def _area(self, images: Tensor, patch: int) -> Tensor:
        """The part (..., h / rows, w / columns) of images (..., h, w) that is one patch."""
        height, width = self.size[0] // self.grid[0], self.size[1] // self.grid[1]
        top, left = patch // self.grid[1] * height, patch % self.grid[1] * width
        return images[..., top : top + height, left : left + width]


def search(
    walk: Callable[[Selection, int], Walk],
    code_shapes: Sequence[tuple[int, ...]],
    guidance: Callable[..., Guidance],
) -> list[Tensor]:
    """The codes of a beam search by linear conditions, of each level as its sampler gives them.

    Levels whose patches lie alike are searched together, each patch with beams of its own, since one patch's choice
    says little of another's: features and images of a new walk are put together of those of the walks before. At their
    edges that is not quite what the network would give, so the codes found are walked anew before the next levels.

    Args:
        walk: `walk(select, levels)` walks the first levels.
        code_shapes: of each level, as `DDN.code_shapes` has them.
        guidance: makes a `Guidance` of `num_levels`, `given` and `by_patch`.
    """
    given: list[Tensor] = []
    for _, group in groupby(code_shapes):
        stop = len(given) + len(list(group))
        codes = walk(guidance(num_levels=stop, given=given, by_patch=True), stop).codes
        given = by_level(codes, code_shapes[:stop])
    return given


def ranked(parts: Sequence[tuple[Tensor, Tensor]], pools: int) -> Tensor:
    """Costs (R, n) with their weights (R, 1) as one: the only one, or the sum of the ranks in each pool of rows."""
    if len(parts) == 1:
        return parts[0][1]
    return sum(
        (weight * own.reshape(pools, -1).argsort(1).argsort(1).reshape_as(own) for weight, own in parts),
        torch.zeros_like(parts[0][1]),
    )


ROLLED_OUT = 512
"""About so many walks are finished at once."""


def roll_out(
    walk: Callable[[Selection, int], Walk],
    guidance: Callable[..., Guidance],
    conditions: Sequence[Condition],
    batch_size: int,
    image_size: Size,
    code_shapes: Sequence[tuple[int, ...]],
    rollouts: int,
    beams: int,
) -> tuple[list[Tensor], Tensor]:
    """Codes that black boxes like, which see finished images alone: a nested Monte Carlo search (Cazenave, 2009).

    Many walks are finished, by the prior and the linear conditions, and what is best is kept; then at each level at
    which a black box holds it is finished anew from there on, half as often as at the one before, since less is left
    to decide, and the best of all walks so far is kept. With beams the best `beams` are, each finished as often.

    Args:
        walk: `walk(select, each)` walks all levels, so many walks of each image.
        guidance: makes a `Guidance` of `given` and `each`.
        rollouts: how many walks at first, for each beam.

    Returns:
        the codes of each level, and what each black box said of the best walk after each, (B, L, number of conditions);
        NaN for linear conditions.
    """
    scorers = [(i, one) for i, one in enumerate(conditions) if isinstance(one, Scorer)]
    counts = [math.prod(shape) for shape in code_shapes]
    codes, said, history = torch.empty(batch_size, 0, sum(counts), dtype=torch.long), torch.empty(batch_size, 0, 0), []
    times = rollouts
    for level in range(len(counts)):
        if level == 0 or any(one.holds_at(level) for _, one in scorers):
            prefixes = codes[:, :, : sum(counts[:level])] if level else codes.new_empty(batch_size, beams, 0)
            found = [(codes, said)] if level else []
            at_once = max(1, ROLLED_OUT // (batch_size * prefixes.shape[1]))
            for start in range(0, times, at_once):
                own = prefixes.repeat(1, min(at_once, times - start), 1)
                each = own.shape[1]
                chosen = guidance(given=by_level(own.flatten(0, 1), code_shapes[:level]), each=each)
                walked = walk(chosen, each)
                seen = resize(walked.outputs[-1], image_size).unsqueeze(1)
                scores = chosen.scores[-1].clone()
                for i, one in scorers:
                    scores[:, i] = one.checked(seen, len(counts) - 1, each)[:, 0]
                found.append((walked.codes.unflatten(0, (batch_size, -1)), scores.unflatten(0, (batch_size, -1))))
            codes, said = (torch.cat(parts, 1) for parts in zip(*found, strict=True))
            best = _cost(conditions, said).topk(min(beams, codes.shape[1]), largest=False).indices.unsqueeze(2)
            codes, said = (own.gather(1, best.expand(-1, -1, own.shape[2])) for own in (codes, said))
            times = max(1, times // 2)
        history.append(said[:, 0])
    black = torch.tensor([isinstance(one, Scorer) for one in conditions], device=said.device)
    return by_level(codes[:, 0], code_shapes), torch.stack(history, 1).masked_fill(~black, torch.nan)


def _cost(conditions: Sequence[Condition], said: Tensor) -> Tensor:
    """One cost (B, n) of what conditions say of n finished walks, (B, n, number of conditions)."""
    weights = [torch.as_tensor(one.weight, dtype=torch.float32).reshape(-1, 1).to(said.device) for one in conditions]
    parts = [(weights[i], -said[:, :, i]) for i, one in enumerate(conditions) if isinstance(one, Scorer)]
    linear = [i for i, one in enumerate(conditions) if not isinstance(one, Scorer)]
    if linear:
        cost = sum(-weights[i] * said[:, :, i].nan_to_num() for i in linear)
        parts.append((torch.stack([weights[i].expand(len(said), 1) for i in linear]).sum(0), torch.as_tensor(cost)))
    return ranked(parts, len(said))
