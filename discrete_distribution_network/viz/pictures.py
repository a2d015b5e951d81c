"""Pictures: image grids, reconstructions beside their originals, loss curves; and how they are written to files."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Shaped, UInt8
from PIL import Image
from torch import Tensor

from discrete_distribution_network.ddn import DDN
from discrete_distribution_network.errors import InvalidInput, OutputError, require
from discrete_distribution_network.io.atomic_file import atomic_file, output_errors
from discrete_distribution_network.model.pixels import as_pixels
from discrete_distribution_network.model.tensors import resize
from discrete_distribution_network.model.walk import Walk

MARGIN = 2
"""Pixels between the images of a grid."""

TARGET_WIDTH = 1000
"""Small images are enlarged until a row has about this width, in pixels."""

PAGE_SIDE, PAGE_IMAGES = 10_000, 256
"""Most pixels of a side of a grid, and most images of a square grid; further ones go into further pictures."""


def to_bytes(images: Shaped[Tensor, "*batch height width"]) -> UInt8[Tensor, "*batch height width"]:
    """Images in [0, 1], clipped, as uint8 in [0, 255] on the CPU; uint8 images unchanged."""
    if images.dtype != torch.uint8:
        images = images.detach().float().clamp(0, 1).mul(255).round().byte()
    return images.cpu()


def to_pil(image: Shaped[Tensor, "channels height width"]) -> Image.Image:
    """A Pillow image of an image of 1 or 3 channels, in [0, 1] (clipped) or uint8."""
    require(image.ndim == 3 and image.shape[0] in (1, 3), "an image of 1 or 3 channels to show", tuple(image.shape))
    pixels = to_bytes(image)
    return Image.fromarray(pixels[0].numpy() if image.shape[0] == 1 else pixels.permute(1, 2, 0).numpy())


def grid(
    images: Shaped[Tensor, "batch channels height width"], columns: int | None = None, background: float = 1.0
) -> Image.Image:
    """A grid of images, row by row; small images are enlarged by pixel replication.

    Args:
        images: in [0, 1], or uint8.
        columns: images of a row; None for a square grid.
        background: grey value between the images, in [0, 1].
    """
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
    """Factor of enlargement for a row of about `TARGET_WIDTH` pixels."""
    return max(1, min(TARGET_WIDTH // (columns * (width + MARGIN)), PAGE_SIDE // (height + MARGIN)))


def require_picture(path: Path, endings: Iterable[str] | None = None) -> None:
    """Check before any work that a picture can be written to `--out`.

    Args:
        endings: allowed file name extensions; None for those that Pillow writes.

    Raises:
        InvalidInput: the extension is another, the path is a folder, or its folder does not exist.
        OutputError: its folder is not writable.
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
    """Write a picture atomically, in the format of the path's extension."""
    with atomic_file(path) as staging:
        try:
            picture.save(staging)
        except (ValueError, KeyError) as error:
            raise InvalidInput(f"expected a path with the ending of a picture, such as .png, got {path}") from error


def save_figure(figure: Any, path: Path, dpi: int) -> None:
    """Write a matplotlib figure atomically, in the format of the path's extension."""
    with atomic_file(path) as staging:
        figure.savefig(staging, dpi=dpi)


def save_pages(images: Iterable[Tensor], path: Path, total: int, columns: int | None = None) -> list[Path]:
    """Write a stream of images as grids, into as many pictures as needed.

    Args:
        images: batches (B, C, H, W).
        path: of the first picture; further ones are named name-2, name-3 and so on.
        total: number of images in all batches.
        columns: images of a row; None for square grids.

    Returns:
        The paths of the pictures.
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
    """Images of a row, and rows, of a picture in `save_pages`."""
    most = max(1, (PAGE_SIDE - MARGIN) // (width + MARGIN))
    across = min(most, math.ceil(math.sqrt(min(total, PAGE_IMAGES))) if columns is None else columns)
    down = max(1, (PAGE_SIDE - MARGIN) // (height * _scale(across, height, width) + MARGIN))
    return across, down if columns is not None else max(1, min(down, PAGE_IMAGES // across))


def describe_pages(pages: Sequence[Path]) -> str:
    """The paths from `save_pages`, for a message."""
    return str(pages[0]) if len(pages) == 1 else f"{pages[0]} to {pages[-1]}, {len(pages)} pictures"


def save_images(
    images: Shaped[Tensor, "batch channels height width"], names: Sequence[str], folder: Path | None
) -> None:
    """Write each image as a PNG of its name into a folder; nothing without a folder."""
    if folder is not None:
        for image, name in zip(images, names, strict=True):
            save_picture(to_pil(image), folder / f"{name}.png")


def make_folder(folder: Path | None) -> None:
    """Create a folder of pictures, if one is given."""
    if folder is not None:
        with output_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)


def growing_levels(num_levels: int, steps: int = 7) -> list[int]:
    """At most `steps` numbers of levels from 1 to all, in about a geometric series."""
    series = [round(num_levels ** (index / max(1, steps - 1))) for index in range(steps)]
    return sorted({min(max(1, number), num_levels) for number in series} | {num_levels})


def reconstructions(ddn: DDN, walk: Walk, images: Shaped[Tensor, "batch channels height width"]) -> Image.Image:
    """A grid with one row an image: its reconstructions by `growing_levels`, then the original.

    Args:
        walk: of these images.
        images: in [0, 1], or uint8.
    """
    rows = reconstruction_rows(ddn, walk, images)
    return grid(rows.flatten(0, 1), columns=rows.shape[1])


def reconstruction_rows(
    ddn: DDN, walk: Walk, images: Shaped[Tensor, "batch channels height width"]
) -> Float[Tensor, "batch columns channels height width"]:
    """The images of `reconstructions`."""
    pictures = ddn.pictures(walk)
    columns = [resize(pictures[number - 1], ddn.image_size) for number in growing_levels(ddn.num_levels)]
    return torch.stack([*columns, as_pixels(images, (None, None, None, None))], dim=1)


def loss_curve(steps: Sequence[int], losses: Sequence[float], path: Path) -> None:
    """Plot the training loss at these steps on a logarithmic scale."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot()
    axes.plot(steps, losses, linewidth=1)
    axes.set(xlabel="step", ylabel="mean squared error over levels", yscale="log", title="Training loss")
    axes.grid(alpha=0.3, which="both")
    save_figure(figure, path, dpi=120)
