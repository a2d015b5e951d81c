"""Networks that are trained with labels or with images to go by."""

import pytest
import torch
from small import digits, small_ddn

from discrete_distribution_network.errors import InvalidInput


def asked_ddn(**kwargs):
    ddn = small_ddn(num_classes=3, cond_channels=2, **kwargs).eval()
    with torch.no_grad():
        for parameter in ddn.stages.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return ddn


def test_what_is_asked_changes_the_candidates_and_nothing_asked_is_a_network_without():
    ddn, images = asked_ddn(), digits(4) / 255
    labels, cond = torch.tensor([0, 1, 2, 0]), torch.rand(4, 2, 8, 8)
    codes = ddn.encode(images)
    assert not torch.allclose(ddn.decode(codes), ddn.decode(codes, labels))
    assert not torch.allclose(ddn.decode(codes), ddn.decode(codes, cond=cond))
    torch.testing.assert_close(ddn.decode(codes), ddn.decode(codes, torch.full((4,), -1)))
    walk = ddn.encode_walk(images, labels=labels, cond=cond)
    torch.testing.assert_close(ddn.decode(walk.codes, labels, cond), walk.outputs[-1])


def test_conditions_are_dropped_in_training_alone():
    ddn, images = asked_ddn(cond_dropout=1.0), digits(4) / 255
    labels, cond = torch.tensor([0, 1, 2, 0]), torch.rand(4, 2, 8, 8)
    for sampler in ddn.samplers:
        sampler.chain_dropout_prob = 0.0
    ddn.train()
    torch.testing.assert_close(ddn(images, labels=labels, cond=cond), ddn(images))
    ddn.eval()
    assert not torch.allclose(ddn(images, labels=labels, cond=cond), ddn(images))


def test_a_network_by_class_learns_its_classes():
    torch.manual_seed(0)
    # one candidate: nothing but the label tells the classes apart
    ddn = small_ddn(num_classes=2, dim_max=16, codebook_size=1, levels_per_resolution=1)
    optimizer = torch.optim.Adam(ddn.parameters(), 1e-2)
    labels = torch.arange(32) % 2
    images = labels.float().reshape(-1, 1, 1, 1).expand(-1, 1, 8, 8) * 0.8 + torch.rand(32, 1, 8, 8) * 0.2
    for _ in range(100):
        loss = ddn(images, labels=labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    drawn = ddn.sample(labels=labels).mean((1, 2, 3))
    torch.testing.assert_close(drawn, 0.8 * labels + 0.1, atol=0.05, rtol=0)


@pytest.mark.parametrize(
    ("kwargs", "words"),
    [
        (dict(labels=torch.tensor([0, 3, 1, 1])), "labels below 3, got 3"),
        (dict(labels=torch.zeros(3, dtype=torch.long)), "labels of shape (4,)"),
        (dict(labels=torch.zeros(4)), "integer labels"),
        (dict(cond=torch.zeros(4, 1, 8, 8)), "cond of shape (4, 2, 8, 8)"),
    ],
)
def test_what_does_not_fit_is_told(kwargs, words):
    with pytest.raises(InvalidInput) as told:
        asked_ddn()(digits(4) / 255, **kwargs)
    assert words in str(told.value)


def test_a_network_without_conditions_takes_none():
    with pytest.raises(InvalidInput, match="network without num_classes"):
        small_ddn()(digits(4) / 255, labels=torch.zeros(4, dtype=torch.long))
    with pytest.raises(InvalidInput, match="labels for a network with num_classes or a prior by class"):
        small_ddn().sample(labels=torch.zeros(4, dtype=torch.long))
