"""Shapes of images and of codes: resizing, patches, and the rows of a batch of walks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Integer, Shaped
from torch import Tensor

Parents = Integer[Tensor, " walks"] | Integer[Tensor, "walks rows columns"]
"""The row of a batch that each walk continues: one for the whole image, or one for each part of a grid."""


def resize(
    images: Shaped[Tensor, "batch channels _ _"], size: Sequence[int]
) -> Shaped[Tensor, "batch channels height width"]:
    """Images at `size` (height, width): averaged over areas when they shrink, bilinear when they grow."""
    size = (size[0], size[1])
    if images.shape[2:] == size:
        return images
    if images.shape[2] >= size[0] and images.shape[3] >= size[1]:
        return F.adaptive_avg_pool2d(images, size)
    return F.interpolate(images, size=size, mode="bilinear", align_corners=False)


def by_level(codes: Shaped[Tensor, "batch codes"], code_shapes: Sequence[tuple[int, ...]]) -> list[Tensor]:
    """Codes split into one tensor for each level, of its shape (see `DDN.code_shapes`)."""
    parts = codes.split([math.prod(shape) for shape in code_shapes], dim=1) if code_shapes else ()
    return [part.reshape(-1, *shape) for part, shape in zip(parts, code_shapes, strict=True)]


def counts_by_level(
    codes: Integer[Tensor, "batch codes"], codebook_sizes: Sequence[int], codes_per_level: Sequence[int]
) -> list[Tensor]:
    """Usage counts (K,) of each level."""
    return [
        torch.bincount(part.flatten(), minlength=size)
        for part, size in zip(codes.split(list(codes_per_level), dim=1), codebook_sizes, strict=True)
    ]


def to_patches(
    images: Shaped[Tensor, "batch channels height width"], size: tuple[int, int]
) -> Shaped[Tensor, "patches channels h w"]:
    """The patches of this size (h, w), image after image, row by row; the size divides the images'."""
    (batch, channels, height, width), (h, w) = images.shape, size
    images = images.reshape(batch, channels, height // h, h, width // w, w)
    return images.permute(0, 2, 4, 1, 3, 5).reshape(-1, channels, h, w)


def from_patches(
    patches: Shaped[Tensor, "patches channels h w"], size: tuple[int, int]
) -> Shaped[Tensor, "batch channels height width"]:
    """The images of this size (height, width) whose patches these are: the inverse of `to_patches`."""
    (channels, h, w), (height, width) = patches.shape[1:], size
    images = patches.reshape(-1, height // h, width // w, channels, h, w)
    return images.permute(0, 3, 1, 4, 2, 5).reshape(-1, channels, height, width)


def gather_walks(
    images: Shaped[Tensor, "batch channels height width"], parents: Parents
) -> Shaped[Tensor, "walks channels height width"]:
    """The image of each walk's parent; where a walk has one parent for each part of a grid, the parts merged.

    Where the grid does not divide the images, the parent of its first part is taken.
    """
    if parents.ndim == 1:
        return images[parents]
    (channels, height, width), (rows, columns) = images.shape[1:], parents.shape[1:]
    if height % rows or width % columns:
        return images[parents[:, 0, 0]]
    parts = images.reshape(-1, channels, rows, height // rows, columns, width // columns).permute(0, 2, 4, 1, 3, 5)
    down, across = torch.arange(rows, device=parents.device)[:, None], torch.arange(columns, device=parents.device)
    return parts[parents, down, across].permute(0, 3, 1, 4, 2, 5).reshape(-1, channels, height, width)


def gather_state(state: Any, parents: Parents) -> Any:
    """The state of a prior (a tensor, a named tuple of tensors, or a batch size) for walks with these parents.

    A tensor with four axes is an image, whose parts are merged; of others the parent of the first part is taken.
    """
    if isinstance(state, Tensor):
        parents = parents.to(state.device)
        if state.ndim == 4:
            return gather_walks(state, parents)
        return state[parents if parents.ndim == 1 else parents[:, 0, 0]]
    return len(parents) if isinstance(state, int) else type(state)(*(gather_state(own, parents) for own in state))


def compose_parents(parents: Integer[Tensor, "before ..."], rows: Parents) -> Integer[Tensor, "walks ..."]:
    """The parents of the walks in these rows: one step further back."""
    if parents.ndim == 1 or rows.ndim == 1:
        return parents[rows]
    down, across = (torch.arange(side, device=parents.device) for side in parents.shape[1:])
    return parents[rows, down[:, None], across]
