"""`ddn decode`."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from discrete_distribution_network.cli.options import ModelOptions


@dataclass
class Decode(ModelOptions):
    """Decode the images of a file that `ddn encode` wrote."""

    codes: tyro.conf.Positional[Path] = Path("codes.ddn")
    """The file of codes; - is the standard input."""
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = Path("decoded")
    """Folder for a PNG of each image; existing files are not replaced. - writes one image to the standard output."""
    levels: int | None = None
    """Number of first levels to decode: coarser images."""

    def run(self) -> None:
        from discrete_distribution_network.cli.codes import (
            load_codec,
            open_input,
            read_codes,
            write_image,
            write_images,
        )
        from discrete_distribution_network.cli.runs import model_folder

        codec = load_codec(model_folder(self.model), self.device)
        stored = read_codes(codec, self.codes if str(self.codes) != "-" else open_input(), self.levels)
        if str(self.out) == "-":
            write_image(stored, sys.stdout.buffer)
            return
        write_images(stored, self.out)
        print(f"{stored.number} images in {self.out}")
