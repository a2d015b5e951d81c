"""`ddn quickstart`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import tyro

from discrete_distribution_network.cli.commands.train import Train


@dataclass
class Quickstart(Train):
    """Train on 4,000 MNIST digits for three minutes, then evaluate the model and draw samples."""

    dataset: tyro.conf.Positional[str] = "mnist-digits"
    size: tuple[int, int] = (32, 32)
    channels: int = 1
    codebook_size: int | None = 64  # with 4,000 images, more nodes would be seldom chosen
    minutes: float = 3.0

    name: ClassVar[str] = "quickstart"
