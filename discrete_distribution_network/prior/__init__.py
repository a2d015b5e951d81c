"""Priors over codes: `Frequencies` and `Chain` by counting; `Prior` and `CodeTransformer`, which `fit` fits.

A kind of prior is a subclass of `LearnedPrior` in a file of its own, and an entry of `kinds.PRIORS`, which needs no
PyTorch, so the names below are imported when first used.
"""

from typing import TYPE_CHECKING

from discrete_distribution_network._lazy import lazy

if TYPE_CHECKING:
    from discrete_distribution_network.prior.base import LearnedPrior, prior_class, projected_weights, temperatures
    from discrete_distribution_network.prior.counts import Chain, Frequencies
    from discrete_distribution_network.prior.heads import Prior
    from discrete_distribution_network.prior.kinds import PRIORS
    from discrete_distribution_network.prior.transformer import CodeTransformer
    from discrete_distribution_network.training.fit_checkpoints import FitCheckpoints, FitInterrupted
    from discrete_distribution_network.training.fit_loop import Budget
    from discrete_distribution_network.training.fitting import Fitted, fast_walk, fit

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
    "prior_class",
    "projected_weights",
    "temperatures",
]

__getattr__ = lazy(
    __name__,
    {
        "PRIORS": "kinds",
        "Budget": "..training.fit_loop",
        "Chain": "counts",
        "CodeTransformer": "transformer",
        "FitCheckpoints": "..training.fit_checkpoints",
        "FitInterrupted": "..training.fit_checkpoints",
        "Fitted": "..training.fitting",
        "Frequencies": "counts",
        "LearnedPrior": "base",
        "Prior": "heads",
        "fast_walk": "..training.fitting",
        "fit": "..training.fitting",
        "prior_class": "base",
        "projected_weights": "base",
        "temperatures": "base",
    },
)
