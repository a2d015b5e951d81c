"""What the presets of each size take: memory and time of a training, bytes of an image.

    python benchmarks/presets.py                          # 32 to 256 pixels
    python benchmarks/presets.py --sizes 64 --preset hours

A short training as `ddn train` does it, with decoder and prior (batches of 64), on random colour images, each size in a
process of its own; the peak memory is that of the process, with Python and PyTorch (about 500 MiB). Writes
`benchmarks/results/presets.json`.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from guided_sampler import ROOT, machine
from quality import read, steps_alone, write

from discrete_distribution_network.cli.train import network, trainer_for
from discrete_distribution_network.data.datasets import Split

RESULTS = ROOT / "benchmarks" / "results" / "presets.json"
SIZES = (32, 64, 128, 256)
STEPS, SECOND_STAGE = 8, 0.5


class Noise(torch.utils.data.Dataset[torch.Tensor]):
    """Random images; enough of them for the choice of temperatures."""

    def __init__(self, size: int):
        self.size = size

    def __len__(self) -> int:
        return 2000

    def __getitem__(self, place: int) -> torch.Tensor:
        if not 0 <= place < len(self):
            raise IndexError(place)
        generator = torch.Generator().manual_seed(place)
        return torch.randint(0, 256, (3, self.size, self.size), dtype=torch.uint8, generator=generator)


def measure(size: int, preset: str) -> dict[str, float | str]:
    torch.set_num_threads(2)
    config = steps_alone(size=(size, size), preset=preset, steps=STEPS, second_stage=SECOND_STAGE)
    ddn = network(config)
    with tempfile.TemporaryDirectory() as folder:
        trainer = trainer_for(config, ddn, Split(Noise(size), None), Path(folder))
        started = time.perf_counter()
        trainer()
        seconds = time.perf_counter() - started
    first, prior = trainer.network_progress, trainer.result.prior
    return {
        "size": size,
        "preset": preset,
        "parameters": sum(map(torch.numel, ddn.parameters())),
        "parameters_of_prior": sum(map(torch.numel, prior.parameters())),
        "levels": ddn.num_levels,
        "bytes": ddn.bits_per_image / 8,
        "images_per_second": first.images / first.seconds,
        "seconds": seconds,
        "peak_memory_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--sizes", nargs="+", type=int, default=SIZES)
    arguments.add_argument("--preset", choices=("minutes", "hours"), default="minutes")
    arguments.add_argument("--one", action="store_true", help="measure the first size in this process and print it")
    given = arguments.parse_args()
    if given.one:
        print(json.dumps(measure(given.sizes[0], given.preset)))
        return
    for size in given.sizes:
        command = [sys.executable, __file__, "--one", "--sizes", str(size), "--preset", given.preset]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        results = read(RESULTS)
        found = json.loads(done.stdout.splitlines()[-1])
        results["runs"][f"{given.preset}-{size}"] = found | {"machine": machine(), "torch": torch.__version__}
        write(results, RESULTS)
        print(found, flush=True)


if __name__ == "__main__":
    main()
