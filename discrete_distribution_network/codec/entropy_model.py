"""`EntropyModel`: how likely codes are, by the codes before them alone, and the same to the last bit on every machine.

    h_l = relu(B relu(A * (x_l + place)))     p(codes of level l) = softmax(W h_l)     x_(l+1) = x_l + E[codes] + R h_l

x_l is a vector for each place of the level's grid; * is a convolution over 3x3 places.

Range coding needs it: where what decodes finds a chance other than what encoded, all after it is noise. So, once
fitted, weights are multiples of 2^-12, and what layers pass on is rounded down to multiples of 2^-8: fixed-point
numbers, held in float64. Their products and sums are exact there, in whatever order, by however many threads and for
however many images at once they are made. Chances are integers that sum to 2^16, by a table of the exponential.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate, count
from pathlib import Path
from typing import Any, NamedTuple, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from discrete_distribution_network.data.loader import key
from discrete_distribution_network.ddn import DDN
from discrete_distribution_network.errors import InvalidInput, ModelFileError, require
from discrete_distribution_network.io.atomic_file import write_bytes
from discrete_distribution_network.io.pretrained import Shapes, compare, load_strictly, read_tensors
from discrete_distribution_network.model.blocks import zero_
from discrete_distribution_network.model.tensors import by_level
from discrete_distribution_network.prior.base import as_bytes, projected_weights
from discrete_distribution_network.prior.fit_checkpoints import FitCheckpoints
from discrete_distribution_network.prior.fit_loop import Budget, Fit, digest
from discrete_distribution_network.training.processes import fast_autocast

ENTROPY_MODEL = "code_prior.safetensors"
"""File of a `EntropyModel`, beside its model."""

INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
"""Types that codes come in."""

PRECISION = 16
"""Counts sum to 2^16."""

WEIGHT, PASSED, SCORE = 2.0**-12, 2.0**-8, 2.0**-5
"""Of what weights, what layers pass on, and scores are multiples."""

LIMIT = 2.0**7
"""What layers pass on is below it, so that exact sums stay far below 2^53 of their smallest parts."""

LEAST = 16.0
"""Scores so far below the best count as no chance but the least."""

EXP = torch.tensor([round(2**24 * math.exp(-place * SCORE)) for place in range(int(LEAST / SCORE) + 1)])
"""e^-x of x in steps of `SCORE`, as integers."""


class EntropyModel(nn.Module):
    """How likely codes are, by those before them. While it is fitted it is an ordinary network.

    It stays on the CPU, wherever the network is whose codes they are.

    Args:
        code_shapes: how the codes of each level lie, as `DDN.code_shapes` has them.
        codebook_sizes: K of each level.
        dim: width of what is known at each place.
        hidden: width of the layers that look at it.
        dropout: while it is fitted: of what the layers pass on, and of whole codes, so that it does not learn them by
            heart.
    """

    def __init__(
        self,
        code_shapes: Sequence[tuple[int, ...]],
        codebook_sizes: Sequence[int],
        dim: int = 64,
        hidden: int = 128,
        dropout: float = 0.0,
    ):
        super().__init__()
        require(max(codebook_sizes) < 1 << PRECISION, f"K below 2^{PRECISION} for a code prior", max(codebook_sizes))
        require(min(dim, hidden) >= 1, "dim and hidden of at least 1", (dim, hidden))
        self.grids = [(shape[0], shape[1]) if shape else (1, 1) for shape in code_shapes]
        self.code_shapes, self.codebook_sizes, self.dim, self.hidden = code_shapes, codebook_sizes, dim, hidden
        self.dropout = dropout
        self.levels = nn.ModuleList(
            _Level(grid, size, dim, hidden) for grid, size in zip(self.grids, codebook_sizes, strict=True)
        )

    @classmethod
    def of(cls, ddn: DDN, dim: int = 64, hidden: int = 128, dropout: float = 0.0) -> Self:
        """One for a network's codes; nodes of like weights begin with like rows."""
        prior = cls(ddn.code_shapes, ddn.codebook_sizes, dim, hidden, dropout)
        with torch.no_grad():
            for level, sampler in zip(prior._levels(), ddn.samplers * ddn.recurrence, strict=True):
                rows = projected_weights(sampler, dim).cpu()
                level.nodes.weight.copy_(rows / len(prior.levels) ** 0.5)
                level.score.weight.copy_((rows @ torch.randn(dim, hidden) / (dim * hidden) ** 0.5)[:, :, None, None])
        return prior

    def _levels(self) -> list[_Level]:
        return [level for level in self.levels if isinstance(level, _Level)]

    # fitting

    def check(self, codes: Tensor, name: str = "codes") -> None:
        """Raise `InvalidInput` unless these are codes (N, number of codes) of this prior's levels, N at least 1."""
        total = sum(math.prod(grid) for grid in self.grids)
        if not isinstance(codes, Tensor) or codes.ndim != 2 or len(codes) < 1 or codes.shape[1] != total:
            came = tuple(codes.shape) if isinstance(codes, Tensor) else f"a {type(codes).__name__}"
            raise InvalidInput(f"expected {name} as a tensor (N, {total}) of at least one image, got {came}")
        if codes.dtype not in INTEGERS:
            raise InvalidInput(f"expected {name} as integers, got {codes.dtype}")
        for level, (part, size) in enumerate(zip(by_level(codes, self.grids), self.codebook_sizes, strict=True)):
            lowest, highest = int(part.min()), int(part.max())
            if lowest < 0 or highest >= size:
                raise InvalidInput(f"expected {name} in [0, {size}) at level {level}, got {lowest} to {highest}")

    def bits(self, codes: Tensor) -> Tensor:
        """What codes (B, number of codes) cost, in bits, of each level: (L,), with a gradient."""
        known, costs = self._nothing(len(codes)), []
        for level, grid, part in zip(self._levels(), self.grids, by_level(codes, self.grids), strict=True):
            known = _enlarged(known, grid)
            seen = F.dropout(level.look(known), self.dropout, self.training)
            costs.append(F.cross_entropy(level.score(seen), part, reduction="sum") / len(codes) / math.log(2))
            known = level.learn(known, seen, part, forgotten=self.dropout if self.training else 0.0)
        return torch.stack(costs)

    def _nothing(self, batch_size: int) -> Tensor:
        weight = self._levels()[0].place
        return torch.zeros(batch_size, self.dim, *self.grids[0], dtype=weight.dtype, device=weight.device)

    # exactly

    @torch.no_grad()
    def exact(self) -> Self:
        """The same with rounded weights, ready to be asked: what is saved and loaded."""
        self.double().eval().requires_grad_(False)
        for parameter in self.parameters():
            parameter.copy_(parameter.div(WEIGHT).round().clamp(-(2**15), 2**15 - 1) * WEIGHT)
        return self

    def begin(self, batch_size: int, labels: Tensor | None = None) -> Tensor:
        """What is known before the first level, float64 (B, dim, rows, columns)."""
        require(labels is None, "no labels, which a code prior does not know", "some")
        require(self._levels()[0].place.dtype == torch.float64, "a code prior made exact", "one being fitted")
        return self._nothing(batch_size)

    @torch.no_grad()
    def counts(self, level: int, state: Tensor, place: int | None = None) -> Tensor:
        """How likely each code is, as integers of at least 1 that sum to 2^16: (B, K, rows, columns).

        Args:
            place: of that place of the grid alone, counted row by row: (B, K, 1, 1).
        """
        own = self._levels()[level]
        scores = own.score(own.look(state, rounded, place)).div(SCORE).floor()
        below = (scores.amax(1, keepdim=True) - scores).clamp_max(len(EXP) - 1).long()
        shares = EXP.to(below.device)[below]
        left = (1 << PRECISION) - shares.shape[1]
        counts = 1 + shares * left // shares.sum(1, keepdim=True)
        rest = (1 << PRECISION) - counts.sum(1, keepdim=True)
        places = torch.arange(shares.shape[1], device=below.device).reshape(1, -1, 1, 1)
        first = (below * len(places[0]) + places).argmin(1, keepdim=True)  # of equals: argmin alone may take any
        return counts.scatter_add(1, first, rest)

    def logits(self, level: int, features: Tensor | None, state: Tensor) -> Tensor:
        """See `selection.CodeDistribution`; the features are not looked at."""
        counts = self.counts(level, state)
        logits = counts.double().log().reshape(*counts.shape[:2], *self.code_shapes[level]).float()
        return logits if features is None else logits.to(features.device)

    @torch.no_grad()
    def follow(self, level: int, codes: Tensor, state: Tensor) -> Tensor:
        """What is known after a level, at the next one's places."""
        own, codes = self._levels()[level], codes.to(state.device).reshape(-1, *self.grids[level])
        known = own.learn(state, own.look(state, rounded), codes, rounded)
        return _enlarged(known, self.grids[min(level + 1, len(self.grids) - 1)])

    @torch.no_grad()
    def cost(self, codes: Tensor) -> float:
        """What codes (B, number of codes) cost by the integers, in bits an image."""
        bits = 0.0
        for some in codes.long().split(500):
            state = self.begin(len(some))
            for level, part in enumerate(by_level(some, self.grids)):
                own = self.counts(level, state).gather(1, part.unsqueeze(1))
                bits += float((PRECISION - own.double().log2()).sum())
                state = self.follow(level, part, state)
        return bits / len(codes)

    def levels_of(self, count: int) -> int:
        """How many of the first levels have so many codes in all."""
        ends = list(accumulate(math.prod(grid) for grid in self.grids))
        require(count in ends, "codes that end with a level", f"{count} codes", f"give {ends[-1]}")
        return ends.index(count) + 1

    @property
    def uniform_bits(self) -> float:
        """What the codes of an image cost where all are equally likely."""
        pairs = zip(self.grids, self.codebook_sizes, strict=True)
        return sum(math.prod(grid) * math.log2(size) for grid, size in pairs)

    @property
    def fingerprint(self) -> bytes:
        """8 bytes that tell priors apart."""
        digest = hashlib.sha256(repr((self.grids, list(self.codebook_sizes), self.dim, self.hidden)).encode())
        for tensor in _integers(self).values():
            digest.update(tensor.numpy().tobytes())
        return digest.digest()[:8]

    def save(self, folder: str | Path) -> None:
        """Write `code_prior.safetensors` into the folder of its model.

        Raises:
            OutputError: the disk is full or cannot be written; a code prior that was there stays.
        """
        write_bytes(Path(folder) / ENTROPY_MODEL, as_bytes(_integers(self)))

    @classmethod
    def load(cls, folder: str | Path, ddn: DDN) -> Self:
        """The code prior beside a model.

        Raises:
            ModelFileError: there is none, it is damaged, or of another model.
        """
        path = Path(folder) / ENTROPY_MODEL
        if not path.is_file():
            raise ModelFileError(f"expected a code prior in {path}, found none; fit one with `ddn prior --kind codes`")

        def make(shapes: Shapes, ddn: DDN) -> Any:
            hidden, dim = shapes["levels.0.first.weight"][:2]
            return cls(ddn.code_shapes, ddn.codebook_sizes, dim, hidden).double()

        shapes = compare(make, ddn, path, f"the weights of a code prior in {path}", stored=torch.int16)
        prior: Self = make(shapes, ddn)
        load_strictly(prior, {name: value.double() * WEIGHT for name, value in read_tensors(path).items()}, path)
        return prior.exact()


