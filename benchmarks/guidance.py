"""Zero-shot guidance of a model of Fashion-MNIST, and one trained by class, against the obvious alternatives.

    python benchmarks/guidance.py                        # the released models: `DDN.from_pretrained("fashion-mnist")`
    python benchmarks/guidance.py --model RUN --by-class RUN
    python benchmarks/guidance.py --cost                 # only time and memory of guidance with K = 512

On test images (1,000 by default): the missing part of an image against filling it from the
nearest training image and with the mean training image; 8x8 pixels made 32x32 against bicubic; a class by a black-box
classifier, and by a network trained by class, judged by another classifier that neither has seen. Writes
`benchmarks/results/guidance.json`. Needs Debian's package dataset-fashion-mnist.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F
from guided_sampler import machine
from torch import Tensor

from discrete_distribution_network import DDN
from discrete_distribution_network.cli.guide import known_part
from discrete_distribution_network.cli.runs import load_model, model_folder
from discrete_distribution_network.data.datasets import Split
from discrete_distribution_network.data.loader import in_order
from discrete_distribution_network.data.sources import open_data
from discrete_distribution_network.evaluation.classifier import Classifier as Net
from discrete_distribution_network.evaluation.classifier import accuracy, train_classifier
from discrete_distribution_network.evaluation.frechet import frechet_distance, statistics
from discrete_distribution_network.evaluation.metrics import psnr
from discrete_distribution_network.guidance.conditions import Inpaint, SuperResolve
from discrete_distribution_network.guidance.config import TEMPERATURE
from discrete_distribution_network.guidance.scorers import Classifier
from discrete_distribution_network.io.safetensors_file import load_strictly, read_tensors, write_tensors
from discrete_distribution_network.prior.base import LearnedPrior, temperatures

RESULTS = Path(__file__).resolve().parent / "results" / "guidance.json"
WORK = Path(__file__).resolve().parent.parent / ".benchmark" / "guidance"
BATCH, BEAMS, SMALL, SEVERAL = 100, (1, 4), 8, 8
ROLLOUTS, JUDGED = 32, range(6)
"""Rollouts of a black-box classifier, and the levels at which it holds."""

SCALE, BY_CLASS_TEMPERATURE = 2.0, 0.8
"""Guidance scale and temperature of the network by class."""


PARTS = ("inpainting", "super_resolution", "classes", "black_box")


class Bench:
    def __init__(self, model: Path, by_class: Path, count: int, proposals: int, temperature: float):
        self.count, self.proposals, self.temperature = count, proposals, temperature
        self.ddn, self.prior = loaded(model)
        self.class_ddn, self.class_prior = loaded(by_class)
        split = open_data("fashion-mnist", self.ddn.image_size, 1)
        self.train = torch.cat([batch.images for batch in in_order(split.train, self.ddn, 500)])
        self.test = torch.cat([batch.images for batch in in_order(split.test, self.ddn, 500)])
        self.guide, self.judge = (
            classifier("guide", split, self.ddn, seed=0),
            classifier("judge", split, self.ddn, seed=1, epochs=4),  # from another start, and trained for longer
        )
        self.figures: dict[str, Any] = {
            "machine": machine(),
            "images": count,
            "proposals": proposals,
            "temperature": temperature,
            "guiding classifier": accuracy(self.guide, split.test, self.ddn),
            "judging classifier": accuracy(self.judge, split.test, self.ddn),
        }

    def guided(self, conditions: Callable[[slice], Any], seed: int = 0, **options: Any) -> Tensor:
        """Images (count, 1, 32, 32) by the conditions of each part of the test images."""
        options = {"prior": self.prior, "proposals": self.proposals, "temperature": self.temperature} | options
        parts = []
        for start in range(0, self.count, BATCH):
            part = slice(start, min(start + BATCH, self.count))
            generator = torch.Generator().manual_seed(start + 10**6 * seed)
            guided = self.ddn.guide(conditions(part), part.stop - part.start, generator=generator, **options)
            parts.append(guided.images.clamp(0, 1))
        return torch.cat(parts)

    def inpainting(self) -> None:
        images = self.test[: self.count]
        for missing in ("right", "bottom", "centre"):
            mask = known_part(missing, self.ddn.image_size)

            def error(filled: Tensor, mask: Tensor = mask) -> float:
                return float(((filled - images) * (1 - mask)).square().sum() / ((1 - mask).sum() * len(images)))

            def conditions(part: slice, mask: Tensor = mask) -> list[Inpaint]:
                return [Inpaint(images[part], mask)]

            figures = {
                "mean image": error(self.train.mean(0, keepdim=True)),
                "nearest training image": error(self.nearest(images, mask)),
            }
            for beams in BEAMS:
                figures[f"guided, {beams} beams"] = error(self.guided(conditions, beams=beams))
            several = sum(self.guided(conditions, seed=seed) for seed in range(SEVERAL)) / SEVERAL
            figures[f"guided, mean of {SEVERAL}"] = error(several)
            figures["guided, uniform"] = error(self.guided(conditions, prior=None))
            self.record(f"inpainting, {missing} missing: error on the missing part", figures)

    def nearest(self, images: Tensor, mask: Tensor) -> Tensor:
        """Of each image the training image that is nearest where the mask is 1."""
        known = (self.train * mask).flatten(1)
        seen = ((part * mask).flatten(1) for part in images.split(50))
        return torch.cat([self.train[torch.cdist(part, known).argmin(1)] for part in seen])

    def super_resolution(self) -> None:
        images = self.test[: self.count]
        small = F.adaptive_avg_pool2d(images, SMALL)
        made = {"bicubic": F.interpolate(small, self.ddn.image_size, mode="bicubic").clamp(0, 1)}
        for beams in BEAMS:
            made[f"guided, {beams} beams"] = self.guided(lambda part: [SuperResolve(small[part])], beams=beams)
        for name, own in made.items():
            self.record(
                f"super-resolution from {SMALL}x{SMALL}, {name}",
                {"PSNR": psnr(float((own - images).square().mean())), "distance": self.distance(own)},
            )

    def distance(self, images: Tensor) -> float:
        real, own = (statistics(self.judge.features, one.split(500)) for one in (self.test, images))
        return frechet_distance(own, real)

    def classes(self) -> None:
        many = torch.arange(10_000) % 10
        figures = {"distance": self.distance(self.drawn(len(many), self.ddn, self.prior, temperatures(self.ddn)))}
        self.record("10,000 samples, network without classes", figures)
        ways: dict[str, tuple[float, float | Sequence[float]]] = {
            "temperatures by level": (1.0, temperatures(self.class_ddn)),
            f"scale {SCALE:g}, temperature {BY_CLASS_TEMPERATURE:g}": (SCALE, BY_CLASS_TEMPERATURE),
        }
        for name, (scale, temperature) in ways.items():
            own = self.drawn(len(many), self.class_ddn, self.class_prior, temperature, labels=many, scale=scale)
            figures = {"distance": self.distance(own), "share of the wanted class": self.share(own, many)}
            self.record(f"10,000 samples, network by class, {name}", figures)

    def black_box(self) -> None:
        target = torch.arange(self.count) % 10

        def conditions(part: slice) -> list[Classifier]:
            return [Classifier(self.guide, target[part], levels=JUDGED)]

        unguided = self.drawn(self.count, self.ddn, self.prior, temperatures(self.ddn))
        self.record(
            f"{self.count} of ten classes, unguided", {"share of the wanted class": self.share(unguided, target)}
        )
        own = self.guided(conditions, rollouts=ROLLOUTS)
        name = f"{self.count} of ten classes, guided, {ROLLOUTS} rollouts"
        self.record(name, {"share of the wanted class": self.share(own, target)})

    def share(self, images: Tensor, target: Tensor) -> float:
        predicted = torch.cat([self.judge(part).argmax(1) for part in images.clamp(0, 1).split(500)])
        return float((predicted == target).float().mean())

    def drawn(
        self,
        count: int,
        ddn: DDN,
        prior: LearnedPrior | None,
        temperature: float | Sequence[float],
        labels: Tensor | None = None,
        scale: float = 1.0,
    ) -> Tensor:
        asked = torch.zeros(count, dtype=torch.long) if labels is None else labels
        generator = torch.Generator().manual_seed(0)
        return torch.cat(
            [
                ddn.sample(
                    len(part),
                    prior=prior,
                    temperature=temperature,
                    labels=None if labels is None else part,
                    guidance_scale=scale,
                    generator=generator,
                )
                for part in asked.split(500)
            ]
        ).clamp(0, 1)

    def record(self, name: str, figures: dict[str, float]) -> None:
        self.figures[name] = figures
        print(name, ", ".join(f"{key} {value:.4g}" for key, value in figures.items()), sep=": ", flush=True)
        keep(self.figures)


def classifier(name: str, split: Split, ddn: DDN, **options: Any) -> Net:
    """A classifier that is trained on first use."""
    path, net = WORK / f"{name}.safetensors", Net(ddn.channels, 10)
    if path.is_file():
        load_strictly(net, read_tensors(path), path)
    else:
        WORK.mkdir(parents=True, exist_ok=True)
        net = train_classifier(split.train, ddn, 10, **options)
        write_tensors(path, net.state_dict())
    return net.eval().requires_grad_(False)


def loaded(folder: Path) -> tuple[DDN, LearnedPrior | None]:
    ddn = load_model(model_folder(folder), "cpu")
    assert ddn.prior is None or isinstance(ddn.prior, LearnedPrior)
    return ddn, ddn.prior


# time and memory, with a network of K = 512 whose weights do not matter


def network() -> DDN:
    torch.manual_seed(0)
    return DDN(dim=32, dim_max=128, image_size=32, channels=1, codebook_size=512, levels_per_resolution=4).eval()


def time_and_memory(rounds: int = 9, batch: int = 64) -> dict[str, float]:
    ddn, images = network(), torch.rand(batch, 1, 32, 32)
    condition = Inpaint(images, known_part("right", (32, 32)))
    unguided, guided = [], []
    for _ in range(rounds):
        for calls, call in ((unguided, lambda: ddn.sample(batch)), (guided, lambda: ddn.guide(condition))):
            started = time.perf_counter()
            call()
            calls.append(time.perf_counter() - started)
    ratio = median(one / other for one, other in zip(guided[1:], unguided[1:], strict=True))
    peaks = {kind: peak(kind) for kind in ("nothing", "linear", "black box")}
    over = {kind: max(peaks[kind] - peaks["nothing"], 1 / 1024) for kind in ("linear", "black box")}
    return {
        "guided inpainting / unguided sampling, time": ratio,
        "MiB over a walk without a choice, linear": over["linear"],
        "MiB over a walk without a choice, black box": over["black box"],
    }


def peak(kind: str) -> float:
    """Peak memory of a process that walks once, in MiB."""
    process = subprocess.run([sys.executable, __file__, "--peak", kind], check=True, capture_output=True, text=True)
    return float(process.stdout)


def peak_here(kind: str) -> float:
    ddn, images = network(), torch.rand(64, 1, 32, 32)
    condition = Inpaint(images, known_part("right", (32, 32)))
    if kind == "nothing":
        ddn.sample(64)
    elif kind == "linear":
        ddn.guide(condition)
    else:
        net = Net(1, 10).eval().requires_grad_(False)
        ddn.guide(Classifier(net, 3), 64)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--model", type=Path, default=Path("fashion-mnist"))
    arguments.add_argument("--by-class", type=Path, default=Path("fashion-mnist-by-class"))
    arguments.add_argument("--count", type=int, default=1000)
    arguments.add_argument("--proposals", type=int, default=128)
    arguments.add_argument("--temperature", type=float, default=TEMPERATURE)
    arguments.add_argument("--only", nargs="+", choices=PARTS)
    arguments.add_argument("--cost", action="store_true")
    arguments.add_argument("--peak", choices=("nothing", "linear", "black box"), help=argparse.SUPPRESS)
    given = arguments.parse_args()
    if given.peak:
        print(peak_here(given.peak))
        return
    if not given.cost:
        bench = Bench(given.model, given.by_class, given.count, given.proposals, given.temperature)
        for part in given.only or PARTS:
            getattr(bench, part)()
    if given.cost or not given.only:
        cost = time_and_memory()
        keep({"cost, K = 512, 32x32, batch 64": cost})
        print(cost)


def keep(figures: dict[str, Any]) -> None:
    """Add to what has been measured."""
    known = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.is_file() else {}
    RESULTS.write_text(json.dumps(known | figures, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
