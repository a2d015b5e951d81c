"""Pictures for people: grids of images, reconstructions beside their originals, curves."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from discrete_distribution_network.ddn import DDN, Walk
from discrete_distribution_network.errors import InvalidInput, require
from discrete_distribution_network.selection import resize

MARGIN = 2
TARGET_WIDTH = 1000


def to_pil(image: Tensor) -> Image.Image:
    """An image (C, H, W) in [0, 1] with 1 or 3 channels; values beyond are clipped."""
    require(image.ndim == 3 and image.shape[0] in (1, 3), "an image of 1 or 3 channels to show", tuple(image.shape))
    pixels = image.detach().float().clamp(0, 1).mul(255).round().byte().cpu()
    return Image.fromarray(pixels[0].numpy() if image.shape[0] == 1 else pixels.permute(1, 2, 0).numpy())


def grid(images: Tensor, columns: int | None = None, background: float = 1.0) -> Image.Image:
    """Images (B, C, H, W) in rows of `columns` (a square if None), small ones enlarged so that pixels are seen."""
    count, channels, height, width = images.shape
    columns = math.ceil(math.sqrt(count)) if columns is None else min(columns, count)
    scale = max(1, TARGET_WIDTH // (columns * (width + MARGIN)))
    images = F.interpolate(images.detach().float(), scale_factor=scale, mode="nearest")
    height, width = height * scale + MARGIN, width * scale + MARGIN
    rows = math.ceil(count / columns)
    sheet = torch.full((channels, rows * height + MARGIN, columns * width + MARGIN), background)
    for index, image in enumerate(images.cpu()):
        top, left = index // columns * height + MARGIN, index % columns * width + MARGIN
        sheet[:, top : top + image.shape[1], left : left + image.shape[2]] = image
    return to_pil(sheet)


def save_picture(picture: Image.Image, path: Path) -> None:
    """Write a picture, in the format of the path's ending."""
    try:
        picture.save(path)
    except ValueError as error:
        raise InvalidInput(f"expected --out with the ending of a picture, such as .png, got {path}") from error


def growing_levels(num_levels: int, steps: int = 7) -> list[int]:
    """Numbers of levels from 1 to all, at most `steps` of them, each about as much larger than the one before."""
    wanted = [round(num_levels ** (index / max(1, steps - 1))) for index in range(steps)]
    return sorted({min(max(1, number), num_levels) for number in wanted} | {num_levels})


def reconstructions(ddn: DDN, walk: Walk, images: Tensor) -> Image.Image:
    """One row an image of a walk: at growing numbers of levels, with all levels, and last the original."""
    columns = [resize(walk.outputs[number - 1], ddn.image_size) for number in growing_levels(ddn.num_levels)]
    rows = torch.stack([*columns, images], dim=1)
    return grid(rows.flatten(0, 1), columns=rows.shape[1])


def loss_curve(steps: Sequence[int], losses: Sequence[float], path: Path) -> None:
    """Write the training loss at these steps as a picture, on a logarithmic scale."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot()
    axes.plot(steps, losses, linewidth=1)
    axes.set(xlabel="step", ylabel="mean squared error over levels", yscale="log", title="Training loss")
    axes.grid(alpha=0.3, which="both")
    figure.savefig(path, dpi=120)
