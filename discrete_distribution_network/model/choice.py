"""The choice of a node for each sample in training: counted, with chain dropout, crossover and soft gradients."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Integer
from torch import Tensor

from discrete_distribution_network.model.candidates import Candidates


class Choice(NamedTuple):
    """The nodes whose candidates are blended into each sample's output.

    Attributes:
        codes: the chosen node.
        second, share: a second node, and its share in the output (crossover); None for the chosen node alone.
        weights: of all nodes in the output, with a gradient (straight-through); None for those of `codes` and `share`.
    """

    codes: Integer[Tensor, " batch"]
    second: Integer[Tensor, " batch"] | None = None
    share: Float[Tensor, "batch 1"] | None = None
    weights: Float[Tensor, "batch nodes"] | None = None

    def of(self, candidates: Candidates) -> Float[Tensor, "batch channels *pixels"]:
        """The output of these candidates."""
        if self.weights is not None:
            return candidates.mix(self.weights)
        images = candidates.at(self.codes)
        if self.second is None or self.share is None:
            return images
        share = self.share.to(images).reshape(-1, *(1,) * (images.ndim - 1))
        return images.lerp(candidates.at(self.second), share)

    def straight_through(self, logits: Float[Tensor, "batch nodes"]) -> Choice:
        """The same output, whose gradient is that of the mixture of all nodes by softmax(logits)."""
        weights = F.one_hot(self.codes, logits.shape[1]).to(logits)
        if self.second is not None and self.share is not None:
            weights = weights.lerp(F.one_hot(self.second, logits.shape[1]).to(logits), self.share)
        soft = logits.softmax(-1)
        return self._replace(weights=weights + soft - soft.detach())


@torch.library.custom_op("ddn::count", mutates_args=("counts",), schema="(Tensor(a0!) counts, Tensor nodes) -> ()")
def count(counts: Tensor, nodes: Tensor) -> None:
    """Add the number of times that each node occurs in `nodes` (N,) to the counts (K,), except in a backward pass.

    There gradient checkpointing repeats a forward pass whose choices are already counted. It is an operator, so that a
    compiled graph checks this too, at every run.
    """
    if torch._C._current_graph_task_id() == -1:
        counts.scatter_(0, nodes, 1, reduce="add")


def gumbel_like(logits: Float[Tensor, "batch nodes"]) -> Float[Tensor, "batch nodes"]:
    """Standard Gumbel noise: the argmax of logits with it is a sample of their softmax."""
    return -torch.empty_like(logits).exponential_().clamp_min(torch.finfo(logits.dtype).tiny).log()


def chain_dropout(
    codes: Integer[Tensor, " batch"], codebook_size: int, probability: float
) -> Integer[Tensor, " batch"]:
    """Codes, each with this probability replaced by a uniformly random one."""
    # one draw is both: below K (with this probability) it is the random code
    drawn = torch.randint_like(codes, max(codebook_size, round(codebook_size / probability)))
    return torch.where(drawn < codebook_size, drawn, codes)


def crossover(scores: Float[Tensor, "batch nodes"], codes: Integer[Tensor, " batch"], probability: float) -> Choice:
    """The chosen nodes, each with this probability blended by a random share with the node of the next best score."""
    second = scores.scatter(1, codes.unsqueeze(1), -torch.inf).argmax(-1)
    coin = torch.rand_like(scores[:, :1]) < probability
    return Choice(codes, second, torch.rand_like(scores[:, :1]) * coin)
