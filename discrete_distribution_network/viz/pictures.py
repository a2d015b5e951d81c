"""Pictures for people: grids of images, reconstructions beside their originals, curves."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from discrete_distribution_network.ddn import DDN
from discrete_distribution_network.errors import InvalidInput, OutputError, require
from discrete_distribution_network.io.atomic_file import atomic_file, naming
from discrete_distribution_network.model.tensors import resize
from discrete_distribution_network.model.walk import Walk

MARGIN = 2
TARGET_WIDTH = 1000

PAGE_SIDE, PAGE_IMAGES = 10_000, 256
"""Most pixels of a side of a picture of many images, and most images of one that is about square."""


def to_bytes(images: Tensor) -> Tensor:
    """Images in [0, 1] as uint8 in [0, 255], on the CPU; values beyond are clipped. Those that are uint8 stay."""
    if images.dtype != torch.uint8:
        images = images.detach().float().clamp(0, 1).mul(255).round().byte()
    return images.cpu()


def to_pil(image: Tensor) -> Image.Image:
    """An image (C, H, W) in [0, 1], or uint8, with 1 or 3 channels; values beyond are clipped."""
    require(image.ndim == 3 and image.shape[0] in (1, 3), "an image of 1 or 3 channels to show", tuple(image.shape))
    pixels = to_bytes(image)
    return Image.fromarray(pixels[0].numpy() if image.shape[0] == 1 else pixels.permute(1, 2, 0).numpy())


def grid(images: Tensor, columns: int | None = None, background: float = 1.0) -> Image.Image:
    """Images (B, C, H, W) in rows of `columns` (a square if None), small ones enlarged so that pixels are seen."""
    count, channels, height, width = images.shape
    columns = math.ceil(math.sqrt(count)) if columns is None else min(columns, count)
    scale = _scale(columns, height, width)
    height, width = height * scale + MARGIN, width * scale + MARGIN
    rows = math.ceil(count / columns)
    sheet = torch.full((channels, rows * height + MARGIN, columns * width + MARGIN), round(background * 255)).byte()
    for index, image in enumerate(to_bytes(images)):
        top, left = index // columns * height + MARGIN, index % columns * width + MARGIN
        image = image.repeat_interleave(scale, 1).repeat_interleave(scale, 2)
        sheet[:, top : top + image.shape[1], left : left + image.shape[2]] = image
    return to_pil(sheet)


def _scale(columns: int, height: int, width: int) -> int:
    """How many times larger images are shown, so that a row is about as wide as a page of text."""
    return max(1, min(TARGET_WIDTH // (columns * (width + MARGIN)), PAGE_SIDE // (height + MARGIN)))


def require_picture(path: Path, endings: Iterable[str] | None = None) -> None:
    """Raise unless a picture can be written there, as far as can be told before: its ending, its folder.

    Args:
        endings: those that can be written; those of Pillow if None.

    Raises:
        InvalidInput: another ending, a folder of that name, or none to write into.
        OutputError: its folder may not be written to.
    """
    which = "of a picture, such as .png" if endings is None else f"{', '.join(endings)}"
    if endings is None:
        endings = [ending for ending, kind in Image.registered_extensions().items() if kind in Image.SAVE]
    if path.is_dir():
        raise InvalidInput(f"expected --out to be a file, got the folder {path}; name a file in it")
    if path.suffix.lower() not in endings:
        raise InvalidInput(f"expected --out with the ending {which}, got {path}; give it one")
    if not path.parent.is_dir():
        raise InvalidInput(f"expected --out in a folder that is there, got {path}; make the folder {path.parent} first")
    if not os.access(path.parent, os.W_OK):
        raise OutputError(path, PermissionError(13, "Permission denied"))


def save_picture(picture: Image.Image, path: Path) -> None:
    """Write a picture, in the format of the path's ending, whole or not at all."""
    with atomic_file(path) as staging:
        try:
            picture.save(staging)
        except (ValueError, KeyError) as error:
            raise InvalidInput(f"expected --out with the ending of a picture, such as .png, got {path}") from error


