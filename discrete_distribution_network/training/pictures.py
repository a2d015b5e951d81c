"""Pictures along the way of a training: grids of samples and reconstructions, and images of the caller's own."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from discrete_distribution_network.conditioning import conditioning_inputs
from discrete_distribution_network.data.images import to_pixels
from discrete_distribution_network.data.loader import Batch, first_batch
from discrete_distribution_network.ddn import DDN
from discrete_distribution_network.errors import require
from discrete_distribution_network.model.pixels import as_pixels
from discrete_distribution_network.training.config import TrainerConfig
from discrete_distribution_network.viz.pictures import grid, make_folder, reconstructions, save_picture

PICTURES = "pictures"
"""Folder of pictures inside that of a training's results."""


class TrainingPictures:
    """Pictures of the same samples and the same images each time, as the weights change.

    Args:
        model: that samples and reconstructs.
        dataset: whose first `num_samples` images are reconstructed.
        config: settings of the training.
    """

    def __init__(self, model: DDN, dataset: Any, config: TrainerConfig):
        self.model, self.dataset, self.config = model, dataset, config
        self.folder = Path(config.results_folder) / PICTURES
        self.drawable = model.channels in (1, 3)
        self._batch: Batch | None = None

    def batch(self) -> Batch:
        """The images that are reconstructed; read once."""
        if self._batch is None:
            config = self.config
            self._batch = first_batch(self.dataset, self.model, config.num_samples, config.max_bad_images)
        return self._batch

    def _images(self) -> Tensor:
        return self.batch().images.to(self.model.start.device)

    def _inputs(self, images: Tensor) -> dict[str, Any]:
        return {**conditioning_inputs(self.model, images, self.batch().labels, self.config.cond_fn)}

    def samples(self, generator: torch.Generator | None = None) -> Float[Tensor, "batch channels height width"]:
        """`num_samples` samples; of a conditional network one for each image of `batch`."""
        if self.model.num_classes is None and not self.model.cond_channels:
            return self.model.sample(self.config.num_samples, generator=generator)
        images = self._images()
        return self.model.sample(len(images), generator=generator, **self._inputs(images))

    def draw(self, step: int) -> None:
        """Write a grid of samples and one of reconstructions."""
        samples = grid(self.samples(torch.Generator().manual_seed(self.config.seed)))
        self.save(samples, "samples", step)
        images = self._images()
        walk = self.model.encode_walk(images, **self._inputs(images))
        self.save(reconstructions(self.model, walk, images), "reconstructions", step)

    def save(self, picture: Image.Image, name: str, step: int) -> None:
        """Write one picture, named after itself and the step."""
        file_name = re.sub(r"[^\w.-]+", "-", name)
        make_folder(self.folder)
        save_picture(picture, self.folder / f"{file_name}-{step:08d}.png")


def named_pictures(*images: Any, **named_images: Any) -> dict[str, Image.Image]:
    """Pictures by their names, from the arguments of `Trainer.log_images`."""
    require(len(images) <= 2, "log_images(images) or log_images(name, images)", f"{len(images)} arguments")
    named: dict[Any, Any] = {**named_images}
    if len(images) == 2:
        named[images[0]] = images[1]
    elif images:
        named |= images[0] if isinstance(images[0], Mapping) else {"images": images[0]}
    return {str(name): _as_picture(value) for name, value in named.items()}


def _as_picture(images: Any) -> Image.Image:
    """One picture of a tensor (C, H, W) or (B, C, H, W), of a Pillow image, or of a list of these."""
    if isinstance(images, Image.Image):
        return images
    if isinstance(images, list | tuple):
        pixels = [
            as_pixels(to_pixels(one, (one.height, one.width), 3) if isinstance(one, Image.Image) else one, (None,) * 3)
            for one in images
        ]
        shapes = {tuple(one.shape) for one in pixels}
        require(len(shapes) == 1, "images of one shape", sorted(shapes))
        images = torch.stack(pixels)
    elif isinstance(images, Tensor) and images.ndim == 3:
        images = images[None]
    return grid(as_pixels(images, (None,) * 4))
