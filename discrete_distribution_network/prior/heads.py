"""A learned prior: how likely each candidate of a level is, given the picture so far, the codes so far and a class.

    p(codes) = prod_l p(code_l | features_l, code_1 .. code_(l-1), class)

(with patches, code_l are those of all patches, each given those before it).
The tree of a DDN is not evenly filled, so choosing each node with chance 1/K draws pictures that look like no data. The
features of the network know what the picture looks like so far, and are computed anyway: a small head on them at every
level says which nodes are likely. Beside it stand what it must beat: how often each node is chosen (`Frequencies`), and
how often after the one before (`Chain`).
"""

from __future__ import annotations

import json
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Self, cast

import torch
import torch.nn.functional as F
from huggingface_hub import constants
from torch import Tensor, nn

from discrete_distribution_network.data.datasets import is_stream
from discrete_distribution_network.data.loader import Batch, Loader, first_batch, in_order, in_unit_range
from discrete_distribution_network.ddn import DDN
from discrete_distribution_network.errors import DataError, InvalidInput, ModelFileError, require, require_integer
from discrete_distribution_network.evaluation.metrics import counts_by_level
from discrete_distribution_network.io.atomic_file import atomic_file, fsync
from discrete_distribution_network.io.atomic_folder import sha256
from discrete_distribution_network.io.json_file import read_object
from discrete_distribution_network.io.plain_values import check_types
from discrete_distribution_network.io.safetensors_file import Shapes, load_checked
from discrete_distribution_network.model.blocks import zero_
from discrete_distribution_network.model.code_distribution import Pick
from discrete_distribution_network.model.guided_sampler import GuidedSampler, SamplerOutput
from discrete_distribution_network.model.selection import Nearest
from discrete_distribution_network.model.stages import Stage
from discrete_distribution_network.model.tensors import by_level
from discrete_distribution_network.model.walk import Branches, Selection
from discrete_distribution_network.prior.fitting import Budget, Fit, FitCheckpoints, as_bytes, digest
from discrete_distribution_network.training.processes import fast_autocast

WEIGHTS, CONFIG = "prior.safetensors", "prior.json"
"""Files of a prior, beside those of its model."""

LABEL_DROPOUT = 0.1
"""Chance that an image is shown without its label while a prior by class is fitted."""

POOLED = 4
"""What a head sees of a patch, or of the image, is averaged down to this side."""


PATCH_TEMPERATURES = (0.1, 0.6)
"""Of codes of patches at the second resolution, which say what shape there is, and above (docs/log.md)."""


def temperatures(ddn: DDN) -> list[float]:
    """Of each level the temperature at which `ddn` draws by a learned prior: 1 where one code holds for the image.

    Heads that were fitted for minutes give unlikely shapes too much of a chance, and a wrong patch is not mended later;
    what an image is, its first codes, they know well. Chosen by training images, for the preset at 32x32.
    """
    low, high = PATCH_TEMPERATURES
    return [
        1.0 if sampler.patch_size is None else low if place < 2 else high
        for place, stage in enumerate(cast("Iterator[Stage]", ddn.stages))
        for sampler in stage.samplers()
    ] * ddn.recurrence


class Frequencies:
    """How often each node of a level is chosen, whatever the picture: the plainest prior.

    Args:
        counts: for each level how often each node was chosen, (K,).
        code_shapes: how the codes of each level lie, as `DDN.code_shapes` has them; None for one code everywhere.
    """

    def __init__(self, counts: list[Tensor], code_shapes: Sequence[tuple[int, ...]] | None = None):
        self._shapes = [()] * len(counts) if code_shapes is None else code_shapes
        # one more each, so that a node that was never chosen is not impossible
        self._logits = [(own.double() + 1).div(own.sum() + len(own)).log().float() for own in counts]

    @classmethod
    def of(cls, ddn: DDN, codes: Tensor) -> Frequencies:
        """Of the codes (B, number of codes) of a training set."""
        counts = counts_by_level(codes, ddn.codebook_sizes, ddn.codes_per_level)
        return cls(counts, ddn.code_shapes)

    def begin(self, batch_size: int, labels: Tensor | None) -> int:
        require(labels is None, "no labels, which frequencies do not know", "some")
        return batch_size

    def logits(self, level: int, features: Tensor, state: int) -> Tensor:
        shape = self._shapes[level]
        scores = self._logits[level].to(features.device).reshape(1, -1, *(1,) * len(shape))
        return scores.expand(state, -1, *shape)

    def follow(self, level: int, codes: Tensor, state: int) -> int:
        return state


