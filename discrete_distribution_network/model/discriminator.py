"""The adversarial term, against blur: a discriminator between images and the last level's outputs for them.

    generator       |d error / d y| / |d G / d y| * G,    G = - mean D(y)
    discriminator   mean relu(1 - D(x)) + mean relu(1 + D(y))  ( + R1 / 2 * mean |d D(x) / d x|^2 )

x are the images, y the outputs for them. The factor of the first makes both gradients of y equally long (the
adaptive weight of VQGAN, Esser et al., arXiv 2012.09841, taken at the image in place of the last layer); the second is
the hinge loss with the gradient penalty of Mescheder et al., arXiv 1801.04406. Their sum needs one backward pass: the
generator's part has a gradient with respect to y only, and the discriminator's part holds y fixed.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from itertools import pairwise

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from discrete_distribution_network.model.blocks import AttentionBlock, ResidualBlock
from discrete_distribution_network.model.tensors import resize

R1 = 1.0
"""Weight of the gradient penalty, for pixels in [0, 1]."""

MAX_WIDENING = 16
"""Most channels of the features at any resolution, in multiples of those at full resolution."""


class Discriminator(nn.Module):
    """Images (B, C, H, W) -> logits that they are real, (B,).

    Args:
        channels: C.
        sizes: (height, width) of its resolutions, from the smallest to the full one.
        dim: channels of the features at full resolution; they double with every halving.
        attention: longer sides of the resolutions with an attention block.
    """

    def __init__(self, channels: int, sizes: Sequence[tuple[int, int]], dim: int, attention: Sequence[int]):
        super().__init__()
        self.sizes = list(reversed(sizes))
        widths = [dim * min(MAX_WIDENING, 2**halvings) for halvings in range(len(sizes))]
        self.entry = nn.Conv2d(channels, widths[0], 3, padding=1)
        self.blocks = nn.ModuleList(
            nn.Sequential(ResidualBlock(width), *([AttentionBlock(width)] if max(size) in attention else []))
            for width, size in zip(widths, self.sizes, strict=True)
        )
        self.widen = nn.ModuleList(nn.Conv2d(narrow, wide, 1) for narrow, wide in pairwise(widths))
        self.judge = nn.Linear(widths[-1], 1)

    def forward(self, images: Float[Tensor, "batch channels height width"]) -> Float[Tensor, " batch"]:
        features = self.blocks[0](self.entry(images))
        for size, widen, block in zip(self.sizes[1:], self.widen, self.blocks[1:], strict=True):
            features = block(widen(resize(features, size)))
        logits: Tensor = self.judge(F.silu(features).mean((2, 3)))
        return logits.squeeze(1).float()


def adversarial_term(
    discriminator: Discriminator,
    images: Float[Tensor, "batch channels height width"],
    drawn: Float[Tensor, "batch channels height width"],
    error_share: float,
    weight: float,
    penalty: bool,
) -> Float[Tensor, ""]:
    """The generator's part times `weight`, plus the discriminator's.

    Args:
        discriminator: D.
        images: x.
        drawn: y, with a gradient.
        error_share: weight of y's mean squared error in the loss.
        weight: of the generator's part.
        penalty: whether to add the gradient penalty.
    """
    fixed = drawn.detach().requires_grad_()
    generator_loss = -discriminator(fixed).mean()
    (gradient,) = torch.autograd.grad(generator_loss, fixed)
    gradient = gradient.float()
    error_gradient = (fixed.detach() - images).float() * (2 * error_share / images.numel())
    factor = error_gradient.norm() / gradient.norm().clamp_min(1e-12)
    surrogate = (drawn.float() * (factor * gradient)).sum()  # has the gradient of the term, but not its value
    term = weight * (surrogate - surrogate.detach() + factor * generator_loss.detach())

    real = images.detach().requires_grad_(penalty)
    with sdpa_kernel(SDPBackend.MATH) if penalty else nullcontext():  # other kernels have no second derivative
        real_logits = discriminator(real)
    term = term + F.relu(1 - real_logits).mean() + F.relu(1 + discriminator(fixed.detach())).mean()
    if penalty:
        (gradient,) = torch.autograd.grad(real_logits.sum(), real, create_graph=True)
        term = term + R1 / 2 * gradient.float().square().flatten(1).sum(1).mean()
    return term
