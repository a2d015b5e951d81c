"""`ddn export`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro


@dataclass
class Export:
    """Export a model as ONNX graphs, which need neither Python nor this library, and compare them with the model."""

    run_folder: tyro.conf.Positional[Path | None] = None
    """Run or model folder, or the name of an included model; the newest run under ./runs if not given."""
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = Path("exported")
    """Folder to write to."""
    only: tuple[str, ...] = ()
    """Graphs to export, of encode, decode, sample, inpaint and candidates; all if not given."""
    half: bool = False
    """Round the weights to float16, for files of half the size."""
    torch_programs: bool = False
    """Also write programs of torch.export (.pt2)."""

    def run(self) -> None:
        from discrete_distribution_network.cli.runs import class_names, load_model, model_folder
        from discrete_distribution_network.export import PROGRAMS, export
        from discrete_distribution_network.prior.companions import number_of_classes

        folder = model_folder(self.run_folder)
        ddn = load_model(folder, "cpu")
        ddn = (ddn.half() if self.half else ddn).float()
        names = self.only or tuple(PROGRAMS)
        classes = class_names(folder) or () if number_of_classes(ddn, ddn.prior) else ()
        print("A graph takes about a minute.", flush=True)
        deviations = export(ddn, self.out, names, classes=classes, torch_programs=self.torch_programs)
        for name, (equal, difference) in deviations.items():
            print(f"{name}: {equal:.2%} of codes equal, largest difference {difference:.1g}")
        size = sum(path.stat().st_size for path in self.out.iterdir() if path.is_file())
        print(f"{len(names)} graphs, {size / 2**20:.1f} MiB, in {self.out}")
