"""The nearest candidate of linear heads, by few operations: `nearest_nodes`, and its output and loss.

With features f and heads W_k, the residual r and the query q, the error of candidate k is  d_k = W_k f - (q - r).  The
pixels of each patch are rows of one matrix, copied once, from which come the distances, the chosen candidate, and in
the backward pass the gradients of the features and of the heads.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from discrete_distribution_network.model.candidates import squared_distances
from discrete_distribution_network.model.precision import exact_float32

aten = torch.ops.aten
MEAN = 1
"""The reduction of `aten.mse_loss_backward`."""

Rows = Float[Tensor, "patches pixels values"]
"""The pixels of each patch, row by row."""


def to_rows(images: Float[Tensor, "batch channels height width"], patch: int | None) -> Rows:
    """The pixels of each patch (of the image, if None), in float32 or better."""
    patches, half = _by_patch(images, patch), images.dtype in (torch.float16, torch.bfloat16)
    patches = patches.to(torch.float32, memory_format=torch.contiguous_format) if half else patches
    return patches.reshape(-1, patches.shape[3] * patches.shape[4], images.shape[1])


def from_rows(
    rows: Rows, like: Float[Tensor, "batch _ height width"], patch: int | None
) -> Float[Tensor, "batch channels height width"]:
    """The images of these rows, of the size, type and memory format of others."""
    shape = (len(like), rows.shape[2], *like.shape[2:])
    images = torch.empty_like(like) if rows.shape[2] == like.shape[1] else like.new_empty(shape)
    patches = _by_patch(images, patch)
    patches.copy_(rows.reshape(patches.shape))
    return images


def _by_patch(
    images: Float[Tensor, "batch channels height width"], patch: int | None
) -> Float[Tensor, "batch rows columns h w channels"]:
    """A view of the patches."""
    (batch, channels, height, width), strides = images.shape, images.stride()
    h, w = (height, width) if patch is None else (patch, patch)
    return images.as_strided(
        (batch, height // h, width // w, h, w, channels),
        (strides[0], h * strides[2], w * strides[3], strides[2], strides[3], strides[1]),
        images.storage_offset(),
    )


@torch.no_grad()
def nearest_nodes(
    rows: Rows,
    weight: Float[Tensor, "nodes channels dim"],
    error: Float[Tensor, "batch channels h w"],
    patch: int | None,
) -> Int[Tensor, " patches"]:
    """The node of each patch with the least squared error.

    Args:
        rows: of the features.
        weight: the heads.
        error: q - r.
    """
    with exact_float32(rows.device):
        distances = squared_distances(rows.mT, weight, to_rows(error, patch).mT, offset=False)
        return distances.argmin(-1)


def chosen_candidate(
    features: Float[Tensor, "batch dim height width"],
    rows: Rows,
    weight: Float[Tensor, "nodes channels dim"],
    codes: Int[Tensor, " patches"],
    error: Float[Tensor, "batch channels height width"],
    residual: Float[Tensor, "batch channels height width"] | None,
    patch: int | None,
) -> tuple[Float[Tensor, "batch channels height width"], Float[Tensor, ""]]:
    """The candidate of each patch's code, and its mean squared error to the query, differentiable.

    Args:
        rows: of the features.
        error: q - r.
    """
    with torch.autocast(features.device.type, enabled=False):
        output, loss = _Chosen.apply(features, weight, rows, codes, error, residual, patch)
    return output, loss


class _Chosen(torch.autograd.Function):
    """`chosen_candidate`. With g the gradient of its output at a patch:  df = W^T g,  dW = g f^T of the chosen node."""

    @staticmethod
    def forward(
        ctx: Any,
        features: Tensor,
        weight: Tensor,
        rows: Tensor,
        codes: Tensor,
        error: Tensor,
        residual: Tensor | None,
        patch: int | None,
    ) -> tuple[Tensor, Tensor]:
        heads = weight.index_select(0, codes)
        drawn = from_rows(torch.bmm(rows, heads.mT), error, patch)
        ctx.save_for_backward(features, rows, heads, codes, drawn, error)
        ctx.patch, ctx.nodes = patch, len(weight)
        ctx.set_materialize_grads(False)
        return drawn if residual is None else drawn + residual, aten.mse_loss(drawn, error)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, output_grad: Tensor | None, loss_grad: Tensor | None) -> tuple[Tensor | None, ...]:
        features, rows, heads, codes, drawn, error = ctx.saved_tensors
        grad = output_grad
        if loss_grad is not None:
            of_loss = aten.mse_loss_backward(loss_grad, drawn, error, MEAN)
            grad = of_loss if output_grad is None else of_loss + output_grad
        if grad is None:
            return (None,) * 7
        grad_rows = to_rows(grad, ctx.patch)
        weight_grad = heads.new_zeros(ctx.nodes, *heads.shape[1:])
        weight_grad.index_add_(0, codes, torch.bmm(grad_rows.mT, rows))
        features_grad = torch.empty_like(features)
        patches = _by_patch(features_grad, ctx.patch)
        if grad_rows.shape[2] == 1:  # written once, in the type and layout of the features
            rows_of = grad_rows.reshape(*patches.shape[:5], 1)
            torch.mul(rows_of, heads.reshape(*patches.shape[:3], 1, 1, patches.shape[5]), out=patches)
        else:
            patches.copy_(torch.bmm(grad_rows, heads).reshape(patches.shape))
        return features_grad, weight_grad, None, None, None, None, None
