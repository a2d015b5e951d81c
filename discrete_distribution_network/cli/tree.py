"""`ddn tree`, `interpolate`, `neighbours` and `cluster`: from files to pictures of the latent space."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from discrete_distribution_network.cli.runs import (
    batch_size,
    data_of_run,
    encoded,
    image_paths,
    load_images,
    load_model,
    load_prior,
    model_folder,
    parts,
)
from discrete_distribution_network.data.loader import in_order
from discrete_distribution_network.ddn import DDN
from discrete_distribution_network.errors import InvalidInput, require
from discrete_distribution_network.evaluation.neighbours import clusters, neighbours
from discrete_distribution_network.guidance.conditions import Match
from discrete_distribution_network.io.atomic_file import atomic_file
from discrete_distribution_network.viz.pictures import (
    describe_pages,
    grid,
    require_picture,
    save_figure,
    save_pages,
    save_picture,
)
from discrete_distribution_network.viz.tree import animation, nested_grids, path_picture, tree_picture

ANIMATED = (".gif", ".webp", ".png")
DRAWN = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".pdf", ".svg", ".eps", ".ps")
"""Endings of pictures that matplotlib writes."""


def draw_tree(
    kind: str,
    model: Path | None,
    files: Sequence[Path],
    dataset: str | None,
    images: int,
    out: Path,
    device: str,
) -> str:
    """`ddn tree`; gives what there is to tell."""
    require_picture(out, {"walk": ANIMATED, "grids": None}.get(kind, DRAWN))
    paths = image_paths(files) if kind in ("path", "walk") else []
    ddn = load_model(model_folder(model), device)
    if kind == "walk":
        _, shown = load_images(paths[:8], ddn)
        frames = animation(ddn, shown)
        with atomic_file(out) as staging:
            frames[0].save(staging, save_all=True, append_images=[*frames[1:], *frames[-1:] * 3], duration=400, loop=0)
        return f"the walks of {len(shown)} images, a frame a level, in {out}"
    codes = codes_of(ddn, data_of_run(model, dataset, ddn), images)
    if kind == "path":
        _, shown = load_images(paths[:1], ddn)
        save_figure(path_picture(ddn, shown[0], codes), out, dpi=150)
        return f"the path of {paths[0]}, with shares of {len(codes)} images, in {out}"
    if kind == "branches":
        tree_picture(ddn, codes, out)
    else:
        save_picture(nested_grids(ddn, codes), out)
    return f"the tree of {len(codes)} images in {out}"


def codes_of(ddn: DDN, dataset: object, limit: int) -> Tensor:
    batches = in_order(dataset, ddn, batch_size(ddn), limit=limit)
    return torch.cat([ddn.encode(batch.images.to(ddn.start.device)) for batch in batches])


def one_image(file: Path, ddn: DDN) -> Tensor:
    """The image of a file, (1, C, H, W)."""
    if file.is_dir():
        raise InvalidInput(f"expected an image file, got the folder {file}; name a file")
    return load_images([file], ddn)[1]


def images_below(folder: Path) -> list[Path]:
    """The image files of a folder that was named."""
    if folder == Path():
        raise InvalidInput("expected a folder of images, got none; name one")
    return image_paths([folder])


def interpolate(model: Path | None, one: Path, other: Path, steps: int, beams: int, out: Path, device: str) -> str:
    """`ddn interpolate`: each picture between is what the walk finds nearest to both, weighted."""
    require(steps >= 3, "--steps of at least 3", steps)
    require_picture(out)
    folder = model_folder(model)
    ddn = load_model(folder, device)
    first, last = (one_image(file, ddn) for file in (one, other))
    shares = torch.linspace(0, 1, steps)
    prior = load_prior(ddn, folder)
    require(getattr(prior, "num_classes", None) is None, "a prior that is not by class", "one by class")
    generator = torch.Generator().manual_seed(0)

    def between() -> Iterator[Tensor]:
        yield first
        for part in parts(steps, batch_size(ddn)):
            share, size = shares[part.start : part.stop], (len(part), -1, -1, -1)
            conditions = [Match(first.expand(size), weight=1 - share), Match(last.expand(size), weight=share)]
            yield ddn.guide(conditions, len(part), 1, generator, beams=beams, prior=prior).images
        yield last

    pages = save_pages(between(), out, steps + 2, steps + 2)
    return f"{steps} steps from {one} to {other} in {describe_pages(pages)}, the images themselves at both ends"


def show_neighbours(model: Path | None, image: Path, folder: Path, count: int, out: Path, device: str) -> str:
    """`ddn neighbours`."""
    require_picture(out)
    ddn = load_model(model_folder(model), device)
    query = one_image(image, ddn)
    paths = images_below(folder)
    size = batch_size(ddn)
    found = neighbours(ddn, ddn.encode(query)[0], encoded(paths, ddn), min(count, len(paths)), size)
    nearest = [paths[place] for place in found.places.tolist()]

    def shown() -> Iterator[Tensor]:
        yield query
        for part in parts(len(nearest), size):
            yield load_images(nearest[part.start : part.stop], ddn)[1]

    pages = save_pages(shown(), out, 1 + len(nearest), min(11, 1 + len(nearest)))
    lines = [
        f"{path}: {levels} of {ddn.num_levels} levels shared, distance {distance:.4f}"
        for path, levels, distance in zip(nearest, found.levels.tolist(), found.distances.tolist(), strict=True)
    ]
    return "\n".join([*lines, f"the image and its neighbours in {describe_pages(pages)}"])


def show_clusters(model: Path | None, folder: Path, levels: int, out: Path, device: str) -> str:
    """`ddn cluster`: a row of up to 12 images for each of the 12 largest clusters, what they share first."""
    require_picture(out)
    ddn = load_model(model_folder(model), device)
    paths = images_below(folder)
    groups = clusters(ddn, encoded(paths, ddn), levels)
    rows = []
    for kind, places in groups[:12]:
        shared = ddn.decode(torch.tensor([kind], device=ddn.start.device))
        row = torch.cat((shared, load_images([paths[place] for place in places[:12].tolist()], ddn)[1]))
        blank = torch.ones(13 - len(row), *row.shape[1:], device=row.device)
        rows.append(torch.cat((row, blank)))
    save_picture(grid(torch.cat(rows), 13), out)
    lines = [
        f"{'-'.join(map(str, kind))}: {len(places)} images, such as {paths[int(places[0])]}" for kind, places in groups
    ]
    return "\n".join([*lines[:20], f"{len(groups)} clusters of {len(paths)} images, the largest in {out}"])
