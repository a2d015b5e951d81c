"""`GuidedSampler`: one level of a Discrete Distribution Network.

It holds the K heads that draw the candidates, chooses the one nearest to a query (or the one a code names) and counts
how often each node is chosen, so that `split_and_prune_` can move nodes to where the data is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Integer
from torch import Tensor, nn
from torch.optim import Optimizer

from discrete_distribution_network._renamed import renamed_argument
from discrete_distribution_network.errors import require
from discrete_distribution_network.model.blocks import ChannelRMSNorm
from discrete_distribution_network.model.candidates import Candidates
from discrete_distribution_network.model.choice import Choice, chain_dropout, count, crossover, gumbel_like
from discrete_distribution_network.model.heads import LinearHeads, NetworkHeads, make_heads
from discrete_distribution_network.model.nearest import chosen_candidate, nearest_nodes, to_rows
from discrete_distribution_network.model.precision import at_least_float32, exact_float32
from discrete_distribution_network.model.sampler_checks import (
    check_arguments,
    check_codes,
    check_features,
    check_image,
)
from discrete_distribution_network.model.split_and_prune import Plan, apply_plan, plan_split_and_prune
from discrete_distribution_network.model.tensors import from_patches, to_patches

Features = Float[Tensor, "batch dim height width"] | Float[Tensor, "batch dim"]
"""Of images, or of vectors."""

Images = Float[Tensor, "batch channels height width"] | Float[Tensor, "batch channels"]
"""Images or vectors."""

Values = Float[Tensor, "batch values height width"] | Float[Tensor, "batch values"]
"""Images or vectors of `dim_values` channels; without separate values, of the query's."""

Codes = Integer[Tensor, " batch"] | Integer[Tensor, "batch rows columns"]
"""In [0, K): one for each sample, or one for each of its patches."""

DistanceFn = Callable[[Tensor, Tensor], Tensor]
"""A query (B, 1, M) and candidates (B, k, M), flattened -> distances (B, 1, k)."""


class SamplerOutput(NamedTuple):
    """The result of one level.

    Attributes:
        output: the chosen candidate, (B, C, H, W) for images or (B, C) for vectors.
        codes: its index, int64 in [0, K): (B,), or (B, H / p, W / p) with patches of size p.
        commit_loss: its mean squared error to the query; None without a query.
    """

    output: Values
    codes: Codes
    commit_loss: Float[Tensor, ""] | None