class Chain:
    """How often each node of a level is chosen after the one of the level before at its place: a first-order chain.

    Args:
        first: how often each node of the first level was chosen, (K,).
        pairs: for each later level, how often its nodes (columns) came after those of the level before (rows).
        code_shapes: how the codes of each level lie, as `DDN.code_shapes` has them; None for one code everywhere.
    """

    def __init__(self, first: Tensor, pairs: list[Tensor], code_shapes: Sequence[tuple[int, ...]] | None = None):
        def logs(counts: Tensor) -> Tensor:
            return (counts.double() + 1 / counts.shape[-1]).log().log_softmax(-1).float()

        self._shapes = [()] * (len(pairs) + 1) if code_shapes is None else code_shapes
        self._after = [logs(own) for own in (first.unsqueeze(0), *pairs)]  # the first level comes after a single node

    @classmethod
    def of(cls, ddn: DDN, codes: Tensor) -> Chain:
        """Of the codes (B, number of codes) of a training set."""
        parts, sizes = by_level(codes, ddn.code_shapes), ddn.codebook_sizes
        pairs = [
            torch.bincount(
                (_lying_at(before, after.shape[1:]) * size + after).flatten(), minlength=rows * size
            ).reshape(rows, size)
            for (before, rows), (after, size) in pairwise(zip(parts, sizes, strict=True))
        ]
        return cls(torch.bincount(parts[0].flatten(), minlength=sizes[0]), pairs, ddn.code_shapes)

    def begin(self, batch_size: int, labels: Tensor | None) -> Tensor:
        require(labels is None, "no labels, which a chain does not know", "some")
        return torch.zeros(batch_size, dtype=torch.long)

    def logits(self, level: int, features: Tensor, state: Tensor) -> Tensor:
        return self._after[level].to(features.device)[_lying_at(state, self._shapes[level])].movedim(-1, 1)

    def follow(self, level: int, codes: Tensor, state: Tensor) -> Tensor:
        return codes


def _lying_at(codes: Tensor, shape: Sequence[int]) -> Tensor:
    """Codes (B, ...) of a level at the places of another one: (B, *shape)."""
    grid = codes.reshape(len(codes), 1, *(codes.shape[1:] or (1, 1)))
    lying = F.interpolate(grid.double(), tuple(shape) or (1, 1), mode="nearest")
    return lying.long().reshape(len(codes), *shape)


