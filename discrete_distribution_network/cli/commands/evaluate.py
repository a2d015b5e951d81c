"""`ddn evaluate`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from discrete_distribution_network.cli.options import RunOptions


@dataclass
class Evaluate(RunOptions):
    """Evaluate a run's model: reconstruction error on its test images, Fréchet distance of its samples."""

    samples: int = 10_000
    """Number of samples for the Fréchet distance."""
    features: str | None = None
    """Features that samples are compared in: imagenet (for colour images; also gives kernel distance, precision, recall
    and nearest training images), classifier (trained on the data set's labels), inception (its weights must be on this
    machine), the path of Inception's weights, or none. If not given, classifier where the images have labels, else
    none."""
    uniform: bool = False
    """Draw the samples uniformly, even if the model has a prior."""
    temperature: float | Literal["fidelity", "diversity"] | None = None
    """Temperature of the prior, as for `ddn sample`."""
    seed: int = 0
    """Random seed of the samples and of the classifier."""

    def run(self) -> None:
        from discrete_distribution_network.cli.evaluate import evaluate_run

        for name, value in evaluate_run(self).items():
            print(f"{name}: {value}")
