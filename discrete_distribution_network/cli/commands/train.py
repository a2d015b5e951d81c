"""`ddn train`."""

from __future__ import annotations

from dataclasses import dataclass

from discrete_distribution_network.cli.config import TrainConfig


@dataclass
class Train(TrainConfig):
    """Train on a folder of images or on a data set."""

    def run(self) -> None:
        from discrete_distribution_network.cli.train import train

        train(self, self.name)
