"""What `ddn quickstart` reaches in its three minutes, on this machine.

    python benchmarks/quickstart.py

Runs the command as a newcomer would, into a folder that is thrown away, and writes the figures on the 1,000 test digits
to `benchmarks/results/quickstart.json`: also the share of 1,000 samples that a classifier of digits, trained on the
4,000 training digits, gives at least 0.9 for one class, and that of the test digits.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import torch
from guided_sampler import ROOT, machine
from torch import Tensor

from discrete_distribution_network.cli import main as cli
from discrete_distribution_network.data.loader import in_order
from discrete_distribution_network.data.sources import open_data
from discrete_distribution_network.ddn import DDN
from discrete_distribution_network.evaluation.classifier import Classifier, train_classifier
from discrete_distribution_network.training.report import read_metrics

CERTAIN = 0.9
"""The probability of a class from which on a digit counts as one."""


@torch.no_grad()
def certain(net: Classifier, images: Tensor) -> float:
    """The share of images that a classifier is certain of."""
    return float((net(images.clamp(0, 1)).softmax(-1).amax(-1) >= CERTAIN).float().mean())


def shares(model: Path) -> dict[str, float]:
    """The shares of samples and of test digits that a classifier is certain of."""
    ddn, split = DDN.from_pretrained(model).eval(), open_data("mnist-digits", (32, 32), 1)
    net = train_classifier(split.train, ddn, 10, epochs=10).eval()
    test = torch.cat([batch.images for batch in in_order(split.test, ddn, 500)])
    samples = ddn.sample(1000, generator=torch.Generator().manual_seed(0))
    of_samples, of_test = certain(net, samples), certain(net, test)
    return {"certain of samples": of_samples, "certain of test digits": of_test, "ratio": of_samples / of_test}


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "quickstart"
        cli.main(["quickstart", "--out", str(out)])
        steps = read_metrics(out)[-1]["step"]
        figures = json.loads((out / "evaluation.json").read_text()) | shares(out)
    results = {"about": f"{machine()}, PyTorch {torch.__version__}", "steps": steps, **figures}
    path = ROOT / "benchmarks" / "results" / "quickstart.json"
    path.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
