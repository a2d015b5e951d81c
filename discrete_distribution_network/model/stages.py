"""The parts of a network: levels, the stages of one resolution, and what they are conditioned on."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from discrete_distribution_network.model.blocks import AttentionBlock, ResidualBlock
from discrete_distribution_network.model.guided_sampler import GuidedSampler
from discrete_distribution_network.model.tensors import resize


class ConditioningInputs(NamedTuple):
    """What a network is trained and asked with: classes (B,) and images (B, cond_channels, H, W), or None.

    A class below 0 is none; so is an image with a presence (B, 1, 1, 1) of 0.
    """

    labels: Tensor | None = None
    images: Tensor | None = None
    presence: Tensor | None = None

    def of(self, rows: Tensor) -> ConditioningInputs:
        """The same for these rows of the batch."""
        return ConditioningInputs(*(None if own is None else own[rows] for own in self))


class Conditioning(nn.Module):
    """Adds to a resolution's features what its network is asked for; nothing at first, and where it is not asked."""

    def __init__(self, num_classes: int | None, cond_channels: int, width: int):
        super().__init__()
        self.classes = None if num_classes is None else nn.Embedding(num_classes, width)
        if self.classes is not None:
            nn.init.zeros_(self.classes.weight)
        # one more channel: whether there is a condition
        self.images = nn.Conv2d(cond_channels + 1, width, 3, padding=1, bias=False) if cond_channels else None

    def forward(self, features: Tensor, wanted: ConditioningInputs) -> Tensor:
        if self.classes is not None and wanted.labels is not None:
            there = (wanted.labels >= 0).unsqueeze(1)
            rows = self.classes(wanted.labels.clamp_min(0)) * there
            features = features + rows.to(features.dtype)[:, :, None, None]
        if self.images is not None and wanted.images is not None and wanted.presence is not None:
            images = resize(wanted.images, features.shape[2:]) * wanted.presence
            images = torch.cat((images, wanted.presence.expand_as(images[:, :1])), 1)
            features = features + self.images(images)
        return features


class Level(nn.Module):
    """One step of the walk: the image so far is fed back, residual blocks follow, then the sampler (if any)."""

    def __init__(
        self, channels: int, dim: int, blocks: int, dropout: float, attention: bool, sampler: GuidedSampler | None
    ):
        super().__init__()
        self.feedback = nn.Conv2d(channels, dim, 3, padding=1)
        self.blocks = nn.Sequential(
            *(ResidualBlock(dim, dropout) for _ in range(blocks)), *([AttentionBlock(dim)] if attention else [])
        )
        self.sampler = sampler

    def forward(self, features: Tensor, image: Tensor) -> Tensor:
        return self.blocks(features + self.feedback(image))


class Stage(nn.Module):
    """All levels of one resolution; a resolution without levels still has its blocks."""

    def __init__(
        self,
        channels: int,
        dim_in: int,
        dim: int,
        size: tuple[int, int],
        samplers: list[GuidedSampler],
        blocks: int,
        dropout: float,
        attention: bool,
        conditioning: Conditioning,
    ):
        super().__init__()
        self.size = size
        self.conditioning = conditioning
        self.widen = nn.Conv2d(dim_in, dim, 1) if dim_in != dim else nn.Identity()
        self.levels = nn.ModuleList(
            Level(channels, dim, blocks, dropout, attention, sampler)
            for sampler in (samplers or cast("list[GuidedSampler | None]", [None]))
        )

    def samplers(self) -> list[GuidedSampler]:
        levels = cast("Iterable[Level]", self.levels)
        return [level.sampler for level in levels if level.sampler is not None]

    def enter(self, features: Tensor, skip: Tensor | None, wanted: ConditioningInputs) -> Tensor:
        """The features of the resolution before, at this one's size, plus what the encoder and the conditions say."""
        features = resize(self.widen(features), self.size)
        features = features if skip is None else features + skip
        return self.conditioning(features, wanted)


class Encoder(nn.Module):
    """Features of the image so far at every resolution, smallest first, for the next pass of the recurrence."""

    def __init__(self, channels: int, widths: Sequence[int], sizes: Sequence[tuple[int, int]]):
        super().__init__()
        self.sizes = list(sizes)
        self.entry = nn.Conv2d(channels, widths[-1], 3, padding=1)
        self.blocks = nn.ModuleList(ResidualBlock(width) for width in widths)
        self.narrow = nn.ModuleList(nn.Conv2d(large, small, 1) for small, large in pairwise(widths))

    def forward(self, image: Tensor) -> list[Tensor]:
        features = self.blocks[-1](self.entry(image))
        skips = [features]
        for index in reversed(range(len(self.sizes) - 1)):
            features = self.blocks[index](self.narrow[index](resize(features, self.sizes[index])))
            skips.insert(0, features)
        return skips
