"""`ddn cluster`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro

from discrete_distribution_network.cli.options import ModelOptions

CLUSTERS, IMAGES, LINES = 12, 12, 20
"""Clusters that are drawn, images of each, and clusters that are printed; the largest ones."""


@dataclass
class Cluster(ModelOptions):
    """Group the images of a folder by the first levels of their codes."""

    folder: tyro.conf.Positional[Path] = Path()
    """Folder of images, with its subfolders."""
    levels: int = 1
    """Number of first levels that the images of a cluster share."""
    out: Path = Path("clusters.png")
    """Picture to write, with a row for each of the largest clusters: their common codes decoded, then images."""

    def run(self) -> None:
        import torch

        from discrete_distribution_network.cli.images import encode_files, images_below, load_images
        from discrete_distribution_network.cli.runs import load_model, model_folder
        from discrete_distribution_network.evaluation.neighbours import clusters
        from discrete_distribution_network.viz.pictures import grid, require_picture, save_picture

        require_picture(self.out)
        ddn = load_model(model_folder(self.model), self.device)
        paths = images_below(self.folder)
        groups = clusters(ddn, encode_files(paths, ddn), self.levels)
        rows = []
        for codes, places in groups[:CLUSTERS]:
            common = ddn.decode(torch.tensor([codes], device=ddn.start.device))
            row = torch.cat((common, load_images([paths[place] for place in places[:IMAGES].tolist()], ddn)[1]))
            blank = torch.ones(1 + IMAGES - len(row), *row.shape[1:], device=row.device)
            rows.append(torch.cat((row, blank)))
        save_picture(grid(torch.cat(rows), 1 + IMAGES), self.out)
        for codes, places in groups[:LINES]:
            print(f"{'-'.join(map(str, codes))}: {len(places)} images, such as {paths[int(places[0])]}")
        print(f"{len(groups)} clusters of {len(paths)} images, the largest in {self.out}")
