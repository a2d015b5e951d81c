"""What a training on a folder of one's own pictures gives: a few hundred, some thousands, ten thousand.

    python benchmarks/data.py sprites squares-64     # once, into data/
    python benchmarks/own_pictures.py                # three quarters of an hour on two slow cores
    python benchmarks/own_pictures.py --only sprites-300

Each run is `ddn train FOLDER`, then `ddn evaluate --features imagenet` on test pictures that all its kind share: other
units of the game, other photographs. Writes `benchmarks/results/own_pictures.json` and samples into
`docs/own-pictures/`; runs lie in `.benchmark/own-pictures/`.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import torch
from guided_sampler import ROOT, machine
from quality import read, write

from discrete_distribution_network.io.run_folder import EVALUATION

WORK, SHEETS = ROOT / ".benchmark" / "own-pictures", ROOT / "docs" / "own-pictures"
RESULTS = ROOT / "benchmarks" / "results" / "own_pictures.json"
SAMPLES = 1000


class Run(NamedTuple):
    """Pictures of `data/` to train on, all if `count` is None, and options of `ddn train`."""

    data: str
    count: int | None
    minutes: float
    options: tuple[str, ...] = ()


RUNS = {
    "sprites-300": Run("sprites", 300, 5),
    "sprites-300-mirrored": Run("sprites", 300, 5, ("--augment", "RandomHorizontalFlip")),
    "sprites": Run("sprites", None, 5),
    "squares-10000": Run("squares-64", 10_000, 10),
}


def folder_of(run: Run, folder: Path) -> int:
    """Write the pictures of a run, some chosen at random, into train/ and test/; gives the number to train on."""
    source = ROOT / "data" / run.data
    if not source.is_dir():
        raise SystemExit(f"expected pictures in {source}; `python benchmarks/data.py {run.data}` fetches them")
    pictures = sorted((source / "train").glob("*.png"))
    random.Random(0).shuffle(pictures)
    (folder / "train").mkdir(parents=True)
    chosen = pictures[: run.count]
    for picture in chosen:
        shutil.copy(picture, folder / "train")
    shutil.copytree(source / "test", folder / "test")
    return len(chosen)


def ddn(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "discrete_distribution_network", *arguments], check=True)


def measure(name: str, run: Run) -> dict[str, object]:
    folder = WORK / name
    shutil.rmtree(folder, ignore_errors=True)
    count = folder_of(run, folder / "pictures")
    out = folder / "run"
    started = time.perf_counter()
    ddn("train", str(folder / "pictures"), *run.options, "--minutes", f"{run.minutes:g}", "--out", str(out))
    seconds = time.perf_counter() - started
    ddn("evaluate", str(out), "--features", "imagenet", "--samples", str(SAMPLES))
    SHEETS.mkdir(parents=True, exist_ok=True)
    for picture in ("samples", "reconstructions"):
        shutil.copy(out / f"{picture}.png", SHEETS / f"{name}-{picture}.png")
    figures = json.loads((out / EVALUATION).read_text(encoding="utf-8"))
    about = {"images": count, "minutes": run.minutes, "seconds": seconds, "options": list(run.options)}
    return figures | about | {"machine": machine(), "torch": torch.__version__}


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--only", nargs="+", choices=[*RUNS], default=[*RUNS], help="these runs alone")
    arguments.add_argument("--again", action="store_true", help="measure again what has been measured")
    given = arguments.parse_args()
    for name in given.only:
        if name in read(RESULTS)["runs"] and not given.again:
            continue
        found = measure(name, RUNS[name])
        results = read(RESULTS)
        results["runs"][name] = found
        write(results, RESULTS)
        print(name, found, flush=True)


if __name__ == "__main__":
    main()
