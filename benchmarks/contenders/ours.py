"""This project's DDN, trained as `ddn train --size 32 32 --channels 1` does, then its prior as `ddn prior` does.

Half of the budget goes to the network, the other half to the prior; samples are drawn as `ddn sample` does. Model and
prior are kept beside the samples.
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
from discrete_distribution_network.prior import Prior, fit, temperatures


class Ours(Contender):
    """Args: the share of the budget that is the network's, and options of `ddn train` beside its defaults."""

    prior: Prior | None = None

    def __init__(self, network_share: float = 0.5, **options: Any):
        self.network_share, self.options = network_share, options

    def train(self, data: Data, clock: Clock) -> None:
        images, never = torch.from_numpy(data.train), 10**9
        config = TrainConfig(
            size=(32, 32),
            channels=1,
            minutes=clock.minutes_until(self.network_share),
            device="cpu",
            checkpoint_every=never,
            evaluate_every=never,
            pictures_every=never,
            **self.options,
        )
        ddn = network(config)
        with tempfile.TemporaryDirectory() as folder:
            # without test images: they are looked at once, at the end, as everyone's are
            trainer = trainer_for(config, ddn, Split(Pixels(images), None), Path(folder))
            trainer()
        self.ddn, self.seen, self.training_seconds = trainer.result.eval(), trainer.images, trainer.seconds
        self.bits = self.ddn.bits_per_image
        if self.network_share == 1:
            return
        self.prior = Prior(self.ddn)
        learnt, held_out = images[:-1000], images[-1000:]
        self.fitted = fit(self.prior, self.ddn, learnt, held_out, minutes=clock.minutes_until(1), progress=False)

    def sample(self, count: int) -> torch.Tensor:
        if self.prior is None:
            return self.ddn.sample(count)
        return self.ddn.sample(count, prior=self.prior, temperature=temperatures(self.ddn))

    def reconstruct(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        walk = self.ddn.encode_walk(images)
        return self.ddn.finish(walk), walk.codes

    def levels(self) -> list[tuple[int, int]]:
        return list(zip(self.ddn.codebook_sizes, self.ddn.codes_per_level, strict=True))

    def parameters(self) -> int:
        return number_of_parameters(self.ddn) + (0 if self.prior is None else number_of_parameters(self.prior))

    def more(self, folder: Path, drawn: int) -> dict[str, float]:
        self.ddn.save_pretrained(folder / "model")
        if self.prior is None:
            return {}
        self.prior.save(folder / "model")
        ways: dict[str, dict[str, Any]] = {
            "uniform": {},
            "temperature_1": {"prior": self.prior},
            "temperature_0.7": {"prior": self.prior, "temperature": 0.7},
        }
        for name, settings in ways.items():
            save(folder, name, draw(partial(self.ddn.sample, **settings), drawn))
        return {"bits_by_prior": self.fitted.test_bits, "parameters_of_prior": number_of_parameters(self.prior)}


def number_of_parameters(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


if __name__ == "__main__":
    main(Ours())
