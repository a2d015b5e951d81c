"""Entropy models of a small network, for the tests of range coding."""

import math

import torch

from discrete_distribution_network.codec.entropy_model import WEIGHT, EntropyModel

SHAPES, SIZES = [(), (), (2, 2), (4, 4)], [5, 9, 16, 300]


def any_prior(seed=0):
    """One whose weights are all there, also those that begin as nothing."""
    torch.manual_seed(seed)
    prior = EntropyModel(SHAPES, SIZES, dim=12, hidden=20)
    with torch.no_grad():
        for parameter in prior.parameters():
            parameter.normal_(0, 0.2)
    return prior


def any_codes(count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    parts = [
        torch.randint(size, (count, math.prod(shape)), generator=generator)
        for shape, size in zip(SHAPES, SIZES, strict=True)
    ]
    return torch.cat(parts, 1)


def fixed_prior():
    """Weights made of integers, without a random number."""
    prior = EntropyModel(SHAPES, SIZES, dim=12, hidden=20).exact()
    with torch.no_grad():
        for index, parameter in enumerate(prior.parameters()):
            number = torch.arange(parameter.numel()).reshape(parameter.shape) * (7919 + index)
            parameter.copy_((number % 4001 - 2000).double() * WEIGHT)
    return prior
