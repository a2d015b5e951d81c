"""Training: the trainer, its checkpoints, the presets of networks and how `ddn train` trains them.

`training.recipes` needs no PyTorch, so the names below are imported when first used.
"""

from typing import TYPE_CHECKING

from discrete_distribution_network._lazy import lazy

if TYPE_CHECKING:
    from discrete_distribution_network.training.checkpoints import Checkpoints
    from discrete_distribution_network.training.config import TrainerConfig
    from discrete_distribution_network.training.presets import preset, recipe
    from discrete_distribution_network.training.progress import Step
    from discrete_distribution_network.training.recipes import Recipe
    from discrete_distribution_network.training.report import read_metrics
    from discrete_distribution_network.training.trainer import Trainer

__all__ = [
    "Checkpoints",
    "Recipe",
    "Step",
    "Trainer",
    "TrainerConfig",
    "preset",
    "read_metrics",
    "recipe",
]

__getattr__ = lazy(
    __name__,
    {
        "Checkpoints": "checkpoints",
        "Recipe": "recipes",
        "Step": "progress",
        "Trainer": "trainer",
        "TrainerConfig": "config",
        "preset": "presets",
        "read_metrics": "report",
        "recipe": "presets",
    },
)
