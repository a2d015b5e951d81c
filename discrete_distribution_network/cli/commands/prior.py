"""`ddn prior`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from discrete_distribution_network.cli.options import RunOptions
from discrete_distribution_network.prior.kinds import PRIORS

KINDS = "; ".join(f"{name}: {kind.help}" for name, kind in PRIORS.items()) + (
    "; codes: an integer-valued entropy model, which makes the files of `ddn encode` smaller and is not used for "
    "samples."
)
"""Help of `--kind`."""


@dataclass
class Prior(RunOptions):
    """Fit a prior to the codes of a run's training images, for better samples; it is saved beside the model.

    SIGTERM and Ctrl-C save the fit so far; continue it with --resume.
    """

    kind: Annotated[Literal[*PRIORS, "codes"] | None, tyro.conf.arg(help=KINDS)] = None  # type: ignore[valid-type]
    minutes: float | None = None
    """Time for the fit; 5 if neither this nor STEPS is given."""
    steps: int | None = None
    """Optimiser steps, instead of a time, or whichever comes first."""
    by_class: bool = False
    """Make the prior class-conditional, as it is anyway for such a network; the data set must have labels."""
    dim: int | None = None
    """Width; 96 if not given, 64 for codes."""
    seed: int | None = None
    """Random seed of the weights and of the order of the images; 0 if not given."""
    resume: bool = False
    """Continue an interrupted fit with its own options; STEPS and MINUTES count from its start."""
    overwrite: bool = False
    """Start again, discarding an interrupted fit."""

    def run(self) -> None:
        from discrete_distribution_network.cli.prior import fit_prior

        print(fit_prior(self))
