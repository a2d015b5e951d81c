"""`ddn neighbours`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import tyro

from discrete_distribution_network.cli.options import ModelOptions


@dataclass
class Neighbours(ModelOptions):
    """Find the nearest neighbours of an image in a folder, by codes alone."""

    image: tyro.conf.Positional[Path] = Path()
    """The image file."""
    folder: tyro.conf.Positional[Path] = Path()
    """Folder to search, with its subfolders."""
    num: int = 10
    """Number of neighbours."""
    out: Path = Path("neighbours.png")
    """Picture to write: the image, then its neighbours."""

    def run(self) -> None:
        from torch import Tensor

        from discrete_distribution_network.cli.images import (
            batch_size,
            encode_files,
            images_below,
            load_image_file,
            load_images,
            parts,
        )
        from discrete_distribution_network.cli.runs import load_model, model_folder
        from discrete_distribution_network.evaluation.neighbours import neighbours
        from discrete_distribution_network.viz.pictures import describe_pages, require_picture, save_pages

        require_picture(self.out)
        ddn = load_model(model_folder(self.model), self.device)
        query = load_image_file(self.image, ddn)
        paths = images_below(self.folder)
        size = batch_size(ddn.image_size)
        found = neighbours(ddn, ddn.encode(query)[0], encode_files(paths, ddn), min(self.num, len(paths)), size)
        nearest = [paths[place] for place in found.places.tolist()]

        def images() -> Iterator[Tensor]:
            yield query
            for part in parts(len(nearest), size):
                yield load_images(nearest[part.start : part.stop], ddn)[1]

        pages = save_pages(images(), self.out, 1 + len(nearest), min(11, 1 + len(nearest)))
        for path, levels, distance in zip(nearest, found.levels.tolist(), found.distances.tolist(), strict=True):
            print(f"{path}: {levels} of {ddn.num_levels} levels shared, distance {distance:.4f}")
        print(f"the image and its neighbours in {describe_pages(pages)}")
