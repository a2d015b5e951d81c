"""The fingerprint of a data set changes with its images, and with nothing else."""

import os
import shutil
import time

import numpy as np
import torch
from PIL import Image
from torch.utils.data import ConcatDataset, Subset, TensorDataset

from discrete_distribution_network.data.datasets import ImageDataset, ImageFiles, Pixels
from discrete_distribution_network.data.fingerprint import fingerprint
from discrete_distribution_network.data.sources.folder import folder_split
from discrete_distribution_network.data.sources.hugging_face import HuggingFaceImages

from .test_hugging_face import rows

SIZE = (16, 16)


class ByIndex(torch.utils.data.Dataset):
    def __init__(self, images, chance=False):
        self.images, self.chance = images, chance

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return self.images[index] + (np.random.default_rng().random() if self.chance else 0), index


def test_a_fingerprint_changes_with_the_images(photograph_folder, photographs):
    pixels = torch.rand(40, 1, 8, 8)
    other = pixels.clone().flip(3)
    stored = rows(photographs, 12)
    made = [
        folder_split(photograph_folder, SIZE, 3).train,
        ImageDataset(photograph_folder, 16),
        *(
            wrap(images)
            for images in (pixels, other)
            for wrap in (lambda x: x, Pixels, ByIndex, list, lambda x: x.numpy())
        ),
        Pixels(pixels, torch.arange(40)),
        Subset(Pixels(pixels), range(20)),
        Subset(Pixels(pixels), range(1, 21)),
        ConcatDataset([Pixels(pixels), Pixels(other)]),
        TensorDataset(pixels, torch.arange(40)),
        HuggingFaceImages(stored, SIZE, 3, "flowers"),
        HuggingFaceImages(rows(photographs[1:], 12), SIZE, 3, "flowers"),
        [Image.new("L", (4, 4), 3)] * 4,
        [Image.new("L", (4, 4), 4)] * 4,
        pixels[:39],
        (pixels * 255).byte(),
    ]
    prints = [fingerprint(dataset) for dataset in made]
    assert all(isinstance(one, str) for one in prints)
    assert prints == [fingerprint(dataset) for dataset in made]
    apart = {id(one): one for one in prints}
    assert len(set(prints)) >= len(apart) - 8  # a tensor, its array and its Pixels may be alike
    assert fingerprint(pixels) != fingerprint(other)
    assert fingerprint(ByIndex(pixels)) != fingerprint(ByIndex(other))
    assert fingerprint(pixels.clone()) == fingerprint(pixels)


def test_what_has_no_fingerprint():
    pixels = torch.rand(40, 1, 8, 8)
    random_state = torch.get_rng_state()
    for dataset in (iter(pixels), (image for image in pixels), ByIndex(pixels, chance=True), ["x", object()], None, 3):
        assert fingerprint(dataset) is None
    fingerprint(ByIndex(pixels))
    assert torch.equal(torch.get_rng_state(), random_state)
    assert fingerprint([]) is not None


def test_the_fingerprint_of_a_folder(photograph_folder, tmp_path):
    def of(folder):
        return [fingerprint(part) for part in folder_split(folder, SIZE, 3)]

    before = of(photograph_folder)
    copy = tmp_path / "a copy" / "elsewhere"
    shutil.copytree(photograph_folder, copy)
    os.utime(copy / "even" / "000.jpg", (0, 0))
    assert of(copy) == before
    whole = (copy / "even" / "000.jpg").read_bytes()
    (copy / "even" / "000.jpg").write_bytes(bytes(len(whole)))  # another of the same size
    assert of(copy)[0] != before[0]
    (copy / "even" / "000.jpg").write_bytes(whole)
    (copy / "even" / "010.jpg").write_bytes(b"another size")
    assert of(copy)[0] != before[0]
    (copy / "even" / "010.jpg").unlink()
    assert fingerprint(ImageFiles([copy / "even" / "010.jpg"], SIZE, 3)) is None


def test_a_fingerprint_is_cheap(tmp_path):
    images = torch.zeros(60_000, 3, 32, 32, dtype=torch.uint8)
    began = time.monotonic()
    fingerprint(Subset(Pixels(images, torch.zeros(60_000)), range(50_000)))
    assert time.monotonic() - began < 2  # about 0.05 where nothing else runs
