"""Priors over codes: counts, heads on the features of a network, a transformer; and how they are fitted."""

from discrete_distribution_network.prior.fitting import Budget, FitCheckpoints, FitInterrupted
from discrete_distribution_network.prior.heads import (
    Chain,
    Fitted,
    Frequencies,
    LearnedPrior,
    Prior,
    fast_walk,
    fit,
    projected_weights,
    temperatures,
)
from discrete_distribution_network.prior.transformer import CodeTransformer

__all__ = [
    "Budget",
    "Chain",
    "CodeTransformer",
    "FitCheckpoints",
    "FitInterrupted",
    "Fitted",
    "Frequencies",
    "LearnedPrior",
    "Prior",
    "fast_walk",
    "fit",
    "projected_weights",
    "temperatures",
]
