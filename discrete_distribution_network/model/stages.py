"""The modules of a network: levels, the stage of one resolution, the encoder, and the conditioning."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from typing import NamedTuple, cast

import torch
from jaxtyping import Float, Integer
from torch import Tensor, nn

from discrete_distribution_network.model.blocks import AttentionBlock, ResidualBlock
from discrete_distribution_network.model.guided_sampler import GuidedSampler
from discrete_distribution_network.model.network_config import NetworkConfig
from discrete_distribution_network.model.tensors import resize


class ConditioningInputs(NamedTuple):
    """Labels and condition images of a batch; None for none.

    Attributes:
        labels: classes; below 0 for no class.
        images: condition images, at any size.
        presence: 1 where there is a condition image, 0 where there is none.
    """

    labels: Integer[Tensor, " batch"] | None = None
    images: Float[Tensor, "batch cond_channels height width"] | None = None
    presence: Float[Tensor, "batch 1 1 1"] | None = None

    def gather(self, rows: Integer[Tensor, " walks"]) -> ConditioningInputs:
        """The inputs of these rows of the batch."""
        return ConditioningInputs(*(None if own is None else own[rows] for own in self))


class Conditioning(nn.Module):
    """Adds embeddings of labels and of condition images to a resolution's features; starts as zero for labels.

    Args:
        num_classes: of the labels; None for a network without.
        cond_channels: of the condition images; 0 for a network without.
        width: channels of the features.
    """

    def __init__(self, num_classes: int | None, cond_channels: int, width: int):
        super().__init__()
        self.classes = None if num_classes is None else nn.Embedding(num_classes, width)
        if self.classes is not None:
            nn.init.zeros_(self.classes.weight)
        # one more channel: whether there is a condition
        self.images = nn.Conv2d(cond_channels + 1, width, 3, padding=1, bias=False) if cond_channels else None

    def forward(
        self, features: Float[Tensor, "batch dim height width"], inputs: ConditioningInputs
    ) -> Float[Tensor, "batch dim height width"]:
        if self.classes is not None and inputs.labels is not None:
            present = (inputs.labels >= 0).unsqueeze(1)
            rows = self.classes(inputs.labels.clamp_min(0)) * present
            features = features + rows.to(features.dtype)[:, :, None, None]
        if self.images is not None and inputs.images is not None and inputs.presence is not None:
            images = resize(inputs.images, features.shape[2:]) * inputs.presence
            images = torch.cat((images, inputs.presence.expand_as(images[:, :1])), 1)
            features = features + self.images(images)
        return features


class Level(nn.Module):
    """One step of the walk: the image so far is fed back, residual blocks follow, then the sampler (if any).

    Args:
        channels: of the image.
        dim: channels of the features.
        blocks: number of residual blocks.
        dropout: in the residual blocks.
        attention: whether an attention block follows them.
        sampler: chooses the level's image; None for a level without a choice.
    """

    def __init__(
        self, channels: int, dim: int, blocks: int, dropout: float, attention: bool, sampler: GuidedSampler | None
    ):
        super().__init__()
        self.feedback = nn.Conv2d(channels, dim, 3, padding=1)
        self.blocks = nn.Sequential(
            *(ResidualBlock(dim, dropout) for _ in range(blocks)), *([AttentionBlock(dim)] if attention else [])
        )
        self.sampler = sampler

    def forward(
        self, features: Float[Tensor, "batch dim height width"], image: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch dim height width"]:
        """The features for the level's sampler, from those so far and the image so far at the level's size."""
        return self.blocks(features + self.feedback(image))


class Stage(nn.Module):
    """All levels of one resolution; a resolution without levels still has its blocks.

    Args:
        config: of the network.
        resolution: which one; 0 is the smallest.
    """

    def __init__(self, config: NetworkConfig, resolution: int):
        super().__init__()
        dim_in, dim = config.widths[max(resolution - 1, 0)], config.widths[resolution]
        blocks = max(1, config.num_resnet_blocks // max(config.levels[resolution], 1))
        # fresh weights are drawn in this order: samplers, then conditioning, then the rest
        samplers: list[GuidedSampler | None] = [*config.make_samplers(resolution)]
        self.size = config.sizes[resolution]
        self.conditioning = Conditioning(config.num_classes, config.cond_channels, dim)
        self.widen = nn.Conv2d(dim_in, dim, 1) if dim_in != dim else nn.Identity()
        attention = max(self.size) in config.attention_resolutions
        self.levels = nn.ModuleList(
            Level(config.channels, dim, blocks, config.dropout, attention, sampler) for sampler in samplers or [None]
        )

    def samplers(self) -> list[GuidedSampler]:
        levels = cast("Iterable[Level]", self.levels)
        return [level.sampler for level in levels if level.sampler is not None]

    def enter(
        self,
        features: Float[Tensor, "batch dim_in height_in width_in"],
        skip: Float[Tensor, "batch dim height width"] | None,
        inputs: ConditioningInputs,
    ) -> Float[Tensor, "batch dim height width"]:
        """The features of the previous resolution at this one's size, plus those of the encoder and the conditioning.

        Args:
            features: those of the previous resolution.
            skip: the encoder's features at this resolution, if there is an encoder.
            inputs: labels and condition images.
        """
        features = resize(self.widen(features), self.size)
        features = features if skip is None else features + skip
        return self.conditioning(features, inputs)


class Encoder(nn.Module):
    """Features of the image so far at every resolution, smallest first, for the next pass of the recurrence.

    Args:
        config: of the network.
    """

    def __init__(self, config: NetworkConfig):
        super().__init__()
        widths = config.widths
        self.sizes = list(config.sizes)
        self.entry = nn.Conv2d(config.channels, widths[-1], 3, padding=1)
        self.blocks = nn.ModuleList(ResidualBlock(width) for width in widths)
        self.narrow = nn.ModuleList(nn.Conv2d(large, small, 1) for small, large in pairwise(widths))

    def forward(self, image: Float[Tensor, "batch channels height width"]) -> list[Tensor]:
        features = self.blocks[-1](self.entry(image))
        skips = [features]
        for index in reversed(range(len(self.sizes) - 1)):
            features = self.blocks[index](self.narrow[index](resize(features, self.sizes[index])))
            skips.insert(0, features)
        return skips
