"""Gradient checkpointing repeats a forward pass inside the backward pass; each choice is counted once all the same."""

import pytest
import torch
from small import digits, small_ddn
from torch.utils.checkpoint import checkpoint

from discrete_distribution_network import GuidedSampler


@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize("options", [{}, {"chain_dropout_prob": 0.7}, {"straight_through_distance_logits": True}])
def test_a_sampler_counts_each_choice_once(reentrant, options):
    torch.manual_seed(0)
    sampler = GuidedSampler(4, 3, 10, **options)
    features, query = torch.randn(50, 4, 8, 8, requires_grad=True), torch.randn(50, 3, 8, 8)

    def step(wrapped):
        sampler.zero_grad()
        sampler.counts.zero_()
        torch.manual_seed(5)
        again = features.detach().clone().requires_grad_()
        if wrapped:
            loss = checkpoint(lambda f: sampler(f, query).commit_loss, again, use_reentrant=reentrant)
        else:
            loss = sampler(again, query).commit_loss
        loss.backward()
        return sampler.counts.clone(), sampler.keys.weight.grad.clone(), again.grad

    plain, repeated = step(False), step(True)
    assert int(plain[0].sum()) == 50
    for one, other in zip(plain, repeated, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("reentrant", [True, False])
def test_a_network_counts_each_choice_once(reentrant):
    ddn, images = small_ddn(dropout=0.2, num_classes=3), digits(6) / 255
    labels = torch.tensor([0, 1, 2, 0, 1, 2])

    def step(wrapped):
        ddn.zero_grad()
        for sampler in ddn.samplers:
            sampler.counts.zero_()
        torch.manual_seed(5)
        given = images.clone().requires_grad_()
        call = lambda x: ddn(x, labels=labels)  # noqa: E731
        loss = checkpoint(call, given, use_reentrant=reentrant) if wrapped else call(given)
        loss.backward()
        counts = torch.stack([sampler.counts for sampler in ddn.samplers])
        return counts, [parameter.grad.clone() for parameter in ddn.parameters()]

    plain, repeated = step(False), step(True)
    assert (plain[0].sum(1) == 6).all()
    assert torch.equal(plain[0], repeated[0])
    for one, other in zip(plain[1], repeated[1], strict=True):
        torch.testing.assert_close(one, other)


def test_without_autograd_training_counts_as_ever():
    sampler = GuidedSampler(4, 3, 10)
    features, query = torch.randn(7, 4, 8, 8), torch.randn(7, 3, 8, 8)
    with torch.no_grad():
        sampler(features, query)
    with torch.inference_mode():
        sampler(features, query)
    sampler(features, query)
    sampler.eval()(features, query)
    assert int(sampler.counts.sum()) == 21


def test_a_compiled_sampler_in_a_checkpoint_counts_once():
    sampler = GuidedSampler(4, 3, 10)
    features, query = torch.randn(5, 4, 8, 8, requires_grad=True), torch.randn(5, 3, 8, 8)
    compiled = torch.compile(lambda f: sampler(f, query).commit_loss, backend="aot_eager", fullgraph=True)
    checkpoint(compiled, features, use_reentrant=False).backward()
    assert int(sampler.counts.sum()) == 5
