"""This project's DDN, trained as `ddn train --size 32 32 --channels 1` does, then its prior as `ddn prior` does.

Half of the budget goes to the network, the other half to the prior; samples are drawn as `ddn sample` does.
"""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import torch
from common import Clock, Contender, Data, draw, main, save

from discrete_distribution_network.config import TEMPERATURE, TrainConfig
from discrete_distribution_network.data import Pixels, Split
from discrete_distribution_network.prior import Prior, fit
from discrete_distribution_network.training_run import network, trainer_for

NETWORK_SHARE = 0.5


class Ours(Contender):
    """Args: options of `ddn train` beside its defaults."""

    def __init__(self, **options: Any):
        self.options = options

    def train(self, data: Data, clock: Clock) -> None:
        images, never = torch.from_numpy(data.train), 10**9
        config = TrainConfig(
            size=(32, 32),
            channels=1,
            minutes=clock.minutes_until(NETWORK_SHARE),
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
        self.prior = Prior(self.ddn)
        learnt, held_out = images[:-1000], images[-1000:]
        self.fitted = fit(self.prior, self.ddn, learnt, held_out, minutes=clock.minutes_until(1), progress=False)

    def sample(self, count: int) -> torch.Tensor:
        return self.ddn.sample(count, prior=self.prior, temperature=TEMPERATURE)

    def reconstruct(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        walk = self.ddn.encode_walk(images)
        return walk.outputs[-1], walk.codes

    def levels(self) -> list[tuple[int, int]]:
        return list(zip(self.ddn.codebook_sizes, self.ddn.codes_per_level, strict=True))

    def parameters(self) -> int:
        return sum(parameter.numel() for module in (self.ddn, self.prior) for parameter in module.parameters())

    def more(self, folder: Path, drawn: int) -> dict[str, float]:
        ways: dict[str, dict[str, Any]] = {
            "uniform": {},
            "temperature_1": {"prior": self.prior},
            "temperature_0.5": {"prior": self.prior, "temperature": 0.5},
        }
        for name, how in ways.items():
            save(folder, name, draw(partial(self.ddn.sample, **how), drawn))
        of_prior = sum(parameter.numel() for parameter in self.prior.parameters())
        return {"bits_by_prior": self.fitted.test_bits, "parameters_of_prior": of_prior}


if __name__ == "__main__":
    main(Ours())
