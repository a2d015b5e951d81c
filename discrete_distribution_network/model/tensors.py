"""Shapes of images and of codes: resizing, patches, and rows of a batch of walks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def resize(images: Tensor, size: Sequence[int]) -> Tensor:
    """Images at `size`: averaged over areas when they shrink, bilinear when they grow."""
    size = (size[0], size[1])
    if images.shape[2:] == size:
        return images
    if images.shape[2] >= size[0] and images.shape[3] >= size[1]:
        return F.adaptive_avg_pool2d(images, size)
    return F.interpolate(images, size=size, mode="bilinear", align_corners=False)


def by_level(codes: Tensor, code_shapes: Sequence[tuple[int, ...]]) -> list[Tensor]:
    """Codes (B, number of codes) as one tensor a level, shaped as its sampler has them."""
    parts = codes.split([math.prod(shape) for shape in code_shapes], dim=1) if code_shapes else ()
    return [part.reshape(-1, *shape) for part, shape in zip(parts, code_shapes, strict=True)]


def to_patches(images: Tensor, size: tuple[int, int]) -> Tensor:
    """(B, X, H, W) -> (B * H / h * W / w, X, h, w), row by row, for patches of this size (h, w)."""
    (batch, channels, height, width), (h, w) = images.shape, size
    images = images.reshape(batch, channels, height // h, h, width // w, w)
    return images.permute(0, 2, 4, 1, 3, 5).reshape(-1, channels, h, w)


def from_patches(
    patches: Float[Tensor, "patches channels h w"], size: tuple[int, int]
) -> Float[Tensor, "batch channels height width"]:
    """Images of this size (height, width), put together of the patches of `to_patches`."""
    (channels, h, w), (height, width) = patches.shape[1:], size
    images = patches.reshape(-1, height // h, width // w, channels, h, w)
    return images.permute(0, 3, 1, 4, 2, 5).reshape(-1, channels, height, width)


def gather_walks(images: Tensor, rows: Tensor) -> Tensor:
    """Images (R, X, H, W) of these rows, (R',), or put together of parts of several, (R', rows of a grid, columns).

    Where no grid fits the images, the rows of its first part are taken.
    """
    if rows.ndim == 1:
        return images[rows]
    (channels, height, width), (grid_rows, grid_columns) = images.shape[1:], rows.shape[1:]
    if height % grid_rows or width % grid_columns:
        return images[rows[:, 0, 0]]
    parts = images.reshape(-1, channels, grid_rows, height // grid_rows, grid_columns, width // grid_columns)
    parts = parts.permute(0, 2, 4, 1, 3, 5)
    down, across = torch.arange(grid_rows, device=rows.device)[:, None], torch.arange(grid_columns, device=rows.device)
    return parts[rows, down, across].permute(0, 3, 1, 4, 2, 5).reshape(-1, channels, height, width)


def gather_state(state: Any, rows: Tensor) -> Any:
    """The state of a prior (a tensor, a named tuple of them, or a batch size) for these rows of its batch.

    Rows may be those of each part of an image, as `Branches` has them; what lies as the image does is put together so.
    """
    if isinstance(state, Tensor):
        rows = rows.to(state.device)
        return gather_walks(state, rows) if state.ndim == 4 else state[rows if rows.ndim == 1 else rows[:, 0, 0]]
    return len(rows) if isinstance(state, int) else type(state)(*(gather_state(own, rows) for own in state))


def compose_parents(rows: Tensor, later: Tensor) -> Tensor:
    """The rows that walks come from, one step further back: `rows` of that step, for the walks of the rows `later`."""
    if rows.ndim == 1 or later.ndim == 1:
        return rows[later]
    down, across = (torch.arange(side, device=rows.device) for side in rows.shape[1:])
    return rows[later, down[:, None], across]
