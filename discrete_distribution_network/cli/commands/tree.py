"""`ddn tree`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from discrete_distribution_network.cli.options import ModelOptions

ANIMATED = (".gif", ".webp", ".png")
DRAWN = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".pdf", ".svg", ".eps", ".ps")
"""File formats of animations, and those that matplotlib writes."""


@dataclass
class Tree(ModelOptions):
    """Draw the latent tree: the images that the first choices lead to, and the share of each."""

    files: tyro.conf.Positional[tuple[Path, ...]] = ()
    """For path and walk: the image files."""
    kind: Literal["grids", "branches", "path", "walk"] = "grids"
    """Nested grids, branches from left to right, the path of one image, or an animation of walks."""
    out: Path = Path("tree.png")
    """Picture to write; for walk a .gif, .webp or .png."""
    dataset: str | None = None
    """Data set whose images are counted; the run's own if not given."""
    images: int = 2000
    """Number of images to count."""

    def run(self) -> None:
        from discrete_distribution_network.cli.images import encode_dataset, image_paths, load_images
        from discrete_distribution_network.cli.runs import load_model, model_folder, training_images
        from discrete_distribution_network.io.atomic_file import atomic_file
        from discrete_distribution_network.viz.pictures import require_picture, save_figure, save_picture
        from discrete_distribution_network.viz.tree import animation, nested_grids, path_picture, tree_picture

        require_picture(self.out, {"walk": ANIMATED, "grids": None}.get(self.kind, DRAWN))
        paths = image_paths(self.files) if self.kind in ("path", "walk") else []
        ddn = load_model(model_folder(self.model), self.device)
        if self.kind == "walk":
            _, images = load_images(paths[:8], ddn)
            frames = animation(ddn, images)
            with atomic_file(self.out) as staging:
                rest = [*frames[1:], *frames[-1:] * 3]
                frames[0].save(staging, save_all=True, append_images=rest, duration=400, loop=0)
            print(f"the walks of {len(images)} images, a frame a level, in {self.out}")
            return
        codes = encode_dataset(ddn, training_images(self.model, self.dataset, ddn), self.images)
        if self.kind == "path":
            _, images = load_images(paths[:1], ddn)
            save_figure(path_picture(ddn, images[0], codes), self.out, dpi=150)
            print(f"the path of {paths[0]}, with shares of {len(codes)} images, in {self.out}")
            return
        if self.kind == "branches":
            tree_picture(ddn, codes, self.out)
        else:
            save_picture(nested_grids(ddn, codes), self.out)
        print(f"the tree of {len(codes)} images in {self.out}")
