"""What a training step costs by size, levels, K and batch; what several processes send; how fast a stream comes.

    python benchmarks/scale.py                 # all, about ten minutes on two cores
    python benchmarks/scale.py --only step

step      times of steps, a formula fitted to them, and its error on networks that the fit has not seen
parallel  bytes that a step sends and the speed of one and of two processes of one thread each; what a ring of 8 and
          of 64 would take for these bytes, by arithmetic
data      images a second of a Hugging Face stream from an HTTP server on this machine, and how many bytes each of
          several processes fetches

Writes `benchmarks/results/scale.json`; `docs/scale.md` explains it.
"""

from __future__ import annotations

import argparse
import functools
import http.server
import io
import json
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from guided_sampler import ROOT, machine
from PIL import Image
from quality import read, write
from scipy.optimize import nnls
from stepping import milliseconds, stepper, together, training
from torch.utils.flop_counter import FlopCounterMode

from discrete_distribution_network import DDN
from discrete_distribution_network.data.loader import Loader
from discrete_distribution_network.training.presets import preset

RESULTS = ROOT / "benchmarks" / "results" / "scale.json"
SIZES: dict[str, tuple[int, list[int], int, int, int]] = {
    # name: side, levels of each resolution from 4x4 on, K, channels at full resolution, images a step
    "base": (32, [2, 2, 2, 2], 64, 32, 32),
    "few images": (32, [2, 2, 2, 2], 64, 32, 4),
    "many images": (32, [2, 2, 2, 2], 64, 32, 64),
    "few levels": (32, [1, 1, 1, 1], 64, 32, 32),
    "many levels": (32, [4, 4, 4, 4], 64, 32, 16),
    "small K": (32, [2, 2, 2, 2], 8, 32, 32),
    "large K": (32, [2, 2, 2, 2], 1024, 32, 32),
    "narrow": (32, [2, 2, 2, 2], 64, 16, 32),
    "wide": (32, [2, 2, 2, 2], 64, 64, 16),
    "small": (16, [2, 2, 2], 64, 32, 64),
    "large": (64, [2, 2, 2, 2, 1], 64, 32, 8),
    "low levels": (32, [8, 4, 1, 1], 256, 32, 32),
}
UNSEEN: dict[str, tuple[dict[str, Any], int]] = {
    "preset 32x32, grey": (preset(32, channels=1), 64),
    "preset 64x64, colour": (preset(64, channels=3), 16),
    "wide, many levels": (
        {"dim": 48, "dim_max": 128, "image_size": 32, "channels": 3, "codebook_size": 512, "num_resnet_blocks": 1,
         "levels_per_resolution": [3, 3, 3, 3], "patch_size": [None, None, 4, 8]}, 24,
    ),
}  # fmt: skip


# a step


def network(side: int, levels: list[int], codebook_size: int, dim: int) -> dict[str, Any]:
    return {
        "dim": dim, "dim_max": 128, "image_size": side, "channels": 3, "codebook_size": codebook_size,
        "num_resnet_blocks": 1, "levels_per_resolution": levels, "patch_size": [None, *[4] * (len(levels) - 1)],
    }  # fmt: skip


def cost(arguments: dict[str, Any], batch: int) -> dict[str, Any]:
    """The milliseconds of a step, and the numbers on which they depend."""
    with tempfile.TemporaryDirectory() as folder:
        made = training(arguments, batch, Path(folder))
        step, ddn = stepper(made), made.ddn
        step()
        counter = FlopCounterMode(display=False)
        with counter:
            step()
        median = milliseconds(step, 4)
        values = sum(
            batch * sampler.dim * height * width
            for sampler, (height, width) in zip(ddn.samplers, ddn.level_sizes, strict=True)
        )
        return {
            "levels": ddn.num_levels,
            "parameters": sum(map(torch.numel, ddn.parameters())),
            "flops": counter.get_total_flops(),
            "values": values,
            "milliseconds": median,
            "images_per_second": 1000 * batch / median,
        }


