"""The K heads of a level: linear maps in one parameter, or copies of any network."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TypeGuard

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call

from discrete_distribution_network.errors import InvalidInput, require, shown
from discrete_distribution_network.model.candidates import LinearCandidates, NetworkCandidates


class LinearHeads(nn.Module):
    """K linear maps D -> C as one parameter (K, C, D), with a bias (K, C) or without."""

    def __init__(self, dim: int, dim_out: int, codebook_size: int, bias: bool, init: float | None):
        super().__init__()
        self.dim_out = dim_out
        bound = dim**-0.5
        self.weight = nn.Parameter(torch.empty(codebook_size, dim_out, dim).uniform_(-bound, bound))
        if init is not None:
            nn.init.normal_(self.weight, std=init * bound)
        self.bias = nn.Parameter(torch.empty(codebook_size, dim_out).uniform_(-bound, bound)) if bias else None
        if self.bias is not None and init is not None:
            nn.init.normal_(self.bias, std=init)

    def forward(
        self, features: Float[Tensor, "batch dim *pixels"], residual: Float[Tensor, "batch channels *pixels"] | None
    ) -> LinearCandidates:
        return LinearCandidates(features, self.weight, self.bias, residual)


class NetworkHeads(nn.Module):
    """K copies of a network with fresh weights, their parameters stacked along a leading axis of size K.

    Args:
        network: features -> candidate.
        dim_out: C, its output channels.
        codebook_size: K.
    """

    template: nn.Module

    def __init__(self, network: nn.Module, dim_out: int, codebook_size: int):
        super().__init__()
        name = type(network).__name__
        require(any(True for _ in network.parameters()), "a `network` with parameters", f"{name} without")
        if buffers := [buffer for buffer, _ in network.named_buffers()]:
            raise InvalidInput(
                "expected a `network` without buffers, whose samples do not depend on each other, got "
                f"{name} with {shown(buffers)}; use another norm than batch norm"
            )
        # on the meta device weights have no values, so that one copy stands for all
        copies = [_fresh_copy(network) for _ in range(1 if next(network.parameters()).is_meta else codebook_size)]
        if len(copies) > 1 and all(map(torch.equal, copies[0].parameters(), copies[1].parameters())):
            raise InvalidInput(
                "expected a `network` whose modules have `reset_parameters`, so that its K copies differ, got "
                f"{name}, whose copies are equal; give its modules that method"
            )
        # outside the module tree: the stacked parameters stand in for the template's own
        self.__dict__["template"] = copy.deepcopy(network).to("meta")
        self.names = [name for name, _ in network.named_parameters()]
        stacks = [torch.stack([one.get_parameter(name).detach() for one in copies]) for name in self.names]
        self.stacked = nn.ParameterList(stack.expand(codebook_size, *stack.shape[1:]) for stack in stacks)
        self.codebook_size, self.dim_out = codebook_size, dim_out

    def train(self, mode: bool = True) -> NetworkHeads:
        self.template.train(mode)
        return super().train(mode)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> NetworkHeads:
        # a stack of filters has one axis more than memory formats of images allow: it is moved and converted as a
        # matrix of K rows
        return super()._apply(lambda stack: fn(stack.reshape(len(stack), -1)).reshape(stack.shape), recurse)

    def forward(
        self, features: Float[Tensor, "batch dim *pixels"], residual: Float[Tensor, "batch channels *pixels"] | None
    ) -> NetworkCandidates:
        shape = (self.dim_out, *features.shape[2:])
        features = features.to(self.stacked[0].dtype).contiguous()  # inside vmap norms take no other memory format

        def checked(images: Tensor) -> Tensor:
            require(
                tuple(images.shape[2:]) == shape,
                f"a `network` that gives {shape} for features {tuple(features.shape[1:])}",
                tuple(images.shape[2:]),
            )
            return images

        def draw(start: int, stop: int) -> Tensor:
            nodes = tuple(parameter[start:stop] for parameter in self.stacked)
            each_node = torch.vmap(self._call, in_dims=(0, None), out_dims=1, randomness="different")
            return checked(each_node(nodes, features))

        def draw_each(codes: Tensor) -> Tensor:
            nodes = tuple(parameter[codes] for parameter in self.stacked)
            each_sample = torch.vmap(self._call, in_dims=(0, 0), randomness="different")
            return checked(each_sample(nodes, features.unsqueeze(1))).squeeze(1)

        return NetworkCandidates(
            draw, draw_each, features.shape[0], self.codebook_size, shape, features.device, residual
        )

    def _call(self, parameters: tuple[Tensor, ...], features: Tensor) -> Tensor:
        return functional_call(self.template, dict(zip(self.names, parameters, strict=True)), (features,))


class Pointwise(nn.Module):
    """A linear map of channels, the same at every pixel; also of vectors."""

    def __init__(self, dim: int, dim_out: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(dim_out, dim))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.uniform_(self.weight, -(self.weight.shape[1] ** -0.5), self.weight.shape[1] ** -0.5)

    def forward(self, features: Float[Tensor, "batch dim *pixels"]) -> Float[Tensor, "batch channels *pixels"]:
        return torch.einsum("cd,bd...->bc...", self.weight, features)


def make_heads(
    dim: int,
    dim_out: int,
    codebook_size: int,
    network: nn.Module | None,
    activation: nn.Module | None,
    init: float | None,
) -> LinearHeads | NetworkHeads:
    """Linear heads where the network is linear pixel by pixel, stacked copies of it otherwise.

    Args:
        dim: D, channels of the features.
        dim_out: C, channels of the candidates; the network's output channels take precedence.
        codebook_size: K.
        network: see `GuidedSampler`.
        activation: applied to every head's output.
        init: see `head_init` of `GuidedSampler`.
    """
    if network is not None:
        taken = getattr(network, "in_features", getattr(network, "in_channels", dim))
        require(taken == dim, f"a `network` that takes features of {dim} channels", shown(network))
    if activation is None and network is None:
        return LinearHeads(dim, dim_out, codebook_size, False, init)
    if activation is None and _is_pointwise(network):
        dim_out, bias = network.weight.shape[0], network.bias is not None
        return LinearHeads(dim, dim_out, codebook_size, bias, init).to(network.weight)
    network = Pointwise(dim, dim_out) if network is None else network
    network = network if activation is None else nn.Sequential(network, activation)
    return NetworkHeads(network, _width(network, dim) or dim_out, codebook_size)


def _is_pointwise(network: nn.Module | None) -> TypeGuard[nn.Linear | nn.Conv2d]:
    return type(network) is nn.Linear or (
        type(network) is nn.Conv2d
        and network.kernel_size == network.stride == (1, 1)
        and network.padding in ((0, 0), "valid")
        and network.groups == 1
    )


@torch.no_grad()
def _width(network: nn.Module, dim: int) -> int | None:
    """Output channels for features of `dim` channels, tried on an image and on a vector; None where it takes neither.

    So it is with a network for images of one size only; its output is then checked at its first call.
    """
    tried = copy.deepcopy(network).eval()
    like = next(tried.parameters(), torch.empty(0))
    for shape in ((1, dim, 8, 9), (1, dim)):
        try:
            images = tried(like.new_zeros(shape))
        except Exception:  # whatever a network raises for a shape that it does not take
            continue
        if isinstance(images, Tensor) and images.ndim == len(shape) and images.shape[2:] == shape[2:]:
            return images.shape[1]
    return None


def _fresh_copy(network: nn.Module) -> nn.Module:
    """A copy with fresh weights, by the modules' own `reset_parameters`."""
    fresh = copy.deepcopy(network)
    for module in fresh.modules():
        reset = getattr(module, "reset_parameters", None)
        if callable(reset):
            reset()
    return fresh
