"""`Decoder`: adds to the last chosen image what its patches lack.

The last candidate is a linear map of features, another one for each patch, so edges of patches stay visible, and specks
where a head fits badly. The decoder is trained by squared error, on features without a gradient: no choice depends on
it, so codes stay what they are.
"""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from discrete_distribution_network.model.blocks import ResidualBlock, Standardise, zero_

BLOCKS = 2
"""Residual blocks at half resolution."""


class Decoder(nn.Module):
    """Convolutions at full resolution, and residual blocks at half of it, on the last level's features and image.

    It is the identity at first.

    Args:
        channels: C, of the image.
        dim: D, channels of the features.
        width: channels at full resolution; at half resolution there are twice as many.
    """

    def __init__(self, channels: int, dim: int, width: int):
        super().__init__()
        self.standardise = Standardise(dim)
        self.entry = nn.Conv2d(dim + channels, width, 3, padding=1)
        self.down = nn.Conv2d(width, 2 * width, 2, stride=2)
        self.blocks = nn.Sequential(*(ResidualBlock(2 * width) for _ in range(BLOCKS)))
        self.up = nn.Conv2d(2 * width, 4 * width, 1)
        self.exit = zero_(nn.Conv2d(width, channels, 3, padding=1))

    def forward(
        self, features: Float[Tensor, "batch dim height width"], image: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch channels height width"]:
        """The image, corrected.

        Args:
            features: of the last level.
            image: its chosen candidate.
        """
        features = self.standardise(features)
        hidden = F.silu(self.entry(torch.cat((features, image.to(features.dtype)), 1)))
        coarse = self.blocks(self.down(_even(hidden)))
        hidden = hidden + F.pixel_shuffle(self.up(coarse), 2)[:, :, : image.shape[2], : image.shape[3]]
        correction = self.exit(F.silu(hidden))
        return cast("Tensor", image + correction.to(image.dtype))


def _even(images: Float[Tensor, "batch width _ _"]) -> Float[Tensor, "batch width _ _"]:
    """Images with even sides: the last row and column are repeated where a side is odd."""
    odd_height, odd_width = (side % 2 for side in images.shape[2:])
    return F.pad(images, (0, odd_width, 0, odd_height), mode="replicate") if odd_height or odd_width else images
