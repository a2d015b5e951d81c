"""The K candidates of one level, computed on demand.

A linear head draws the candidate  y_k = W_k f + b_k + r  from features f (D x N) and a residual image r (C x N).
Its squared distance to a query q needs no candidate: with  e = q - r,

    |y_k - q|^2  =  <W_k^T W_k, f f^T>  -  2 <W_k, e f^T>  +  |e|^2                       (Gram path)

so all K distances come from the small matrices f f^T (D x D) and e f^T (C x D) of each sample. Where N is small
against D it is cheaper to compute W_k f for a chunk of nodes at a time (direct path); `cheapest_path` decides. A weight
per pixel, a linear map of pixels and a linear map of channels act on f, e and W_k beforehand, and a bias is one more
feature that is 1 everywhere, so both paths are independent of them.

Letters: B batch, K nodes, D feature channels, C image channels, N pixels.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Integer
from torch import Tensor
from torch.autograd.function import once_differentiable

from discrete_distribution_network.errors import require
from discrete_distribution_network.model.precision import at_least_float32, exact_float32

PixelMap = Callable[[Tensor], Tensor]
"""A linear map of pixels, the same for every channel: (B, X, H, W) -> (B, X, H', W')."""

CPU_SCRATCH, GPU_SCRATCH = 1 << 21, 1 << 25
"""Most numbers in a chunk of candidates: 8 MiB and 128 MiB in float32."""

GRAM_SHARE = 8
"""The Gram path's chunks are smaller by this factor: its many small products are best kept in the cache."""


class Candidates(ABC):
    """The K candidates of each of B samples.

    Attributes:
        batch: B.
        codebook_size: K.
        shape: of one candidate, (C, H, W) for images and (C,) for vectors.
        device: of the candidates.

    `distances`, `chunks` and `mix` follow the surrounding grad mode; choose under `torch.no_grad()`.
    """

    batch: int
    codebook_size: int
    shape: tuple[int, ...]
    device: torch.device

    @abstractmethod
    def at(self, codes: Integer[Tensor, " batch"]) -> Float[Tensor, "batch channels *pixels"]:
        """The candidate of each sample's code, in [0, K)."""

    @abstractmethod
    def mix(self, weights: Float[Tensor, "batch nodes"]) -> Float[Tensor, "batch channels *pixels"]:
        """The sum of all candidates by weights, which sum to 1 for each sample."""

    @abstractmethod
    def nodes(self, start: int, stop: int) -> Float[Tensor, "batch nodes channels *pixels"]:
        """The candidates of nodes [start, stop)."""

    def chunks(self, size: int | None = None) -> Iterator[tuple[int, Tensor]]:
        """All candidates, at most `size` nodes at a time: pairs of the first node's index and (B, <=size, *shape)."""
        if size is None:
            size = nodes_at_once(self.device, self.batch * torch.Size(self.shape).numel())
        for start in range(0, self.codebook_size, size):
            yield start, self.nodes(start, min(start + size, self.codebook_size))

    def distances(
        self,
        target: Float[Tensor, "batch channels_out *pixels_out"],
        *,
        mask: Tensor | None = None,
        pixel_map: PixelMap | None = None,
        channel_map: Float[Tensor, "channels_out channels"] | None = None,
    ) -> Float[Tensor, "batch nodes"]:
        """Squared Euclidean distances of all candidates to a target, in float32 or better whatever autocast says.

        Args:
            target: (B, C', H', W'), or (B, C') for vectors: the shape after the maps.
            mask: weight of each pixel's squared error, at least 0; broadcasts against (B, 1, H', W').
            pixel_map: a linear map of pixels, such as area downsampling.
            channel_map: a matrix (C', C), such as the weights of a grey value.
        """
        parts = []
        for _, images in self.chunks():  # computed in the precision of `at`, compared in float32
            with exact_float32(self.device):
                flat = at_least_float32(images).flatten(0, 1)
                flat = flat if pixel_map is None else pixel_map(flat)
                flat = flat if channel_map is None else _map_channels(channel_map, flat)
                check_target(target, mask, (self.batch, *flat.shape[1:]))
                error = flat.unflatten(0, images.shape[:2]) - target.to(flat.dtype).unsqueeze(1)
                error = error if mask is None else error * mask.sqrt().expand(target[:, :1].shape).unsqueeze(1)
                parts.append(error.flatten(2).square().sum(-1))
        return torch.cat(parts, dim=1)


