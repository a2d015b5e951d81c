"""Training: the trainer, its checkpoints, and the presets of networks."""

from discrete_distribution_network.training.checkpoints import Checkpoints
from discrete_distribution_network.training.presets import preset, recipe
from discrete_distribution_network.training.report import read_metrics
from discrete_distribution_network.training.trainer import Step, Trainer

__all__ = [
    "Checkpoints",
    "Step",
    "Trainer",
    "preset",
    "read_metrics",
    "recipe",
]
