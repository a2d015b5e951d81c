"""`NetworkConfig`: the arguments of a network, checked, and the shapes that follow from them."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch import nn

from discrete_distribution_network.errors import InvalidInput, is_number, require, require_integer, shown
from discrete_distribution_network.model.guided_sampler import GuidedSampler

SMALLEST_SIDE = 4
"""Longer side of the smallest resolution: the image is halved until it is at most this."""

MAX_SIDE, MAX_LEVELS = (1 << 16) - 1, 1 << 12
"""Most pixels on a side of the images, and most levels: what files of codes can hold."""


@dataclass(frozen=True)
class NetworkConfig:
    """The arguments of a network, as documented at `DDN`; the same names, checked when the config is made.

    Raises:
        InvalidInput: an argument is of another type, out of range, or does not fit the others.
    """

    dim: int
    dim_max: int
    image_size: int | Sequence[int]
    channels: int
    codebook_size: int | Sequence[int]
    dropout: float
    num_resnet_blocks: int
    guided_sampler_kwargs: dict[str, Any] | None
    use_adversarial_loss: bool
    adversarial_loss_weight: float
    discr_base_dim: int
    discr_attn_res_layers: Sequence[int]
    levels_per_resolution: int | Sequence[int] | None
    recurrence: int
    attention_resolutions: Sequence[int]
    patch_size: int | Sequence[int | None] | None
    num_classes: int | None
    cond_channels: int
    cond_dropout: float
    decoder_dim: int

    def __post_init__(self) -> None:
        self._check_numbers()
        self._check_size()
        self._check_levels()
        for size, patch in zip(self.sizes, self.patch_sizes, strict=True):
            _check_patch(size, patch)
        self._check_codebooks()
        sides = [max(size) for size in self.sizes]
        require(
            set(self.attention_resolutions) <= set(sides),
            f"attention_resolutions among {sides}",
            list(self.attention_resolutions),
        )
        self._check_sampler_arguments()

    # what follows from them

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the images."""
        size = self.image_size
        return (size[0], size[1]) if isinstance(size, Sequence) else (size, size)

    @cached_property
    def sizes(self) -> list[tuple[int, int]]:
        """(height, width) of each resolution, from the smallest to the full one."""
        return resolutions(self.size)

    @cached_property
    def widths(self) -> list[int]:
        """Channels of the features at each resolution."""
        return [min(self.dim_max, self.dim * 2**halvings) for halvings in reversed(range(len(self.sizes)))]

    @cached_property
    def levels(self) -> list[int]:
        """Number of levels at each resolution, in one pass of the recurrence."""
        levels = self.levels_per_resolution
        if levels is None:
            levels = 2 if self.recurrence == 1 else [0] * (len(self.sizes) - 1) + [1]
        return _per_resolution("levels_per_resolution", levels, len(self.sizes))

    @cached_property
    def patch_sizes(self) -> list[int | None]:
        """Side of the patches at each resolution; None for one choice for the whole image."""
        return _per_resolution("patch_size", self.patch_size, len(self.sizes))

    @cached_property
    def codebooks(self) -> list[int]:
        """K of each level, in one pass of the recurrence."""
        size = self.codebook_size
        return list(size) if isinstance(size, Sequence) else [size] * sum(self.levels)

    @property
    def codebook_sizes(self) -> list[int]:
        """K of each of the L levels of the walk."""
        return self.codebooks * self.recurrence

    @property
    def level_sizes(self) -> list[tuple[int, int]]:
        """(height, width) of the image at each of the L levels of the walk."""
        one_pass = [size for size, levels in zip(self.sizes, self.levels, strict=True) for _ in range(levels)]
        return one_pass * self.recurrence

    @property
    def code_shapes(self) -> list[tuple[int, ...]]:
        """Shape of the codes of each of the L levels of the walk: () for one code, (H / p, W / p) with patches."""
        shapes: list[tuple[int, ...]] = [
            () if patch is None else (size[0] // patch, size[1] // patch)
            for size, patch, levels in zip(self.sizes, self.patch_sizes, self.levels, strict=True)
            for _ in range(levels)
        ]
        return shapes * self.recurrence

    def make_samplers(self, resolution: int) -> list[GuidedSampler]:
        """The samplers of a resolution (0 is the smallest), with fresh weights."""
        first, width = sum(self.levels[:resolution]), self.widths[resolution]
        samplers = [
            GuidedSampler(
                width,
                self.channels,
                codebook_size,
                patch_size=self.patch_sizes[resolution],
                **self._sampler_arguments(width),
            )
            for codebook_size in self.codebooks[first : first + self.levels[resolution]]
        ]
        for head in (head for sampler in samplers for head in (sampler.keys, sampler.values) if head is not None):
            expected = f"guided_sampler_kwargs whose candidates have the images' {self.channels} channels"
            require(head.dim_out == self.channels, expected, head.dim_out)
        return samplers

    def _sampler_arguments(self, width: int) -> dict[str, Any]:
        """The given arguments, their modules copied for each level, over the defaults of a network."""
        given = copy.deepcopy(self.guided_sampler_kwargs or {})
        norm = {} if given.get("prenorm") else {"norm_module": nn.GroupNorm(1, width)}
        return {**norm, "max_swaps": None, "head_init": 0.02, **given}

    # checks

    def _check_numbers(self) -> None:
        for name in ("dim", "dim_max", "channels", "recurrence", "num_resnet_blocks", "discr_base_dim"):
            require_integer(getattr(self, name), name)
        if self.num_classes is not None:
            require_integer(self.num_classes, "num_classes")
        for name in ("cond_channels", "decoder_dim"):
            require_integer(getattr(self, name), name, 0)
        for name in ("cond_dropout", "dropout"):
            probability = getattr(self, name)
            fits = is_number(probability) and 0 <= probability <= 1
            require(fits, f"{name} in [0, 1]", shown(probability))
        weight = self.adversarial_loss_weight
        require(is_number(weight) and weight >= 0, "adversarial_loss_weight of at least 0", shown(weight))

    def _check_size(self) -> None:
        size = self.image_size
        if isinstance(size, Sequence):
            require(len(size) == 2, "image_size to be a side or (height, width)", shown(size))
        for side in self.size:
            require_integer(side, "each side of image_size", 1, MAX_SIDE)

    def _check_levels(self) -> None:
        levels = self.levels
        for number in levels:
            require_integer(number, "levels_per_resolution", 0)
        require(levels[-1] >= 1, "levels_per_resolution of at least 1 at full resolution", levels)
        count = sum(levels) * self.recurrence
        require(count <= MAX_LEVELS, f"at most {MAX_LEVELS} levels", count)
        if self.recurrence > 1 and any(levels[:-1]):
            raise InvalidInput(
                f"expected levels at full resolution only with recurrence={self.recurrence}, got "
                f"levels_per_resolution={levels}; use {[0] * (len(levels) - 1) + [levels[-1]]}"
            )

    def _check_codebooks(self) -> None:
        count, given = sum(self.levels), len(self.codebooks)
        require(given == count, f"codebook_size to be an integer or {count} integers, one per level", f"{given} values")
        for size in self.codebooks:
            require_integer(size, "codebook_size")

    def _check_sampler_arguments(self) -> None:
        given = self.guided_sampler_kwargs or {}
        require(isinstance(given, dict), "guided_sampler_kwargs as a dictionary", shown(given))
        if taken := sorted({"dim", "dim_query", "codebook_size", "patch_size"} & given.keys()):
            raise InvalidInput(
                f"expected guided_sampler_kwargs without what the network itself decides, got {', '.join(taken)}; "
                "codebook_size and patch_size are arguments of DDN"
            )
        known = inspect.signature(GuidedSampler).parameters
        unknown = sorted(str(name) for name in given.keys() - known.keys())
        require(not unknown, "guided_sampler_kwargs that are arguments of GuidedSampler", ", ".join(unknown))


def resolutions(size: tuple[int, int]) -> list[tuple[int, int]]:
    """The image's size halved (rounded up) until its longer side is at most `SMALLEST_SIDE`, smallest first."""
    sizes = [size]
    while max(sizes[0]) > SMALLEST_SIDE:
        height, width = sizes[0]
        sizes.insert(0, (-(-height // 2), -(-width // 2)))
    return sizes


def _per_resolution(name: str, value: Any, count: int) -> list[Any]:
    values = list(value) if isinstance(value, Sequence) else [value] * count
    require(len(values) == count, f"{name} to be one value or {count}, one per resolution", f"{len(values)} values")
    return values


def _check_patch(size: tuple[int, int], patch: int | None) -> None:
    if patch is None:
        return
    require_integer(patch, "patch_size")
    if all(side % patch == 0 for side in size):
        return
    divisors = [p for p in range(1, min(size) + 1) if all(side % p == 0 for side in size)]
    nearest = sorted(divisors, key=lambda p: abs(p - patch))[:2]
    raise InvalidInput(
        f"expected a patch_size that divides the resolution {size}, got {patch}; use {' or '.join(map(str, nearest))}"
    )
