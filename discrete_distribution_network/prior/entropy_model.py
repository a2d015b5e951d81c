"""`EntropyModel`: the probability of codes given the codes before them, bit-exact on every machine, for range coding.

    h_l = relu(B relu(A * (x_l + place)))     p(codes of level l) = softmax(W h_l)     x_(l+1) = x_l + E[codes] + R h_l

x_l is a vector for each place of the level's grid; * is a convolution over 3x3 places.

If encoder and decoder disagree on one probability, the rest decodes to garbage. So after the fit the weights are
quantised to multiples of 2^-12 and activations to multiples of 2^-8: fixed-point numbers, held in float64. Their
products and sums are exact there, whatever the order, number of threads and batch size. Probabilities are integers that
sum to 2^16, by a table of the exponential.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

import torch
import torch.nn.functional as F
from jaxtyping import Float, Float64, Int64, Integer
from torch import Tensor, nn

from discrete_distribution_network.errors import InvalidInput, ModelFileError, require, shown
from discrete_distribution_network.io.atomic_file import write_bytes
from discrete_distribution_network.io.safetensors_file import (
    Shapes,
    compare_with_header,
    load_strictly,
    read_tensors,
    safetensors_bytes,
)
from discrete_distribution_network.model.blocks import zero_
from discrete_distribution_network.model.network import Network
from discrete_distribution_network.model.tensors import by_level
from discrete_distribution_network.prior.base import (
    cross_entropy_bits,
    grids_of,
    projected_weights,
    resize_grid,
)

ENTROPY_MODEL = "code_prior.safetensors"
"""File of an `EntropyModel`, beside its model."""

INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
"""Types that codes may have."""

PRECISION = 16
"""Counts sum to 2^16."""

WEIGHT_UNIT, ACTIVATION_UNIT, SCORE_UNIT = 2.0**-12, 2.0**-8, 2.0**-5
"""Weights, activations and scores are multiples of these."""

MAX_ACTIVATION = 2.0**7
"""Activations are clipped to this, so that exact sums stay far below 2^53 of their smallest units."""

MAX_SCORE_GAP = 16.0
"""Scores further below the best one get the least probability."""

EXP = torch.tensor([round(2**24 * math.exp(-step * SCORE_UNIT)) for step in range(int(MAX_SCORE_GAP / SCORE_UNIT) + 1)])
"""2^24 e^-x for x in steps of `SCORE_UNIT`, as integers."""


class EntropyModel(nn.Module):
    """Probabilities of a level's codes, given those of the levels before. A network in floating point until `exact`.

    It stays on the CPU, on whatever device the network is whose codes it models.

    Args:
        code_shapes: as `DDN.code_shapes`.
        codebook_sizes: K of each level.
        dim: width of the state at each place.
        hidden: width of the hidden layers.
        dropout: while it is fitted, of hidden activations and of whole codes, against overfitting.
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
        largest = max(codebook_sizes)
        require(largest < 1 << PRECISION, f"K below 2^{PRECISION} for an entropy model", largest)
        require(min(dim, hidden) >= 1, "dim and hidden of at least 1", (dim, hidden))
        self.grids = grids_of(code_shapes)
        self.code_shapes, self.codebook_sizes, self.dim, self.hidden = code_shapes, codebook_sizes, dim, hidden
        self.dropout = dropout
        self.levels = nn.ModuleList(
            _Level(grid, size, dim, hidden) for grid, size in zip(self.grids, codebook_sizes, strict=True)
        )

    @classmethod
    def of(cls, ddn: Network, dim: int = 64, hidden: int = 128, dropout: float = 0.0) -> Self:
        """An entropy model of a network's codes, with embeddings initialised by `projected_weights`."""
        model = cls(ddn.code_shapes, ddn.codebook_sizes, dim, hidden, dropout)
        with torch.no_grad():
            for level, sampler in zip(model._levels(), ddn.samplers * ddn.recurrence, strict=True):
                rows = projected_weights(sampler, dim).cpu()
                level.nodes.weight.copy_(rows / len(model.levels) ** 0.5)
                level.score.weight.copy_((rows @ torch.randn(dim, hidden) / (dim * hidden) ** 0.5)[:, :, None, None])
        return model

    def _levels(self) -> list[_Level]:
        return [level for level in self.levels if isinstance(level, _Level)]

    # in floating point, to fit

    def check(self, codes: Tensor, name: str = "codes") -> None:
        """Raise `InvalidInput` unless these are codes (N, number of codes) of all levels, N at least 1."""
        total = sum(math.prod(grid) for grid in self.grids)
        if not isinstance(codes, Tensor) or codes.ndim != 2 or len(codes) < 1 or codes.shape[1] != total:
            raise InvalidInput(f"expected {name} as a tensor (N, {total}) of at least one image, got {shown(codes)}")
        if codes.dtype not in INTEGERS:
            raise InvalidInput(f"expected {name} as integers, got {codes.dtype}")
        for level, (part, size) in enumerate(zip(by_level(codes, self.grids), self.codebook_sizes, strict=True)):
            lowest, highest = int(part.min()), int(part.max())
            if lowest < 0 or highest >= size:
                raise InvalidInput(f"expected {name} in [0, {size}) at level {level}, got {lowest} to {highest}")

    def bits(self, codes: Int64[Tensor, "batch codes"]) -> Float[Tensor, " levels"]:
        """Negative log-likelihood of codes by level, in bits an image, differentiable."""
        state, costs = self._zeros(len(codes)), []
        for level, grid, part in zip(self._levels(), self.grids, by_level(codes, self.grids), strict=True):
            state = resize_grid(state, grid)
            hidden = F.dropout(level.hidden(state), self.dropout, self.training)
            costs.append(cross_entropy_bits(level.score(hidden), part, len(codes)))
            state = level.update(state, hidden, part, dropout=self.dropout if self.training else 0.0)
        return torch.stack(costs)

    def _zeros(self, batch_size: int) -> Tensor:
        weight = self._levels()[0].place
        return torch.zeros(batch_size, self.dim, *self.grids[0], dtype=weight.dtype, device=weight.device)

    # in fixed point, to code

    @torch.no_grad()
    def exact(self) -> Self:
        """The model with its weights quantised, in place: what is saved, loaded and coded with."""
        self.double().eval().requires_grad_(False)
        for parameter in self.parameters():
            parameter.copy_(parameter.div(WEIGHT_UNIT).round().clamp(-(2**15), 2**15 - 1) * WEIGHT_UNIT)
        return self

    def begin(self, batch_size: int, labels: Tensor | None = None) -> Float64[Tensor, "batch dim rows columns"]:
        """The state before the first level."""
        require(labels is None, "no labels, since an entropy model is not by class", shown(labels))
        dtype = self._levels()[0].place.dtype
        if dtype != torch.float64:
            raise InvalidInput(f"expected an entropy model made exact, in float64, got one in {dtype}; call exact()")
        return self._zeros(batch_size)

    @torch.no_grad()
    def counts(
        self, level: int, state: Float64[Tensor, "batch dim rows columns"], place: int | None = None
    ) -> Int64[Tensor, "batch nodes _ _"]:
        """Probabilities of the nodes in units of 2^-16: integers of at least 1 that sum to 2^16.

        Args:
            place: index of one place of the grid in raster order; None for all.

        Returns:
            (B, K, rows, columns), or (B, K, 1, 1) of one place.
        """
        own = self._levels()[level]
        scores = own.score(own.hidden(state, quantized, place)).div(SCORE_UNIT).floor()
        gaps = (scores.amax(1, keepdim=True) - scores).clamp_max(len(EXP) - 1).long()
        weights = EXP.to(gaps.device)[gaps]
        left = (1 << PRECISION) - weights.shape[1]
        counts = 1 + weights * left // weights.sum(1, keepdim=True)
        rest = (1 << PRECISION) - counts.sum(1, keepdim=True)
        nodes = torch.arange(weights.shape[1], device=gaps.device).reshape(1, -1, 1, 1)
        best = (gaps * len(nodes[0]) + nodes).argmin(1, keepdim=True)  # the first of equals: argmin may take any
        return counts.scatter_add(1, best, rest)

    def logits(
        self, level: int, features: Tensor | None, state: Float64[Tensor, "batch dim rows columns"]
    ) -> Float[Tensor, "batch nodes ..."]:
        """See `CodeDistribution`; of the features only the device is used."""
        counts = self.counts(level, state)
        logits = counts.double().log().reshape(*counts.shape[:2], *self.code_shapes[level]).float()
        return logits if features is None else logits.to(features.device)

    @torch.no_grad()
    def follow(
        self, level: int, codes: Integer[Tensor, "batch ..."], state: Float64[Tensor, "batch dim rows columns"]
    ) -> Float64[Tensor, "batch dim _ _"]:
        """The state after a level, on the grid of the next one."""
        own, codes = self._levels()[level], codes.to(state.device).reshape(-1, *self.grids[level])
        updated = own.update(state, own.hidden(state, quantized), codes, quantized)
        return resize_grid(updated, self.grids[min(level + 1, len(self.grids) - 1)])

    @torch.no_grad()
    def cost(self, codes: Integer[Tensor, "batch codes"]) -> float:
        """Mean cost of codes by the integer probabilities, in bits an image."""
        bits = 0.0
        for batch in codes.long().split(500):
            state = self.begin(len(batch))
            for level, part in enumerate(by_level(batch, self.grids)):
                own = self.counts(level, state).gather(1, part.unsqueeze(1))
                bits += float((PRECISION - own.double().log2()).sum())
                state = self.follow(level, part, state)
        return bits / len(codes)

    @property
    def uniform_bits(self) -> float:
        """Cost of the codes of an image where all are equally likely, in bits."""
        pairs = zip(self.grids, self.codebook_sizes, strict=True)
        return sum(math.prod(grid) * math.log2(size) for grid, size in pairs)

    @property
    def fingerprint(self) -> bytes:
        """8 bytes of the SHA-256 of its architecture and weights."""
        checksum = hashlib.sha256(repr((self.grids, list(self.codebook_sizes), self.dim, self.hidden)).encode())
        for tensor in _integers(self).values():
            checksum.update(tensor.numpy().tobytes())
        return checksum.digest()[:8]

    def fingerprint_with(self, model: bytes) -> bytes:
        """The fingerprint in files that are range coded, given that of the network: 8 bytes for both."""
        return hashlib.sha256(model + self.fingerprint).digest()[:8]

    def save(self, folder: str | Path) -> None:
        """Write `code_prior.safetensors` into the folder of its model.

        Raises:
            OutputError: the disk is full or cannot be written; an entropy model that was there stays.
        """
        write_bytes(Path(folder) / ENTROPY_MODEL, safetensors_bytes(_integers(self)))

    @classmethod
    def load(cls, folder: str | Path, ddn: Network) -> Self:
        """The entropy model beside a model.

        Raises:
            ModelFileError: the file is missing, damaged, or of another model.
        """
        path = Path(folder) / ENTROPY_MODEL
        if not path.is_file():
            raise ModelFileError(
                f"expected an entropy model in {path}, found none; fit one with `ddn prior --kind codes`"
            )

        def make(shapes: Shapes, ddn: Network) -> Any:
            hidden, dim = shapes["levels.0.first.weight"][:2]
            return cls(ddn.code_shapes, ddn.codebook_sizes, dim, hidden).double()

        shapes = compare_with_header(make, ddn, path, f"the weights of an entropy model in {path}", stored=torch.int16)
        model: Self = make(shapes, ddn)
        load_strictly(model, {name: value.double() * WEIGHT_UNIT for name, value in read_tensors(path).items()}, path)
        return model.exact()


