"""`GuidedSampler`: one level of a Discrete Distribution Network.

It holds the K heads that draw the candidates, chooses the one nearest to a query (or the one a code names) and counts
how often each node is chosen, so that `split_and_prune_` can move nodes to where the data is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer

from discrete_distribution_network.errors import InvalidInput, is_number, require, require_integer, shown
from discrete_distribution_network.model.blocks import ChannelRMSNorm
from discrete_distribution_network.model.candidates import Candidates, at_least_float32, exact_float32
from discrete_distribution_network.model.heads import LinearHeads, NetworkHeads, make_heads
from discrete_distribution_network.model.split_and_prune import apply_plan, plan_split_and_prune
from discrete_distribution_network.model.tensors import to_patches


class SamplerOutput(NamedTuple):
    """What one level gives.

    Attributes:
        output: the chosen candidate, (B, C, H, W) for images or (B, C) for vectors.
        codes: which one it is, int64 in [0, K): (B,), or (B, H / p, W / p) with patches of size p.
        commit_loss: its mean squared error to the query; None when there was no query.
    """

    output: Tensor
    codes: Tensor
    commit_loss: Tensor | None


DistanceFn = Callable[[Tensor, Tensor], Tensor]


@torch.library.custom_op("ddn::count", mutates_args=("counts",))
def _count(counts: Tensor, nodes: Tensor) -> None:
    """Add to the counts (K,) how often each node is among these, (N,), but not within a backward pass.

    There gradient checkpointing repeats a forward pass whose choices are counted. An operator of its own, so that a
    compiled graph asks too each time that it runs.
    """
    if torch._C._current_graph_task_id() == -1:
        counts.scatter_add_(0, nodes, torch.ones_like(nodes))


class GuidedSampler(nn.Module):
    """K candidates from features, and the choice among them (section 3.2 of arXiv 2401.00036).

    Args:
        dim: D, channels of the features.
        dim_query: C, channels of the query and of the candidates; with a `network` those that it gives, whatever is
            said here.
        codebook_size: K, the number of nodes.
        network: one node's network, features -> candidate, copied K times with fresh weights. None, a 1x1
            `nn.Conv2d` or an `nn.Linear` are linear heads: their candidates are never all computed. Any other network
            draws all K without a gradient to choose, then the chosen one with a gradient; it must treat samples
            independently (no batch norm).
        distance_fn: `(query (B, 1, M), candidates (B, k, M)) -> (B, 1, k)`, in place of the Euclidean distance. It is
            called on chunks of nodes.
        chain_dropout_prob: in training, chance that a sample's choice is replaced by a random node. The node that
            was nearest is counted all the same.
        split_thres, prune_thres: shares, in units of 1/K, over and under which a node is split or pruned.
        pre_network_activation: applied to the features before the heads (after the norm).
        post_network_activation: applied to every head's output before the residual is added.
        prenorm: normalise the features first, by `norm_module` or else by an RMS norm over channels.
        norm_module: the norm to use; any module that keeps the features' shape. Given alone it is used too.
        min_total_count_before_split_prune: no split before this many choices have been counted.
        crossover_top2_prob: in training, chance that a sample's output is a random blend of its chosen node and the
            nearest of the others.
        straight_through_distance_logits: in training, pass gradients to all nodes through softmax(-distance).
        stochastic: in training, choose by -distance + Gumbel noise.
        gumbel_noise_scale: scale of that noise.
        patch_size: choose per patch of this size; codes are then (B, H / p, W / p).
        separate_values: choose by one set of heads (the keys), give out the candidate of another (the values).
            `commit_loss` is of the keys; the values learn by what is done with the output.
        dim_values: channels of those values; C if None. With a `network` those that it gives.
        max_swaps: most nodes one call of `split_and_prune_` replaces; the published rule is 1, None is no limit.
        count_window: if given, counts fade after each `split_and_prune_` so that they sum to at most this: a decaying
            window of about the last `count_window` choices. None never forgets, as published.
        head_init: the standard deviation of a fresh linear head's output for features of unit variance; None for
            PyTorch's own (uniform) initialisation.

    Shapes: features (B, D, H, W) with queries (B, C, H, W), or vectors (B, D) with (B, C).
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
        for name, value in (("dim", dim), ("dim_query", dim_query), ("codebook_size", codebook_size)):
            require_integer(value, name)
        for name, chance in (
            ("chain_dropout_prob", chain_dropout_prob),
            ("crossover_top2_prob", crossover_top2_prob),
        ):
            require(is_number(chance) and 0 <= chance <= 1, f"{name} in [0, 1]", shown(chance))
        for name, number in (
            ("split_thres", split_thres),
            ("prune_thres", prune_thres),
            ("gumbel_noise_scale", gumbel_noise_scale),
            ("min_total_count_before_split_prune", min_total_count_before_split_prune),
            ("head_init", 0 if head_init is None else head_init),
        ):
            fits = is_number(number) or (isinstance(number, float) and number == torch.inf)  # no threshold
            require(fits and number >= 0, f"{name} of at least 0", shown(number))
        for name, module in (
            ("network", network),
            ("norm_module", norm_module),
            ("pre_network_activation", pre_network_activation),
            ("post_network_activation", post_network_activation),
        ):
            require(module is None or isinstance(module, nn.Module), f"{name} to be a torch.nn.Module", shown(module))
        require(distance_fn is None or callable(distance_fn), "distance_fn to be callable", shown(distance_fn))
        for name, count, least in (
            ("patch_size", patch_size, 1),
            ("dim_values", dim_values, 1),
            ("max_swaps", max_swaps, 0),
            ("count_window", count_window, codebook_size),
        ):
            if count is not None:
                require_integer(count, name, least)
        require(
            dim_values is None or separate_values,
            "separate_values=True where dim_values is given",
            f"dim_values={dim_values} alone",
            "set separate_values=True or drop dim_values",
        )
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

    def candidates(self, features: Tensor, residual: Tensor | None = None, patch: int | None = None) -> Candidates:
        """The K candidates for features (B, D, ...) and a residual (B, C, ...), computed only when asked.

        With separate values these are the values: what a node's code decodes to.

        With patches, each patch is a sample of its own: B * H / p * W / p of them, p x p pixels each; or only one
        patch of every image, counted row by row, if `patch` is given.
        """
        self._check_features(features)
        self._check_image(residual, features, "residual")
        batch = features.shape[0]
        features, residual = self._prepare(features), self._residual(residual)
        if patch is not None:
            features = features.unflatten(0, (batch, -1))[:, patch]
            residual = None if residual is None else residual.unflatten(0, (batch, -1))[:, patch]
        return self._values(features, residual)

    def codes_shape(self, features: Tensor) -> tuple[int, ...]:
        """The shape of the codes for these features: (B,), or (B, H / p, W / p)."""
        if self.patch_size is None:
            return (features.shape[0],)
        return (features.shape[0], *(side // self.patch_size for side in features.shape[2:]))

    def _prepare(self, features: Tensor) -> Tensor:
        features = features if self.norm is None else self.norm(features)
        if self.pre_network_activation is not None:
            features = self.pre_network_activation(features)
        return self._to_patches(features)

    def _residual(self, residual: Tensor | None) -> Tensor | None:
        return None if residual is None else self._to_patches(residual)

    def _values(self, features: Tensor, residual: Tensor | None) -> Candidates:
        """What is given out: the keys themselves, or the separate values (with the residual if it fits)."""
        if self.values is None:
            return self.keys(features, residual)
        fits = residual is not None and self.values.dim_out == residual.shape[1]
        return self.values(features, residual if fits else None)

    # choose

    def forward(
        self, features: Tensor, query: Tensor, return_distances: bool = False, residual: Tensor | None = None
    ) -> SamplerOutput | tuple[SamplerOutput, Tensor]:
        """The candidate nearest to the query.

        Args:
            features: (B, D, H, W), or (B, D).
            query: (B, C, H, W), or (B, C).
            return_distances: also give the Euclidean distances of all K candidates, (B, K), or (B, H / p, W / p, K).
            residual: an image like the query that every candidate adds to.
        """
        self._check_features(features)
        self._check_image(query, features, "query")
        self._check_image(residual, features, "residual")
        codes_shape = self.codes_shape(features)
        image_shape = features.shape
        features, query, residual = self._prepare(features), self._to_patches(query), self._residual(residual)
        keys = self.keys(features, residual)
        values = keys if self.values is None else self._values(features, residual)

        straight_through = self.training and self.straight_through_distance_logits
        with torch.set_grad_enabled(straight_through and torch.is_grad_enabled()):
            distances = self._distances(keys, query)
            logits = -self._root(distances)
        # squared distances order nodes alike, and more finely than their roots
        scores = -distances.detach()
        if self.training and self.stochastic:
            logits = logits + self.gumbel_noise_scale * gumbel_like(logits)
            scores = logits.detach()
        codes = nearest = scores.argmax(-1)
        if self.training:
            _count(self.counts, nearest)
            if self.chain_dropout_prob > 0:
                codes = chain_dropout(nearest, self.codebook_size, self.chain_dropout_prob)

        blend: tuple[Tensor, Tensor] | None = None  # the second nearest node and its share in the output
        if self.training and self.crossover_top2_prob > 0 and self.codebook_size > 1:
            second = scores.scatter(1, codes.unsqueeze(1), -torch.inf).argmax(-1)
            coin = torch.rand_like(scores[:, :1]) < self.crossover_top2_prob
            blend = second, torch.rand_like(scores[:, :1]) * coin
        weights = None
        if straight_through:
            weights = F.one_hot(codes, self.codebook_size).to(logits)
            if blend is not None:
                weights = weights.lerp(F.one_hot(blend[0], self.codebook_size).to(logits), blend[1])
            soft = logits.softmax(-1)
            weights = weights + soft - soft.detach()

        def pick(candidates: Candidates) -> Tensor:
            if weights is not None:
                return candidates.mix(weights)
            images = candidates.at(codes)
            if blend is None:
                return images
            share = blend[1].to(images).reshape(-1, *(1,) * (images.ndim - 1))
            return images.lerp(candidates.at(blend[0]), share)

        chosen = pick(keys)
        output = chosen if values is keys else pick(values)
        loss = F.mse_loss(at_least_float32(chosen), at_least_float32(query))
        result = SamplerOutput(self._from_patches(output, image_shape), codes.reshape(codes_shape), loss)
        return (result, self._root(distances).unflatten(0, codes_shape)) if return_distances else result

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

    def forward_for_codes(self, features: Tensor, codes: Tensor | int, residual: Tensor | None = None) -> Tensor:
        """The candidates that the codes name.

        Args:
            features: (B, D, H, W), or (B, D).
            codes: integers in [0, K): one for the whole batch, (B,), or (B, H / p, W / p).
            residual: an image like the query that is added (not to separate values of another width).

        Raises:
            InvalidInput: a ValueError, before anything is computed.
        """
        self._check_features(features)
        self._check_image(residual, features, "residual")
        codes = torch.as_tensor(codes, device=features.device)
        check_codes(codes, self.codes_shape(features), self.codebook_size)
        return self.draw(features, codes.long().expand(self.codes_shape(features)), residual).output

    def draw(self, features: Tensor, codes: Tensor, residual: Tensor | None = None) -> SamplerOutput:
        """`forward_for_codes` for codes already checked: no look at their values, so no wait for a GPU."""
        shape = features.shape
        features, residual = self._prepare(features), self._residual(residual)
        output = self._values(features, residual).at(codes.reshape(-1))
        return SamplerOutput(self._from_patches(output, shape), codes, None)

    # split and prune

    def node_parameters(self) -> list[nn.Parameter]:
        """Those of the heads, keys and values: each has a row for every node, (K, ...)."""
        return [parameter for head in (self.keys, self.values) if head is not None for parameter in head.parameters()]

    def split_and_prune_(self, optimizer: Optimizer | None = None) -> int:
        """Move nodes to where the data is, by the counts so far; call it after the optimiser's step.

        Args:
            optimizer: if given, its moments of the moved rows are copied too.

        Returns:
            How many nodes were pruned.
        """
        return self.apply_counts_(self.counts.tolist(), optimizer)

    def apply_counts_(
        self, counts: Sequence[int], optimizer: Optimizer | None = None, mirror: GuidedSampler | None = None
    ) -> int:
        """`split_and_prune_` for counts already read from the device; in `mirror` the same rows move."""
        if sum(counts) < max(1, self.min_total_count_before_split_prune):
            return 0
        plan = plan_split_and_prune(counts, self.split_thres, self.prune_thres, self.max_swaps)
        rows = [parameter for one in (self, mirror) if one is not None for parameter in one.node_parameters()]
        apply_plan(plan, rows, optimizer)
        after, total = plan.counts, sum(plan.counts)
        if self.count_window is not None and total > self.count_window:
            after = [count * self.count_window // total for count in after]
        if after != list(counts):
            self.counts.copy_(torch.tensor(after))
        return plan.swaps

    # patches

    def _to_patches(self, images: Tensor) -> Tensor:
        return images if self.patch_size is None else to_patches(images, (self.patch_size, self.patch_size))

    def _from_patches(self, patches: Tensor, image_shape: torch.Size) -> Tensor:
        p = self.patch_size
        if p is None:
            return patches
        batch, _, height, width = image_shape
        images = patches.reshape(batch, height // p, width // p, -1, p, p)
        return images.permute(0, 3, 1, 4, 2, 5).reshape(batch, -1, height, width)

    # checks

    def _check_features(self, features: Tensor) -> None:
        require(isinstance(features, Tensor), "features as a tensor", shown(features))
        require(
            features.ndim in (2, 4) and features.shape[1] == self.dim,
            f"features (B, {self.dim}, H, W) or (B, {self.dim})",
            tuple(features.shape),
        )
        require(features.shape[0] > 0, "a batch of at least 1", "an empty one")
        if self.patch_size is not None:
            require(
                features.ndim == 4 and all(side % self.patch_size == 0 for side in features.shape[2:]),
                f"features whose height and width divide by patch_size {self.patch_size}",
                tuple(features.shape),
            )

    def _check_image(self, image: Tensor | None, features: Tensor, name: str) -> None:
        if image is None:
            return
        require(isinstance(image, Tensor), f"{name} as a tensor", shown(image))
        expected = (features.shape[0], self.dim_query, *features.shape[2:])
        require(tuple(image.shape) == expected, f"{name} of shape {expected}", tuple(image.shape))
        require(image.is_floating_point(), f"{name} as floating-point numbers", image.dtype, "divide by 255")


def check_codes(codes: Tensor, shape: Sequence[int], codebook_size: int) -> None:
    """Raise `InvalidInput` unless codes are integers in [0, K) of this shape, or one integer."""
    integer = not (codes.is_floating_point() or codes.is_complex() or codes.dtype == torch.bool)
    require(integer, "integer codes", codes.dtype)
    shape = tuple(shape)
    require(codes.ndim == 0 or tuple(codes.shape) == shape, f"codes of shape {shape} or ()", tuple(codes.shape))
    if not bool(((codes >= 0) & (codes < codebook_size)).all()):
        raise InvalidInput(
            f"expected codes in [0, {codebook_size}), got values from {int(codes.min())} to {int(codes.max())}"
        )


def gumbel_like(logits: Tensor) -> Tensor:
    """Standard Gumbel noise: adding it to logits and taking the largest draws from their softmax."""
    return -torch.empty_like(logits).exponential_().clamp_min(torch.finfo(logits.dtype).tiny).log()


def chain_dropout(codes: Tensor, codebook_size: int, probability: float) -> Tensor:
    """Each of the codes replaced by a uniformly random one with `probability`; a coin for every sample."""
    dropped = torch.rand(codes.shape, device=codes.device) < probability
    return torch.where(dropped, torch.randint_like(codes, codebook_size), codes)


def split_and_prune_(module: nn.Module, optimizer: Optimizer | None = None, mirror: nn.Module | None = None) -> int:
    """Split and prune every `GuidedSampler` inside `module`; call it after the optimiser's step.

    Args:
        module: any module that holds samplers.
        optimizer: if given, its moments of the same rows are copied too.
        mirror: a copy of `module` with other weights, such as their moving average: the same rows move there.

    Returns:
        How many nodes were pruned in all.
    """
    samplers = samplers_in(module)
    require(bool(samplers), "a module with at least one GuidedSampler inside", type(module).__name__)
    # one transfer for all samplers: where nothing is to be done, a GPU is waited for once
    counts = torch.cat([sampler.counts for sampler in samplers]).tolist()
    swaps = 0
    mirrored = [None] * len(samplers) if mirror is None else samplers_in(mirror)
    for sampler, other in zip(samplers, mirrored, strict=True):
        own, counts = counts[: sampler.codebook_size], counts[sampler.codebook_size :]
        swaps += sampler.apply_counts_(own, optimizer, other)
    return swaps


def samplers_in(module: nn.Module) -> list[GuidedSampler]:
    """Every `GuidedSampler` inside, in the order of the modules."""
    return [inner for inner in module.modules() if isinstance(inner, GuidedSampler)]
