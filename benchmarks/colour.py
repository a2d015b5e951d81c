"""Who draws the best emoji on two cores in so many minutes? Colour images of 64x64, the same budget for everyone.

    python benchmarks/data.py emoji                             # once, into data/emoji
    python benchmarks/colour.py                                 # all; hours, and it goes on where it was stopped
    python benchmarks/colour.py --only ours --minutes 30
    python benchmarks/colour.py --table                         # what has been measured so far

The contenders are those of `quality.py`, with what colour at 64x64 needs. 1,000 samples are compared with the test
images in the features of EfficientNet-Lite0 (the extra `imagenet`): kernel distance (KID, times 1,000)
with its standard error, Fréchet distance to all real images, precision and recall, and the distance to the nearest
training image beside that of test images (see `SampleFigures`). Writes `benchmarks/results/colour.json` and contact
sheets in `docs/colour/`.
"""

from __future__ import annotations

import argparse
import json
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch
from guided_sampler import machine
from quality import ROOT, Shape, compete, read, sheet, shown, stored, write

from discrete_distribution_network.evaluation.imagenet import imagenet
from discrete_distribution_network.evaluation.sample_figures import features_of, sample_figures

WORK = ROOT / ".benchmark" / "colour"
RESULTS = ROOT / "benchmarks" / "results" / "colour.json"
SHEETS = ROOT / "docs" / "colour"

CONTENDERS = ("ours", "published", "vqvae", "diffusion")
BUDGETS = (30, 120)
EPOCHS, SAMPLES = 400, 1000


def images_of(path: Path) -> list[torch.Tensor]:
    """Stored images in batches, in [0, 1]."""
    return [torch.from_numpy(part).float() / 255 for part in np.array_split(np.load(path), 20)]


def measure(out: Path, data: Path) -> dict[str, Any]:
    """Figures of what a contender has left."""
    net = imagenet()
    train, test = (features_of(net, images_of(data / f"{part}.npy")) for part in ("train", "test"))
    samples = features_of(net, images_of(out / "samples.npy"))
    path = out / "reconstructions.npy"
    reconstructions = features_of(net, images_of(path)) if path.is_file() else None
    figures = sample_figures(samples, reconstructions, train, test).by_name()
    figures = {name: 1000 * value if name.startswith("kernel") else value for name, value in figures.items()}
    return json.loads((out / "figures.json").read_text(encoding="utf-8")) | figures


COLUMNS = {
    "error": "error",
    "psnr": "PSNR",
    "bits": "bits",
    "kernel": "KID",
    "kernel_error": "±",
    "kernel_reconstructions": "of reconstructions",
    "frechet": "Fréchet",
    "precision": "precision",
    "recall": "recall",
    "nearest_training": "nearest training image",
    "nearer_than_test": "nearer than test",
    "training_images_per_second": "trained a second",
    "sampling_images_per_second": "drawn a second",
    "parameters": "parameters",
    "peak_memory_mib": "MiB",
}
SHARES = ("nearest_training", "nearer_than_test")


def table(results: dict[str, Any]) -> str:
    lines = [f"| | minutes | {' | '.join(COLUMNS.values())} |", "|---" * (len(COLUMNS) + 2) + "|"]
    runs = sorted(results["runs"].values(), key=lambda run: (run["budget"], run["kernel"]))
    for run in runs:
        cells = [shown("recall" if name in SHARES else name, run.get(name)) for name in COLUMNS]
        lines.append(f"| {run['contender']} | {run['budget']:g} | {' | '.join(cells)} |")
    if runs:
        lines.append(f"\nKID of training to test images: {runs[0]['kernel_floor']:.1f}")
    return "\n".join(lines)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--only", nargs="+", choices=CONTENDERS, default=CONTENDERS, help="these contenders alone")
    arguments.add_argument("--minutes", nargs="+", type=float, default=BUDGETS, help="these budgets alone")
    arguments.add_argument("--seed", type=int, default=0)
    arguments.add_argument("--again", action="store_true", help="measure again what has been measured")
    arguments.add_argument("--table", action="store_true", help="print what has been measured, and nothing else")
    given = arguments.parse_args()
    if given.table:
        print(table(read(RESULTS)))
        return
    data = stored(WORK / "data", "emoji", Shape((64, 64), 3), EPOCHS)
    for minutes in given.minutes:
        for name in given.only:
            label = f"{name}-{minutes:g}-{given.seed}"
            if label in read(RESULTS)["runs"] and not given.again:
                continue
            out = compete(name, minutes, given.seed, SAMPLES, data)
            about = {"contender": name, "budget": minutes, "seed": given.seed}
            about |= {"date": date.today().isoformat(), "machine": machine()}
            results = read(RESULTS)
            results["runs"][label] = measure(out, data) | about
            write(results, RESULTS)
            if given.seed == 0:
                sheet(out, f"{name}-{minutes:g}", SHEETS)
            print(table({"runs": {label: results["runs"][label]}}), flush=True)
    print(table(read(RESULTS)))


if __name__ == "__main__":
    main()