def load_entropy_model(folder: str | Path, ddn: Network) -> EntropyModel | None:
    """The entropy model beside a model; None if there is none.

    Raises:
        ModelFileError: it is damaged, or of another model.
    """
    return EntropyModel.load(folder, ddn) if (Path(folder) / ENTROPY_MODEL).is_file() else None


def identity(x: Tensor) -> Tensor:
    return x


def quantized(x: Tensor) -> Tensor:
    """Activations rounded down to multiples of `ACTIVATION_UNIT` and clipped."""
    return x.div(ACTIVATION_UNIT).floor().mul(ACTIVATION_UNIT).clamp(-MAX_ACTIVATION, MAX_ACTIVATION)


class _Level(nn.Module):
    """The layers of a level: A is `first`, B `second`, W `score`, E `nodes`, R `rest` of the formula above."""

    def __init__(self, grid: tuple[int, int], codebook_size: int, dim: int, hidden: int):
        super().__init__()
        kernel = 1 if grid == (1, 1) else 3
        self.place = nn.Parameter(torch.randn(dim, *grid) * 0.1)
        self.first = nn.Conv2d(dim, hidden, kernel, padding=kernel // 2)
        self.second = nn.Conv2d(hidden, hidden, 1)
        self.score = nn.Conv2d(hidden, codebook_size, 1)
        self.nodes = nn.Embedding(codebook_size, dim)
        self.rest = zero_(nn.Conv2d(hidden, dim, 1))

    def hidden(
        self, state: Tensor, quantize: Callable[[Tensor], Tensor] = identity, place: int | None = None
    ) -> Tensor:
        """h: (B, dim, rows, columns) -> (B, hidden, rows, columns), or (B, hidden, 1, 1) of one place."""
        state = state + self.place
        if place is None:
            hidden = self.first(state)
        else:
            (row, column), side = divmod(place, state.shape[3]), self.first.kernel_size[0]
            window = F.pad(state, (side // 2,) * 4)[:, :, row : row + side, column : column + side]
            hidden = F.linear(window.flatten(1), self.first.weight.flatten(1), self.first.bias)[:, :, None, None]
        return quantize(F.relu(self.second(quantize(F.relu(hidden)))))

    def update(
        self,
        state: Tensor,
        hidden: Tensor,
        codes: Tensor,
        quantize: Callable[[Tensor], Tensor] = identity,
        dropout: float = 0.0,
    ) -> Tensor:
        """x of the next level, given the codes (B, rows, columns) of this one, with dropout of whole codes."""
        rows = self.nodes(codes).permute(0, 3, 1, 2)
        if dropout:
            rows = rows * (torch.rand_like(rows[:, :1]) >= dropout) / (1 - dropout)
        return quantize(state + rows + self.rest(hidden))


def _integers(model: EntropyModel) -> dict[str, Tensor]:
    """The weights, in units of `WEIGHT_UNIT`."""
    return {name: value.detach().cpu().div(WEIGHT_UNIT).short() for name, value in sorted(model.state_dict().items())}
