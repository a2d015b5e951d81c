"""How far the pixels differ that one file of codes gives: by batch, threads, layout and precision, of released models.

The codes are the same everywhere; what is drawn of them is floating-point arithmetic. Compared with float32, batches of
64 on one thread, each pixel of 1,500 test images of Fashion-MNIST (of samples, where it is not installed).

    python benchmarks/numerics.py
"""

from __future__ import annotations

import argparse

import torch
from torch import Tensor

from discrete_distribution_network.codec import ImageCodec
from discrete_distribution_network.data import open_data
from discrete_distribution_network.ddn import DDN
from discrete_distribution_network.errors import DataError
from discrete_distribution_network.loader import in_order

MODELS = ("fashion-mnist", "fashion-mnist-by-class")


def images_for(ddn: DDN, count: int) -> tuple[Tensor, str]:
    try:
        split = open_data("fashion-mnist", ddn.image_size, ddn.channels)
    except DataError:
        return ddn.sample(count, generator=torch.Generator().manual_seed(0)).clamp(0, 1), "samples"
    return torch.cat([batch.images for batch in in_order(split.test, ddn, 250, limit=count)]), "test images"


def decoded(
    data: bytes, name: str, kind: torch.dtype, batch_size: int, threads: int, layout: torch.memory_format
) -> Tensor:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    ddn = DDN.from_pretrained(name).eval().to(kind).to(memory_format=layout)  # type: ignore[call-overload]
    images = ImageCodec(ddn, batch_size=batch_size).decompress_batch(data)
    torch.set_num_threads(before)
    return images


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=1500)
    count = parser.parse_args().images
    plain, last = torch.contiguous_format, torch.channels_last
    ways = {
        **{f"float32, batches of {size}": (torch.float32, size, 1, plain) for size in (1, 7, 500)},
        **{f"float32, {threads} threads": (torch.float32, 64, threads, plain) for threads in (2, 3)},
        **{f"float32, channels last, batches of {size}": (torch.float32, size, 1, last) for size in (1, 7, 64, 500)},
        "float64": (torch.float64, 64, 1, plain),
        "float16": (torch.float16, 64, 1, plain),
        "bfloat16": (torch.bfloat16, 64, 1, plain),
        "bfloat16, channels last, batches of 500": (torch.bfloat16, 500, 1, last),
    }
    for name in MODELS:
        ddn = DDN.from_pretrained(name).eval()
        images, what = images_for(ddn, count)
        data = ImageCodec(ddn).compress_batch(images)
        want = decoded(data, name, torch.float32, 64, 1, plain)
        error = float((want - images).square().mean())
        print(f"{name}: {len(images)} {what}, mean squared error {error:.5f}")
        print("| decoded in | largest difference | images with more than 0.03 | mean difference | error |")
        print("|---|---|---|---|---|")
        for way, how in ways.items():
            found = decoded(data, name, *how)
            apart = (found - want).abs()
            beyond = int((apart.flatten(1).amax(1) > 0.03).sum())
            error = float((found - images).square().mean())
            print(f"| {way} | {float(apart.max()):.2g} | {beyond} | {float(apart.mean()):.2g} | {error:.5f} |")


if __name__ == "__main__":
    main()
