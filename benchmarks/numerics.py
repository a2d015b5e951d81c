"""How far decoded pixels of equal codes differ between batch sizes, memory formats, threads and precisions.

    python benchmarks/numerics.py            # about 2 minutes; needs Fashion-MNIST (Debian: dataset-fashion-mnist)

For each released model: the codes of test images, decoded in float32, one thread, batches of 64, and otherwise.
"""

from __future__ import annotations

import argparse
import copy
import json
import platform
from pathlib import Path

import torch
from torch import Tensor

from discrete_distribution_network import DDN
from discrete_distribution_network.data.loader import first_batch
from discrete_distribution_network.data.sources import open_data

RESULTS = Path(__file__).parent / "results" / "numerics.json"


def decoded(ddn: DDN, codes: Tensor, batch_size: int = 64) -> Tensor:
    labels = None if ddn.num_classes is None else torch.zeros(len(codes), dtype=torch.long)
    parts = range(0, len(codes), batch_size)
    return torch.cat(
        [
            ddn.decode(codes[at : at + batch_size], None if labels is None else labels[at : at + batch_size]).float()
            for at in parts
        ]
    )


def differences(ddn: DDN, images: Tensor) -> dict[str, dict[str, float]]:
    labels = None if ddn.num_classes is None else torch.zeros(len(images), dtype=torch.long)
    codes = torch.cat(
        [
            ddn.encode(images[at : at + 64], labels=None if labels is None else labels[at : at + 64])
            for at in range(0, len(images), 64)
        ]
    )
    torch.set_num_threads(1)
    expected = decoded(ddn, codes)

    def threads(number: int) -> Tensor:
        torch.set_num_threads(number)
        found = decoded(ddn, codes)
        torch.set_num_threads(1)
        return found

    ways = {
        "batches of 1": lambda: decoded(ddn, codes, 1),
        "batches of 7": lambda: decoded(ddn, codes, 7),
        "batches of 500": lambda: decoded(ddn, codes, 500),
        "2 threads": lambda: threads(2),
        "channels last": lambda: decoded(copy.deepcopy(ddn).to(memory_format=torch.channels_last), codes),
        "float64": lambda: decoded(copy.deepcopy(ddn).double(), codes),
        "bfloat16": lambda: decoded(copy.deepcopy(ddn).bfloat16(), codes),
        "float16": lambda: decoded(copy.deepcopy(ddn).half(), codes),
    }
    found = {}
    for name, way in ways.items():
        by_image = (way() - expected).abs().flatten(1).amax(1)
        found[name] = {"largest": float(by_image.max()), "median of images": float(by_image.median())}
        print(f"{name:15s}", ", ".join(f"{what} {value:.2g}" for what, value in found[name].items()))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=500, help="test images")
    count = parser.parse_args().count
    results: dict[str, object] = {"torch": torch.__version__, "machine": platform.processor() or platform.machine()}
    with torch.no_grad():
        for name in ("fashion-mnist", "fashion-mnist-by-class"):
            print(name)
            ddn = DDN.from_pretrained(name).eval()
            images = first_batch(open_data("fashion-mnist", ddn.image_size, ddn.channels).test, ddn, count).images
            results[name] = differences(ddn, images)
    RESULTS.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
