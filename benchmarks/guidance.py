"""Zero-shot guidance of a model of Fashion-MNIST, and one trained by class, against the obvious alternatives.

    python benchmarks/guidance.py                        # the released models: `DDN.from_pretrained("fashion-mnist")`
    python benchmarks/guidance.py --model RUN --by-class RUN
    python benchmarks/guidance.py --cost                 # only time and memory of guidance with K = 512

On test images (1,000 unless told otherwise, 200 by class): the missing part of an image against filling it from the
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
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F
from guided_sampler import machine
from torch import Tensor

from discrete_distribution_network import DDN
from discrete_distribution_network.classifier import Classifier as Net
from discrete_distribution_network.classifier import accuracy, train_classifier
from discrete_distribution_network.conditions import Classifier, Inpaint, SuperResolve
from discrete_distribution_network.config import TEMPERATURE
from discrete_distribution_network.data import open_data
from discrete_distribution_network.frechet import frechet_distance, statistics
from discrete_distribution_network.guide_run import known_part
from discrete_distribution_network.loader import in_order
from discrete_distribution_network.metrics import psnr
from discrete_distribution_network.prior import LearnedPrior
from discrete_distribution_network.runs import load_model, load_prior, model_folder

RESULTS = Path(__file__).resolve().parent / "results" / "guidance.json"
BATCH, BEAMS, SMALL, SEVERAL = 100, (1, 4), 8, 8
CLASSIFIED, FEW = 200, 32
"""Images by a black-box classifier, which takes seconds for each, and candidates that the prior proposes to it."""


class Bench:
    def __init__(self, model: Path, by_class: Path, count: int, proposals: int, temperature: float):
        self.count, self.proposals, self.temperature = count, proposals, temperature
        self.ddn, self.prior = loaded(model)
        self.class_ddn, self.class_prior = loaded(by_class)
        split = open_data("fashion-mnist", self.ddn.image_size, 1)
        self.train = torch.cat([batch.images for batch in in_order(split.train, self.ddn, 500)])
        self.test = torch.cat([batch.images for batch in in_order(split.test, self.ddn, 500)])
        # below the finest resolution, where a black box would be asked for thousands of candidates of every image
        self.classified = self.ddn.code_shapes.index(self.ddn.code_shapes[-1])
        self.guide = train_classifier(split.train, self.ddn, 10, seed=0)
        # of another width, and from another seed
        self.judge = train_classifier(split.train, self.ddn, 10, seed=1, epochs=4)
        self.figures: dict[str, Any] = {
            "machine": machine(),
            "images": count,
            "proposals": proposals,
            "temperature": temperature,
            "guiding classifier": accuracy(self.guide, split.test, self.ddn),
            "judging classifier": accuracy(self.judge, split.test, self.ddn),
        }

    def guided(self, conditions: Callable[[slice], Any], seed: int = 0, **how: Any) -> Tensor:
        """Images (count, 1, 32, 32) by what holds for each part of the test images."""
        how = {"prior": self.prior, "proposals": self.proposals, "temperature": self.temperature} | how
        parts = []
        for start in range(0, self.count, BATCH):
            part = slice(start, min(start + BATCH, self.count))
            generator = torch.Generator().manual_seed(start + 10**6 * seed)
            guided = self.ddn.guide(conditions(part), part.stop - part.start, generator=generator, **how)
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
            self.told(f"inpainting, {missing} missing: error on the missing part", figures)

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
            self.told(
                f"super-resolution from {SMALL}x{SMALL}, {name}",
                {"PSNR": psnr(float((own - images).square().mean())), "distance": self.distance(own)},
            )

    def distance(self, images: Tensor) -> float:
        real, own = (statistics(self.judge.features, one.split(500)) for one in (self.test, images))
        return frechet_distance(own, real)

    def classes(self) -> None:
        self.count = min(self.count, CLASSIFIED)
        wanted = torch.arange(self.count) % 10
        drawn = {"unguided": self.ddn.sample(self.count, prior=self.prior, temperature=TEMPERATURE)}

        def conditions(part: slice) -> list[Classifier]:
            return [Classifier(self.guide, wanted[part], levels=range(self.classified))]

        for beams in BEAMS:
            drawn[f"guided, {beams} beams"] = self.guided(conditions, beams=beams, proposals=FEW)
        by_class = self.class_ddn.sample(labels=wanted, prior=self.class_prior, temperature=TEMPERATURE)
        drawn["network by class"] = by_class
        for name, own in drawn.items():
            right = float((self.judge(own.clamp(0, 1)).argmax(1) == wanted).float().mean())
            self.told(f"{self.count} of ten classes, {name}", {"share of the wanted class": right})
        many = torch.arange(10_000) % 10
        for name, images in (
            ("network by class", self.class_ddn.sample(labels=many, prior=self.class_prior, temperature=TEMPERATURE)),
            ("network without classes", self.ddn.sample(len(many), prior=self.prior, temperature=TEMPERATURE)),
        ):
            own = images.clamp(0, 1)
            figures = {"distance": self.distance(own)}
            if name == "network by class":
                figures["share of the wanted class"] = float((self.judge(own).argmax(1) == many).float().mean())
            self.told(f"10,000 samples, {name}", figures)

    def told(self, name: str, figures: dict[str, float]) -> None:
        self.figures[name] = figures
        print(name, ", ".join(f"{key} {value:.4g}" for key, value in figures.items()), sep=": ", flush=True)


def loaded(folder: Path) -> tuple[DDN, LearnedPrior | None]:
    ddn = load_model(model_folder(folder), "cpu")
    return ddn, load_prior(ddn, model_folder(folder))


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
    peaks = {how: peak(how) for how in ("nothing", "linear", "black box")}
    over = {how: max(peaks[how] - peaks["nothing"], 1 / 1024) for how in ("linear", "black box")}
    return {
        "guided inpainting / unguided sampling, time": ratio,
        "MiB over a walk without a choice, linear": over["linear"],
        "MiB over a walk without a choice, black box": over["black box"],
    }


def peak(how: str) -> float:
    """Peak memory of a process that walks once, in MiB."""
    told = subprocess.run([sys.executable, __file__, "--peak", how], check=True, capture_output=True, text=True)
    return float(told.stdout)


def peak_here(how: str) -> float:
    ddn, images = network(), torch.rand(64, 1, 32, 32)
    condition = Inpaint(images, known_part("right", (32, 32)))
    if how == "nothing":
        ddn.sample(64)
    elif how == "linear":
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
    arguments.add_argument("--only", nargs="+", choices=("inpainting", "super_resolution", "classes"))
    arguments.add_argument("--cost", action="store_true")
    arguments.add_argument("--peak", choices=("nothing", "linear", "black box"), help=argparse.SUPPRESS)
    given = arguments.parse_args()
    if given.peak:
        print(peak_here(given.peak))
        return
    figures = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.is_file() else {}
    if not given.cost:
        bench = Bench(given.model, given.by_class, given.count, given.proposals, given.temperature)
        for part in given.only or ("inpainting", "super_resolution", "classes"):
            getattr(bench, part)()
        figures |= bench.figures
    if given.cost or not given.only:
        figures["cost, K = 512, 32x32, batch 64"] = cost = time_and_memory()
        print(cost)
    RESULTS.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
