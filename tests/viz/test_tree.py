"""The latent tree and the figures of node use."""

import pytest
import torch

from discrete_distribution_network.evaluation.metrics import psnr, usage, usage_by_level
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
