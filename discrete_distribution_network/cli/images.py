"""`ddn sample` and `ddn reconstruct`: images into pictures, a batch at a time, so that any number fits in memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from discrete_distribution_network.cli.runs import (
    batch_size,
    image_paths,
    labels_for,
    load_images,
    load_model,
    load_prior,
    model_folder,
    parts,
)
from discrete_distribution_network.errors import InvalidInput
from discrete_distribution_network.prior.base import temperatures
from discrete_distribution_network.viz.pictures import (
    describe_pages,
    growing_levels,
    make_folder,
    reconstruction_rows,
    require_picture,
    save_images,
    save_pages,
)

if TYPE_CHECKING:
    from discrete_distribution_network.cli.main import Reconstruct, Sample


def generator_of(seed: int | None) -> torch.Generator:
    """A source of random numbers: of a seed, or a new one each time."""
    generator = torch.Generator()
    generator.seed() if seed is None else generator.manual_seed(seed)
    return generator


def sample(asked: Sample) -> str:
    """Do what `ddn sample` asks; gives what there is to tell."""
    require_picture(asked.out)
    folder = model_folder(asked.model)
    ddn = load_model(folder, asked.device)
    prior = None if asked.uniform else load_prior(ddn, folder)
    labels = labels_for(ddn, prior, asked.num, asked.label)
    if labels is None and asked.label is not None:
        raise InvalidInput(
            "expected a network or a prior by class for --label, found neither; fit one: ddn prior --by-class"
        )
    temperature: float | list[float] | None = asked.temperature
    if temperature is None:
        temperature = 1.0 if prior is None else temperatures(ddn)
    generator = generator_of(asked.seed)
    make_folder(asked.each)

    def drawn() -> Iterator[Tensor]:
        for part in parts(asked.num, batch_size(ddn)):
            samples = ddn.sample(
                len(part),
                generator=generator,
                prior=prior,
                temperature=temperature,
                top_p=asked.top_p,
                labels=None if labels is None else labels[part.start : part.stop],
                guidance_scale=asked.guidance_scale,
            )
            save_images(samples, [f"{index:05d}" for index in part], asked.each)
            yield samples

    pages = save_pages(drawn(), asked.out, asked.num)
    return f"{asked.num} samples, drawn {'uniformly' if prior is None else 'by the prior'}, in {describe_pages(pages)}"


def reconstruct(asked: Reconstruct) -> str:
    """Do what `ddn reconstruct` asks; tells each file's error, and gives what else there is to tell."""
    require_picture(asked.out)
    ddn = load_model(model_folder(asked.model), asked.device)
    paths = image_paths(asked.files)
    make_folder(asked.each)

    def rows() -> Iterator[Tensor]:
        for part in parts(len(paths), batch_size(ddn)):
            own, images = load_images(paths[part.start : part.stop], ddn)
            walk = ddn.encode_walk(images)
            errors = (walk.outputs[-1] - images).square().mean((1, 2, 3)).tolist()
            for path, error in zip(own, errors, strict=True):
                print(f"{path}: error {error:.5f}")
            save_images(walk.outputs[-1], [f"{index:05d}-{paths[index].stem}" for index in part], asked.each)
            yield reconstruction_rows(ddn, walk, images).flatten(0, 1)

    columns = len(growing_levels(ddn.num_levels)) + 1
    pages = save_pages(rows(), asked.out, columns * len(paths), columns)
    return f"{ddn.bits_per_image / 8:g} bytes an image; picture in {describe_pages(pages)}"