class LinearCandidates(Candidates):
    """Candidates of linear heads.

    Args:
        features: (B, D, H, W), or (B, D) for vectors.
        weight: the heads, (K, C, D).
        bias: (K, C), or None.
        residual: the image that every head adds to, (B, C, H, W) or (B, C), or None.
    """

    def __init__(
        self,
        features: Float[Tensor, "batch dim *pixels"],
        weight: Float[Tensor, "nodes channels dim"],
        bias: Float[Tensor, "nodes channels"] | None = None,
        residual: Float[Tensor, "batch channels *pixels"] | None = None,
    ):
        self.features, self.weight, self.bias, self.residual = features, weight, bias, residual
        self.batch, self.codebook_size, self.device = features.shape[0], weight.shape[0], features.device
        self.shape = (weight.shape[1], *features.shape[2:])

    def at(self, codes: Integer[Tensor, " batch"]) -> Float[Tensor, "batch channels *pixels"]:
        heads = F.embedding(codes, self.weight.flatten(1))
        return self._one_per_sample(heads, None if self.bias is None else F.embedding(codes, self.bias))

    def mix(self, weights: Float[Tensor, "batch nodes"]) -> Float[Tensor, "batch channels *pixels"]:
        weights = weights.to(self.weight.dtype)
        heads = weights @ self.weight.flatten(1)
        return self._one_per_sample(heads, None if self.bias is None else weights @ self.bias)

    def _one_per_sample(self, heads: Tensor, bias: Tensor | None) -> Tensor:
        """The candidate of each sample's own head: heads (B, C * D), bias (B, C)."""
        heads = heads.unflatten(1, self.weight.shape[1:]).to(self.features.dtype)
        images = torch.bmm(heads, _flat(self.features)).reshape(self.batch, *self.shape)
        if bias is not None:
            images = images + bias.reshape(self.batch, -1, *(1,) * (images.ndim - 2))
        return images if self.residual is None else images + self.residual

    def nodes(self, start: int, stop: int) -> Float[Tensor, "batch nodes channels *pixels"]:
        heads = self.weight[start:stop].flatten(0, 1).to(self.features.dtype)
        images = _all_by_all(heads, _flat(self.features)).reshape(self.batch, stop - start, *self.shape)
        if self.bias is not None:
            images = images + self.bias[start:stop].reshape(stop - start, -1, *(1,) * (images.ndim - 3))
        return images if self.residual is None else images + self.residual.unsqueeze(1)

    def distances(
        self,
        target: Float[Tensor, "batch channels_out *pixels_out"],
        *,
        mask: Tensor | None = None,
        pixel_map: PixelMap | None = None,
        channel_map: Float[Tensor, "channels_out channels"] | None = None,
    ) -> Float[Tensor, "batch nodes"]:
        with exact_float32(self.device):
            features = at_least_float32(self.features)
            weight = self.weight.to(features.dtype)
            residual = None if self.residual is None else at_least_float32(self.residual)
            if self.bias is not None:
                features = torch.cat((features, torch.ones_like(features[:, :1])), dim=1)
                weight = torch.cat((weight, self.bias.to(weight).unsqueeze(-1)), dim=-1)
            if pixel_map is not None:
                features = pixel_map(features)
                residual = None if residual is None else pixel_map(residual)
            if channel_map is not None:
                weight = channel_map.to(weight) @ weight
                residual = None if residual is None else _map_channels(channel_map, residual)
            check_target(target, mask, (self.batch, weight.shape[1], *features.shape[2:]))
            target = target.to(features.dtype)
            error = target if residual is None else target - residual
            if mask is not None:
                root = mask.to(error).sqrt()
                features, error = features * root, error * root
            return squared_distances(_flat(features), weight, _flat(error))


class NetworkCandidates(Candidates):
    """Candidates of any other head network: computed in chunks to choose, then only the chosen one.

    Args:
        draw: `draw(start, stop)` gives the images of nodes [start, stop), (B, stop - start, *shape).
        draw_each: `draw_each(codes)` gives the image of each sample's code, (B, *shape).
        batch: B.
        codebook_size: K.
        shape: of one candidate.
        device: of the images.
        residual: the image that every node adds to, (B, *shape), or None.
    """

    def __init__(
        self,
        draw: Callable[[int, int], Tensor],
        draw_each: Callable[[Tensor], Tensor],
        batch: int,
        codebook_size: int,
        shape: tuple[int, ...],
        device: torch.device,
        residual: Tensor | None = None,
    ):
        self.draw, self.draw_each, self.residual = draw, draw_each, residual
        self.batch, self.codebook_size, self.shape, self.device = batch, codebook_size, shape, device

    def at(self, codes: Integer[Tensor, " batch"]) -> Float[Tensor, "batch channels *pixels"]:
        images = self.draw_each(codes)
        return images if self.residual is None else images + self.residual

    def mix(self, weights: Float[Tensor, "batch nodes"]) -> Float[Tensor, "batch channels *pixels"]:
        images = self.draw(0, self.codebook_size)
        images = torch.einsum("bk,bk...->b...", weights.to(images.dtype), images)
        return images if self.residual is None else images + self.residual

    def nodes(self, start: int, stop: int) -> Float[Tensor, "batch nodes channels *pixels"]:
        images = self.draw(start, stop)
        return images if self.residual is None else images + self.residual.unsqueeze(1)


