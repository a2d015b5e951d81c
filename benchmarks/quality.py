"""Who draws the best clothes on two cores in so many minutes? Fashion-MNIST, the same budget for everyone.

    python benchmarks/quality.py                                # all; hours, and it goes on where it was stopped
    python benchmarks/quality.py --only ours --minutes 15       # one contender at one budget
    python benchmarks/quality.py --table                        # what has been measured so far

Every contender is a script in `benchmarks/contenders/`, trained in a process of its own and in an environment of its
own under `.benchmark/`, on the same images in the same order (but our loader leaves out what does not fill a batch at
the end of an epoch, and the mixture takes all images at once), until its minutes are over; it leaves 10,000 samples and
its reconstructions of the 10,000 test images. Here they are compared with the test images: in the features of a
classifier, the judge (Fréchet distance; precision and recall of Kynkäänniemi et al., arXiv 1904.06991, with 3
neighbours), and pixel by pixel. Writes `benchmarks/results/quality.json` and, in `docs/quality/`, contact sheets of
each and of all side by side. Needs Debian's package dataset-fashion-mnist.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from guided_sampler import machine
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from discrete_distribution_network.cli.config import TrainConfig
from discrete_distribution_network.data.loader import in_order
from discrete_distribution_network.data.sources import open_data
from discrete_distribution_network.evaluation.classifier import Classifier, accuracy, train_classifier
from discrete_distribution_network.evaluation.coverage import covered
from discrete_distribution_network.evaluation.frechet import frechet_distance, statistics
from discrete_distribution_network.io.safetensors_file import load_strictly, read_tensors, write_tensors
from discrete_distribution_network.random_state import mix_seed
from discrete_distribution_network.viz.pictures import grid

ROOT = Path(__file__).resolve().parent.parent
WORK = ROOT / ".benchmark" / "quality"
RESULTS = ROOT / "benchmarks" / "results" / "quality.json"
SHEETS = ROOT / "docs" / "quality"
JUDGE = ROOT / "benchmarks" / "judge.safetensors"
EPOCHS, LEAST_ACCURACY, DRAWN = 100, 0.91, 10_000
LABEL = 200  # pixels left of a row of samples

# what each contender's environment gets beside PyTorch; None: the one that this script runs in
CONTENDERS: dict[str, list[str] | None] = {
    "ours": None,
    "ours_24_bytes": None,
    "ours_without_prior": None,
    "published": ["torchvision<0.30", "discrete-distribution-network==0.2.5"],
    "official": ["sddn==0.0.2"],
    "vqvae": ["vector-quantize-pytorch==1.32.0", "x-transformers==2.31.10"],
    "diffusion": ["diffusers==0.42.1"],
    "mixture": ["scikit-learn<2"],
}
BUDGETS: dict[float, list[str]] = {
    5: list(CONTENDERS),
    15: list(CONTENDERS),
    60: ["ours", "ours_24_bytes", "ours_without_prior", "published", "diffusion"],
}


class Shape(NamedTuple):
    image_size: tuple[int, int] = (32, 32)
    channels: int = 1


def data() -> Path:
    """The images as every contender reads them: train.npy, test.npy (bytes), order.npy (one permutation an epoch)."""
    return stored(WORK / "data", "fashion-mnist", Shape(), EPOCHS)


def stored(folder: Path, dataset: str, shape: Shape, epochs: int) -> Path:
    """The images of a data set in this folder; written once."""
    if (folder / "order.npy").is_file():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    split = open_data(dataset, *shape)
    for name, part in (("train", split.train), ("test", split.test)):
        images = torch.cat([batch.images for batch in in_order(part, shape, 500)])
        np.save(folder / f"{name}.npy", as_bytes(images))
    generators = [torch.Generator().manual_seed(mix_seed(0, epoch)) for epoch in range(epochs)]
    orders = [torch.randperm(len(split.train), generator=generator) for generator in generators]
    np.save(folder / "order.npy", torch.stack(orders).int().numpy())
    return folder


def classifier() -> tuple[Classifier, float]:
    """The judge, and the share of test images on which it is right: at least 91%.

    Trained once, with a fixed seed, and kept beside this script: another machine would train another one, and distances
    measured by two judges cannot be compared.
    """
    split = open_data("fashion-mnist", (32, 32), 1)
    if not JUDGE.is_file():
        write_tensors(JUDGE, train_classifier(split.train, Shape(), 10).state_dict())
    net = stored_classifier()
    right = accuracy(net, split.test, Shape())
    if right < LEAST_ACCURACY:
        raise SystemExit(f"expected a classifier right on {LEAST_ACCURACY:.0%} of the test images, got {right:.1%}")
    return net, right


def stored_classifier() -> Classifier:
    net = Classifier(1, 10)
    load_strictly(net, read_tensors(JUDGE), JUDGE)
    return net.eval()


def environment(name: str) -> Path:
    """The Python of a contender; made on first use, with this process's version of PyTorch where its needs allow it."""
    requirements = CONTENDERS[name]
    if requirements is None:
        return Path(sys.executable)
    folder = ROOT / ".benchmark" / name
    python = folder / "bin" / "python"
    if not (folder / "ready").is_file():
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        # torchvision of PyPI is made for its builds of PyTorch, so that package chooses the version
        by_torchvision = any(one.startswith("torchvision") for one in requirements)
        torch_itself = [] if by_torchvision else [f"torch=={torch.__version__.partition('+')[0]}"]
        for packages in (torch_itself, [*torch_itself, "numpy", *requirements]):
            if packages:
                subprocess.run([str(python), "-m", "pip", "install", "-q", *packages], check=True)
        (folder / "ready").touch()
    return python