def as_is(x: Tensor) -> Tensor:
    return x


def rounded(x: Tensor) -> Tensor:
    """What layers pass on, once the weights are rounded."""
    return x.div(PASSED).floor().mul(PASSED).clamp(-LIMIT, LIMIT)


class _Level(nn.Module):
    def __init__(self, grid: tuple[int, int], codebook_size: int, dim: int, hidden: int):
        super().__init__()
        around = 1 if grid == (1, 1) else 3
        self.place = nn.Parameter(torch.randn(dim, *grid) * 0.1)
        self.first = nn.Conv2d(dim, hidden, around, padding=around // 2)
        self.second = nn.Conv2d(hidden, hidden, 1)
        self.score = nn.Conv2d(hidden, codebook_size, 1)
        self.nodes = nn.Embedding(codebook_size, dim)
        self.rest = zero_(nn.Conv2d(hidden, dim, 1))

    def look(self, known: Tensor, passed: Callable[[Tensor], Tensor] = as_is, place: int | None = None) -> Tensor:
        """(B, dim, rows, columns) -> (B, hidden, rows, columns); of one place alone, (B, hidden, 1, 1), if given."""
        known = known + self.place
        if place is None:
            seen = self.first(known)
        else:
            (row, column), side = divmod(place, known.shape[3]), self.first.kernel_size[0]
            around = F.pad(known, (side // 2,) * 4)[:, :, row : row + side, column : column + side]
            seen = F.linear(around.flatten(1), self.first.weight.flatten(1), self.first.bias)[:, :, None, None]
        return passed(F.relu(self.second(passed(F.relu(seen)))))

    def learn(
        self,
        known: Tensor,
        seen: Tensor,
        codes: Tensor,
        passed: Callable[[Tensor], Tensor] = as_is,
        forgotten: float = 0.0,
    ) -> Tensor:
        """What is known once the codes (B, rows, columns) are; each of them is forgotten by that chance."""
        rows = self.nodes(codes).permute(0, 3, 1, 2)
        if forgotten:
            rows = rows * (torch.rand_like(rows[:, :1]) >= forgotten) / (1 - forgotten)
        return passed(known + rows + self.rest(seen))


def _enlarged(known: Tensor, grid: tuple[int, int]) -> Tensor:
    return known if known.shape[2:] == grid else F.interpolate(known, grid, mode="nearest")


def _integers(prior: EntropyModel) -> dict[str, Tensor]:
    """Its weights, in units of `WEIGHT`."""
    return {name: value.detach().cpu().div(WEIGHT).short() for name, value in sorted(prior.state_dict().items())}


class FittedCodes(NamedTuple):
    """What fitting a code prior gave.

    Attributes:
        steps: of the optimiser.
        test_bits: what held-out codes cost by it, in bits an image, as it is saved.
        uniform_bits: what they cost without.
    """

    steps: int
    test_bits: float
    uniform_bits: float


def fit_entropy_model(
    prior: EntropyModel,
    codes: Tensor,
    test_codes: Tensor,
    *,
    steps: int | None = None,
    minutes: float | None = 5.0,
    batch_size: int = 128,
    learning_rate: float = 2e-3,
    evaluate_every: int = 500,
    seed: int = 0,
    progress: bool = True,
    checkpoint: FitCheckpoints | None = None,
) -> FittedCodes:
    """Fit to the codes (N, number of codes) of a training set, in place, and make exact.

    The weights by which the codes of held-out images cost least are kept.

    Args:
        steps, minutes: end after so many steps, or after so much time, whichever comes first; None for no such end.
        checkpoint: where the fit is kept now and then, and when a signal ends it; see `prior.fit`.

    Raises:
        InvalidInput: an argument is of another kind or out of its range, or codes are not those of this prior.
        FitInterrupted: SIGTERM or Ctrl-C came, and there is a `checkpoint`; the prior is not made exact.
    """
    budget = Budget(steps, minutes, batch_size, learning_rate, evaluate_every, seed)
    prior.check(codes, "codes to fit a code prior to")
    prior.check(test_codes, "held-out codes")
    if any(not parameter.requires_grad for parameter in prior.parameters()):
        raise InvalidInput(
            "expected a code prior to fit, got one that was made exact; make another with EntropyModel.of"
        )
    budget.batch_size, fast = min(budget.batch_size, len(codes)), fast_autocast(torch.device("cpu"))

    def batches(start: int) -> Iterator[Tensor]:
        for step in count(start):
            generator = torch.Generator().manual_seed(key(budget.seed, step, 1))
            yield codes[torch.randint(len(codes), (budget.batch_size,), generator=generator)].long()

    def bits(batch: Tensor) -> Tensor:
        with fast:
            return prior.bits(batch).sum()

    def measure() -> Iterator[tuple[float, int]]:
        for part in test_codes.split(500):
            yield float(prior.bits(part.long()).sum()) * len(part), len(part)

    def options() -> dict[str, Any]:
        about = {"dim": prior.dim, "hidden": prior.hidden, "dropout": prior.dropout}
        return {"kind": "codes", **about, "codes": digest({"fitted": codes, "held out": test_codes})}

    found = Fit(prior, bits, batches, measure, budget, torch.device("cpu"), checkpoint, options, progress).run()
    prior.exact()
    return FittedCodes(found.steps, prior.cost(test_codes), prior.uniform_bits)
