"""`ddn interpolate`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import tyro

from discrete_distribution_network.cli.options import ModelOptions
from discrete_distribution_network.errors import require


@dataclass
class Interpolate(ModelOptions):
    """Interpolate between two images: each step is guided by both, weighted."""

    one: tyro.conf.Positional[Path] = Path()
    """The first image file."""
    other: tyro.conf.Positional[Path] = Path()
    """The last image file."""
    steps: int = 8
    """Number of images between them."""
    beams: int = 4
    """Beam width; cost grows roughly linearly."""
    out: Path = Path("between.png")
    """Picture to write."""

    def run(self) -> None:
        import torch
        from torch import Tensor

        from discrete_distribution_network.cli.images import batch_size, load_image_file, parts
        from discrete_distribution_network.cli.runs import load_model, model_folder
        from discrete_distribution_network.guidance.conditions import Match
        from discrete_distribution_network.random_state import random_generator
        from discrete_distribution_network.viz.pictures import describe_pages, require_picture, save_pages

        require(self.steps >= 3, "--steps of at least 3", self.steps)
        require_picture(self.out)
        folder = model_folder(self.model)
        ddn = load_model(folder, self.device)
        first, last = (load_image_file(file, ddn) for file in (self.one, self.other))
        weights = torch.linspace(0, 1, self.steps)
        generator = random_generator(0)

        def between() -> Iterator[Tensor]:
            yield first
            for part in parts(self.steps, batch_size(ddn.image_size)):
                weight, size = weights[part.start : part.stop], (len(part), -1, -1, -1)
                conditions = [Match(first.expand(size), weight=1 - weight), Match(last.expand(size), weight=weight)]
                yield ddn.guide(conditions, len(part), 1, generator, beams=self.beams).images
            yield last

        pages = save_pages(between(), self.out, self.steps + 2, self.steps + 2)
        print(
            f"{self.steps} steps from {self.one} to {self.other} in {describe_pages(pages)}, the images themselves "
            "at both ends"
        )
