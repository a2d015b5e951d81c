"""Retrieval by code: of the ten nearest to a test image, the share that has its label.

    python benchmarks/retrieval.py                           # the released model of Fashion-MNIST
    python benchmarks/retrieval.py --model RUN

10,000 training images are looked through for each of 1,000 test images: by code alone (`evaluation.neighbours`: levels
that both share, then what the codes decode to; and by what they decode to alone), by pixels, and by as many bytes of
principal components, each rounded to 256 values. Writes `benchmarks/results/retrieval.json`. Needs Debian's package
dataset-fashion-mnist.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from guided_sampler import machine
from torch import Tensor

from discrete_distribution_network.cli.runs import load_model, model_folder
from discrete_distribution_network.data.loader import in_order
from discrete_distribution_network.data.sources import open_data
from discrete_distribution_network.ddn import DDN
from discrete_distribution_network.evaluation.neighbours import neighbours

RESULTS = Path(__file__).resolve().parent / "results" / "retrieval.json"
LOOKED_THROUGH, QUERIES, NEAREST = 10_000, 1000, 10


def images_and_labels(dataset: object, ddn: DDN, count: int) -> tuple[Tensor, Tensor]:
    batches = list(in_order(dataset, ddn, 500, limit=count))
    return torch.cat([batch.images for batch in batches]), torch.cat([batch.labels for batch in batches])


def principal_components(images: Tensor, others: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Of images and others that many components each, rounded to 256 values between the least and the largest."""
    centre = images.mean(0)
    directions = torch.linalg.svd(images - centre, full_matrices=False).Vh[:count].T
    projected = (images - centre) @ directions
    low, high = projected.amin(0), projected.amax(0)
    step = (high - low) / 255
    both = (projected, ((others - centre) @ directions).clamp(low, high))
    return both[0].sub(low).div(step).round() * step, both[1].sub(low).div(step).round() * step


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--model", type=Path, default=Path("fashion-mnist"))
    given = arguments.parse_args()
    ddn = load_model(model_folder(given.model), "cpu").eval()
    split = open_data("fashion-mnist", ddn.image_size, 1)
    known, labels = images_and_labels(split.train, ddn, LOOKED_THROUGH)
    asked, expected = images_and_labels(split.test, ddn, QUERIES)
    codes, queries = (torch.cat([ddn.encode(part) for part in own.split(250)]) for own in (known, asked))
    decoded, own = (torch.cat([ddn.decode(part) for part in part.split(250)]).flatten(1) for part in (codes, queries))
    pixels, components = (known.flatten(1), asked.flatten(1)), round(ddn.bits_per_image / 8)

    def share(nearest: Tensor) -> float:
        return float((labels[nearest] == expected.unsqueeze(1)).float().mean())

    def by_distance(them: Tensor, one: Tensor) -> float:
        return share(torch.cdist(one, them).topk(NEAREST, largest=False).indices)

    by_code = [neighbours(ddn, one, codes, NEAREST, decoded=decoded.view_as(known)).places for one in queries]
    figures = {
        f"codes, {components} bytes: shared levels, then what they decode to": share(torch.stack(by_code)),
        f"codes, {components} bytes: what they decode to": by_distance(decoded, own),
        "pixels, 1024 bytes": by_distance(*pixels),
        f"principal components, {components} bytes": by_distance(*principal_components(*pixels, components)),
    }
    results = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.is_file() else {}
    results |= {str(given.model): figures, "machine": machine()}
    RESULTS.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    for name, value in figures.items():
        print(f"{name}: {value:.3f}")


if __name__ == "__main__":
    main()
