"""Priors over codes: `Frequencies` and `Chain` by counting; `Prior` and `CodeTransformer`, which `fit` fits.

A kind of prior is a subclass of `LearnedPrior` in a file of its own, and an entry of `PRIORS` here.
"""

from discrete_distribution_network.prior.base import LearnedPrior, projected_weights, temperatures
from discrete_distribution_network.prior.counts import Chain, Frequencies
from discrete_distribution_network.prior.fit_checkpoints import FitCheckpoints, FitInterrupted
from discrete_distribution_network.prior.fit_loop import Budget
from discrete_distribution_network.prior.fitting import Fitted, fast_walk, fit
from discrete_distribution_network.prior.heads import Prior
from discrete_distribution_network.prior.transformer import CodeTransformer

PRIORS: dict[str, type[LearnedPrior]] = {prior.kind: prior for prior in (Prior, CodeTransformer)}
"""The learned priors, by the names of `ddn prior --kind`."""

__all__ = [
    "PRIORS",
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
