"""The latent tree and the figures of node use."""

import pytest
import torch

from discrete_distribution_network.evaluation.metrics import psnr, usage, usage_by_level
from discrete_distribution_network.viz.pictures import grid, growing_levels
from discrete_distribution_network.viz.tree import most_used_tree


def test_the_most_used_nodes_come_first_with_their_shares():
    codes = torch.tensor([[1, 0], [1, 0], [1, 2], [0, 5], [3, 3], [3, 4]])
    root = most_used_tree(codes, (2, 1))
    assert [(child.prefix, child.share) for child in root.children] == [((1,), 0.5), ((3,), 1 / 3)]
    assert root.children[0].children[0].prefix == (1, 0)
    assert root.children[0].children[0].share == pytest.approx(1 / 3)


def test_usage_is_perplexity_over_k():
    assert usage(torch.tensor([5, 5, 5, 5])) == pytest.approx(1)
    assert usage(torch.tensor([9, 0, 0, 0])) == pytest.approx(0.25)
    assert usage(torch.tensor([5, 5, 0, 0])) == pytest.approx(0.5)
    assert usage(torch.tensor([3, 1, 0, 0])) == pytest.approx(4 / 3**0.75 / 4)
    codes = torch.tensor([[0, 0, 1], [1, 0, 1]])
    assert usage_by_level(codes, [2, 2], [1, 2]) == pytest.approx([1, 1])
    assert psnr(0.01) == pytest.approx(20)


def test_grid_places_images():
    images = torch.stack([torch.full((1, 4, 4), value) for value in (0.0, 0.5, 1.0)])
    sheet = grid(images, columns=3)
    width = sheet.size[0] // 3
    assert [sheet.getpixel((width // 2 + column * width, sheet.size[1] // 2)) for column in range(3)] == [0, 128, 255]


def test_growing_levels_end_with_all():
    assert growing_levels(1) == [1]
    for levels in (2, 5, 16, 100):
        chosen = growing_levels(levels)
        assert chosen[0] == 1
        assert chosen[-1] == levels
        assert chosen == sorted(set(chosen))
