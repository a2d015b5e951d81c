"""`ddn prior`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from discrete_distribution_network.cli.options import RunOptions


@dataclass
class Prior(RunOptions):
    """Fit a prior to the codes of a run's training images, for better samples; it is saved beside the model.

    SIGTERM and Ctrl-C save the fit so far; continue it with --resume.
    """

    kind: Literal["heads", "transformer", "codes"] | None = None
    """heads: a head on the network's features at each level (default); transformer: over the codes alone; codes: an
    integer-valued entropy model, which makes the files of `ddn encode` smaller and is not used for samples."""
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
