import importlib
import os
import re
import sys
from pathlib import Path

if "PYTEST_XDIST_WORKER" in os.environ:  # a core for each worker, also in the processes that tests start
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pytest
import torch
from PIL import Image


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def torchvision():
    """torchvision, whose transforms and data sets need none of its compiled operators.

    Beside a CPU build of torch those of PyPI's torchvision do not load, and its import wants two of them to be known.
    """
    kept = []
    for _ in range(5):
        try:
            return importlib.import_module("torchvision")
        except RuntimeError as error:
            missing = re.fullmatch(r"operator torchvision::(\w+) does not exist", str(error))
            if missing is None:
                raise
            kept.append(torch.library.Library("torchvision", "FRAGMENT"))
            kept[-1].define(f"{missing[1]}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
            for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
                del sys.modules[name]
    raise AssertionError("torchvision cannot be imported")


@pytest.fixture(scope="session")
def photographs() -> list[Image.Image]:
    """240 real photographs: crops of those that scikit-learn and scikit-image ship."""
    import skimage
    from sklearn.datasets import load_sample_images

    whole = [Image.fromarray(image) for image in load_sample_images().images]
    shipped = Path(skimage.__file__).parent / "data"
    whole += [Image.open(path).convert("RGB") for path in sorted(shipped.glob("*.png")) + sorted(shipped.glob("*.jpg"))]
    generator, crops = np.random.default_rng(0), []
    while len(crops) < 240:
        image = whole[len(crops) % len(whole)]
        side = int(generator.integers(64, 129))
        left, top = (int(generator.integers(0, max(1, length - side))) for length in image.size)
        crops.append(image.crop((left, top, left + side, top + side)))
    return crops


@pytest.fixture
def photograph_folder(photographs, tmp_path) -> Path:
    """24 of them as JPEG files in two subfolders."""
    folder = tmp_path / "photographs"
    for index, image in enumerate(photographs[:24]):
        place = folder / ("even" if index % 2 == 0 else "odd")
        place.mkdir(parents=True, exist_ok=True)
        image.save(place / f"{index:03d}.jpg")
    return folder
