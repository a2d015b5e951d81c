"""`choose_temperatures`: sampling temperatures of a prior, chosen by held-out training images."""

from __future__ import annotations

from typing import Any

from discrete_distribution_network.ddn import DDN
from discrete_distribution_network.prior.base import LearnedPrior


def choose_temperatures(ddn: DDN, prior: LearnedPrior, held_out: Any, seed: int, max_bad_images: int = 0) -> None: ...
