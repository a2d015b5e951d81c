"""`ddn encode`."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from discrete_distribution_network.cli.options import ModelOptions


@dataclass
class Encode(ModelOptions):
    """Encode image files into one .ddn file, a few bytes an image."""

    files: tyro.conf.Positional[tuple[Path, ...]] = ()
    """Image files or folders; each image is resized to cover the model's size and cropped at the centre.
    - reads one image from the standard input."""
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = Path("codes.ddn")
    """File to write; - is the standard output. A .json file lists the codes in readable form."""
    tile: bool = False
    """Keep the images' own size, the same for all, and encode them in tiles of the model's size."""
    levels: int | None = None
    """Number of first levels to keep: smaller files, coarser images."""
    beams: int = 1
    """Beam width: better images in the same bytes; cost grows roughly linearly."""
    rate: float = 0.0
    """Rate penalty, in mean squared error a bit; needs an entropy model (ddn prior --kind codes). Smaller files."""
    uniform: bool = False
    """Pack the codes uniformly although the model has an entropy model: larger files, which the static page opens."""

    def run(self) -> None:
        from discrete_distribution_network.cli.codes import load_codec, standard_input, write_codes
        from discrete_distribution_network.cli.runs import model_folder

        codec = load_codec(model_folder(self.model), self.device, self.beams, self.rate, self.uniform)
        with standard_input(self.files) as files:
            out = sys.stdout.buffer if str(self.out) == "-" else self.out
            if summary := write_codes(codec, files, out, self.tile, self.levels):
                print(summary)
