"""`Decoder`: adds to the last chosen image what its patches lack.

The last candidate is a linear map of features, another one for each patch, so edges of patches stay visible, and specks
where a head fits badly. The decoder is trained by squared error, on features without a gradient: no choice depends on
it, so codes stay what they are.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from discrete_distribution_network.model.blocks import ResidualBlock, zero_

BLOCKS = 2
"""Residual blocks."""

FACTOR = 2
"""It works at the full resolution divided by this, where a block costs a quarter."""


class Decoder(nn.Module):
    """Residual blocks at half resolution on the last level's features and image; the identity at first.

    Args:
        channels: C, of the image.
        dim: D, channels of the features.
        width: channels of the blocks.
    """

    def __init__(self, channels: int, dim: int, width: int):
        super().__init__()
        self.entry = nn.Conv2d((dim + channels) * FACTOR**2, width, 3, padding=1)
        self.blocks = nn.Sequential(*(ResidualBlock(width) for _ in range(BLOCKS)))
        self.norm = nn.GroupNorm(1, width)
        self.exit = zero_(nn.Conv2d(width, channels * FACTOR**2, 3, padding=1))

    def forward(
        self, features: Float[Tensor, "batch dim height width"], image: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch channels height width"]:
        """The image, corrected.

        Args:
            features: of the last level.
            image: its chosen candidate.
        """
        (height, width), inputs = image.shape[2:], torch.cat((features, image.to(features.dtype)), 1)
        if height % FACTOR or width % FACTOR:
            inputs = F.pad(inputs, (0, -width % FACTOR, 0, -height % FACTOR), mode="replicate")
        hidden = self.blocks(self.entry(F.pixel_unshuffle(inputs, FACTOR)))
        correction = F.pixel_shuffle(self.exit(F.silu(self.norm(hidden))), FACTOR)
        return image + correction[:, :, :height, :width].to(image.dtype)
