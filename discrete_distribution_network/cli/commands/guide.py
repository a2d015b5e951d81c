"""`ddn guide`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from discrete_distribution_network.cli.options import ModelOptions


@dataclass
class Guide(ModelOptions):
    """Draw images that satisfy conditions, zero-shot: no gradients, no training, any model."""

    kinds: tyro.conf.Positional[str] = "inpaint"
    """inpaint, colorize, superres, strokes, lowbit, edges, like, classify or clip; several joined by +."""
    files: tyro.conf.Positional[tuple[Path, ...]] = ()
    """Image files or folders that the conditions are made from; none for classify and clip."""
    out: Path = Path("guided.png")
    """Picture to write, with a row for each file: the conditions, the results, the original."""
    folder: Annotated[Path | None, tyro.conf.arg(aliases=["--each"])] = None
    """Folder to write each result to, too, as a PNG of its own."""
    num: int = 4
    """Results for each file, or in all if there are no files."""
    missing: str = "right"
    """For inpaint: left, right, top, bottom or centre; or a picture that is white where the image is missing."""
    pixels: int | None = None
    """For superres: height of the low-resolution image; a quarter of the model's if not given."""
    bits: int = 1
    """For lowbit: bits per channel."""
    levels: int | None = None
    """For like: number of first levels to match; a third of them if not given."""
    label: int | None = None
    """Class for classify, and for a class-conditional network or prior."""
    classifier: Path | None = None
    """For classify: weights written by `ddn`; those beside the model, or trained on the run's data, if not given."""
    text: str | None = None
    """For clip: description of the image."""
    clip_model: str = "ViT-B-32"
    """For clip: a model of open_clip."""
    clip_weights: str = "laion2b_s34b_b79k"
    """For clip: its pretrained weights, by name or file."""
    beams: int = 1
    """Beam width; cost grows roughly linearly."""
    rollouts: int | None = None
    """For classify, clip, lowbit and edges: score finished images only; this many at first, half as many from each
    next level on. 0 scores the unfinished image of each level. 64 if not given, for classify and clip only."""
    top_k: int = 1
    """Choose at random among the k best candidates."""
    uniform: bool = False
    """Score all candidates, even if the model has a prior that could propose some."""
    proposals: int = 128
    """Number of candidates that the prior proposes at each choice."""
    temperature: float | Literal["fidelity", "diversity"] | None = None
    """Temperature of the prior, or what its own are chosen for; those for fidelity, but at most 0.7, if not given."""
    seed: int | None = None
    """Random seed; a new one each time if not given."""

    def run(self) -> None:
        from discrete_distribution_network.cli.guide import guide

        print(guide(self))
