"""What training costs: the Trainer beside a bare loop, number formats and memory layouts, and loading beside training.

    python benchmarks/training.py

Prints three tables and writes `benchmarks/results/training.json`. Needs Fashion-MNIST (Debian's package
dataset-fashion-mnist) and the photographs of scikit-image; about five minutes on two cores.

- overhead: a Trainer step, with its figures and moving average, over a bare loop of forward, backward, clipping,
  optimiser and split-and-prune; 24 levels, 32x32, B=64, float32. Blocks of both take turns in one process.
- step: 16 levels of 64 candidates on Fashion-MNIST at 32x32, by number format and layout, and what the convolutions
  take of it.
- loading: images a second from JPEG files at 64x64, decoded anew, against what a training step at that size needs.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from guided_sampler import ROOT, machine
from PIL import Image
from torch import nn
from torch.profiler import ProfilerActivity, profile

from discrete_distribution_network import DDN, Trainer
from discrete_distribution_network.cli.config import TrainConfig
from discrete_distribution_network.cli.train import network
from discrete_distribution_network.data.datasets import ImageFiles
from discrete_distribution_network.data.image_folder import find_images
from discrete_distribution_network.data.loader import Loader
from discrete_distribution_network.data.sources import open_data


def trainer_step(ddn: DDN, dataset: object, folder: str, **kwargs: object) -> Callable[[], None]:
    """A function that makes one step of a Trainer."""
    trainer = Trainer(
        ddn,
        dataset=dataset,
        num_train_steps=10**9,
        results_folder=Path(folder) / "results",
        checkpoints_folder=Path(folder) / "checkpoints",
        progress=False,
        overwrite=True,
        **kwargs,
    )
    batches, recent = trainer.loader.batches(), []

    def step() -> None:
        recent.append(trainer.loop.step(batches)[0])
        if len(recent) == trainer.config.log_every:
            trainer.loop.figures(recent)
            recent.clear()

    return step


def bare_step(ddn: DDN, images: torch.Tensor, batch_size: int) -> Callable[[], None]:
    """The same step written out, with images that lie ready."""
    ddn.train().to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(ddn.parameters(), lr=3e-4, weight_decay=1e-3, fused=True)
    batches = images.float().div(255).contiguous(memory_format=torch.channels_last).split(batch_size)
    done = 0

    def step() -> None:
        nonlocal done
        loss = ddn(batches[done % len(batches)])
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(ddn.parameters(), 0.5)
        optimizer.step()
        ddn.split_and_prune_(optimizer)
        done += 1

    return step


def timed(step: Callable[[], None], steps: int) -> float:
    started = time.perf_counter()
    for _ in range(steps):
        step()
    return 1000 * (time.perf_counter() - started) / steps


def overhead(folder: str) -> dict[str, float]:
    images = torch.randint(0, 256, (64 * 20, 1, 32, 32), dtype=torch.uint8)

    def ddn() -> DDN:
        torch.manual_seed(0)
        levels = [2, 6, 8, 8]
        return DDN(16, 128, 32, 1, 64, num_resnet_blocks=1, levels_per_resolution=levels)

    ours, bare = trainer_step(ddn(), images, folder, batch_size=64), bare_step(ddn(), images, 64)
    timed(ours, 5), timed(bare, 5)
    pairs = [(timed(ours, 10), timed(bare, 10)) for _ in range(9)]
    ratios = [one / other for one, other in pairs]
    return {
        "trainer_ms": statistics.median(one for one, _ in pairs),
        "bare_ms": statistics.median(other for _, other in pairs),
        "ratio": statistics.median(ratios),
        "least": min(ratios),
        "largest": max(ratios),
    }


def formats(folder: str) -> list[dict[str, object]]:
    train = open_data("fashion-mnist", (32, 32), 1).train
    rows: list[dict[str, object]] = []
    for batch_size in (32, 128):
        for precision, channels_last in (("no", False), ("no", True), ("bf16", True)):
            torch.manual_seed(0)
            step = trainer_step(
                DDN(16, 128, 32, 1, 64, num_resnet_blocks=1, levels_per_resolution=[2, 4, 6, 4]),
                train,
                folder,
                batch_size=batch_size,
                mixed_precision=precision,
                channels_last=channels_last,
            )
            timed(step, 5)
            milliseconds = statistics.median(timed(step, 1) for _ in range(25))
            with profile(activities=[ProfilerActivity.CPU]) as profiled:
                timed(step, 4)
            names = ("aten::mkldnn_convolution", "aten::convolution_backward")
            spent = sum(one.cpu_time_total for one in profiled.key_averages() if one.key in names)
            rows.append(
                {
                    "batch": batch_size,
                    "format": "float32" if precision == "no" else "bfloat16",
                    "layout": "channels last" if channels_last else "contiguous",
                    "step_ms": milliseconds,
                    "convolutions_ms": spent / 4000,
                    "images_a_second": 1000 * batch_size / milliseconds,
                }
            )
    return rows


def loading(folder: str) -> dict[str, float]:
    """Real photographs as JPEG files of about 160 to 320 pixels a side, at 64x64."""
    import skimage

    shipped = sorted((Path(skimage.__file__).parent / "data").glob("*.jpg"))
    whole = [Image.open(path).convert("RGB") for path in shipped]
    generator, jpegs = np.random.default_rng(0), Path(folder) / "jpegs"
    jpegs.mkdir()
    for index in range(600):
        image = whole[index % len(whole)]
        side = min(int(generator.integers(160, 320)), *image.size)
        left, top = (int(generator.integers(0, length - side + 1)) for length in image.size)
        image.crop((left, top, left + side, top + side)).save(jpegs / f"{index:03d}.jpg", quality=90)
    config, files = TrainConfig(), find_images(jpegs)
    shape = network(config)
    found: dict[str, float] = {}
    for workers in (0, 2):
        loader = Loader(ImageFiles(files, config.size, 3), shape, 32, workers=workers)
        batches = loader.batches()
        next(batches)
        started = time.perf_counter()
        for _ in range(16):  # within the first epoch: every image is decoded anew
            next(batches)
        found[f"loader_{workers}_workers"] = 16 * 32 / (time.perf_counter() - started)
    kept = ImageFiles(files, config.size, 3)
    for index in range(len(kept)):
        kept[index]
    batches = Loader(kept, shape, 32).batches()
    found["loader_kept_in_memory"] = 32 * 16 * 1000 / (16 * timed(lambda: next(batches), 16))
    step = trainer_step(shape, kept, folder, batch_size=32, mixed_precision="auto")
    timed(step, 5)
    found["training_needs"] = 32 * 1000 / statistics.median(timed(step, 1) for _ in range(15))
    return found


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        results = {
            "about": f"{machine()}, PyTorch {torch.__version__}",
            "overhead": overhead(folder),
            "step": formats(folder),
            "loading_images_a_second": loading(folder),
        }
    one = results["overhead"]
    print(results["about"])
    print(
        f"\n24 levels, 32x32, B=64: Trainer {one['trainer_ms']:.1f} ms, bare loop {one['bare_ms']:.1f} ms a step, ",
        end="",
    )
    print(f"{one['ratio']:.3f}x ({one['least']:.3f} to {one['largest']:.3f})\n")
    print("| B | format | layout | step | of it convolutions | images a second |\n|---|---|---|---|---|---|")
    for row in results["step"]:
        print(
            f"| {row['batch']} | {row['format']} | {row['layout']} | {row['step_ms']:.1f} ms | "
            f"{row['convolutions_ms']:.1f} ms | {row['images_a_second']:.0f} |"
        )
    print("\nimages a second at 64x64, from JPEG files:")
    for name, value in results["loading_images_a_second"].items():
        print(f"{name.replace('_', ' ')}: {value:.0f}")
    path = ROOT / "benchmarks" / "results" / "training.json"
    path.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
