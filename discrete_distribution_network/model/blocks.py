"""The building blocks of the network: a norm, residual and attention blocks."""

from __future__ import annotations

from typing import TypeVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

M = TypeVar("M", bound=nn.Module)

LEAST_DEVIATION = 1e-3
"""Of a channel, as a share of that of all features: a channel with less is not scaled up any further."""


class ChannelRMSNorm(nn.Module):
    """Divides by the root mean square over channels, then scales: (B, D, ...) -> (B, D, ...)."""

    def __init__(self, dim: int):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(dim))

    def forward(self, features: Float[Tensor, "batch dim *pixels"]) -> Float[Tensor, "batch dim *pixels"]:
        scale = self.scale.reshape(-1, *(1,) * (features.ndim - 2))
        power = features.float().square().mean(1, keepdim=True)
        return features * (torch.rsqrt(power + 1e-6) * scale).to(features.dtype)


class Standardise(nn.Module):
    """Divides by the standard deviation of an image, then scales each channel as `measure` has found it; not learnt.

    A few channels have most of the variance of a network's features. What takes features as its input learns in fewer
    steps if all channels are alike.
    """

    weight: Tensor
    bias: Tensor

    def __init__(self, dim: int):
        super().__init__()
        self.register_buffer("weight", torch.ones(dim))
        self.register_buffer("bias", torch.zeros(dim))

    def forward(self, features: Float[Tensor, "batch dim height width"]) -> Float[Tensor, "batch dim height width"]:
        return F.group_norm(features, 1, self.weight.to(features.dtype), self.bias.to(features.dtype))

    @torch.no_grad()
    def measure(self, features: Float[Tensor, "batch dim height width"]) -> None:
        """From now on each channel has a mean of 0 and a standard deviation of 1 over features like these."""
        normed = F.group_norm(features.float(), 1)
        deviation, mean = torch.std_mean(normed, (0, 2, 3))
        self.weight.copy_(1 / deviation.clamp_min(LEAST_DEVIATION))
        self.bias.copy_(-mean * self.weight)


class ResidualBlock(nn.Module):
    """x + conv(silu(conv(silu(norm(x))))), the second conv starting at zero: (B, D, H, W) -> (B, D, H, W)."""

    def __init__(self, dim: int, dropout: float = 0.0):
        super().__init__()
        self.norm = nn.GroupNorm(1, dim)
        self.first = nn.Conv2d(dim, dim, 3, padding=1)
        self.second = zero_(nn.Conv2d(dim, dim, 3, padding=1))
        self.dropout = dropout

    def forward(self, x: Float[Tensor, "batch dim height width"]) -> Float[Tensor, "batch dim height width"]:
        hidden = F.silu(self.first(F.silu(self.norm(x))))
        if self.dropout > 0:
            hidden = F.dropout(hidden, self.dropout, self.training)
        return x + self.second(hidden)


def zero_(module: M) -> M:
    """The module with every parameter set to zero, such as the last one of a residual branch."""
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    return module


class AttentionBlock(nn.Module):
    """Self-attention over pixels with a residual, starting at zero: (B, D, H, W) -> (B, D, H, W)."""

    def __init__(self, dim: int, dim_head: int = 32):
        super().__init__()
        self.heads = max(1, dim // dim_head)
        inner = self.heads * min(dim_head, dim)
        self.norm = nn.GroupNorm(1, dim)
        self.to_qkv = nn.Conv2d(dim, inner * 3, 1, bias=False)
        self.to_out = zero_(nn.Conv2d(inner, dim, 1))

    def forward(self, x: Float[Tensor, "batch dim height width"]) -> Float[Tensor, "batch dim height width"]:
        batch, _, height, width = x.shape
        qkv = self.to_qkv(self.norm(x)).reshape(batch, 3, self.heads, -1, height * width)
        query, key, value = qkv.transpose(-1, -2).unbind(1)
        mixed = F.scaled_dot_product_attention(query, key, value)
        return x + self.to_out(mixed.transpose(-1, -2).reshape(batch, -1, height, width))
