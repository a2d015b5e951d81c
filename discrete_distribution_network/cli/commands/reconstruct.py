"""`ddn reconstruct`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import tyro

from discrete_distribution_network.cli.options import ImageFolder, ModelOptions


@dataclass
class Reconstruct(ModelOptions):
    """Reconstruct image files from their codes, with a growing number of levels."""

    files: tyro.conf.Positional[tuple[Path, ...]] = ()
    """Image files or folders; each image is resized to cover the model's size and cropped at the centre."""
    out: Path = Path("reconstructions.png")
    """Picture to write, with a row for each file: growing numbers of levels, then the original.
    Continues in reconstructions-2.png and so on."""
    each: ImageFolder = None
    """Folder to write each reconstruction to, too, as a PNG of its own."""

    def run(self) -> None:
        from torch import Tensor

        from discrete_distribution_network.cli.images import batch_size, image_paths, load_images, parts
        from discrete_distribution_network.cli.runs import load_model, model_folder
        from discrete_distribution_network.viz.pictures import (
            describe_pages,
            growing_levels,
            make_folder,
            reconstruction_rows,
            require_picture,
            save_images,
            save_pages,
        )

        require_picture(self.out)
        ddn = load_model(model_folder(self.model), self.device)
        paths = image_paths(self.files)
        make_folder(self.each)

        def rows() -> Iterator[Tensor]:
            for part in parts(len(paths), batch_size(ddn.image_size)):
                batch, images = load_images(paths[part.start : part.stop], ddn)
                walk = ddn.encode_walk(images)
                drawn = ddn.finish(walk)
                errors = (drawn - images).square().mean((1, 2, 3)).tolist()
                for path, error in zip(batch, errors, strict=True):
                    print(f"{path}: error {error:.5f}")
                save_images(drawn, [f"{index:05d}-{paths[index].stem}" for index in part], self.each)
                yield reconstruction_rows(ddn, walk, images).flatten(0, 1)

        columns = len(growing_levels(ddn.num_levels)) + 1
        pages = save_pages(rows(), self.out, columns * len(paths), columns)
        print(f"{ddn.bits_per_image / 8:g} bytes an image; picture in {describe_pages(pages)}")
