"""This project's DDN as `ddn train` trains it: network, decoder and prior in one training.

Samples are drawn as `ddn sample` draws them. The model is kept beside the samples.
"""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import torch
from common import Clock, Contender, Data, draw, main, save

from discrete_distribution_network.cli.config import TrainConfig
from discrete_distribution_network.cli.train import network, trainer_for
from discrete_distribution_network.data.datasets import Pixels, Split


class Ours(Contender):
    """Args: options of `ddn train` beside its defaults."""

    def __init__(self, **options: Any):
        self.options = options

    def train(self, data: Data, clock: Clock) -> None:
        never = 10**9
        config = TrainConfig(
            size=(data.side, data.side),
            channels=data.channels,
            minutes=clock.minutes_until(1),
            device="cpu",
            checkpoint_every=never,
            evaluate_every=never,
            pictures_every=never,
            seed=torch.initial_seed(),
            **self.options,
        )
        with tempfile.TemporaryDirectory() as folder:
            # without test images: they are looked at once, at the end, as everyone's are
            split = Split(Pixels(torch.from_numpy(data.train)), None)
            trainer = trainer_for(config, network(config), split, Path(folder))
            trainer()
        self.ddn, self.held_out_bits = trainer.result.eval(), trainer.held_out_bits
        first = trainer.network_progress  # images and seconds of the network's part
        self.seen, self.training_seconds = first.images, first.seconds
        self.bits = self.ddn.bits_per_image

    def sample(self, count: int) -> torch.Tensor:
        return self.ddn.sample(count)

    def reconstruct(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        walk = self.ddn.encode_walk(images)
        return self.ddn.finish(walk), walk.codes

    def levels(self) -> list[tuple[int, int]]:
        return list(zip(self.ddn.codebook_sizes, self.ddn.codes_per_level, strict=True))

    def parameters(self) -> int:
        parts = [self.ddn, self.ddn.prior]
        return sum(number_of_parameters(part) for part in parts if isinstance(part, torch.nn.Module))

    def more(self, folder: Path, drawn: int) -> dict[str, Any]:
        self.ddn.save_pretrained(folder / "model")
        prior = self.ddn.prior
        if not isinstance(prior, torch.nn.Module):
            return {}
        ways: dict[str, dict[str, Any]] = {
            "uniform": {"prior": None},
            "diversity": {"temperature": "diversity"},
            "temperature_1": {"temperature": 1.0},
        }
        for name, settings in ways.items():
            save(folder, name, draw(partial(self.ddn.sample, **settings), drawn))
        return {
            "bits_by_prior": self.held_out_bits,
            "parameters_of_prior": number_of_parameters(prior),
            "temperatures": prior.temperatures,
        }


def number_of_parameters(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


if __name__ == "__main__":
    main(Ours())
