"""Checks of the arguments of a `GuidedSampler` and of its methods; each raises `InvalidInput`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from discrete_distribution_network.errors import InvalidInput, is_number, require, require_integer, shown


def check_arguments(arguments: Mapping[str, Any]) -> None:
    """Raise `InvalidInput` unless these are arguments of a `GuidedSampler`, of the right type and in range."""
    for name in ("dim", "dim_query", "codebook_size"):
        require_integer(arguments[name], name)
    limits = {"patch_size": 1, "dim_values": 1, "max_swaps": 0, "count_window": arguments["codebook_size"]}
    for name, least in limits.items():
        if arguments[name] is not None:
            require_integer(arguments[name], name, least)
    for name in ("chain_dropout_prob", "crossover_top2_prob"):
        probability = arguments[name]
        fits = is_number(probability) and 0 <= probability <= 1
        require(fits, f"{name} in [0, 1]", shown(probability))
    for name in ("split_thres", "prune_thres", "gumbel_noise_scale", "min_total_count_before_split_prune", "head_init"):
        number = 0 if arguments[name] is None and name == "head_init" else arguments[name]
        fits = is_number(number) or (isinstance(number, float) and number == torch.inf)  # no threshold
        require(fits and number >= 0, f"{name} of at least 0", shown(number))
    for name in ("network", "norm_module", "pre_network_activation", "post_network_activation"):
        module = arguments[name]
        require(module is None or isinstance(module, nn.Module), f"{name} to be a torch.nn.Module", shown(module))
    distance_fn, dim_values = arguments["distance_fn"], arguments["dim_values"]
    require(distance_fn is None or callable(distance_fn), "distance_fn to be callable", shown(distance_fn))
    if dim_values is not None and not arguments["separate_values"]:
        raise InvalidInput(
            f"expected separate_values=True where dim_values is given, got dim_values={dim_values} with "
            "separate_values=False; set separate_values=True or drop dim_values"
        )


def check_codes(codes: Tensor, shape: Sequence[int], codebook_size: int) -> None:
    """Raise `InvalidInput` unless codes are integers in [0, K) of this shape, or one integer."""
    integer = not (codes.is_floating_point() or codes.is_complex() or codes.dtype == torch.bool)
    require(integer, "integer codes", codes.dtype)
    shape = tuple(shape)
    require(codes.ndim == 0 or tuple(codes.shape) == shape, f"codes of shape {shape} or ()", tuple(codes.shape))
    if not bool(((codes >= 0) & (codes < codebook_size)).all()):
        raise InvalidInput(
            f"expected codes in [0, {codebook_size}), got values from {int(codes.min())} to {int(codes.max())}"
        )


def check_features(features: Tensor, dim: int, patch_size: int | None) -> None:
    """Raise `InvalidInput` unless features are (B, D, H, W), or (B, D), whose sides the patch size divides."""
    require(isinstance(features, Tensor), "features as a tensor", shown(features))
    shape = tuple(features.shape)
    require(len(shape) in (2, 4) and shape[1] == dim, f"features (B, {dim}, H, W) or (B, {dim})", shape)
    require(shape[0] > 0, "a batch of at least 1", "a batch of 0")
    if patch_size is not None:
        divides = len(shape) == 4 and all(side % patch_size == 0 for side in shape[2:])
        require(divides, f"features whose height and width divide by patch_size {patch_size}", shape)


def check_image(image: Tensor | None, features: Tensor, channels: int, name: str) -> None:
    """Raise `InvalidInput` unless an image, if there is one, is (B, C, H, W), or (B, C), as the features are."""
    if image is None:
        return
    require(isinstance(image, Tensor), f"{name} as a tensor", shown(image))
    expected = (features.shape[0], channels, *features.shape[2:])
    require(tuple(image.shape) == expected, f"{name} of shape {expected}", tuple(image.shape))
    require(image.is_floating_point(), f"{name} as floating-point numbers", image.dtype, "divide by 255")