def compete(name: str, minutes: float, seed: int, drawn: int, images: Path) -> Path:
    """Let a contender train on the images in a folder and draw; gives the folder beside it of what it leaves."""
    out = images.parent / f"{name}-{minutes:g}-{seed}"
    shutil.rmtree(out, ignore_errors=True)
    own = CONTENDERS[name] is None
    variables = {key: value for key, value in os.environ.items() if own or key != "PYTHONPATH"}
    command = [str(environment(name)), str(ROOT / "benchmarks" / "contenders" / f"{name}.py")]
    options = ["--data", str(images), "--out", str(out), "--minutes", f"{minutes:g}", "--seed", str(seed)]
    print(f"{name}, {minutes:g} minutes", flush=True)
    subprocess.run([*command, *options, "--drawn", str(drawn)], check=True, env=variables | {"OMP_NUM_THREADS": "2"})
    return out


def steps_alone(**options: Any) -> TrainConfig:
    """Options of a training on the CPU that does nothing beside its steps: no checkpoints, evaluations or pictures."""
    never = 10**9
    return TrainConfig(device="cpu", checkpoint_every=never, evaluate_every=never, pictures_every=never, **options)


def as_bytes(images: Tensor) -> np.ndarray:
    """Numbers in [0, 1] (beyond: cut off) as the images that `features` takes."""
    return (images.clamp(0, 1) * 255).round().to(torch.uint8).numpy()


@torch.no_grad()
def features(net: Classifier, images: np.ndarray) -> Tensor:
    return torch.cat([net.features(torch.from_numpy(part).float() / 255) for part in np.array_split(images, 40)])


def distance(one: Tensor, other: Tensor) -> float:
    a, b = (statistics(lambda x: x, own.split(500)) for own in (one, other))
    return frechet_distance(a, b)


def measure(net: Classifier, out: Path, images: Path) -> dict[str, Any]:
    """Figures of what a contender has left, against the test images in a folder."""
    test, samples = features(net, np.load(images / "test.npy")), features(net, np.load(out / "samples.npy"))
    figures: dict[str, Any] = json.loads((out / "figures.json").read_text(encoding="utf-8"))
    figures |= {"distance": distance(samples, test)}
    figures |= {"precision": covered(samples, test), "recall": covered(test, samples)}
    for path in sorted(out.glob("*.npy")):
        if path.stem != "samples":  # reconstructions, and other ways to draw
            figures[f"distance_{path.stem}"] = distance(features(net, np.load(path)), test)
    return figures


def floor(net: Classifier) -> float:
    """The distance of as many training images to the test images."""
    folder = data()
    test = np.load(folder / "test.npy")
    return distance(features(net, np.load(folder / "train.npy")[: len(test)]), features(net, test))


def sheet(out: Path, name: str, sheets: Path = SHEETS) -> None:
    sheets.mkdir(parents=True, exist_ok=True)
    images = torch.from_numpy(np.load(out / "samples.npy")[:100]).float() / 255
    grid(images, 10).save(sheets / f"{name}.png")


