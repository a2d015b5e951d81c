"""What `ddn info` prints of a run or a model."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from discrete_distribution_network.cli.runs import load_model, model_folder
from discrete_distribution_network.ddn import DDN
from discrete_distribution_network.io.run_folder import EVALUATION
from discrete_distribution_network.training.report import METRICS, read_metrics

UNREADABLE = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError, RecursionError)
"""Exceptions that damaged metrics raise."""


def describe(run: Path) -> str:
    """A run or a model in lines of text: network, bits, last metrics, and a table of its levels."""
    folder = model_folder(run)
    ddn = load_model(folder, "cpu")
    parameters = sum(parameter.numel() for parameter in ddn.parameters())
    trained, fitted, tested = _last_metrics(run)
    height, width = ddn.image_size
    return "\n".join(
        [
            f"model      {folder}",
            f"network    {parameters:,} parameters, images {height}x{width} with {ddn.channels} channels",
            *([f"classes    {ddn.num_classes}, class-conditional"] if ddn.num_classes is not None else []),
            f"latent     {ddn.num_levels} levels, {ddn.bits_per_image:g} bits ({ddn.bits_per_image / 8:g} bytes) an "
            "image",
            *_unless_damaged("training", run / METRICS, lambda: _training_lines(trained)),
            *_unless_damaged("prior", run / METRICS, lambda: _prior_lines(fitted)),
            *_unless_damaged("test", run / EVALUATION, lambda: _test_lines(tested)),
            *_level_lines(ddn, trained, tested),
        ]
    )


def _last_metrics(run: Path) -> tuple[Any, Any, Any]:
    """The last metrics of a run's training, of its prior, and on its test images; None where there are none."""
    try:
        lines = read_metrics(run)
    except UNREADABLE:
        lines = []
    trained = next((line for line in reversed(lines) if "loss" in line), None)
    fitted = next((line for line in reversed(lines) if "bits" in line), None)
    tested = next((line["test"] for line in reversed(lines) if "test" in line), None)
    if (run / EVALUATION).is_file():
        try:
            tested = json.loads((run / EVALUATION).read_text(encoding="utf-8"))
        except UNREADABLE as error:
            tested = error
    return trained, fitted, tested


def _unless_damaged(subject: str, path: Path, lines: Callable[[], list[str]]) -> list[str]:
    """These lines, or one that says that the metrics in `path` cannot be read."""
    try:
        return lines()
    except UNREADABLE as error:
        return [f"{subject:10s} {path} is damaged ({type(error).__name__}: {error}); remove it, or have it made anew"]


def _training_lines(metrics: Any) -> list[str]:
    if metrics is None:
        return []
    return [
        f"training   step {metrics['step']}, {metrics['seconds'] / 60:.1f} minutes, loss {metrics['loss']:.5f}, "
        f"{metrics['images_per_second']:.0f} images/s, {metrics['splits']} nodes pruned"
    ]


def _prior_lines(metrics: Any) -> list[str]:
    if metrics is None:
        return []
    held_out = "" if metrics["held_out_bits"] is None else f", {metrics['held_out_bits']:.1f} of held-out images"
    return [
        f"prior      step {metrics['step']}, {metrics['seconds'] / 60:.1f} minutes, {metrics['bits']:.1f} bits an "
        f"image{held_out}"
    ]


def _test_lines(metrics: Any) -> list[str]:
    if metrics is None:
        return []
    if isinstance(metrics, Exception):
        raise metrics
    return [
        f"test       error {metrics['error']:.5f} ({metrics['psnr']:.1f} dB) on {metrics['images']} images",
        *(f"           {name} {value}" for name, value in metrics.items() if name.startswith("frechet")),
    ]


def _level_lines(ddn: DDN, trained: Any, tested: Any) -> list[str]:
    used = _by_level(tested or trained, "usage_by_level", ddn.num_levels)
    errors = _by_level(tested, "error_by_level", ddn.num_levels)
    lines = ["level  size       K     codes  in use  error"]
    for level, (size, nodes, codes) in enumerate(
        zip(ddn.level_sizes, ddn.codebook_sizes, ddn.codes_per_level, strict=True)
    ):
        share = f"{used[level]:.0%}" if used else ""
        error = f"{errors[level]:.5f}" if errors else ""
        lines.append(f"{level:5d}  {f'{size[0]}x{size[1]}':9s}  {nodes:<5d} {codes:<5d}  {share:>6s}  {error}".rstrip())
    return lines


def _by_level(metrics: Any, name: str, levels: int) -> list[float] | None:
    """Metrics of each level, if they are as many numbers as there are levels."""
    values = metrics.get(name) if isinstance(metrics, dict) else None
    fits = isinstance(values, list) and len(values) == levels and all(isinstance(one, int | float) for one in values)
    return values if fits else None
