"""The published package of this project's name, 0.2.5: the network of its README, the settings of its Trainer."""

from __future__ import annotations

import math
import time

import torch
from common import Clock, Contender, Data, main
from ema_pytorch import EMA

from discrete_distribution_network import DDN


class Published(Contender):
    def train(self, data: Data, clock: Clock) -> None:
        # the README's dim=32 and the default of 10 candidates; a level for every resolution, as there
        ddn = DDN(dim=32, image_size=data.side, channels=data.channels)
        # as its Trainer sets them by default, whose loop knows no clock
        optimizer = torch.optim.AdamW(ddn.parameters(), lr=3e-4, weight_decay=1e-3)
        kept = ddn.guided_sampler_codes_param_names()
        average, size, started = EMA(ddn, param_or_buffer_names_no_ema=kept), 32, time.monotonic()
        for images in data.batches(size):
            if clock.spent() >= 1:
                break
            loss = ddn(images)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(ddn.parameters(), 0.5)
            optimizer.step()
            optimizer.zero_grad()
            ddn.split_and_prune_()
            average.update()
            self.seen += size
        self.training_seconds = time.monotonic() - started
        # its average starts late and is slow: on a small budget the better of the two is taken, for its sake
        held = torch.cat([batch for batch, _ in zip(data.batches(250, self.seen), range(4), strict=False)])
        with torch.no_grad():
            self.ddn = min((ddn.eval(), average.ema_model.eval()), key=lambda model: float(model(held)))
            self.codes = self._walk(held[:1])[1].shape[1]
        self.bits = self.codes * math.log2(10)

    def _walk(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        _, (codes, outputs) = self.ddn(images, return_intermediates=True)
        return outputs[-1], codes

    def sample(self, count: int) -> torch.Tensor:
        return self.ddn.sample(batch_size=count)

    def reconstruct(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self._walk(images)

    def levels(self) -> list[tuple[int, int]]:
        return [(10, 1)] * self.codes

    def parameters(self) -> int:
        return sum(parameter.numel() for parameter in self.ddn.parameters())


if __name__ == "__main__":
    main(Published())
