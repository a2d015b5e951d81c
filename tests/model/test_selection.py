"""Selections: how a walk chooses, and that one of your own is a function."""

import pytest
import torch
from small import digits, small_ddn

from discrete_distribution_network.errors import InvalidInput
from discrete_distribution_network.model import ClassifierFreeGuidance, FixedCodes, Nearest, PriorSampling, Uniform

IMAGES = digits(3) / 255


class Constant:
    """A prior with the same logits everywhere, by class: class c prefers node c, no class none."""

    num_classes = 8

    def begin(self, batch_size, labels):
        return labels

    def logits(self, level, features, state):
        preferred = torch.nn.functional.one_hot(state.clamp_min(0), 8).float()
        return preferred * (state >= 0).float().unsqueeze(1)

    def follow(self, level, codes, state):
        return state


def split_ddn():
    ddn = small_ddn().eval()
    with torch.no_grad():
        for sampler in ddn.samplers:
            sampler.keys.weight.normal_(0, 0.2)
    return ddn


@torch.no_grad()
def test_fixed_codes_repeat_a_walk():
    ddn = split_ddn()
    walk = ddn.walk(Nearest(IMAGES), 3)
    again = ddn.walk(FixedCodes(ddn.split_codes(walk.codes)), 3)
    assert torch.equal(again.codes, walk.codes)
    torch.testing.assert_close(again.outputs[-1], walk.outputs[-1])
    assert again.losses is None


@torch.no_grad()
def test_a_selection_of_your_own_is_a_function():
    ddn = split_ddn()

    def last_node(level, sampler, features, residual):
        codes = torch.full(sampler.codes_shape(features), sampler.codebook_size - 1)
        return sampler.draw(features, codes, residual)

    codes = ddn.walk(last_node, 2).codes
    assert torch.equal(codes, torch.full_like(codes, 7))


@torch.no_grad()
def test_uniform_codes_depend_on_the_generator_alone():
    ddn = split_ddn()
    first, second = (ddn.walk(Uniform(torch.Generator().manual_seed(1)), 5).codes for _ in range(2))
    assert torch.equal(first, second)


@torch.no_grad()
def test_guidance_by_class_extrapolates():
    """At a scale of 0 classes do not matter; at a high one each walk takes its class's node."""
    ddn, labels = split_ddn(), torch.tensor([0, 3, 5]).repeat(200)
    both = torch.cat((labels, torch.full_like(labels, -1)))

    def codes(scale):
        select = ClassifierFreeGuidance(scale, Constant(), 1200, both, generator=torch.Generator().manual_seed(0))
        return ddn.walk(select, 1200).codes

    guided = codes(50.0)
    assert torch.equal(guided[:600], labels.unsqueeze(1).expand(-1, ddn.num_levels))
    assert torch.equal(guided[:600], guided[600:])
    free = torch.bincount(codes(0.0).flatten(), minlength=8) / (1200 * ddn.num_levels)
    torch.testing.assert_close(free, torch.full((8,), 1 / 8), atol=0.03, rtol=0)
    with pytest.raises(InvalidInput, match="guidance_scale that is a finite number, got nan"):
        codes(float("nan"))


@pytest.mark.parametrize("top_p", [0, 1.5, "1"])
def test_top_p_is_a_probability(top_p):
    with pytest.raises(InvalidInput, match="top_p above 0 and at most 1"):
        PriorSampling(Constant(), 2, torch.tensor([0, 1]), top_p=top_p)
