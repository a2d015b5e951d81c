"""What the preset of each size takes: memory and time of a training step, bytes of an image.

    python benchmarks/presets.py

A few steps of `ddn train`'s recipe (batches of 64) on random colour images, each size in a process of its own; the peak
is that of the process, with Python and PyTorch (about 500 MiB). Writes `benchmarks/results/presets.json`.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

import torch
from guided_sampler import ROOT, machine

from discrete_distribution_network import DDN, Trainer
from discrete_distribution_network.training.presets import preset, recipe
from discrete_distribution_network.training.report import read_metrics

RESULTS = ROOT / "benchmarks" / "results" / "presets.json"
SIZES = (32, 64, 128, 256)
STEPS, NEVER = 5, 10**9


def measure(size: int) -> dict[str, float]:
    torch.set_num_threads(2)
    ddn = DDN(**preset(size))
    settings = recipe()
    images = torch.randint(0, 256, (settings["batch_size"] * STEPS, 3, size, size), dtype=torch.uint8)
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            ddn,
            dataset=images,
            num_train_steps=STEPS,
            **settings,
            accelerate_kwargs={"cpu": True},
            results_folder=folder,
            checkpoints_folder=Path(folder) / "checkpoints",
            checkpoint_every=NEVER,
            save_results_every=NEVER,
            log_every=1,
            progress=False,
        )
        trainer()
        speeds = [line["images_per_second"] for line in read_metrics(Path(folder)) if "images_per_second" in line]
    return {
        "size": size,
        "parameters": sum(parameter.numel() for parameter in ddn.parameters()),
        "levels": ddn.num_levels,
        "bytes": ddn.bits_per_image / 8,
        "images_per_second": median(speeds[1:]),
        "peak_memory_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def main() -> None:
    if len(sys.argv) > 1:
        print(json.dumps(measure(int(sys.argv[1]))))
        return
    found = []
    for size in SIZES:
        done = subprocess.run([sys.executable, __file__, str(size)], check=True, capture_output=True, text=True)
        found.append(json.loads(done.stdout.splitlines()[-1]))
        print(found[-1], flush=True)
    results = {"sizes": found, "machine": machine(), "torch": torch.__version__}
    RESULTS.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
