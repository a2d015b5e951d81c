"""Pictures of what a model of colour images does, on images that it was not trained on.

    python benchmarks/gallery.py                                       # the released model of emoji
    python benchmarks/gallery.py --model runs/train --dataset FOLDER   # another

Samples, reconstructions by level, the tree, interpolation, and guidance: grey values, a missing half, few pixels, and
strokes of colour. Nothing is selected but test images by their place. Writes to `docs/emoji/`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import Tensor

from discrete_distribution_network.cli.commands.guide import Guide
from discrete_distribution_network.cli.guide import Shown, colorize, inpaint, superres
from discrete_distribution_network.cli.images import encode_dataset
from discrete_distribution_network.cli.runs import load_model, model_folder
from discrete_distribution_network.data.loader import in_order
from discrete_distribution_network.data.sources import open_data
from discrete_distribution_network.guidance.conditions import ColorStrokes, Match
from discrete_distribution_network.viz.pictures import grid, reconstructions, save_picture
from discrete_distribution_network.viz.tree import tree_picture

ROOT = Path(__file__).resolve().parent.parent
IMAGES, RESULTS, BEAMS = 5, 3, 4
"""Images of a picture, results of each, and beams of their search."""

STEPS = 6
"""Of an interpolation."""


def strokes(images: Tensor) -> Tensor:
    """A mask of two broad strokes, as a hand would draw them: one across the upper half, one down the middle."""
    mask = torch.zeros_like(images[:, :1])
    height, width = images.shape[2:]
    mask[:, :, height // 3 : height // 3 + height // 8, width // 5 : -width // 5] = 1
    mask[:, :, height // 2 : -height // 5, width // 2 - width // 16 : width // 2 + width // 16] = 1
    return mask


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--model", type=Path, default=Path("emoji"))
    arguments.add_argument("--dataset", default="emoji")
    arguments.add_argument("--out", type=Path, default=ROOT / "docs" / "emoji")
    given = arguments.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    ddn = load_model(model_folder(given.model), "cpu")
    split = open_data(given.dataset, ddn.image_size, 3)
    test = torch.cat([batch.images for batch in in_order(split.test, ddn, 100)])
    images = test[:: len(test) // (2 * IMAGES)][: 2 * IMAGES]
    save_picture(grid(ddn.sample(64, generator=torch.Generator().manual_seed(0)), 16), given.out / "samples.png")
    save_picture(reconstructions(ddn, ddn.encode_walk(images), images), given.out / "reconstructions.png")
    tree_picture(ddn, encode_dataset(ddn, split.train, 2000), given.out / "tree.png")

    first, last = images[:IMAGES], images[IMAGES:]
    rows = [first]
    for share in torch.linspace(0, 1, STEPS).tolist():
        both = [Match(first, weight=1 - share), Match(last, weight=share)]
        rows.append(ddn.guide(both, IMAGES, 1, torch.Generator().manual_seed(0), beams=BEAMS).images)
    save_picture(grid(torch.stack([*rows, last], 1).flatten(0, 1), STEPS + 2), given.out / "interpolation.png")

    options, mask = Guide(), strokes(images)
    kinds = {
        "colours": colorize(options, ddn, images, ()),
        "missing-half": inpaint(options, ddn, images, ()),
        "few-pixels": superres(options, ddn, images, ()),
        "strokes": Shown(ColorStrokes(images, mask), torch.where(mask > 0, images, torch.full_like(images, 0.5))),
    }
    for name, (condition, shown) in kinds.items():
        columns = [shown]
        for seed in range(RESULTS):
            generator = torch.Generator().manual_seed(seed)
            guided = ddn.guide([condition], len(images), 1, generator, beams=BEAMS, temperature=options.temperature)
            columns.append(guided.images)
        save_picture(
            grid(torch.stack([*columns, images], 1).flatten(0, 1), 2 * (RESULTS + 2)), given.out / f"{name}.png"
        )


if __name__ == "__main__":
    main()
