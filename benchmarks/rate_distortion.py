"""Rate and distortion of our code files and of WebP, AVIF, JPEG and JPEG XL at low quality.

    python benchmarks/rate_distortion.py                     # the released model of Fashion-MNIST
    python benchmarks/rate_distortion.py --model RUN...      # others; with --colour on photographs

Fashion-MNIST: the 10,000 test images, at 32x32. Photographs: squares cut from those in scikit-image and scikit-learn,
at the model's size, for a model trained on others (`photographs.py`). MS-SSIM has three scales. Bytes are of the whole
file, and without the part that is the same for all files: for ours the packed codes alone, for other formats the file
less their smallest file of a grey image of that size. Writes `benchmarks/results/rate_distortion.json`, which keeps
rows of models of other bytes an image, and `docs/rate_distortion.png`. JPEG XL needs pillow-jxl-plugin.
"""

from __future__ import annotations

import argparse
import io
import json
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from guided_sampler import machine
from photographs import shipped, squares
from PIL import Image
from torch import Tensor

with suppress(ImportError):
    import pillow_jxl  # noqa: F401  (it teaches Pillow the format)

from discrete_distribution_network.cli.runs import load_model, model_folder
from discrete_distribution_network.codec.bitstream import Reader
from discrete_distribution_network.codec.image_codec import ImageCodec
from discrete_distribution_network.data.loader import in_order
from discrete_distribution_network.data.sources import open_data
from discrete_distribution_network.ddn import DDN
from discrete_distribution_network.evaluation.metrics import psnr
from discrete_distribution_network.prior.entropy_model import EntropyModel, load_entropy_model
from discrete_distribution_network.viz.pictures import to_pil

ROOT = Path(__file__).resolve().parent.parent
RESULTS, PLOT = ROOT / "benchmarks" / "results" / "rate_distortion.json", ROOT / "docs" / "rate_distortion.png"
OTHERS = 1000
"""Images that beams, range coding and the other formats are measured on, which are slow."""

FORMATS: dict[str, list[dict[str, Any]]] = {
    "WebP": [{"format": "WEBP", "quality": quality, "method": 6} for quality in (0, 5, 10, 20, 40, 60)],
    "AVIF": [{"format": "AVIF", "quality": quality, "speed": 0} for quality in (0, 10, 20, 30, 50)],
    "JPEG": [{"format": "JPEG", "quality": quality, "optimize": True} for quality in (1, 5, 10, 20, 40)],
    "JPEG XL": [{"format": "JXL", "quality": quality, "effort": 9} for quality in (1, 10, 20, 40, 60)],
}


def figures_of(images: Tensor, back: Tensor) -> dict[str, float]:
    """PSNR of the mean squared error over all images, and mean MS-SSIM."""
    error = float((images - back).square().mean())
    return {"error": error, "PSNR": psnr(error), "MS-SSIM": float(ms_ssim(images, back).mean())}


def border_ratio(ddn: DDN, images: Tensor, back: Tensor) -> dict[str, float]:
    """The squared error of pixels beside borders of the last level's patches, over that of all others."""
    patch = ddn.samplers[-1].patch_size
    if patch is None or patch < 3:
        return {}
    error = (images - back).square().mean((0, 1))
    beside = [torch.arange(side) % patch for side in ddn.image_size]
    rows, columns = ((place == 0) | (place == patch - 1) for place in beside)
    at = rows[:, None] | columns
    return {"error beside borders of patches": float(error[at].mean() / error[~at].mean())}


SCALES = (0.0448, 0.2856, 0.3001)
"""Exponents of the first three of five scales (Wang, Simoncelli and Bovik, 2003): small images have room for three."""


