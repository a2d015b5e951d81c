"""Entropy models of a small network, for the tests of range coding."""

import math

import torch

from discrete_distribution_network.prior.entropy_model import WEIGHT_UNIT, EntropyModel

SHAPES, SIZES = [(), (), (2, 2), (4, 4)], [5, 9, 16, 300]


def any_model(seed=0):
    """Random weights, also in the layers that are initialised with zeros."""
    torch.manual_seed(seed)
    model = EntropyModel(SHAPES, SIZES, dim=12, hidden=20)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.2)
    return model


def any_codes(count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    parts = [
        torch.randint(size, (count, math.prod(shape)), generator=generator)
        for shape, size in zip(SHAPES, SIZES, strict=True)
    ]
    return torch.cat(parts, 1)


def fixed_model():
    """Weights made of integers, without a random number."""
    model = EntropyModel(SHAPES, SIZES, dim=12, hidden=20).exact()
    with torch.no_grad():
        for index, parameter in enumerate(model.parameters()):
            number = torch.arange(parameter.numel()).reshape(parameter.shape) * (7919 + index)
            parameter.copy_((number % 4001 - 2000).double() * WEIGHT_UNIT)
    return model