class GuidedSampler(nn.Module):
    """K candidates from features, and the choice among them (section 3.2 of arXiv 2401.00036).

    Args:
        dim: D, channels of the features.
        dim_query: C, channels of the query and of the candidates; with a `network`, its output channels in any case.
        codebook_size: K, the number of nodes.
        network: one node's network, features -> candidate, copied K times with fresh weights. None, a 1x1
            `nn.Conv2d` or an `nn.Linear` give linear heads, whose candidates are never all computed. Any other network
            draws all K without a gradient to choose, then the chosen one with a gradient; it must treat samples
            independently (no batch norm).
        distance_fn: `(query (B, 1, M), candidates (B, k, M)) -> (B, 1, k)`, in place of the Euclidean distance. It is
            called on chunks of nodes.
        chain_dropout_prob: in training, probability that a sample's choice is replaced by a random node. The nearest
            node is counted all the same.
        split_thres, prune_thres: shares of the choices, in units of 1/K, above and below which a node is split or
            pruned.
        pre_network_activation: applied to the features before the heads (after the norm).
        post_network_activation: applied to every head's output before the residual is added.
        prenorm: normalise the features first, by `norm_module` or else by an RMS norm over channels.
        norm_module: the norm to use, any module that keeps the features' shape; used without `prenorm` too.
        min_total_count_before_split_prune: number of counted choices below which nothing is split.
        crossover_top2_prob: in training, probability that a sample's output is a random blend of its chosen node and
            the nearest other one.
        straight_through_distance_logits: in training, pass gradients to all nodes through softmax(-distance).
        stochastic: in training, choose by -distance + Gumbel noise.
        gumbel_noise_scale: scale of that noise.
        patch_size: p; choose for each p x p patch. Codes are then (B, H / p, W / p).
        separate_values: choose by one set of heads (the keys) and output the candidate of another (the values).
            `commit_loss` is that of the keys; the values learn from the loss of the output.
        dim_values: channels of the values; C if None. With a `network`, its output channels in any case.
        max_swaps: most nodes that one call of `split_and_prune_` replaces; 1 is the published rule, None no limit.
        count_window: after each `split_and_prune_` counts are scaled down to sum to at most this, so that they cover
            about the last `count_window` choices; None never forgets, as published.
        head_init: standard deviation of a fresh linear head's output for features of unit variance; None for
            PyTorch's own (uniform) initialisation.

    Shapes: features (B, D, H, W) with queries (B, C, H, W), or vectors (B, D) with (B, C).

    Attributes:
        counts: int64 (K,), how often each node was the nearest in training.
        keys, values: the heads; `values` is None without `separate_values`.

    Raises:
        InvalidInput: an argument is of another type or out of range.
    """

    counts: Tensor

    def __init__(
        self,
        dim: int,
        dim_query: int = 3,
        codebook_size: int = 10,
        network: nn.Module | None = None,
        distance_fn: DistanceFn | None = None,
        chain_dropout_prob: float = 0.05,
        split_thres: float = 2.0,
        prune_thres: float = 0.5,
        pre_network_activation: nn.Module | None = None,
        post_network_activation: nn.Module | None = None,
        prenorm: bool = False,
        norm_module: nn.Module | None = None,
        min_total_count_before_split_prune: int = 100,
        crossover_top2_prob: float = 0.0,
        straight_through_distance_logits: bool = False,
        stochastic: bool = False,
        gumbel_noise_scale: float = 1.0,
        patch_size: int | None = None,
        separate_values: bool = False,
        dim_values: int | None = None,
        *,
        max_swaps: int | None = 1,
        count_window: int | None = None,
        head_init: float | None = None,
    ):
        super().__init__()
        check_arguments(locals())
        self.dim, self.codebook_size, self.patch_size = dim, codebook_size, patch_size
        self.distance_fn = distance_fn
        self.chain_dropout_prob, self.crossover_top2_prob = chain_dropout_prob, crossover_top2_prob
        self.straight_through_distance_logits = straight_through_distance_logits
        self.stochastic, self.gumbel_noise_scale = stochastic, gumbel_noise_scale
        self.split_thres, self.prune_thres, self.max_swaps = split_thres, prune_thres, max_swaps
        self.min_total_count_before_split_prune, self.count_window = min_total_count_before_split_prune, count_window

        self.norm = norm_module if norm_module is not None else (ChannelRMSNorm(dim) if prenorm else None)
        self.pre_network_activation = pre_network_activation
        self.keys = make_heads(dim, dim_query, codebook_size, network, post_network_activation, head_init)
        self.dim_query = self.keys.dim_out
        self.values: LinearHeads | NetworkHeads | None = None
        if separate_values:
            dim_values = self.dim_query if dim_values is None else dim_values
            self.values = make_heads(dim, dim_values, codebook_size, network, post_network_activation, head_init)
        self.register_buffer("counts", torch.zeros(codebook_size, dtype=torch.long))

    # the candidates

    def candidates(self, features: Features, residual: Images | None = None, patch: int | None = None) -> Candidates:
        """The K candidates for features and a residual, computed on demand.

        With separate values these are the values: what a node's code decodes to.

        With patches, each patch is a sample: B * H / p * W / p of them, p x p pixels each.

        Args:
            features: (B, D, H, W), or (B, D).
            residual: an image (B, C, H, W), or (B, C), that is added to every candidate.
            patch: only this patch of every image, counted row by row.
        """
        check_features(features, self.dim, self.patch_size)
        check_image(residual, features, self.dim_query, "residual")
        batch = features.shape[0]
        features, residual = self._prepare(features), self._residual(residual)
        if patch is not None:
            features = features.unflatten(0, (batch, -1))[:, patch]
            residual = None if residual is None else residual.unflatten(0, (batch, -1))[:, patch]
        return self._values(features, residual)

    def codes_shape(self, features: Features) -> tuple[int, ...]:
        """The shape of the codes for these features: (B,), or (B, H / p, W / p)."""
        if self.patch_size is None:
            return (features.shape[0],)
        return (features.shape[0], *(side // self.patch_size for side in features.shape[2:]))

    def _normalised(self, features: Tensor) -> Tensor:
        features = features if self.norm is None else self.norm(features)
        return features if self.pre_network_activation is None else self.pre_network_activation(features)

    def _prepare(self, features: Tensor) -> Tensor:
        return self._to_patches(self._normalised(features))

    def _residual(self, residual: Tensor | None) -> Tensor | None:
        return None if residual is None else self._to_patches(residual)

    def _values(self, features: Tensor, residual: Tensor | None) -> Candidates:
        """The candidates for the output: the keys, or the separate values (with a residual of their width)."""
        if self.values is None:
            return self.keys(features, residual)
        fits = residual is not None and self.values.dim_out == residual.shape[1]
        return self.values(features, residual if fits else None)

    # choose

    def forward(
        self, features: Features, query: Images, return_distances: bool = False, residual: Images | None = None
    ) -> SamplerOutput | tuple[SamplerOutput, Tensor]:
        """The candidate nearest to the query; in training the choice may be random, and the nearest node is counted.

        Args:
            features: (B, D, H, W), or (B, D).
            query: (B, C, H, W), or (B, C).
            return_distances: also return the Euclidean distances of all K candidates, (B, K), or
                (B, H / p, W / p, K).
            residual: an image like the query that is added to every candidate.
        """
        check_features(features, self.dim, self.patch_size)
        check_image(query, features, self.dim_query, "query")
        check_image(residual, features, self.dim_query, "residual")
        codes_shape = self.codes_shape(features)
        # what is encoded in full precision is chosen and drawn by the operations that decode it
        rounded = self.training or torch.is_autocast_enabled(features.device.type)
        if rounded and not return_distances and self._is_plain(features):
            return self._nearest_linear(features, query, residual, codes_shape)
        image_shape = features.shape
        features, query, residual = self._prepare(features), self._to_patches(query), self._residual(residual)
        keys = self.keys(features, residual)
        values = keys if self.values is None else self._values(features, residual)

        with torch.set_grad_enabled(self._straight_through() and torch.is_grad_enabled()):
            distances = self._distances(keys, query)
        choice = self._choose(distances)
        chosen = choice.of(keys)
        output = chosen if values is keys else choice.of(values)
        loss = F.mse_loss(at_least_float32(chosen), at_least_float32(query))
        result = SamplerOutput(self._from_patches(output, image_shape), choice.codes.reshape(codes_shape), loss)
        return (result, self._root(distances).unflatten(0, codes_shape)) if return_distances else result

    def _is_plain(self, features: Tensor) -> bool:
        """Whether the nearest linear head of images is all that is chosen, but for chain dropout."""
        special = self.stochastic or self.crossover_top2_prob > 0 or self.straight_through_distance_logits
        linear = isinstance(self.keys, LinearHeads) and self.keys.bias is None
        # views by strides are not for a compiler, which lays tensors out anew
        apart = self.values is not None or self.distance_fn is not None or torch.compiler.is_compiling()
        return linear and features.ndim == 4 and not (special or apart)

    def _nearest_linear(
        self, features: Tensor, query: Tensor, residual: Tensor | None, codes_shape: tuple[int, ...]
    ) -> SamplerOutput:
        """`forward` of linear heads by fewer operations (see `nearest.py`)."""
        assert isinstance(self.keys, LinearHeads)
        features, weight, patch = self._normalised(features), self.keys.weight, self.patch_size
        with torch.no_grad():
            query = at_least_float32(query)
            error = query if residual is None else query - residual
            rows = to_rows(features, patch)
            codes = nearest_nodes(rows, weight, error, patch)
            if self.training:
                count(self.counts, codes)
                if self.chain_dropout_prob > 0:
                    codes = chain_dropout(codes, self.codebook_size, self.chain_dropout_prob)
        output, loss = chosen_candidate(features, rows, weight, codes, error, residual, patch)
        return SamplerOutput(output, codes if patch is None else codes.reshape(codes_shape), loss)

    def _straight_through(self) -> bool:
        return self.training and self.straight_through_distance_logits

    def _choose(self, distances: Tensor) -> Choice:
        """By squared distances (B, K): they order nodes as their roots do, and more finely."""
        scores = -distances.detach()
        if not self.training:
            return Choice(scores.argmax(-1))
        logits = distances
        if self.stochastic or self._straight_through():
            logits = -self._root(distances)
        if self.stochastic:
            logits = logits + self.gumbel_noise_scale * gumbel_like(logits)
            scores = logits.detach()
        codes = nearest = scores.argmax(-1)
        count(self.counts, nearest)
        if self.chain_dropout_prob > 0:
            codes = chain_dropout(nearest, self.codebook_size, self.chain_dropout_prob)
        choice = Choice(codes)
        if self.crossover_top2_prob > 0 and self.codebook_size > 1:
            choice = crossover(scores, codes, self.crossover_top2_prob)
        return choice.straight_through(logits) if self._straight_through() else choice

    def _distances(self, keys: Candidates, query: Tensor) -> Tensor:
        """Squared Euclidean distances (B, K), or whatever `distance_fn` gives."""
        if self.distance_fn is None:
            return keys.distances(query)
        parts = []
        for _, images in keys.chunks():
            with exact_float32(keys.device):
                images = at_least_float32(images).flatten(2)
                part = self.distance_fn(query.to(images.dtype).flatten(1).unsqueeze(1), images)
            expected = (images.shape[0], 1, images.shape[1])
            require(tuple(part.shape) == expected, f"distance_fn to give {expected}", tuple(part.shape))
            parts.append(part.squeeze(1))
        return torch.cat(parts, dim=1)

    def _root(self, distances: Tensor) -> Tensor:
        """Euclidean distances from squared ones; those of a `distance_fn` as they are."""
        if self.distance_fn is not None:
            return distances
        return distances.clamp_min(torch.finfo(distances.dtype).tiny).sqrt()

    def forward_for_codes(
        self, features: Features, codes: Integer[Tensor, "*codes"] | int, residual: Images | None = None
    ) -> Values:
        """The candidates of the given codes.

        Args:
            features: (B, D, H, W), or (B, D).
            codes: integers in [0, K): one for the whole batch, (B,), or (B, H / p, W / p).
            residual: an image like the query that is added (not to separate values of another width).

        Raises:
            InvalidInput: a ValueError, before anything is computed.
        """
        check_features(features, self.dim, self.patch_size)
        check_image(residual, features, self.dim_query, "residual")
        codes = torch.as_tensor(codes, device=features.device)
        check_codes(codes, self.codes_shape(features), self.codebook_size)
        return self.draw(features, codes.long().expand(self.codes_shape(features)), residual).output

    def draw(self, features: Features, codes: Codes, residual: Images | None = None) -> SamplerOutput:
        """`forward_for_codes` for codes already checked: it reads no values, so it does not wait for a GPU."""
        shape = features.shape
        features, residual = self._prepare(features), self._residual(residual)
        output = self._values(features, residual).at(codes.reshape(-1))
        return SamplerOutput(self._from_patches(output, shape), codes, None)

    # split and prune

    def node_parameters(self) -> list[nn.Parameter]:
        """The parameters of the heads, keys and values: each has a row for every node, (K, ...)."""
        return [parameter for head in (self.keys, self.values) if head is not None for parameter in head.parameters()]

    def split_and_prune_(self, optimizer: Optimizer | None = None) -> int:
        """Move nodes to where the data is, by the counts so far; call it after the optimiser's step.

        Args:
            optimizer: its moments of the moved rows are copied too.

        Returns:
            The number of pruned nodes.
        """
        return self.apply_counts_(self.counts.tolist(), optimizer)

    @renamed_argument("mirror", "ema_model")
    def apply_counts_(
        self,
        counts: Sequence[int],
        optimizer: Optimizer | None = None,
        ema_model: GuidedSampler | None = None,
    ) -> int:
        """`split_and_prune_` for counts already read from the device; in `ema_model` the same rows move."""
        plan = self.plan_splits(counts)
        rows = [parameter for one in (self, ema_model) if one is not None for parameter in one.node_parameters()]
        apply_plan(plan, rows, optimizer)
        if plan.counts != list(counts):
            self.counts.copy_(torch.tensor(plan.counts))
        return plan.swaps

    def plan_splits(self, counts: Sequence[int]) -> Plan:
        """The nodes to split and to prune by these counts, and the counts afterwards; nothing is changed."""
        if sum(counts) < max(1, self.min_total_count_before_split_prune):
            return Plan(0, list(range(len(counts))), list(counts))
        plan = plan_split_and_prune(counts, self.split_thres, self.prune_thres, self.max_swaps)
        total = sum(plan.counts)
        if self.count_window is not None and total > self.count_window:
            plan = plan._replace(counts=[number * self.count_window // total for number in plan.counts])
        return plan

    # patches

    def _to_patches(self, images: Tensor) -> Tensor:
        return images if self.patch_size is None else to_patches(images, (self.patch_size, self.patch_size))

    def _from_patches(self, patches: Tensor, image_shape: torch.Size) -> Tensor:
        return patches if self.patch_size is None else from_patches(patches, (image_shape[2], image_shape[3]))


@renamed_argument("mirror", "ema_model")
def split_and_prune_(
    module: nn.Module,
    optimizer: Optimizer | None = None,
    ema_model: nn.Module | None = None,
) -> int:
    """Split and prune every `GuidedSampler` inside `module`; call it after the optimiser's step.

    Args:
        module: any module with samplers inside.
        optimizer: its moments of the same rows are copied too.
        ema_model: a copy of `module` with other weights, such as their moving average; the same rows move there.

    Returns:
        The number of pruned nodes.
    """
    samplers = samplers_in(module)
    require(bool(samplers), "a module with at least one GuidedSampler inside", type(module).__name__)
    # one transfer for all samplers: a GPU is waited for once
    counts = torch.cat([sampler.counts for sampler in samplers]).tolist()
    swaps = 0
    averaged = [None] * len(samplers) if ema_model is None else samplers_in(ema_model)
    for sampler, average in zip(samplers, averaged, strict=True):
        own, counts = counts[: sampler.codebook_size], counts[sampler.codebook_size :]
        swaps += sampler.apply_counts_(own, optimizer, average)
    return swaps


def samplers_in(module: nn.Module) -> list[GuidedSampler]:
    """Every `GuidedSampler` inside, in the order of the modules."""
    return [inner for inner in module.modules() if isinstance(inner, GuidedSampler)]
