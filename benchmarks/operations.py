"""How many operations is a training step, and how long does it take?

    python benchmarks/operations.py                        # the preset for 32x32, 32 and 64 images a step
    python benchmarks/operations.py --against COMMIT       # in pairs with another version of this repository

Counts the calls of ATen in one step of the network (PyTorch's profiler): all, and those that no other call of ATen
makes. Times blocks of steps; with --against, blocks of both versions take turns, each in a process of its own. Images
are random: neither number depends on them. Writes `benchmarks/results/operations.json`.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from guided_sampler import machine

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "operations.json"
SIZES, WARMUP, BLOCK, PAIRS = (32, 64), 40, 60, 5


def steps(batch_size: int, folder: Path) -> Any:
    """A function that makes one step of the training of the preset."""
    from stepping import stepper, training  # of the version that is measured, see `run`

    from discrete_distribution_network.training.presets import preset

    return stepper(training(preset(32, channels=1), batch_size, folder, batches=4000 // batch_size))


def counted(step: Any) -> tuple[int, int]:
    """Calls of ATen in a step: all, and those that no other makes."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        step()
    calls = [event for event in profile.events() if event.name.startswith("aten::")]

    def inside(event: Any) -> bool:
        while (event := event.cpu_parent) is not None:
            if event.name.startswith("aten::"):
                return True
        return False

    return len(calls), sum(not inside(event) for event in calls)


def measure(batch_size: int) -> dict[str, float]:
    """Operations of a step, and the median of its milliseconds in a block."""
    with tempfile.TemporaryDirectory() as folder:
        step = steps(batch_size, Path(folder))
        for _ in range(WARMUP):
            step()
        times = []
        for _ in range(BLOCK):
            started = time.perf_counter()
            step()
            times.append(time.perf_counter() - started)
        every, outer = counted(step)
    return {"operations": every, "outer": outer, "milliseconds": 1000 * statistics.median(times)}


def run(folder: Path, batch_size: int) -> dict[str, float]:
    """`measure` in a process of its own, of the package in this folder."""
    command = [sys.executable, str(Path(__file__)), "--one", str(batch_size)]
    variables = os.environ | {"PYTHONPATH": str(folder), "OMP_NUM_THREADS": "2"}
    done = subprocess.run(command, check=True, env=variables, capture_output=True, text=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def compare(commit: str) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(["git", "-C", str(ROOT), "worktree", "add", "-f", "--detach", folder, commit], check=True)
        try:
            found: dict[str, Any] = {}
            for size in SIZES:
                pairs = [(run(Path(folder), size), run(ROOT, size)) for _ in range(PAIRS)]
                ratios = [before["milliseconds"] / now["milliseconds"] for before, now in pairs]
                found[f"{size} images"] = {
                    "before": pairs[-1][0],
                    "now": pairs[-1][1],
                    "times as fast, median": statistics.median(ratios),
                    "times as fast, all": sorted(ratios),
                }
        finally:
            subprocess.run(["git", "-C", str(ROOT), "worktree", "remove", "--force", folder], check=True)
    return found


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--against", help="a commit to compare with")
    arguments.add_argument("--one", type=int, help=argparse.SUPPRESS)
    given = arguments.parse_args()
    if given.one is not None:
        print(json.dumps(measure(given.one)))
        return
    found = {f"{size} images": run(ROOT, size) for size in SIZES} if given.against is None else compare(given.against)
    results = {**found, "machine": machine(), "torch": torch.__version__, "against": given.against}
    RESULTS.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
