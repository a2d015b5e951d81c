"""What `ddn demo` shows: a model with everything that lies beside it."""

from __future__ import annotations

from pathlib import Path

from discrete_distribution_network.cli.images import load_images
from discrete_distribution_network.cli.runs import (
    CLASSIFIER,
    EXAMPLE,
    class_names,
    classifier_of,
    load_model,
    model_folder,
)
from discrete_distribution_network.demo.handlers import Demo
from discrete_distribution_network.io.pretrained import RELEASED


def load_demos(model: Path | None, device: str) -> dict[str, Demo]:
    """What the page shows of a model, or of every included one if None, by name."""
    included = sorted(folder.name for folder in RELEASED.iterdir() if folder.is_dir())
    names = included if model is None else [str(model)]
    return {name: load_demo(Path(name), device) for name in names}


def load_demo(model: Path, device: str) -> Demo:
    """A model with its classifier, class names and example."""
    folder = model_folder(model)
    ddn = load_model(folder, device)
    net = classifier_of(ddn, folder) if (folder / CLASSIFIER).is_file() else None
    example = load_images([folder / EXAMPLE], ddn)[1][0] if (folder / EXAMPLE).is_file() else None
    return Demo(ddn, net, class_names(folder), example)