def terms(row: dict[str, Any]) -> dict[str, float]:
    """On what the time of a step depends."""
    return {
        "a step": 1.0,
        "a level": row["levels"],
        "10^9 FLOPs": row["flops"] / 1e9,
        "10^6 values": row["values"] / 1e6,
        "10^6 parameters": row["parameters"] / 1e6,
    }


def design(rows: list[dict[str, Any]]) -> np.ndarray:
    return np.array([list(terms(row).values()) for row in rows])


def steps() -> dict[str, Any]:
    """Milliseconds as a sum of terms that are not negative, by relative least squares."""
    rows = {}
    for name, (*shape, batch) in SIZES.items():
        rows[name] = cost(network(*shape), batch)
        print(name, rows[name], flush=True)
    unseen = {name: cost(arguments, batch) for name, (arguments, batch) in UNSEEN.items()}
    times = np.array([row["milliseconds"] for row in rows.values()])
    weights, _ = nnls(design(list(rows.values())) / times[:, None], np.ones(len(times)))
    for row in (*rows.values(), *unseen.values()):
        row["by_formula"] = float(design([row])[0] @ weights)
    return {
        "milliseconds_for": dict(zip(terms(rows["base"]), weights.tolist(), strict=True)),
        "fitted": rows,
        "unseen": unseen,
    }


# several processes


def one_process() -> None:
    """Steps of one of several processes; prints images a second, and the bytes that it gives to the others."""
    torch.set_num_threads(1)
    sent = 0

    def counted(original: Callable[..., Any], position: int) -> Callable[..., Any]:
        @functools.wraps(original)
        def call(*arguments: Any, **more: Any) -> Any:
            nonlocal sent
            sent += arguments[position].nbytes
            return original(*arguments, **more)

        return call

    with tempfile.TemporaryDirectory() as folder:
        made = training(preset(32, channels=1), 32, Path(folder))
        step = stepper(made)
        for _ in range(3):
            step()
        for name, position in (("all_reduce", 0), ("all_gather", 1), ("all_gather_into_tensor", 1)):
            setattr(torch.distributed, name, counted(getattr(torch.distributed, name), position))
        before, count = time.perf_counter(), 20
        for _ in range(count):
            step()
        seconds = time.perf_counter() - before
        nodes, started = len(made.optimisation.counts), time.perf_counter()
        for _ in range(20):
            made.optimisation.share_counts([0.0] * nodes)
        share = (time.perf_counter() - started) / 20
        found = {
            "images_per_second": count * 32 / seconds,
            "bytes": sent / count,
            "parameters": sum(map(torch.numel, made.ddn.parameters())),
            "nodes": nodes,
            "milliseconds": 1000 * seconds / count,
            "milliseconds_to_share_counts": 1000 * share,
        }
    print(json.dumps(found), flush=True)


def ring(gradients: float, gathered: float, number: int, bandwidth: float, latency: float = 20e-6) -> float:
    """Seconds of an all-reduce of the gradients by a ring and of an all-gather; bandwidth in bytes a second."""
    reduced = 2 * (number - 1) / number * gradients / bandwidth + 2 * (number - 1) * latency
    return reduced + (number - 1) * gathered / bandwidth + (number - 1) * latency


def parallel() -> dict[str, Any]:
    measured = {}
    for number in (1, 2):
        found = together(number, __file__, ["--process"], OMP_NUM_THREADS="1")
        measured[number] = {**found[0], "images_per_second": sum(one["images_per_second"] for one in found)}
    own = measured[2]
    gradients = 4 * own["parameters"]
    gathered = own["bytes"] - gradients
    links = {"NVLink, 200 GB/s": 200e9, "100 Gbit/s": 12.5e9, "10 Gbit/s": 1.25e9, "1 Gbit/s": 0.125e9}
    by_arithmetic = {
        link: {number: 1000 * ring(gradients, gathered, number, bandwidth) for number in (2, 8, 64)}
        for link, bandwidth in links.items()
    }
    return {"measured": measured, "gradient_bytes": gradients, "gathered_bytes": gathered, "ring_ms": by_arithmetic}


# data


