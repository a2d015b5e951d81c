"""Rows of a batch of walks: patches, parents, and the walks that are traced back through them."""

import pytest
import torch

from discrete_distribution_network.model.guided_sampler import SamplerOutput
from discrete_distribution_network.model.tensors import compose_parents, from_patches, gather_walks, to_patches
from discrete_distribution_network.model.walk import Branches, collect

IMAGES = torch.arange(3 * 2 * 4 * 6.0).reshape(3, 2, 4, 6)


@pytest.mark.parametrize("size", [(2, 3), (4, 6), (1, 1), (4, 2)])
def test_patches_are_put_together_again(size):
    patches = to_patches(IMAGES, size)
    assert patches.shape[1:] == (2, *size)
    assert torch.equal(patches[0], IMAGES[0, :, : size[0], : size[1]])
    assert torch.equal(from_patches(patches, (4, 6)), IMAGES)


def test_walks_take_the_images_of_their_parents():
    assert torch.equal(gather_walks(IMAGES, torch.tensor([2, 0, 2, 1])), IMAGES[[2, 0, 2, 1]])
    parents = torch.tensor([[[0, 1], [2, 0]]])  # four parts, of different walks
    merged = gather_walks(IMAGES, parents)[0]
    assert torch.equal(merged[:, :2, :3], IMAGES[0, :, :2, :3])
    assert torch.equal(merged[:, :2, 3:], IMAGES[1, :, :2, 3:])
    assert torch.equal(merged[:, 2:, :3], IMAGES[2, :, 2:, :3])
    assert torch.equal(merged[:, 2:, 3:], IMAGES[0, :, 2:, 3:])
    assert torch.equal(gather_walks(IMAGES[..., :5], parents), IMAGES[:1, ..., :5])  # a grid that does not fit


def test_parents_of_parents():
    first, second = torch.tensor([2, 0, 1]), torch.tensor([1, 1, 2])
    twice = gather_walks(gather_walks(IMAGES, first), second)
    assert torch.equal(gather_walks(IMAGES, compose_parents(first, second)), twice)
    grid = torch.tensor([[[0, 1], [2, 0]], [[1, 1], [1, 1]], [[2, 2], [0, 0]]])
    twice = gather_walks(gather_walks(IMAGES, grid), grid[:2])
    assert torch.equal(gather_walks(IMAGES, compose_parents(grid, grid[:2])), twice)


def test_a_walk_is_traced_back_through_its_parents():
    steps = [
        SamplerOutput(IMAGES[:2], torch.tensor([4, 5]), None),
        Branches(IMAGES, torch.tensor([6, 7, 8]), None, torch.tensor([1, 1, 0])),
        Branches(IMAGES[:2], torch.tensor([9, 10]), None, torch.tensor([2, 0])),
    ]
    walk = collect(steps, IMAGES[:2])
    assert walk.codes.tolist() == [[4, 8, 9], [5, 6, 10]]
    assert torch.equal(walk.outputs[1], IMAGES[[2, 0]])
    assert torch.equal(walk.outputs[0], IMAGES[[0, 1]])
    assert walk.losses is None
