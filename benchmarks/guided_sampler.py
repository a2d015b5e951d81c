"""One level against the published package 0.2.5: forward and backward, side by side, in two processes.

    python benchmarks/guided_sampler.py            # everything; prints the README's tables (about 10 minutes)
    python benchmarks/guided_sampler.py --only main

The published package has the same import name, so it gets an environment of its own, made under `.benchmark/` on the
first run with the same version of PyTorch. Both processes wait while the other one measures; each case is measured in
turns, ours then theirs, and the medians are compared; the first two tables in seven pairs of fresh processes. Writes
`benchmarks/results/guided_sampler.json`.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PUBLISHED = "0.2.5"
MAIN = {"B": 8, "D": 64, "C": 3, "size": 64}
GRID_DIMS, GRID_SIZES, GRID_NODES = (16, 64, 256), (4, 8, 16, 32, 64), (2, 10, 64, 512)
OPTIONS = {
    "straight-through": {"straight_through_distance_logits": True},
    "residual": {"residual": True},
    "separate values": {"separate_values": True},
    "patches of 4": {"patch_size": 4},
}


# a worker: builds a case, measures it, answers in JSON


def worker() -> None:
    import torch

    import discrete_distribution_network as package

    torch.set_num_threads(2)
    answer({"file": package.__file__, "torch": torch.__version__, "threads": torch.get_num_threads()})
    step, case = None, None
    for line in sys.stdin:
        request = json.loads(line)
        if request["case"] != case:
            case = request["case"]
            step = build(package, **case)
            started = time.perf_counter()
            step()
            once = time.perf_counter() - started
            for _ in range(2 if once < 0.2 else 0):
                step()
        times = []
        deadline = time.perf_counter() + request["seconds"]
        while len(times) < 3 or (time.perf_counter() < deadline and len(times) < 200):
            started = time.perf_counter()
            step()
            times.append(time.perf_counter() - started)
        answer({"times": times, "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024})


def build(package, B, D, C, size, K, options=None, device="cpu", precision="float32", backend=None):
    """A function that makes one step.

    Args:
        precision: float32, tf32 or bf16 (autocast).
        backend: of `torch.compile`; None for eager.
    """
    import torch

    torch.manual_seed(0)
    torch.compiler.reset()  # else the ninth case is beyond the limit of recompilations, and runs as it is
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    torch.backends.cudnn.allow_tf32 = precision == "tf32"
    options = dict(options or {})
    residual = torch.randn(B, C, size, size, device=device) if options.pop("residual", False) else None
    sampler = package.GuidedSampler(dim=D, dim_query=C, codebook_size=K, **options).to(device)
    features = torch.randn(B, D, size, size, device=device, requires_grad=True)
    query = torch.randn(B, C, size, size, device=device)
    called = sampler if backend is None else torch.compile(sampler, backend=backend)

    def step():
        for tensor in (features, *sampler.parameters()):
            tensor.grad = None
        with torch.autocast(device, torch.bfloat16, enabled=precision == "bf16"):
            loss = called(features, query, residual=residual).commit_loss
        loss.backward()
        if device != "cpu":
            torch.cuda.synchronize()

    return step


def answer(value) -> None:
    print(json.dumps(value), flush=True)


# the parent: two workers in turns


class Worker:
    def __init__(self, python: Path | str, path: Path | str | None):
        environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        environment |= {"OMP_NUM_THREADS": "2", "PYTHONWARNINGS": "ignore"}
        if path is not None:
            environment["PYTHONPATH"] = str(path)
        self.process = subprocess.Popen(
            [str(python), __file__, "--worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
            cwd="/",
        )
        self.about = self.read()

    def read(self):
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit("the worker ended early; its error stands above")
        return json.loads(line)

    def measure(self, case, seconds):
        self.process.stdin.write(json.dumps({"case": case, "seconds": seconds}) + "\n")
        self.process.stdin.flush()
        return self.read()

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def published_python() -> Path:
    """The interpreter of the published package's environment, made if it is not there."""
    import torch

    folder = ROOT / ".benchmark" / "published"
    python = folder / "bin" / "python"
    if not python.exists():
        print(f"making an environment for the published package in {folder}", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        version = torch.__version__.split("+")[0]
        install = [str(python), "-m", "pip", "install", "-q", f"torch=={version}"]
        subprocess.run([*install, "torchvision", f"discrete-distribution-network=={PUBLISHED}"], check=True)
    return python


def start_workers():
    workers = [Worker(sys.executable, ROOT), Worker(published_python(), None)]
    ours, theirs = (one.about for one in workers)
    assert Path(ours["file"]).is_relative_to(ROOT / "discrete_distribution_network"), ours
    assert not Path(theirs["file"]).is_relative_to(ROOT / "discrete_distribution_network"), theirs
    assert ours["torch"] == theirs["torch"], (ours, theirs)
    return workers


def compare(workers, case, rounds=3, seconds=0.3):
    """Median milliseconds of ours and theirs, measured in turns."""
    times = [[], []]
    for _ in range(rounds):
        for mine, one in zip(times, workers, strict=True):
            mine += one.measure(case, seconds)["times"]
    ours, theirs = (1000 * statistics.median(mine) for mine in times)
    return {"case": case, "ours_ms": ours, "published_ms": theirs, "ratio": theirs / ours}


def compare_afresh(case, processes=7):
    """`compare` in several pairs of fresh processes: how memory is laid out differs from one to the next.

    The median pair by ratio, and the range of the ratios.
    """
    pairs = []
    for _ in range(processes):
        workers = start_workers()
        pairs.append(compare(workers, case, rounds=2))
        for one in workers:
            one.close()
    pairs.sort(key=lambda row: row["ratio"])
    return {**pairs[processes // 2], "lowest": pairs[0]["ratio"], "highest": pairs[-1]["ratio"]}


def print_row(name, row):
    print(
        f"| {name} | {row['published_ms']:.1f} ms | {row['ours_ms']:.2f} ms | {row['ratio']:.1f}x "
        f"({row['lowest']:.1f} to {row['highest']:.1f}) |",
        flush=True,
    )


def main_table():
    print("\n| B=8, D=64, C=3, 64x64 | published 0.2.5 | ours | faster |\n|---|---|---|---|")
    rows = []
    for nodes in (10, 64, 512):
        rows.append(compare_afresh({**MAIN, "K": nodes}))
        print_row(f"K={nodes}", rows[-1])
    return rows


def option_table():
    print("\n| K=64, with | published 0.2.5 | ours | faster |\n|---|---|---|---|")
    rows = []
    for name, options in OPTIONS.items():
        rows.append(compare_afresh({**MAIN, "K": 64, "options": options}))
        print_row(name, rows[-1])
    return rows


def grid_table():
    workers = start_workers()
    rows = []
    print("\n| D | size | K=2 | K=10 | K=64 | K=512 |\n|---|---|---|---|---|---|")
    for dim in GRID_DIMS:
        for size in GRID_SIZES:
            line = [
                compare(workers, {"B": 8, "D": dim, "C": 3, "size": size, "K": nodes}, seconds=0.15)
                for nodes in GRID_NODES
            ]
            rows += line
            print(f"| {dim} | {size}x{size} | " + " | ".join(f"{row['ratio']:.1f}x" for row in line) + " |", flush=True)
    for one in workers:
        one.close()
    worst = min(rows, key=lambda row: row["ratio"])
    print(f"\nslowest against the published package: {worst['ratio']:.2f}x at {worst['case']}")
    return rows


def large_codebook(python):
    """Time and memory of K=4096; memory beyond heads, their gradients, features and theirs. Medians of processes."""
    figures = {}
    for nodes in (64, 512, 4096):
        times, scratch = [], []
        for _ in range(7):
            one = Worker(python, ROOT)
            before = one.measure({**MAIN, "size": 1, "B": 1, "K": 2}, 0)["peak"]
            result = one.measure({**MAIN, "K": nodes}, 0.5)
            one.close()
            owned = 2 * 4 * (nodes * MAIN["C"] * MAIN["D"] + MAIN["B"] * MAIN["D"] * MAIN["size"] ** 2)
            times.append(1000 * statistics.median(result["times"]))
            scratch.append((result["peak"] - before - owned) / 2**20)
        figures[nodes] = {"ms": statistics.median(times), "scratch_mib": statistics.median(scratch)}
    ratio = figures[4096]["ms"] / figures[512]["ms"]
    more = figures[4096]["scratch_mib"] - figures[64]["scratch_mib"]
    print(
        f"\nK=4096: {figures[4096]['ms']:.2f} ms, {ratio:.2f}x our K=512; {more:.0f} MiB more scratch memory than K=64"
    )
    return {**figures, "ratio_to_512": ratio, "scratch_mib_more_than_64": more}


def whole_step():
    """A training step (forward, backward, AdamW, split-and-prune) of a 24-level DDN, K=512 against K=16."""
    import torch

    sys.path.insert(0, str(ROOT))
    from discrete_distribution_network import DDN

    torch.set_num_threads(2)
    images = torch.rand(64, 3, 32, 32)
    steps = {}
    for nodes in (16, 512):
        ddn = DDN(
            dim=32, dim_max=128, image_size=32, codebook_size=nodes, levels_per_resolution=[2, 6, 8, 8],
            num_resnet_blocks=1,
        ).to(memory_format=torch.channels_last)  # fmt: skip
        optimizer = torch.optim.AdamW(ddn.parameters(), fused=True)

        def step(ddn=ddn, optimizer=optimizer):
            loss = ddn(images)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            ddn.split_and_prune_(optimizer)

        step()
        steps[nodes] = step
    times = {nodes: [] for nodes in steps}
    for _ in range(9):
        for nodes, step in steps.items():
            started = time.perf_counter()
            step()
            times[nodes].append(time.perf_counter() - started)
    medians = {nodes: 1000 * statistics.median(values) for nodes, values in times.items()}
    ratio = medians[512] / medians[16]
    print(f"\n24 levels, 32x32, B=64: K=16 {medians[16]:.0f} ms, K=512 {medians[512]:.0f} ms a step, {ratio:.2f}x")
    return {**medians, "ratio": ratio}


def machine() -> str:
    name = platform.processor()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = [line for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
        name = lines[0].split(":", 1)[1].strip() if lines else name
        name += " with bfloat16" if "avx512_bf16" in cpuinfo.read_text() else " without bfloat16"
    return f"{name}, {os.cpu_count()} cores, Python {platform.python_version()}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--only", choices=["main", "options", "grid", "large", "step"])
    options = parser.parse_args()
    if options.worker:
        worker()
        return
    wanted = [options.only] if options.only else ["main", "options", "grid", "large", "step"]
    path = ROOT / "benchmarks" / "results" / "guided_sampler.json"
    results = json.loads(path.read_text()) if path.exists() else {}
    import torch

    about = f"{machine()}, PyTorch {torch.__version__}, 2 threads, float32, forward and backward, medians"
    print(about)
    for name, run in (("main", main_table), ("options", option_table), ("grid", grid_table)):
        if name in wanted:
            results[name] = {"about": about, "rows": run()}
    if "large" in wanted:
        results["large"] = {"about": about, **large_codebook(sys.executable)}
    if "step" in wanted:
        results["step"] = {"about": about, **whole_step()}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
