"""Priors over codes: `Frequencies` and `Chain` by counting; `Prior` and `CodeTransformer`, which `fit` fits.

A kind of prior is a subclass of `LearnedPrior` in a file of its own, and an entry of `kinds.PRIORS`, which needs no
PyTorch, so the names below are imported when first used.
"""

from typing import TYPE_CHECKING

from discrete_distribution_network._lazy import lazy

if TYPE_CHECKING:
    from discrete_distribution_network.prior.base import LearnedPrior, prior_class, projected_weights, temperatures
    from discrete_distribution_network.prior.counts import Chain, Frequencies
    from discrete_distribution_network.prior.fit_checkpoints import FitCheckpoints, FitInterrupted
    from discrete_distribution_network.prior.fit_loop import Budget
    from discrete_distribution_network.prior.fitting import Fitted, fast_walk, fit
    from discrete_distribution_network.prior.heads import Prior
    from discrete_distribution_network.prior.kinds import PRIORS
    from discrete_distribution_network.prior.transformer import CodeTransformer

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
        "Budget": "fit_loop",
        "Chain": "counts",
        "CodeTransformer": "transformer",
        "FitCheckpoints": "fit_checkpoints",
        "FitInterrupted": "fit_checkpoints",
        "Fitted": "fitting",
        "Frequencies": "counts",
        "LearnedPrior": "base",
        "Prior": "heads",
        "fast_walk": "fitting",
        "fit": "fitting",
        "prior_class": "base",
        "projected_weights": "base",
        "temperatures": "base",
    },
)