def ms_ssim(one: Tensor, other: Tensor, scales: Sequence[float] = SCALES, side: int = 7, width: float = 1.0) -> Tensor:
    """MS-SSIM (B,) of images (B, C, H, W) in [0, 1], with Gaussian windows."""
    places = torch.arange(side) - side // 2
    window = torch.outer(*[(-(places**2) / (2 * width**2)).exp()] * 2)
    window = (window / window.sum()).expand(one.shape[1], 1, -1, -1)

    def mean_of(x: Tensor) -> Tensor:
        return F.conv2d(x, window, groups=x.shape[1])

    total = torch.ones(len(one))
    for place, exponent in enumerate(scales):
        a, b = mean_of(one), mean_of(other)
        both, own = mean_of(one * other) - a * b, mean_of(one**2) - a**2 + mean_of(other**2) - b**2
        likeness = (2 * both + 0.03**2) / (own + 0.03**2)
        if place == len(scales) - 1:
            likeness = likeness * (2 * a * b + 0.01**2) / (a**2 + b**2 + 0.01**2)
        total = total * likeness.mean((1, 2, 3)).clamp_min(0) ** (exponent / sum(scales))
        one, other = (F.avg_pool2d(images, 2) for images in (one, other))
    return total


def ours(ddn: DDN, prior: EntropyModel | None, images: Tensor) -> list[dict[str, Any]]:
    """Rows for greedy and beam search, for all levels and prefixes, range coded, and with a rate."""
    rows = []
    ways: list[tuple[str, dict[str, Any], EntropyModel | None, list[int]]] = [
        ("greedy", {}, None, prefixes(ddn)),
        ("8 beams", {"beams": 8}, None, [ddn.num_levels]),
    ]
    if prior is not None:
        ways += [
            ("range coded", {}, prior, [ddn.num_levels]),
            *((f"range coded, rate {rate:g}", {"rate": rate}, prior, [ddn.num_levels]) for rate in RATES),
            *(
                (f"range coded, rate {rate:g}, 8 beams", {"rate": rate, "beams": 8}, prior, [ddn.num_levels])
                for rate in RATES[:2]
            ),
        ]
    for name, settings, own, numbers in ways:
        codec = ImageCodec(ddn, own, batch_size=250, **settings)
        for levels in numbers:
            subset = images if not settings and own is None else images[:OTHERS]
            started = time.perf_counter()
            data = codec.compress_batch(subset, levels)
            encoded = time.perf_counter()
            back = codec.decompress_batch(data)
            decoded = time.perf_counter()
            reader, single = Reader(data), codec.compress(subset[0], levels)
            packed = mean(len(reader[place]) for place in range(len(reader)))
            rows.append(
                {
                    "name": f"ours, {name}" + ("" if levels == ddn.num_levels else f", {levels} levels"),
                    "images": len(subset),
                    "bytes": packed + len(single) - len(Reader(single)[0]),
                    "bytes without header": packed,
                    **figures_of(subset, back),
                    **(border_ratio(ddn, subset, back) if levels == ddn.num_levels else {}),
                    "encoded a second": len(subset) / (encoded - started),
                    "decoded a second": len(subset) / (decoded - encoded),
                }
            )
            report(rows[-1])
    return rows


RATES = (1e-5, 2e-5, 4e-5)


def prefixes(ddn: DDN) -> list[int]:
    """All levels, and those before each change of the number of codes."""
    changes = [i for i in range(1, ddn.num_levels) if ddn.codes_per_level[i] != ddn.codes_per_level[i - 1]]
    return [*changes, ddn.num_levels]


def others(images: Tensor) -> list[dict[str, Any]]:
    rows = []
    pictures = [to_pil(image) for image in images]
    blank = Image.new(pictures[0].mode, pictures[0].size, 128 if len(pictures[0].getbands()) == 1 else (128,) * 3)
    for name, settings in FORMATS.items():
        try:
            written(blank, settings[0])
        except (KeyError, ValueError, OSError):
            print(f"{name}: not supported by this Pillow")
            continue
        header = min(len(written(blank, one)) for one in settings)
        for one in settings:
            started = time.perf_counter()
            files = [written(picture, one) for picture in pictures]
            encoded = time.perf_counter()
            back = torch.stack([opened(file, len(images[0])) for file in files])
            decoded = time.perf_counter()
            size = mean(map(len, files))
            rows.append(
                {
                    "name": f"{name}, quality {one['quality']}",
                    "images": len(files),
                    "bytes": size,
                    "bytes without header": size - header,
                    **figures_of(images, back),
                    "encoded a second": len(files) / (encoded - started),
                    "decoded a second": len(files) / (decoded - encoded),
                }
            )
            report(rows[-1])
    return rows


