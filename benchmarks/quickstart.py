"""What `ddn quickstart` reaches in its three minutes, on this machine.

    python benchmarks/quickstart.py

Runs the command as a newcomer would, into a folder that is thrown away, and writes the figures on the 1,000 test digits
to `benchmarks/results/quickstart.json`.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import torch
from guided_sampler import ROOT, machine

from discrete_distribution_network.cli import main as cli
from discrete_distribution_network.training.report import read_metrics


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "quickstart"
        cli.main(["quickstart", "--out", str(out)])
        steps = read_metrics(out)[-1]["step"]
        figures = json.loads((out / "evaluation.json").read_text())
    results = {"about": f"{machine()}, PyTorch {torch.__version__}", "steps": steps, **figures}
    path = ROOT / "benchmarks" / "results" / "quickstart.json"
    path.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