def save_figure(figure: Any, path: Path, dpi: int) -> None:
    """Write a figure of matplotlib, in the format of the path's ending, whole or not at all."""
    with atomic_file(path) as staging:
        figure.savefig(staging, dpi=dpi)


def save_pages(images: Iterable[Tensor], path: Path, total: int, columns: int | None = None) -> list[Path]:
    """Write images, as they come, in rows of `columns` (a square if None), into as many pictures as they need.

    Args:
        images: batches (B, C, H, W) of them.
        path: of the first picture; the others are called name-2, name-3 and so on.
        total: how many images come.

    Returns:
        The pictures' paths.
    """
    pages: list[Path] = []
    cells: list[Tensor] = []
    left = total
    for batch in images:
        across, down = page_layout(batch.shape[-2], batch.shape[-1], total, columns)
        for cell in to_bytes(batch):
            cells.append(cell)
            left -= 1
            if len(cells) == across * down or left == 0:
                page = path if not pages else path.with_name(f"{path.stem}-{len(pages) + 1}{path.suffix}")
                save_picture(grid(torch.stack(cells), across), page)
                pages.append(page)
                cells.clear()
    return pages


def page_layout(height: int, width: int, total: int, columns: int | None = None) -> tuple[int, int]:
    """How many images of a size go into a row of a picture, and how many rows."""
    most = max(1, (PAGE_SIDE - MARGIN) // (width + MARGIN))
    across = min(most, math.ceil(math.sqrt(min(total, PAGE_IMAGES))) if columns is None else columns)
    down = max(1, (PAGE_SIDE - MARGIN) // (height * _scale(across, height, width) + MARGIN))
    return across, down if columns is not None else max(1, min(down, PAGE_IMAGES // across))


def told_of(pages: Sequence[Path]) -> str:
    """Where pictures are, in words."""
    return str(pages[0]) if len(pages) == 1 else f"{pages[0]} to {pages[-1]}, {len(pages)} pictures"


def save_each(images: Tensor, names: Sequence[str], folder: Path | None) -> None:
    """One PNG an image into a folder, if there is one to write into."""
    if folder is not None:
        for image, name in zip(images, names, strict=True):
            save_picture(to_pil(image), folder / f"{name}.png")


def make_folder(folder: Path | None) -> None:
    """The folder of `save_each`, made before there is anything to write."""
    if folder is not None:
        with naming(folder):
            folder.mkdir(parents=True, exist_ok=True)


def growing_levels(num_levels: int, steps: int = 7) -> list[int]:
    """Numbers of levels from 1 to all, at most `steps` of them, each about as much larger than the one before."""
    wanted = [round(num_levels ** (index / max(1, steps - 1))) for index in range(steps)]
    return sorted({min(max(1, number), num_levels) for number in wanted} | {num_levels})


def reconstructions(ddn: DDN, walk: Walk, images: Tensor) -> Image.Image:
    """One row an image of a walk: at growing numbers of levels, with all levels, and last the original."""
    rows = reconstruction_rows(ddn, walk, images)
    return grid(rows.flatten(0, 1), columns=rows.shape[1])


def reconstruction_rows(ddn: DDN, walk: Walk, images: Tensor) -> Tensor:
    """The images of `reconstructions`, (B, columns, C, H, W)."""
    columns = [resize(walk.outputs[number - 1], ddn.image_size) for number in growing_levels(ddn.num_levels)]
    return torch.stack([*columns, images], dim=1)


def loss_curve(steps: Sequence[int], losses: Sequence[float], path: Path) -> None:
    """Write the training loss at these steps as a picture, on a logarithmic scale."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot()
    axes.plot(steps, losses, linewidth=1)
    axes.set(xlabel="step", ylabel="mean squared error over levels", yscale="log", title="Training loss")
    axes.grid(alpha=0.3, which="both")
    save_figure(figure, path, dpi=120)
