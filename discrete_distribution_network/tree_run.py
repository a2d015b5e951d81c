"""`ddn tree`, `interpolate`, `neighbours` and `cluster`: from files to pictures of the latent space."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from discrete_distribution_network.conditions import Match
from discrete_distribution_network.ddn import DDN
from discrete_distribution_network.errors import InvalidInput, require
from discrete_distribution_network.loader import in_order
from discrete_distribution_network.pictures import grid, save_picture
from discrete_distribution_network.runs import (
    data_of_run,
    load_images,
    load_model,
    load_prior,
    model_folder,
)
from discrete_distribution_network.search import clusters, neighbours
from discrete_distribution_network.tree import animation, nested_grids, path_picture, tree_picture


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
    ddn = load_model(model_folder(model), device)
    if kind == "walk":
        _, shown = load_images(files, ddn)
        frames = animation(ddn, shown[:8])
        if out.suffix.lower() not in (".gif", ".webp", ".png"):
            raise InvalidInput(f"expected --out that ends in .gif, .webp or .png for an animation, got {out}")
        frames[0].save(out, save_all=True, append_images=[*frames[1:], *frames[-1:] * 3], duration=400, loop=0)
        return f"the walks of {len(shown[:8])} images, a frame a level, in {out}"
    codes = codes_of(ddn, data_of_run(model, dataset, ddn), images)
    if kind == "path":
        paths, shown = load_images(files, ddn)
        path_picture(ddn, shown[0], codes).savefig(out, dpi=150)
        return f"the path of {paths[0]}, with shares of {len(codes)} images, in {out}"
    if kind == "branches":
        tree_picture(ddn, codes, out)
    else:
        save_picture(nested_grids(ddn, codes), out)
    return f"the tree of {len(codes)} images in {out}"


def codes_of(ddn: DDN, dataset: object, limit: int) -> Tensor:
    batches = in_order(dataset, ddn, 200, limit=limit)
    return torch.cat([ddn.encode(batch.images.to(ddn.start.device)) for batch in batches])


def interpolate(model: Path | None, one: Path, other: Path, steps: int, beams: int, out: Path, device: str) -> str:
    """`ddn interpolate`: each picture between is what the walk finds nearest to both, weighted."""
    require(steps >= 3, "--steps of at least 3", steps)
    folder = model_folder(model)
    ddn = load_model(folder, device)
    _, images = load_images([one, other], ddn)
    require(len(images) == 2, "two image files", len(images))
    shares = torch.linspace(0, 1, steps)
    first, last = (image.expand(steps, -1, -1, -1) for image in images)
    prior = load_prior(ddn, folder)
    require(getattr(prior, "num_classes", None) is None, "a prior that is not by class", "one by class")
    conditions = [Match(first, weight=1 - shares), Match(last, weight=shares)]
    generator = torch.Generator().manual_seed(0)
    between = ddn.guide(conditions, steps, 1, generator, beams=beams, prior=prior)
    save_picture(grid(torch.cat((images[:1], between.images, images[1:])), steps + 2), out)
    return f"{steps} steps from {one} to {other} in {out}, the images themselves at both ends"


def show_neighbours(model: Path | None, image: Path, folder: Path, count: int, out: Path, device: str) -> str:
    """`ddn neighbours`."""
    ddn = load_model(model_folder(model), device)
    (_,), query = load_images([image], ddn)
    paths, images = load_images([folder], ddn)
    found = neighbours(ddn, ddn.encode(query)[0], ddn.encode(images), min(count, len(images)))
    save_picture(grid(torch.cat((query, images[found.places])), 11), out)
    lines = [
        f"{paths[place]}: {levels} of {ddn.num_levels} levels shared, distance {distance:.4f}"
        for place, levels, distance in zip(*(column.tolist() for column in found), strict=True)
    ]
    return "\n".join([*lines, f"the image and its neighbours in {out}"])


def show_clusters(model: Path | None, folder: Path, levels: int, out: Path, device: str) -> str:
    """`ddn cluster`: a row of up to 12 images for each of the 12 largest clusters, what they share first."""
    ddn = load_model(model_folder(model), device)
    paths, images = load_images([folder], ddn)
    groups = clusters(ddn, ddn.encode(images), levels)
    rows = []
    for kind, places in groups[:12]:
        shared = ddn.decode(torch.tensor([kind], device=images.device))
        row = torch.cat((shared, images[places[:12]]))
        blank = torch.ones(13 - len(row), *row.shape[1:], device=row.device)
        rows.append(torch.cat((row, blank)))
    picture: Image.Image = grid(torch.cat(rows), 13)
    save_picture(picture, out)
    lines = [
        f"{'-'.join(map(str, kind))}: {len(places)} images, such as {paths[int(places[0])]}" for kind, places in groups
    ]
    return "\n".join([*lines[:20], f"{len(groups)} clusters of {len(images)} images, the largest in {out}"])