def squared_distances(
    features: Float[Tensor, "batch dim pixels"],
    weight: Float[Tensor, "nodes channels dim"],
    error: Float[Tensor, "batch channels pixels"],
    *,
    offset: bool = True,
) -> Float[Tensor, "batch nodes"]:
    """|W_k f - e|^2 of every sample and node.

    Args:
        offset: include |e|^2, which is the same for all nodes of a sample. Without it the order is right, and the
            values need not be.
    """
    batch, dim, pixels = features.shape
    codebook_size, channels, _ = weight.shape
    if cheapest_path(batch, codebook_size, channels, dim, pixels) == "gram":
        return gram_distances(features, weight, error, offset)
    return direct_distances(features, weight, error, offset)


class MoveCosts(NamedTuple):
    """What moving a value through memory costs, in multiply-adds; fitted on a CPU (`benchmarks/gpu.py` fits anew).

    Attributes:
        candidate: one value of a candidate.
        head: one value of a head, or of its square.
    """

    candidate: int = 12
    head: int = 16


COSTS = MoveCosts()


def cheapest_path(
    batch: int, codebook_size: int, channels: int, dim: int, pixels: int, costs: MoveCosts = COSTS
) -> Literal["gram", "direct"]:
    """The path of lower cost: multiply-adds, and values moved."""
    batch = _concrete(batch)
    gram = batch * dim * (dim + channels) * pixels
    gram += codebook_size * min(_quadratic_costs(batch, channels, dim, costs.head))
    direct = batch * codebook_size * channels * pixels * (dim + costs.candidate)
    return "gram" if gram < direct else "direct"


def _quadratic_costs(batch: int, channels: int, dim: int, head: int = COSTS.head) -> tuple[int, int]:
    """Cost per node of <W^T W, G>: with W^T W computed once for the batch, or W G W^T for each sample."""
    return dim * dim * (channels + batch + head), batch * channels * dim * (dim + head)


def gram_distances(
    features: Float[Tensor, "batch dim pixels"],
    weight: Float[Tensor, "nodes channels dim"],
    error: Float[Tensor, "batch channels pixels"],
    offset: bool = True,
) -> Float[Tensor, "batch nodes"]:
    """`squared_distances` by the Gram matrix of each sample; its memory is bounded, whatever K is."""
    if torch.is_grad_enabled():
        distances: Tensor = _GramDistances.apply(features, weight, error)
        return distances
    rows = features.mT
    return _from_gram(torch.bmm(features, rows), torch.bmm(error, rows), weight, error if offset else None)


def _from_gram(gram: Tensor, cross: Tensor, weight: Tensor, error: Tensor | None) -> Tensor:
    """<W_k^T W_k, gram> - 2 <W_k, cross> + |error|^2."""
    batch, channels, dim = cross.shape
    shared, per_sample = _quadratic_costs(_concrete(batch), channels, dim)
    share_heads = shared < per_sample
    per_node = dim * dim if share_heads else batch * channels * dim
    squares = []
    for heads in _chunks(weight, nodes_at_once(gram.device, GRAM_SHARE * per_node)):
        if share_heads:
            squares.append(F.linear(gram.flatten(1), torch.bmm(heads.mT, heads).flatten(1)))
        else:
            products = torch.matmul(heads.flatten(0, 1), gram).unflatten(1, (-1, channels))
            squares.append(products.mul_(heads).flatten(2).sum(-1))
    square = squares[0] if len(squares) == 1 else torch.cat(squares, dim=1)
    square = square.addmm_(cross.flatten(1), weight.flatten(1).mT, alpha=-2)
    return square if error is None else square.add_(error.flatten(1).square().sum(-1, keepdim=True))


