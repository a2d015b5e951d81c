"""Samples of one network by each prior: uniform, by counts, by heads, by a transformer.

    python benchmarks/priors.py                     # the network of `quality.py --only ours --minutes 15`
    python benchmarks/priors.py --model RUN --minutes 4

Each learned prior is fitted for `--minutes` to the training images, of which 1,000 are held out to select the best
weights. Fréchet distances are of 10,000 samples to the test images, in features of the classifier of `quality.py`.
Writes `benchmarks/results/priors.json`. Needs Debian's package dataset-fashion-mnist.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from guided_sampler import machine
from quality import DRAWN, WORK, as_bytes, classifier, data, distance, features

from discrete_distribution_network.cli.runs import load_model, model_folder
from discrete_distribution_network.data.datasets import Pixels
from discrete_distribution_network.prior import PRIORS, Chain, Frequencies, fit, prior_class, temperatures

RESULTS = Path(__file__).resolve().parent / "results" / "priors.json"
HELD_OUT = 1000


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--model", type=Path, default=WORK / "ours-15-0")
    arguments.add_argument("--minutes", type=float, default=7.5)
    given = arguments.parse_args()
    torch.set_num_threads(2)
    ddn = load_model(model_folder(given.model), "cpu").eval()
    images, test = (torch.from_numpy(np.load(data() / f"{part}.npy")) for part in ("train", "test"))
    net, _ = classifier()
    real = features(net, test.numpy())
    results: dict[str, Any] = {"machine": machine(), "minutes": given.minutes, "bits": ddn.bits_per_image, "priors": {}}

    def measure(name: str, prior: Any, by_name: dict[str, Any], figures: dict[str, Any]) -> None:
        for setting, temperature in by_name.items():
            torch.manual_seed(1)
            settings = {"prior": prior} | ({} if prior is None else {"temperature": temperature})
            ddn.sample(250, **settings)
            started = time.monotonic()
            drawn = torch.cat([ddn.sample(250, **settings) for _ in range(DRAWN // 250)])
            figures["drawn a second"] = DRAWN / (time.monotonic() - started)
            figures[f"distance at temperature {setting}"] = distance(features(net, as_bytes(drawn)), real)
        results["priors"][name] = figures
        RESULTS.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
        print(name, json.dumps(figures), flush=True)

    unscaled = {"1": 1.0}
    measure("uniform", None, unscaled, {})
    codes = torch.cat([ddn.encode(part.float() / 255) for part in images[:-HELD_OUT].split(250)])
    measure("frequencies", Frequencies.of(ddn, codes), unscaled, {})
    measure("first-order chain", Chain.of(ddn, codes), unscaled, {})
    for kind in PRIORS:
        torch.manual_seed(0)
        prior = prior_class(kind)(ddn)
        learnt, held_out = Pixels(images[:-HELD_OUT]), Pixels(images[-HELD_OUT:])
        fitted = fit(prior, ddn, learnt, held_out, minutes=given.minutes, progress=False)
        figures = {
            "parameters": sum(parameter.numel() for parameter in prior.parameters()),
            "steps": fitted.steps,
            "bits of training images": fitted.train_bits,
            "bits of held-out images": fitted.test_bits,
        }
        measure(kind, prior, unscaled | {"0.7": 0.7, "by level": temperatures(ddn)}, figures)


if __name__ == "__main__":
    main()