def side_by_side(results: dict[str, Any], minutes: float) -> None:
    """The first ten samples of everyone's contact sheet after so many minutes, and the distance; the nearest first."""
    runs = [results["runs"].get(f"{name}-{minutes:g}-0") for name in CONTENDERS]
    rows = []
    for run in sorted(filter(None, runs), key=lambda run: run["distance"]):
        with Image.open(SHEETS / f"{run['contender']}-{minutes:g}.png") as whole:
            row = whole.crop((0, 0, whole.width, whole.height // 10))
        rows.append((f"{run['contender']}: {run['distance']:.0f}", row))
    height = max(row.height for _, row in rows)
    picture = Image.new("L", (LABEL + rows[0][1].width, height * len(rows)), 255)
    draw = ImageDraw.Draw(picture)
    for place, (label, row) in enumerate(rows):
        draw.text((LABEL - 10, (place + 0.5) * height), label, 0, ImageFont.load_default(16), anchor="rm")
        picture.paste(row, (LABEL, place * height))
    picture.save(SHEETS / f"{minutes:g}-minutes.png")


# results


def read(path: Path = RESULTS) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {"runs": {}}


def write(results: dict[str, Any], path: Path = RESULTS) -> None:
    path.write_text(json.dumps(results, indent=2, sort_keys=True) + "\n", encoding="utf-8")


COLUMNS = {
    "error": "error",
    "psnr": "PSNR",
    "bits": "bits",
    "distance": "distance",
    "distance_reconstructions": "of reconstructions",
    "precision": "precision",
    "recall": "recall",
    "least used": "least used level",
    "least even": "perplexity / K",
    "training_images_per_second": "trained a second",
    "sampling_images_per_second": "drawn a second",
    "parameters": "parameters",
    "peak_memory_mib": "MiB",
}


def shown(column: str, value: Any) -> str:
    if value is None:
        return ""
    if column == "parameters":
        return f"{value / 1e6:.1f}M"
    if column == "error":
        return f"{value:.4f}"
    if column in ("precision", "recall", "least used", "least even"):
        return f"{value:.2f}"
    return f"{value:.1f}" if value < 100 else f"{value:.0f}"


def table(results: dict[str, Any]) -> str:
    lines = [f"| | minutes | {' | '.join(COLUMNS.values())} |", "|---" * (len(COLUMNS) + 2) + "|"]
    for run in sorted(results["runs"].values(), key=lambda run: (run["budget"], run["distance"])):
        if "used_by_level" in run:
            run = run | {"least used": min(run["used_by_level"]), "least even": min(run["perplexity_by_level"])}
        cells = [shown(column, run.get(column)) for column in COLUMNS]
        lines.append(f"| {run['contender']} | {run['budget']:g} | {' | '.join(cells)} |")
    if "floor" in results:
        lines.append(f"\nDistance of training to test images: {results['floor']:.2f}")
    return "\n".join(lines)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--only", nargs="+", choices=list(CONTENDERS), help="these contenders alone")
    arguments.add_argument("--minutes", nargs="+", type=float, help="these budgets alone; any number of minutes")
    arguments.add_argument("--seed", type=int, default=0)
    arguments.add_argument("--drawn", type=int, default=DRAWN, help="samples of each contender")
    arguments.add_argument("--again", action="store_true", help="measure again what has been measured")
    arguments.add_argument("--table", action="store_true", help="print what has been measured, and nothing else")
    given = arguments.parse_args()
    results = read()
    if given.table:
        print(table(results))
        return
    wanted = [
        (name, minutes)
        for minutes in given.minutes or BUDGETS
        for name in given.only or BUDGETS.get(minutes, list(CONTENDERS))
    ]
    net, right = classifier()
    judge = {"classifier_accuracy": right, "floor": floor(net)}
    for name, minutes in wanted:
        label = f"{name}-{minutes:g}-{given.seed}" + ("" if given.drawn == DRAWN else f"-{given.drawn}-drawn")
        if label in results["runs"] and not given.again:
            continue
        out = compete(name, minutes, given.seed, given.drawn, data())
        about = {"contender": name, "budget": minutes, "seed": given.seed, "drawn": given.drawn}
        about |= {"date": date.today().isoformat(), "machine": machine()}
        results = read() | judge
        results["runs"][label] = measure(net, out, data()) | about
        write(results)
        if given.drawn == DRAWN and given.seed == 0:
            sheet(out, f"{name}-{minutes:g}")
            side_by_side(results, minutes)
        print(table({"runs": {label: results["runs"][label]}}), flush=True)
    print(table(results))


if __name__ == "__main__":
    main()