class Counting(http.server.SimpleHTTPRequestHandler):
    """A server of files, with ranges, that counts the bytes it sends."""

    sent = 0
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        path = Path(self.translate_path(self.path))
        if not path.is_file():
            self.send_error(404)
            return
        data, status, start = path.read_bytes(), 200, 0
        wanted = self.headers.get("Range")
        end = len(data)
        if wanted:
            first, _, last = wanted.removeprefix("bytes=").partition("-")
            start, end, status = int(first), min(end, int(last or end - 1) + 1), 206
        self.send_response(status)
        self.send_header("Content-Length", str(end - start))
        self.send_header("Accept-Ranges", "bytes")
        if status == 206:
            self.send_header("Content-Range", f"bytes {start}-{end - 1}/{len(data)}")
        self.end_headers()
        self.wfile.write(data[start:end])
        Counting.sent += end - start

    def do_HEAD(self) -> None:
        path = Path(self.translate_path(self.path))
        self.send_response(200 if path.is_file() else 404)
        self.send_header("Content-Length", str(path.stat().st_size if path.is_file() else 0))
        self.send_header("Accept-Ranges", "bytes")
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


def shards(folder: Path, count: int, images: int) -> int:
    """Parquet files of photographs of 96x96 pixels as JPEG; the bytes of all."""
    import datasets
    from photographs import shipped

    generator = np.random.default_rng(0)
    whole = [Image.fromarray(np.asarray(image)) for image in shipped()]
    for shard in range(count):
        rows = []
        for index in range(images):
            image = whole[index % len(whole)]
            left, top = (int(generator.integers(0, length - 96)) for length in image.size)
            buffer = io.BytesIO()
            image.crop((left, top, left + 96, top + 96)).convert("RGB").save(buffer, "JPEG", quality=90)
            rows.append({"bytes": buffer.getvalue(), "path": None})
        features = datasets.Features(image=datasets.Image())
        stored = datasets.Dataset.from_dict({"image": rows}, features)
        stored.to_parquet(folder / f"{shard:03d}.parquet", batch_size=256)
    return sum(path.stat().st_size for path in folder.iterdir())


def streams() -> dict[str, Any]:
    import datasets

    datasets.disable_progress_bars()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        total, count, images = shards(Path(folder), 16, 512), 16, 512
        handler = functools.partial(Counting, directory=folder)
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        urls = [f"http://127.0.0.1:{server.server_port}/{shard:03d}.parquet" for shard in range(count)]
        shape = DDN(dim=4, image_size=64, channels=3, codebook_size=2)
        for ranks, workers in ((1, 0), (1, 1), (2, 0), (8, 0), (3, 0)):
            stream = datasets.load_dataset("parquet", data_files=urls, split="train", streaming=True)
            Counting.sent = 0
            share = count * images // ranks
            loader = Loader(stream, shape, 32, rank=0, ranks=ranks, workers=workers)
            batches = loader.batches()
            started = time.perf_counter()
            next(batches)
            first = time.perf_counter()
            for _ in range(share // 32 - 1):
                next(batches)
            seconds = time.perf_counter() - first
            del batches
            rows.append(
                {
                    "processes": ranks,
                    "workers": workers,
                    "images_per_second": (share - 32) / seconds,
                    "seconds_to_first_batch": first - started,
                    "share_of_bytes_fetched": Counting.sent / total,
                }
            )
            print(rows[-1], flush=True)
        server.shutdown()
    return {"shards": count, "bytes_of_an_image": total / count / images, "rows": rows}


PARTS = {"step": steps, "parallel": parallel, "data": streams}


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    arguments.add_argument("--process", action="store_true", help=argparse.SUPPRESS)
    given = arguments.parse_args()
    torch.set_num_threads(2)
    if given.process:
        one_process()
        return
    for name in given.only:
        results = read(RESULTS)
        results["runs"][name] = PARTS[name]() | {"machine": machine(), "torch": torch.__version__}
        write(results, RESULTS)
        print(json.dumps(results["runs"][name], indent=1))


if __name__ == "__main__":
    main()
