"""Small colour squares cut from photographs that packages ship: some to learn from, others to test with.

    apt-get install mate-backgrounds lomiri-wallpapers-16.04 lomiri-wallpapers-20.04
    python benchmarks/photographs.py runs/squares --size 32       # a folder of PNG files to train on

To learn from: photographs among the wallpapers of Debian's desktops. To test with (`shipped`): those of scikit-image
and scikit-learn, which are others.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

BACKGROUNDS = Path("/usr/share/backgrounds")
PHOTOGRAPHS = ("mate/nature/*.jpg", "*_by_*.jpg")


def shipped() -> list[Image.Image]:
    """The colour photographs that come with scikit-image and scikit-learn."""
    import skimage
    from sklearn.datasets import load_sample_images

    data = Path(skimage.__file__).parent / "data"
    names = ("astronaut.png", "chelsea.png", "coffee.png", "motorcycle_left.png", "rocket.jpg", "hubble_deep_field.jpg")
    whole = [Image.fromarray(image) for image in load_sample_images().images]
    return whole + [Image.open(data / name).convert("RGB") for name in names if (data / name).is_file()]


def wallpapers() -> list[Image.Image]:
    """The photographs among the wallpapers that are installed, at most 1,600 pixels wide."""
    images = []
    for path in sorted(path for name in PHOTOGRAPHS for path in BACKGROUNDS.glob(name)):
        image = Image.open(path).convert("RGB")
        image.thumbnail((1600, 1600))
        images.append(image)
    if not images:
        raise SystemExit(f"expected photographs in {BACKGROUNDS}, found none; install the packages named above")
    return images


def squares(images: Sequence[Image.Image], size: int, count: int, seed: int) -> list[Image.Image]:
    """Squares of this size, cut in turn from each image at random, each 2 to 5 times as large there."""
    generator, cut = np.random.default_rng(seed), []
    for place in range(count):
        image = images[place % len(images)]
        side = min(int(generator.integers(2 * size, 5 * size)), min(image.size) - 1)
        left, top = (int(generator.integers(0, length - side)) for length in image.size)
        part = image.crop((left, top, left + side, top + side))
        cut.append(part.resize((size, size), Image.Resampling.LANCZOS))
    return cut


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("out", type=Path)
    arguments.add_argument("--size", type=int, default=32)
    arguments.add_argument("--count", type=int, default=30_000)
    given = arguments.parse_args()
    given.out.mkdir(parents=True)
    images = wallpapers()
    for place, image in enumerate(squares(images, given.size, given.count, seed=0)):
        image.save(given.out / f"{place:05d}.png")
    print(f"{given.count} squares of {len(images)} photographs in {given.out}")


if __name__ == "__main__":
    main()
