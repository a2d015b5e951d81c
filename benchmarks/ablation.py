"""What each trick is worth: the default recipe with one of them off, Fashion-MNIST, three seeds; what was tried beside.

    python benchmarks/ablation.py                           # all; hours, and it goes on where it was stopped
    python benchmarks/ablation.py --only "no patches" --seeds 0
    python benchmarks/ablation.py --table                   # what has been measured so far

Every run trains for five minutes on one core, as many at once as there are cores, on the images of `quality.py`, and is
measured by its classifier: reconstruction error, the distance of reconstructions and of uniform samples to the test
images, and the perplexity of the choices over K at the least even level. What was tried beside the recipe has one seed.
Writes `benchmarks/results/ablation.json`.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from guided_sampler import ROOT, machine
from quality import DRAWN, as_bytes, classifier, data, distance, features, steps_alone
from torch import Tensor, nn

from discrete_distribution_network import DDN
from discrete_distribution_network.cli.train import trainer_for
from discrete_distribution_network.data.datasets import Pixels, Split
from discrete_distribution_network.evaluation.metrics import usage_by_level
from discrete_distribution_network.model.candidates import Candidates
from discrete_distribution_network.model.guided_sampler import GuidedSampler
from discrete_distribution_network.model.stages import Level
from discrete_distribution_network.model.walk import Selection, Walk
from discrete_distribution_network.training.presets import preset

RESULTS = ROOT / "benchmarks" / "results" / "ablation.json"
WHOLE = {"levels_per_resolution": [12, 16, 20, 16], "patch_size": None}
"""As many bits as the preset, each choice for the whole image."""


class WithoutResidual(DDN):
    """Candidates are not added to the image so far."""

    def walk(self, select: Selection, *args: Any) -> Walk:
        return super().walk(lambda level, sampler, features, _: select(level, sampler, features, None), *args)


class RelativeErrors(DDN):
    """Every level's error counts by its share of what it is, not by its size: the last levels' are the smallest."""

    def forward(self, images: Tensor, *args: Any, **kwargs: Any) -> Any:
        losses, more = super().forward(images, True, **kwargs)
        return losses * (losses.mean() / losses).detach(), more


class Mirrored(DDN):
    """Every image is turned left to right by chance."""

    def forward(self, images: Tensor, *args: Any, **kwargs: Any) -> Any:
        coin = torch.rand(len(images), 1, 1, 1, device=images.device) < 0.5
        return super().forward(torch.where(coin, images.flip(-1), images), *args, **kwargs)


class Concatenating(Level):
    """The image so far is set beside the features, and both are convolved."""

    @classmethod
    def of(cls, level: Level) -> None:
        """Make a level one of these."""
        channels, dim = level.feedback.in_channels, level.feedback.out_channels
        level.__class__, level.feedback = cls, nn.Conv2d(channels + dim, dim, 3, padding=1)

    def forward(self, features: Tensor, image: Tensor) -> Tensor:
        return self.blocks(self.feedback(torch.cat((features, image), 1)))


class WithRunnersUp(GuidedSampler):
    """The second nearest node is counted half as much as the nearest."""

    def forward(
        self, features: Tensor, query: Tensor, return_distances: bool = False, residual: Tensor | None = None
    ) -> Any:
        result, distances = super().forward(features, query, True, residual)
        if self.training:  # the nearest was counted once already
            both = distances.flatten(0, -2).topk(2, largest=False).indices.flatten()
            self.counts.scatter_add_(0, both, torch.ones_like(both))
        return (result, distances) if return_distances else result


class Significant(GuidedSampler):
    """A node is split or pruned where its count is two standard deviations beyond the threshold."""

    def apply_counts_(self, counts: Sequence[int], *args: Any) -> int:
        thresholds = self.split_thres, self.prune_thres
        deviations = [2 * (threshold * self.codebook_size / max(1, sum(counts))) ** 0.5 for threshold in thresholds]
        self.split_thres, self.prune_thres = thresholds[0] + deviations[0], thresholds[1] - deviations[1]
        swaps = super().apply_counts_(counts, *args)
        self.split_thres, self.prune_thres = thresholds
        return swaps


class Balanced(GuidedSampler):
    """In training a node used more than others seems farther off: a bias in place of split-and-prune.

    After each step it moves by a hundredth of the mean squared distance, up or down (arXiv 2408.15664).
    """

    bias: Tensor | float = 0.0
    nearest: Tensor | float = 0.0

    def _distances(self, keys: Candidates, query: Tensor) -> Tensor:
        distances = super()._distances(keys, query)
        self.nearest = distances.detach().amin(1).mean()
        return distances + self.bias if self.training else distances

    def apply_counts_(self, counts: Sequence[int], *args: Any) -> int:
        self.balance(torch.tensor(counts))
        self.counts.zero_()
        return 0

    def balance(self, used: Tensor) -> None:
        """By how often each node was chosen in the last step."""
        self.bias = self.bias + 0.01 * self.nearest * (used * self.codebook_size - used.sum()).sign()


class BalancedAndSplit(Balanced):
    """The same beside split-and-prune."""

    known: Tensor | float = 0.0

    def apply_counts_(self, counts: Sequence[int], *args: Any) -> int:
        self.balance(torch.tensor(counts) - self.known)
        swaps = GuidedSampler.apply_counts_(self, counts, *args)
        self.known = self.counts.clone()
        return swaps


def ddn(
    kind: type[DDN] = DDN,
    sampler: dict[str, Any] | None = None,
    samplers: type[GuidedSampler] = GuidedSampler,
    concatenate: bool = False,
    **network: Any,
) -> Callable[[], DDN]:
    def make() -> DDN:
        model = kind(**preset(32, channels=1) | network, guided_sampler_kwargs=sampler or {})
        for own in model.samplers:
            own.__class__ = samplers
        if concatenate:
            for level in [inner for inner in model.modules() if isinstance(inner, Level)]:
                Concatenating.of(level)
        return model

    return make


Variants = dict[str, tuple[Callable[[], DDN], dict[str, Any]]]
TRICKS: Variants = {
    "the recipe": (ddn(), {}),
    # the paper's
    "no split-and-prune": (ddn(), {"split_until": 0.0}),
    "no chain dropout": (ddn(sampler={"chain_dropout_prob": 0.0}), {}),
    "no learning residual": (ddn(WithoutResidual), {}),
    # ours
    "no patches": (ddn(**WHOLE), {}),
    "K=64 in place of 256": (ddn(codebook_size=64), {}),
    "one swap a call": (ddn(sampler={"max_swaps": 1}), {}),
    "splits every 20 steps": (ddn(), {"split_every": 20}),
    "counts of the last 20 K choices": (ddn(sampler={"count_window": 20 * 256}), {}),
    "large heads at the start": (ddn(sampler={"head_init": None}), {}),
    "no moving average": (ddn(), {"ema": False}),
    "constant learning rate": (ddn(), {"hold": 0.999}),
    "twice the channels": (ddn(dim=32, dim_max=128), {}),
}
BESIDE: Variants = {
    "errors relative to their level's": (ddn(RelativeErrors), {}),
    "adversarial term of weight 0.1": (ddn(use_adversarial_loss=True, adversarial_loss_weight=0.1), {}),
    "feedback by concatenation": (ddn(concatenate=True), {}),
    "runners-up are counted too": (ddn(samplers=WithRunnersUp), {}),
    "splits where counts are significant": (ddn(samplers=Significant), {}),
    "a balancing bias in place of splits": (ddn(samplers=Balanced), {}),
    "a balancing bias beside splits": (ddn(samplers=BalancedAndSplit), {}),
    "images mirrored by chance": (ddn(Mirrored), {}),
    "batches of 32, learning rate 2e-3": (ddn(), {"batch_size": 32, "learning_rate": 2e-3}),
}
VARIANTS = TRICKS | BESIDE


def run(name: str, minutes: float, seed: int) -> dict[str, Any]:
    make, options = VARIANTS[name]
    net, _ = classifier()
    images, test = (np.load(data() / f"{part}.npy") for part in ("train", "test"))
    torch.manual_seed(seed)
    config = steps_alone(size=(32, 32), channels=1, minutes=minutes, seed=seed, **options)
    with tempfile.TemporaryDirectory() as folder:
        trainer = trainer_for(config, make(), Split(Pixels(torch.from_numpy(images)), None), Path(folder))
        trainer.loop.config = replace(trainer.config, progress=False)
        trainer()
    model = trainer.result.eval()
    walks = [model.encode_walk(part.float() / 255) for part in torch.from_numpy(test).split(250)]
    outputs = torch.cat([walk.outputs[-1] for walk in walks]).clamp(0, 1)
    generator = torch.Generator().manual_seed(seed)
    samples = torch.cat([model.sample(250, generator=generator) for _ in range(DRAWN // 250)])
    real = features(net, test)
    codes = torch.cat([walk.codes for walk in walks])
    return {
        "bits": model.bits_per_image,
        "steps": trainer.step,
        "error": float((outputs - torch.from_numpy(test).float() / 255).square().mean()),
        "distance_reconstructions": distance(features(net, as_bytes(outputs)), real),
        "distance_uniform": distance(features(net, as_bytes(samples)), real),
        "least_even": min(usage_by_level(codes, model.codebook_sizes, model.codes_per_level)),
    }


FIGURES = {"error": ".5f", "distance_reconstructions": ".1f", "distance_uniform": ".0f", "least_even": ".2f"}


def table(results: dict[str, Any]) -> str:
    lines = [
        "| | bits | steps | error | distance of reconstructions | of uniform samples | perplexity / K |",
        "|---|---|---|---|---|---|---|",
    ]
    for name in VARIANTS:
        runs = [one for one in results["runs"].values() if one["variant"] == name]
        if not runs:
            continue

        cells = [mean_and_spread([one[figure] for one in runs], form) for figure, form in FIGURES.items()]
        steps = statistics.mean(one["steps"] for one in runs)
        lines.append(f"| {name} | {runs[0]['bits']:.0f} | {steps:.0f} | {' | '.join(cells)} |")
    return "\n".join(lines)


def mean_and_spread(values: list[float], form: str) -> str:
    mean = format(statistics.mean(values), form)
    return mean if len(values) == 1 else f"{mean} ± {format(statistics.stdev(values), form)}"


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--only", nargs="+", choices=list(VARIANTS), help="these variants alone")
    arguments.add_argument("--seeds", nargs="+", type=int, help="these alone; 0, 1 and 2, of what was tried beside 0")
    arguments.add_argument("--minutes", type=float, default=5.0)
    arguments.add_argument("--table", action="store_true", help="print what has been measured, and nothing else")
    given = arguments.parse_args()
    results = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.is_file() else {"runs": {}}
    wanted = {
        f"{name}, {given.minutes:g} minutes, seed {seed}": (name, given.minutes, seed)
        for seed in given.seeds or (0, 1, 2)  # all of one seed first, so that a table of one seed is there early
        for name in given.only or (VARIANTS if seed == 0 else TRICKS)
    }
    missing = {} if given.table else {label: how for label, how in wanted.items() if label not in results["runs"]}
    if missing:
        data()  # once, before all need it
    fresh = get_context("spawn")
    pool = ProcessPoolExecutor(
        os.cpu_count(), fresh, initializer=torch.set_num_threads, initargs=(1,), max_tasks_per_child=1
    )
    running = {pool.submit(run, *how): label for label, how in missing.items()}
    try:
        for done in as_completed(running):
            label = running[done]
            name, minutes, seed = missing[label]
            about = {"variant": name, "minutes": minutes, "seed": seed, "torch": torch.__version__}
            results["runs"][label] = done.result() | about | {"machine": machine()}
            RESULTS.write_text(json.dumps(results, indent=2, sort_keys=True) + "\n", encoding="utf-8")
            print(label, flush=True)
    finally:
        pool.shutdown(cancel_futures=True)
    print(table(results))


if __name__ == "__main__":
    main()