class LearnedPrior(nn.Module, ABC):
    """What the learned priors share: what they know of nodes and classes, and files.

    Args:
        ddn: whose codes it is for; nodes of like weights begin with like rows (see `alike`).
        dim: width.
        num_classes: of the labels, if it is to be one by class.
    """

    kind: ClassVar[str]
    """Its name in `prior.json`."""

    def __init__(self, ddn: DDN, dim: int, num_classes: int | None):
        super().__init__()
        require(dim >= 1, "dim of at least 1", dim)
        require(num_classes is None or num_classes >= 1, "num_classes of at least 1, or None", num_classes)
        self.dim, self.num_classes = dim, num_classes
        self.code_shapes, self.codebook_sizes = ddn.code_shapes, ddn.codebook_sizes
        self.start = nn.Parameter(torch.zeros(1, dim))
        self.classes = None if num_classes is None else nn.Embedding(num_classes, dim)
        self.nodes = nn.ModuleList(
            nn.Embedding.from_pretrained(projected_weights(sampler, dim), freeze=False)
            for sampler in ddn.samplers * ddn.recurrence
        )

    def begin_alike(self, level: int, score: Tensor) -> None:
        """Let the weights (K, dim) of the layer that scores a level's nodes begin as their rows do."""
        with torch.no_grad():
            score.copy_(cast("nn.Embedding", self.nodes[level]).weight / self.dim**0.5)

    @abstractmethod
    def begin(self, batch_size: int, labels: Tensor | None = None) -> Any:
        """See `selection.CodeDistribution`; labels are classes (B,), if the prior knows classes."""

    @abstractmethod
    def logits(self, level: int, features: Tensor, state: Any) -> Tensor:
        """See `selection.CodeDistribution`."""

    @abstractmethod
    def follow(self, level: int, codes: Tensor, state: Any) -> Any:
        """See `selection.CodeDistribution`."""

    @abstractmethod
    def bits(self, ddn: DDN, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """What the codes of the images cost by this prior, in bits, of each level: (L,), with a gradient for the prior.

        Args:
            ddn: in evaluation mode.
        """

    @property
    def arguments(self) -> dict[str, Any]:
        """With what it was made, beside its network."""
        return {"dim": self.dim, "num_classes": self.num_classes}

    def wanted(self, batch_size: int, labels: Tensor | None) -> Tensor:
        """What is wanted, (B, dim): the classes, or the same for all; a class of -1 is none."""
        start = self.start.expand(batch_size, -1)
        if self.classes is None:
            require(labels is None, "no labels, since this prior was fitted without", "some")
            return start
        if labels is None:
            raise InvalidInput(f"expected labels below {self.num_classes}, since this prior is one by class, got none")
        require(tuple(labels.shape) == (batch_size,), f"labels of shape ({batch_size},)", tuple(labels.shape))
        integer = not (labels.is_floating_point() or labels.is_complex())
        require(integer, "integer labels", labels.dtype)
        inside = bool(((labels >= -1) & (labels < len(self.classes.weight))).all())
        require(inside, f"labels in [0, {self.num_classes}), or -1 for none", labels.tolist()[:8])
        labels = labels.to(self.start.device)
        return start + self.classes(labels.clamp_min(0)) * (labels >= 0).unsqueeze(1)

    def save(self, folder: str | Path) -> None:
        """Write `prior.safetensors` and `prior.json` into the folder of its model.

        Raises:
            ModelFileError: there is no model in the folder.
            OutputError: the disk is full or cannot be written; a prior that was there stays.
        """
        weights, config = Path(folder) / WEIGHTS, Path(folder) / CONFIG
        told = {"model": _fingerprint(Path(folder)), "kind": self.kind, **self.arguments}
        text = (json.dumps(told, indent=2) + "\n").encode()
        with atomic_file(config) as new_config, atomic_file(weights) as new_weights:
            for path, data in ((new_weights, as_bytes(self.state_dict())), (new_config, text)):
                path.write_bytes(data)
                fsync(path)
            # a kill between the two leaves weights without a description, never beside one of others
            if config.exists() and config.read_bytes() != text:
                config.unlink()

    @classmethod
    def load(cls, folder: str | Path, ddn: DDN) -> Self:
        """The prior beside a model.

        Raises:
            ModelFileError: there is none, it is damaged, or of another model.
        """
        folder = Path(folder)
        config = read_config(folder)
        model, kind = config.pop("model", None), config.pop("kind", None)
        if kind != cls.kind:
            raise ModelFileError(
                f"expected a prior of kind {cls.kind} in {folder}, got {kind!r:.80}; fit one of that kind"
            )
        if model != _fingerprint(folder):
            raise ModelFileError(
                f"expected {folder / CONFIG} of the model beside it, got one of another model; fit a prior with "
                "`ddn prior`"
            )

        def make(_: Shapes, ddn: DDN) -> Any:
            check_types(cls, config)
            return cls(ddn, **config)

        expected = f"a prior's arguments in {folder / CONFIG}"
        prior: Self = load_checked(make, ddn, folder / WEIGHTS, expected, ddn.start.device)
        return prior.eval()


class Prior(LearnedPrior):
    """Small heads on a network's own features, one a level, with a memory of the codes so far at each place.

    The patches of a level know those of the levels before, and one another: each is drawn after those to the left of it
    and above, as the pixels of a PixelCNN are (van den Oord et al., arXiv 1606.05328).

    Args:
        ddn: whose codes it is for.
        dim: width of the heads and of the memory.
        num_classes: of the labels, if it is to be one by class.
        dropout: in the heads, while it is fitted.
        alone: share of the images whose patches do not know one another while it is fitted, so that `logits` may be
            asked before any code of a level is chosen.
    """

    kind = "heads"

    def __init__(
        self, ddn: DDN, dim: int = 96, num_classes: int | None = None, dropout: float = 0.1, alone: float = 0.1
    ):
        super().__init__(ddn, dim, num_classes)
        self.alone = alone
        self.grids = [(shape[0], shape[1]) if shape else (1, 1) for shape in ddn.code_shapes]
        self.heads = nn.ModuleList(
            Head(one.dim, dim, one.codebook_size, one.patch_size, grid, dropout)
            for one, grid in zip(ddn.samplers * ddn.recurrence, self.grids, strict=True)
        )
        for level, head in enumerate(self._heads()):
            self.begin_alike(level, head.score.weight)

    def _heads(self) -> list[Head]:
        return [head for head in self.heads if isinstance(head, Head)]

    def begin(self, batch_size: int, labels: Tensor | None = None) -> Tensor:
        """The memory before the first level, (B, dim, rows, columns) of its grid."""
        return self.wanted(batch_size, labels)[:, :, None, None].expand(-1, -1, *self.grids[0])

    def logits(self, level: int, features: Tensor, state: Tensor) -> Tensor:
        """See `selection.CodeDistribution`; no code of this level is known."""
        head = self._heads()[level]
        scores = head.scores(head.look_at(features, state)).movedim(-1, 1)
        return scores.reshape(*scores.shape[:2], *self.code_shapes[level])

    def draw(self, level: int, features: Tensor, state: Tensor, pick: Pick) -> Tensor:
        """See `selection.AutoregressiveDistribution`."""
        head, (height, width) = self._heads()[level], self.grids[level]
        seen = head.look_at(features, state)
        rows = seen.new_zeros(len(seen), *self.grids[level], self.dim)
        codes = torch.zeros(rows.shape[:3], dtype=torch.long, device=rows.device)
        for row in range(height):
            for column in range(width):
                here = slice(row, row + 1), slice(column, column + 1)
                codes[:, *here] = pick(head.scores(seen[:, *here], shifted(rows, CAUSAL_CONTEXT, *here)).float())
                rows[:, *here] = self.nodes[level](codes[:, *here]).to(rows.dtype)
        return codes.reshape(len(codes), *self.code_shapes[level])

    def follow(self, level: int, codes: Tensor, state: Tensor) -> Tensor:
        rows = self._rows(level, codes) / len(self.heads) ** 0.5
        known = self._heads()[level].remember(state.movedim(1, -1) + rows).movedim(-1, 1)
        grid = self.grids[min(level + 1, len(self.grids) - 1)]
        return known if known.shape[2:] == grid else F.interpolate(known, grid, mode="nearest")

    def _rows(self, level: int, codes: Tensor) -> Tensor:
        """(B, rows, columns, dim) of codes as a level's sampler has them."""
        return cast("Tensor", self.nodes[level](codes.reshape(len(codes), *self.grids[level])))

    def bits(self, ddn: DDN, images: Tensor, labels: Tensor | None = None) -> Tensor:
        watch = _Watch(Nearest(images))
        with torch.no_grad():
            ddn.walk(watch, len(images), None, labels if ddn.num_classes is not None else None)
        together = torch.rand(len(images), 1, 1, 1, device=images.device) >= (self.alone if self.training else 0)
        state, costs = self.begin(len(images), labels), []
        for level, (features, codes) in enumerate(watch.seen):
            head = self._heads()[level]
            before = shifted(self._rows(level, codes) * together, CAUSAL_CONTEXT) if codes.ndim > 1 else None
            scores = head.scores(head.look_at(features, state), before).flatten(0, -2)
            losses = F.cross_entropy(scores, codes.flatten(), reduction="sum")
            costs.append(losses / len(images) / math.log(2))
            state = self.follow(level, codes, state)
        return torch.stack(costs)


@torch.no_grad()
def projected_weights(sampler: GuidedSampler, dim: int) -> Tensor:
    """Rows (K, dim) of about unit variance, alike for nodes whose weights are: random projections of these weights.

    A code's number says nothing; so what is learnt of one node holds for those like it from the first step on.
    """
    nodes = torch.cat([parameter.flatten(1).float() for parameter in sampler.keys.parameters()], 1)
    nodes = nodes - nodes.mean(0)
    rows = nodes @ torch.randn(nodes.shape[1], dim, device=nodes.device)
    return rows / rows.square().mean().sqrt().clamp_min(1e-12)


def read_config(folder: Path) -> dict[str, Any]:
    """What `prior.json` in a model's folder says: the prior's kind, its arguments, and of which model it is.

    Raises:
        ModelFileError: there is none, or it is damaged.
    """
    if not (folder / CONFIG).is_file():
        raise ModelFileError(f"expected a prior in {folder}, found none; fit one with `ddn prior`")
    return read_object(folder / CONFIG, "a prior's arguments")


def _fingerprint(folder: Path) -> str:
    """Which model's weights lie in a folder."""
    path = folder / constants.SAFETENSORS_SINGLE_FILE
    if not path.is_file():
        raise ModelFileError(f"expected a model in {folder}, found no {path.name}; a prior lies beside its model")
    return sha256(path)


NEIGHBOURHOOD = tuple((down, across) for down in (-1, 0, 1) for across in (-1, 0, 1))
"""A place and the eight around it, as steps down and across."""

CAUSAL_CONTEXT = ((-1, -1), (-1, 0), (-1, 1), (0, -1))
"""Those of them that come before it, row by row."""


def shifted(
    grid: Tensor, steps: Sequence[tuple[int, int]], down: slice | None = None, across: slice | None = None
) -> Tensor:
    """What lies so many steps from each place of a grid (B, rows, columns, D): (B, rows, columns, steps * D).

    Beyond the grid there are zeros. With `down` and `across` of these rows and columns alone.
    """
    rows, columns = (range(length) for length in grid.shape[1:3])
    rows, columns = rows if down is None else rows[down], columns if across is None else columns[across]
    padded = F.pad(grid, (0, 0, 1, 1, 1, 1))
    return torch.cat(
        [padded[:, rows[0] + 1 + i : rows[-1] + 2 + i, columns[0] + 1 + j : columns[-1] + 2 + j] for i, j in steps], -1
    )


class Head(nn.Module):
    """What is likely at one level, at each place (patch, or the whole image) of its grid.

    Of each patch it sees averages of the features over at most POOLED x POOLED parts and what is remembered, and the
    same of the patches around; then the codes of those before it. What it passes on is (B, rows, columns, dim).
    """

    def __init__(
        self, width: int, dim: int, codebook_size: int, patch_size: int | None, grid: tuple[int, int], dropout: float
    ):
        super().__init__()
        self.grid, self.alone = grid, patch_size is None
        self.side = POOLED if patch_size is None else min(POOLED, patch_size)
        self.place = nn.Parameter(torch.randn(*grid, dim) * 0.1)
        self.look = nn.Linear(width * self.side**2, dim)
        self.recall = nn.Linear(dim, dim)
        self.around = _residual(dim, dim if self.alone else dim * len(NEIGHBOURHOOD))
        self.before = None if self.alone else zero_(nn.Linear(dim * len(CAUSAL_CONTEXT), dim, bias=False))
        self.together = _residual(dim, dim)
        self.score = nn.Linear(dim, codebook_size)
        self.memory = _residual(dim, dim)
        self.dropout = nn.Dropout(dropout)

    def look_at(self, features: Tensor, state: Tensor) -> Tensor:
        """Features (B, D, H, W) and the memory (B, dim, rows, columns) -> what is seen at each place."""
        with torch.no_grad():  # the features are the network's, which a prior does not change
            rows, columns = self.grid
            averages = F.adaptive_avg_pool2d(features, (rows * self.side, columns * self.side))
            averages = F.group_norm(averages, 1).reshape(len(features), -1, rows, self.side, columns, self.side)
            averages = averages.permute(0, 2, 4, 1, 3, 5).flatten(3).to(self.look.weight.dtype)
        seen = self.look(averages) + self.recall(state.movedim(1, -1) + self.place)
        return cast("Tensor", seen + self.around(seen if self.alone else shifted(seen, NEIGHBOURHOOD)))

    def scores(self, seen: Tensor, before: Tensor | None = None) -> Tensor:
        """Scores (B, rows, columns, K), given the rows of the codes `CAUSAL_CONTEXT` each place, if they are known."""
        if self.before is not None and before is not None:
            seen = seen + self.before(before)
        return cast("Tensor", self.score(self.dropout(F.silu(seen + self.together(seen)))))

    def remember(self, known: Tensor) -> Tensor:
        return cast("Tensor", known + self.memory(known))


def _residual(dim: int, seen: int) -> nn.Sequential:
    """What is added to something (..., dim), at first nothing, by what is seen (..., seen)."""
    return nn.Sequential(nn.SiLU(), nn.Linear(seen, dim), nn.SiLU(), zero_(nn.Linear(dim, dim)))


class _Watch:
    """Another selection, whose features and codes are kept."""

    def __init__(self, select: Selection):
        self.select = select
        self.seen: list[tuple[Tensor, Tensor]] = []

    def __call__(
        self, level: int, sampler: GuidedSampler, features: Tensor, residual: Tensor | None
    ) -> SamplerOutput | Branches:
        chosen = self.select(level, sampler, features, residual)
        self.seen.append((features, chosen.codes))
        return chosen


class Fitted(NamedTuple):
    """What fitting a prior gave.

    Attributes:
        steps: of the optimiser.
        train_bits: what the codes of the last hundred training batches cost, in bits an image.
        test_bits: what those of the held-out images cost, at best.
        uniform_bits: what they cost without a prior.
    """

    steps: int
    train_bits: float
    test_bits: float
    uniform_bits: float


def fit(
    prior: LearnedPrior,
    ddn: DDN,
    dataset: Any,
    test_dataset: Any,
    *,
    steps: int | None = None,
    minutes: float | None = 5.0,
    batch_size: int = 64,
    learning_rate: float = 2e-3,
    test_images: int = 1000,
    evaluate_every: int = 200,
    seed: int = 0,
    progress: bool = True,
    max_bad_images: int = 0,
    checkpoint: FitCheckpoints | None = None,
) -> Fitted:
    """Fit a prior to the codes of a data set, in place; the weights that cost held-out images least are kept.

    Args:
        dataset, test_dataset: see `data.py`; with labels if the prior is one by class.
        steps, minutes: end after so many steps, or after so much time, whichever comes first; None for no such end.
        batch_size: images a step; fewer if there are fewer.
        test_images: only the first so many held-out images are looked at.
        checkpoint: where the fit is kept now and then, and when a signal ends it, so that it can go on exactly; its
            `clear` removes what is there, once the prior is saved.

    Raises:
        InvalidInput: an argument is of another kind or out of its range, or the prior is of another network.
        DataError: there are no images, or no labels where the prior is one by class.
        FitInterrupted: SIGTERM or Ctrl-C came, and there is a `checkpoint`.
    """
    require_integer(test_images, "test_images")
    size = None if is_stream(dataset) else len(dataset)
    budget = Budget(steps, minutes, batch_size, learning_rate, evaluate_every, seed)
    _check_data(dataset, test_dataset, ddn, prior.num_classes is not None, max_bad_images)
    if (list(prior.code_shapes), prior.codebook_sizes) != (list(ddn.code_shapes), list(ddn.codebook_sizes)):
        raise InvalidInput(
            f"expected a prior of this network's levels, with K {ddn.codebook_sizes}, got one of levels with K "
            f"{prior.codebook_sizes}; make it of this network"
        )
    if size is not None:
        budget.batch_size = min(budget.batch_size, size)
    device, kind, fast = ddn.start.device, ddn.start.dtype, fast_walk(ddn)
    loader = Loader(dataset, ddn, budget.batch_size, seed=budget.seed, max_bad_images=max_bad_images)
    labelled = prior.num_classes is not None

    def bits(batch: Batch) -> Tensor:
        labels = _labels(batch.labels, labelled)
        if labels is not None:  # so that it can do without, which `sample` with a guidance_scale asks of it
            labels = labels.masked_fill(torch.rand(len(labels)) < LABEL_DROPOUT, -1)
        with fast:
            return prior.bits(ddn, in_unit_range(batch.images.to(device)).to(kind), labels).sum()

    def measure() -> Iterator[tuple[float, int]]:
        for batch in in_order(test_dataset, ddn, MEASURED_AT_ONCE, limit=test_images, max_bad_images=max_bad_images):
            labels = _labels(batch.labels, labelled)
            with fast:
                costs = prior.bits(ddn, batch.images.to(device, kind), labels)
            yield float(costs.sum()) * len(batch.images), len(batch.images)

    def options() -> dict[str, Any]:
        network = digest(dict(ddn.named_parameters()))
        about = {"network": network, "images": size, "test_images": test_images}
        return {"kind": prior.kind, **prior.arguments, **about}

    was_training = ddn.training
    ddn.eval()
    try:
        prior.to(device)
        found = Fit(prior, bits, loader.batches, measure, budget, device, checkpoint, options, progress).run()
    finally:
        ddn.train(was_training)
    return Fitted(found.steps, found.train_bits, found.best, ddn.bits_per_image)


def fast_walk(ddn: DDN) -> AbstractContextManager[Any]:
    """Autocast as `fast_autocast` has it for a network in float32; none for one that is in another type already."""
    return fast_autocast(ddn.start.device) if ddn.start.dtype == torch.float32 else nullcontext()


MEASURED_AT_ONCE = 200
"""Held-out images a batch."""


def _check_data(dataset: Any, test_dataset: Any, ddn: DDN, labelled: bool, max_bad_images: int) -> None:
    """Say at once, and not after a while of fitting, that data sets have no images, or no labels where they must."""
    for name, given in (("images to fit a prior to", dataset), ("held-out images", test_dataset)):
        if not (hasattr(given, "__iter__") or hasattr(given, "__getitem__")):
            raise InvalidInput(f"expected {name} as a data set, got a {type(given).__name__}; see data.py")
        if is_stream(given):  # some can be read only once
            continue
        if len(given) == 0:
            raise DataError(f"expected {name}, got none; give some")
        _labels(first_batch(given, ddn, 1, max_bad_images).labels, labelled)


def _labels(labels: Tensor | None, wanted: bool) -> Tensor | None:
    if wanted and labels is None:
        raise DataError("expected a label with every image to fit a prior by class, got images without; give labels")
    return labels if wanted else None
