"""The official core (sddn 0.0.2) with the recipe of its example mnist.py: one small U-Net, applied ten times.

That is the example's setting of 64 candidates, not the three passes of 8 that it overrides it with for a picture:
batches of 256, Adam at 1e-3, split and prune after every step; no residuals, chain dropout, diverge shaping or classes.
The network is written anew, in the example's shape; losses, choices and splits are the library's.
"""

from __future__ import annotations

import math
import time
from itertools import pairwise
from typing import Any

import torch
from common import Clock, Contender, Data, main
from sddn import DiscreteDistributionOutput, sinusoidal_embedding
from torch import Tensor, nn

CANDIDATES, PASSES, SIZE, WIDTH = 64, 10, 32, 16
BATCH, PART = 256, 16


def block(size: int, *widths: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for before, after in pairwise(widths):
        layers += [nn.LayerNorm((before, size, size)), nn.Conv2d(before, after, 3, padding=1), nn.SiLU()]
    return nn.Sequential(*layers)


def ramp(channels: int) -> Tensor:
    """What the first pass gets (C, H, W): a slope from -1 to 1 over all channels, each turned by 90 degrees more."""
    planes = torch.linspace(-1, 1, channels * SIZE**2).view(channels, SIZE, SIZE)
    return torch.stack([plane.rot90(turns) for turns, plane in enumerate(planes)])


class UNet(nn.Module):
    """Image, features and leaked image of the pass before -> features."""

    label: Tensor

    def __init__(self) -> None:
        super().__init__()
        w = WIDTH
        self.stems = nn.ModuleList(block(SIZE, channels, w, w, w) for channels in (1, w, 1))
        self.downs = nn.ModuleList(nn.Conv2d(width, width, 4, 2, 1) for width in (w, 2 * w, 4 * w))
        self.down_blocks = nn.ModuleList(
            (
                block(SIZE // 2, w, 2 * w, 2 * w, 2 * w),
                block(SIZE // 4, 2 * w, 4 * w, 4 * w, 4 * w),
                block(SIZE // 8, 4 * w, 2 * w, 2 * w, 4 * w),
            )
        )
        self.ups = nn.ModuleList(nn.ConvTranspose2d(width, width, 4, 2, 1) for width in (4 * w, 2 * w, w))
        self.up_blocks = nn.ModuleList(
            (
                block(SIZE // 4, 8 * w, 4 * w, 2 * w, 2 * w),
                block(SIZE // 2, 4 * w, 2 * w, w, w),
                block(SIZE, 2 * w, w, w, w),
            )
        )
        self.shifts = nn.ModuleList(
            nn.Sequential(nn.Linear(100, width), nn.SiLU(), nn.Linear(width, width))
            for width in (1, w, 2 * w, 4 * w, 8 * w, 4 * w, 2 * w)
        )
        self.register_buffer("label", sinusoidal_embedding(10, 100)[0])  # its MNIST run gives every image class 0

    def forward(self, image: Tensor, features: Tensor, leaked: Tensor) -> Tensor:
        first, *shifts = (shift(self.label)[:, None, None] for shift in self.shifts)
        x = self.stems[0](image + first) + self.stems[1](features) + self.stems[2](leaked)
        skipped = []
        for down, shift, body in zip(self.downs, shifts[:3], self.down_blocks, strict=True):
            skipped.append(x)
            x = body(down(x) + shift)
        for up, shift, body in zip(self.ups, shifts[3:], self.up_blocks, strict=True):
            x = body(torch.cat((skipped.pop(), up(x)), 1) + shift)
        return x


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.unet = UNet()
        self.output = DiscreteDistributionOutput(k=CANDIDATES, last_c=WIDTH, predict_c=1, leak_choice=True)
        self.output.learn_residual = False

    def forward(self, count: int, target: Tensor | None = None) -> dict[str, Any]:
        """The library's dictionary after all passes, for `count` images in [-1, 1]."""
        d: dict[str, Any] = {} if target is None else {"target": target}
        image, features = (ramp(channels).expand(count, -1, -1, -1) for channels in (1, WIDTH))
        leaked = image
        for _ in range(PASSES):
            d["feat_last"] = features = self.unet(image, features, leaked)
            d = self.output(d)
            d.pop("outputs", None)  # all candidates of all passes, kept for pictures: 650 MiB for 250 images
            image, leaked = d["predict"], d["feat_leak"]
        return d


class Official(Contender):
    bits = PASSES * math.log2(CANDIDATES)

    def train(self, data: Data, clock: Clock) -> None:
        self.network = Network()
        optimizer = torch.optim.Adam(self.network.parameters(), lr=1e-3)
        started = time.monotonic()
        for images in data.batches(BATCH):
            if clock.spent() >= 1:
                break
            optimizer.zero_grad()
            for part in (2 * images - 1).split(PART):  # the same gradient and counts as in one piece, in less memory
                d = self.network(len(part), part)
                loss = torch.stack(d["losses"]).mean()
                (loss * len(part) / len(images)).backward()
            optimizer.step()
            self.network.output.try_split(optimizer)
            self.seen += len(images)
        self.training_seconds = time.monotonic() - started
        self.network.eval()

    def sample(self, count: int) -> Tensor:
        return self._shown(self.network(count))  # without a target the library draws at random

    def reconstruct(self, images: Tensor) -> tuple[Tensor, Tensor]:
        d = self.network(len(images), 2 * images - 1)
        return self._shown(d), torch.stack(d["idx_ks"], 1)

    @staticmethod
    def _shown(d: dict[str, Any]) -> Tensor:
        return ((d["predict"] + 1) / 2).clamp(0, 1)

    def levels(self) -> list[tuple[int, int]]:
        return [(CANDIDATES, 1)] * PASSES

    def parameters(self) -> int:
        return sum(parameter.numel() for parameter in self.network.parameters())


if __name__ == "__main__":
    main(Official())
