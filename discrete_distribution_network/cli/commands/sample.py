"""`ddn sample`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from discrete_distribution_network.cli.options import ImageFolder, ModelOptions
from discrete_distribution_network.errors import InvalidInput


@dataclass
class Sample(ModelOptions):
    """Draw samples from a trained model."""

    num: int = 64
    """Number of samples."""
    out: Path = Path("samples.png")
    """Picture to write; more than 256 samples continue in samples-2.png and so on."""
    seed: int | None = None
    """Random seed; a new one each time if not given."""
    uniform: bool = False
    """Draw codes uniformly, even if the model has a prior."""
    temperature: float | Literal["fidelity", "diversity"] | None = None
    """Temperature of the prior at all levels, or one of its own choices for each level: fidelity (images like those of
    the data, the default) or diversity (images as varied as they are)."""
    top_p: float = 1.0
    """Nucleus sampling from the prior: the likeliest candidates whose probabilities sum to this."""
    label: int | None = None
    """Class of the samples, if the network or the prior is class-conditional; all classes in turn if not given."""
    guidance_scale: float = 1.0
    """Classifier-free guidance scale of a class-conditional prior."""

    each: ImageFolder = None
    """Folder to write each sample to, too, as a PNG of its own."""

    def run(self) -> None:
        from torch import Tensor

        from discrete_distribution_network.cli.images import batch_size, parts
        from discrete_distribution_network.cli.runs import (
            labels_for,
            load_model,
            model_folder,
        )
        from discrete_distribution_network.random_state import random_generator
        from discrete_distribution_network.viz.pictures import (
            describe_pages,
            make_folder,
            require_picture,
            save_images,
            save_pages,
        )

        require_picture(self.out)
        folder = model_folder(self.model)
        ddn = load_model(folder, self.device, self.uniform)
        labels = labels_for(ddn, self.num, self.label)
        if labels is None and self.label is not None:
            raise InvalidInput(
                f"expected a network or a prior by class for --label {self.label}, got neither; fit one: "
                "ddn prior --by-class"
            )
        generator = random_generator(self.seed)
        make_folder(self.each)

        def draw() -> Iterator[Tensor]:
            for part in parts(self.num, batch_size(ddn.image_size)):
                samples = ddn.sample(
                    len(part),
                    generator=generator,
                    temperature=self.temperature,
                    top_p=self.top_p,
                    labels=None if labels is None else labels[part.start : part.stop],
                    guidance_scale=self.guidance_scale,
                )
                save_images(samples, [f"{index:05d}" for index in part], self.each)
                yield samples

        pages = save_pages(draw(), self.out, self.num)
        drawn = "uniformly" if ddn.prior is None else "by the prior"
        print(f"{self.num} samples, drawn {drawn}, in {describe_pages(pages)}")