def written(picture: Image.Image, settings: dict[str, Any]) -> bytes:
    file = io.BytesIO()
    picture.save(file, **settings)
    return file.getvalue()


def opened(file: bytes, channels: int) -> Tensor:
    picture = Image.open(io.BytesIO(file)).convert("L" if channels == 1 else "RGB")
    return torch.from_numpy(np.array(picture).reshape(*picture.size[::-1], channels)).permute(2, 0, 1).float() / 255


def is_ours(row: dict[str, Any]) -> bool:
    return str(row["name"]).startswith("ours")


def report(row: dict[str, Any]) -> None:
    print(
        ", ".join(f"{key} {value:.4g}" if isinstance(value, float) else str(value) for key, value in row.items()),
        flush=True,
    )


def plot(sets: dict[str, list[dict[str, Any]]]) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.5 * len(sets), 4.5), layout="constrained")
    for axes, (name, rows) in zip(np.atleast_1d(figure.subplots(1, len(sets))), sets.items(), strict=True):
        groups: dict[str, list[dict[str, Any]]] = {}
        for row in rows:
            groups.setdefault(row["name"].split(", quality")[0].split(", ")[0], []).append(row)
        for group, own in groups.items():
            own = sorted(own, key=lambda row: row["bytes without header"])
            style = "o" if is_ours(own[0]) else ".-"
            axes.plot(
                [max(row["bytes without header"], 1) for row in own], [row["PSNR"] for row in own], style, label=group
            )
        axes.set(title=name, xscale="log", xlabel="bytes an image, without header", ylabel="PSNR, dB")
        axes.grid(alpha=0.3, which="both")
        axes.legend()
    figure.savefig(PLOT, dpi=120)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--model", type=Path, nargs="+", default=[Path("fashion-mnist")])
    arguments.add_argument("--colour", action="store_true", help="photographs, with models of colour images")
    arguments.add_argument("--count", type=int, default=10_000)
    given = arguments.parse_args()
    results = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.is_file() else {}
    models = [(folder, load_model(model_folder(folder), "cpu")) for folder in given.model]
    first = models[0][1]
    if given.colour:
        cut = squares(shipped(), first.image_size[0], min(given.count, 1000), seed=1)
        images = torch.stack([opened(written(square, {"format": "PNG"}), 3) for square in cut])
    else:
        split = open_data("fashion-mnist", first.image_size, 1)
        images = torch.cat([batch.images for batch in in_order(split.test, first, 500, limit=given.count)])
    here = {"machine": machine()}
    part = f"photographs, {first.image_size[0]}x{first.image_size[1]}" if given.colour else "Fashion-MNIST"
    measured = {f"ours {ddn.bits_per_image / 8:g}" for _, ddn in models}
    rows = [row for row in results.get(part, []) if is_ours(row) and row["name"].split(", ")[0] not in measured]
    for folder, ddn in models:
        prior = load_entropy_model(model_folder(folder), ddn)
        print(f"{folder}: {ddn.bits_per_image / 8:g} bytes")
        rows += [
            row | {"name": row["name"].replace("ours", f"ours {ddn.bits_per_image / 8:g}")} | here
            for row in ours(ddn, prior, images)
        ]
    rows += [row | here for row in others(images[:OTHERS])]
    results[part] = rows
    RESULTS.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    plot({name: own for name, own in results.items() if isinstance(own, list)})


if __name__ == "__main__":
    main()
