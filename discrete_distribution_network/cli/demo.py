"""What `ddn demo` shows: a model with everything that lies beside it."""

from __future__ import annotations

import json
from pathlib import Path

from discrete_distribution_network.cli.images import load_images
from discrete_distribution_network.cli.runs import (
    CARD,
    CLASSIFIER,
    EXAMPLE,
    classifier_of,
    load_model,
    model_folder,
)
from discrete_distribution_network.demo.handlers import Demo


def load_demo(model: Path | None, device: str) -> Demo:
    """A model (the included one of Fashion-MNIST if None) with its classifier, class names and example."""
    folder = model_folder(Path("fashion-mnist") if model is None else model)
    ddn = load_model(folder, device)
    net = classifier_of(ddn, folder) if (folder / CLASSIFIER).is_file() else None
    card = folder / CARD
    classes = json.loads(card.read_text(encoding="utf-8"))["classes"] if card.is_file() else None
    example = load_images([folder / EXAMPLE], ddn)[1][0] if (folder / EXAMPLE).is_file() else None
    return Demo(ddn, net, classes, example)