class _GramDistances(torch.autograd.Function):
    """`gram_distances` whose backward pass allocates nothing of size K * N either.

    With g_k the gradient of the distance of node k:  df = 2 (sum_k g_k W_k^T W_k) f - 2 (sum_k g_k W_k)^T e,
    dW_k = 2 sum_samples g_k (W_k G - S),  de = 2 (sum_k g_k) e - 2 (sum_k g_k W_k) f.
    """

    @staticmethod
    def forward(ctx: Any, features: Tensor, weight: Tensor, error: Tensor) -> Tensor:
        gram, cross = torch.bmm(features, features.mT), torch.bmm(error, features.mT)
        ctx.save_for_backward(features, weight, error, gram, cross)
        return _from_gram(gram, cross, weight, error)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        features, weight, error, gram, cross = ctx.saved_tensors
        dim = features.shape[1]
        grad = 2 * grad
        heads_sum = (grad @ weight.flatten(1)).unflatten(1, weight.shape[1:])
        square_sum = torch.zeros_like(gram)
        weight_grads = []
        size = nodes_at_once(gram.device, GRAM_SHARE * dim * dim)
        for heads, share in zip(weight.split(size), grad.split(size, dim=1), strict=True):
            square_sum += (share @ torch.bmm(heads.mT, heads).flatten(1)).unflatten(1, (dim, dim))
            weighted_gram = (share.mT @ gram.flatten(1)).unflatten(1, (dim, dim))
            weight_grads.append(torch.bmm(heads, weighted_gram))
        features_grad = torch.bmm(heads_sum.mT, error).neg_().baddbmm_(square_sum, features)
        weight_grad = torch.cat(weight_grads) - (grad.mT @ cross.flatten(1)).view_as(weight)
        error_grad = grad.sum(1).reshape(-1, 1, 1) * error - torch.bmm(heads_sum, features)
        return features_grad, weight_grad, error_grad


def direct_distances(
    features: Float[Tensor, "batch dim pixels"],
    weight: Float[Tensor, "nodes channels dim"],
    error: Float[Tensor, "batch channels pixels"],
    squared: bool = True,
) -> Float[Tensor, "batch nodes"]:
    """`squared_distances` by computing the candidates, a chunk of nodes at a time; their roots if not `squared`."""
    batch, _, pixels = features.shape
    channels = weight.shape[1]
    values = channels * pixels  # of a candidate
    if channels > 1:
        error = error.reshape(batch, 1, values)
    parts = []
    for heads in _chunks(weight, nodes_at_once(features.device, batch * values)):
        images = _all_by_all(heads.flatten(0, 1), features)
        images = images if channels == 1 else images.view(batch, -1, values)
        if torch.is_grad_enabled():
            parts.append((images - error).square().sum(-1))
        else:  # in place and in one pass: fresh memory costs more than the arithmetic
            roots = torch.linalg.vector_norm(images.sub_(error), dim=-1)
            parts.append(roots.square_() if squared else roots)
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)


def _chunks(weight: Float[Tensor, "nodes channels dim"], size: int) -> Sequence[Tensor]:
    """The heads, at most `size` nodes at a time."""
    return (weight,) if len(weight) <= size else weight.split(size)


def nodes_at_once(device: torch.device, numbers_per_node: int) -> int:
    """Most nodes in a chunk."""
    numbers_per_node = _concrete(numbers_per_node)
    return max(1, (CPU_SCRATCH if device.type == "cpu" else GPU_SCRATCH) // max(1, numbers_per_node))


def _concrete(number: int) -> int:
    """The number; 1 where it is symbolic, as the batch of an exported program is, which takes one path for all."""
    return number if isinstance(number, int) else 1


def check_target(target: Tensor, mask: Tensor | None, expected: tuple[int, ...]) -> None:
    """Raise `InvalidInput` unless the target has the expected shape, and the mask broadcasts to its pixels."""
    require(tuple(target.shape) == expected, f"a target of shape {expected}", tuple(target.shape))
    require(target.is_floating_point(), "a floating-point target", target.dtype, "divide by 255")
    if mask is not None:
        sizes = ((1, expected[0]), (1,), *((1, side) for side in expected[2:]))
        fits = mask.ndim == len(sizes) and all(side in allowed for side, allowed in zip(mask.shape, sizes, strict=True))
        require(fits, f"a mask that broadcasts to {(expected[0], 1, *expected[2:])}", tuple(mask.shape))


def _all_by_all(matrix: Tensor, batch: Tensor) -> Tensor:
    """matrix (R, D) times each of batch (B, D, N): (B, R, N). `torch.matmul` would transpose a copy of the batch."""
    return torch.bmm(matrix.expand(batch.shape[0], -1, -1), batch)


def _flat(images: Tensor) -> Tensor:
    """(B, X, H, W) -> (B, X, H * W); a vector (B, X) is an image of one pixel."""
    return images.flatten(2) if images.ndim > 2 else images.unsqueeze(-1)


def _map_channels(channel_map: Tensor, images: Tensor) -> Tensor:
    return torch.einsum("dc,bc...->bd...", channel_map.to(images), images)
