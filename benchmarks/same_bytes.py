"""Hashes of what the released models give for equal seeds, to compare two versions of the library on one machine.

    python benchmarks/same_bytes.py > before.json      # in the old version
    python benchmarks/same_bytes.py | diff before.json -

Needs Fashion-MNIST (Debian: dataset-fashion-mnist). Floating-point sums differ between processors, so hashes of images
are those of one machine.
"""

from __future__ import annotations

import hashlib
import json
import sys

import torch
from torch import Tensor

from discrete_distribution_network import DDN, ImageCodec
from discrete_distribution_network.data.loader import first_batch
from discrete_distribution_network.data.sources import open_data
from discrete_distribution_network.guidance.conditions import Inpaint
from discrete_distribution_network.io.pretrained import released
from discrete_distribution_network.prior.base import temperatures


def digest(value: Tensor | bytes) -> str:
    data = value if isinstance(value, bytes) else value.contiguous().numpy().tobytes()
    return hashlib.sha256(data).hexdigest()[:12]


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(3)


def hashes(name: str) -> dict[str, str]:
    ddn, folder = DDN.from_pretrained(name).eval(), released(name)
    assert folder is not None
    prior = ddn.prior
    images = first_batch(open_data("fashion-mnist", ddn.image_size, ddn.channels).test, ddn, 100).images
    labels = torch.arange(100) % ddn.num_classes if ddn.num_classes else None
    few = None if labels is None else labels[:16]
    four = None if labels is None else labels[:4]
    mask = torch.ones(ddn.image_size)
    mask[:, mask.shape[1] // 2 :] = 0
    half = Inpaint(images[:4], mask)
    codes = ddn.encode(images, labels=labels)
    by_level = {"prior": prior, "temperature": temperatures(ddn), "labels": few}
    flat = {"prior": prior, "temperature": 0.7, "top_p": 0.9, "labels": few}
    found: dict[str, Tensor | bytes] = {
        "codes": codes,
        "decoded": ddn.decode(codes, labels),
        "uniform": ddn.sample(16, generator=seeded(), labels=few, prior=None),
        "by the prior": ddn.sample(16, generator=seeded(), **by_level),
        "at temperature 0.7": ddn.sample(16, generator=seeded(), **flat),
        "inpainted": ddn.guide(half, prior=prior, generator=seeded(), labels=four).images,
        "inpainted with beams": ddn.guide(half, beams=4, prior=None, generator=seeded(), labels=four).images,
    }
    if labels is None:
        entropy_model = ddn.entropy_model
        found |= {
            "encoded with beams": ddn.encode(images[:8], beams=4),
            "file": ImageCodec(ddn, None).compress_batch(images[:20]),
            "range-coded file": ImageCodec(ddn, entropy_model).compress_batch(images[:20]),
            "file with a rate": ImageCodec(ddn, entropy_model, rate=1e-5, beams=2).compress_batch(images[:4]),
        }
    return {what: digest(value) for what, value in found.items()}


def main() -> None:
    torch.set_num_threads(1)
    json.dump({name: hashes(name) for name in ("fashion-mnist", "fashion-mnist-by-class")}, sys.stdout, indent=1)


if __name__ == "__main__":
    main()
