"""Networks with labels and condition images, and the arguments with which they are called."""

import pytest
import torch
from small import digits, small_ddn

from discrete_distribution_network.conditioning import CONDS, cond_channels, conditioning_inputs
from discrete_distribution_network.errors import DataError, InvalidInput


def conditioned_ddn(**kwargs):
    ddn = small_ddn(num_classes=3, cond_channels=2, **kwargs).eval()
    with torch.no_grad():
        for parameter in ddn.stages.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return ddn


def test_conditions_change_the_candidates_and_no_condition_is_label_minus_one():
    ddn, images = conditioned_ddn(), digits(4) / 255
    labels, cond = torch.tensor([0, 1, 2, 0]), torch.rand(4, 2, 8, 8)
    codes = ddn.encode(images)
    assert not torch.allclose(ddn.decode(codes), ddn.decode(codes, labels))
    assert not torch.allclose(ddn.decode(codes), ddn.decode(codes, cond=cond))
    torch.testing.assert_close(ddn.decode(codes), ddn.decode(codes, torch.full((4,), -1)))
    walk = ddn.encode_walk(images, labels=labels, cond=cond)
    torch.testing.assert_close(ddn.decode(walk.codes, labels, cond), walk.outputs[-1])


def test_conditions_are_dropped_only_in_training():
    ddn, images = conditioned_ddn(cond_dropout=1.0), digits(4) / 255
    labels, cond = torch.tensor([0, 1, 2, 0]), torch.rand(4, 2, 8, 8)
    for sampler in ddn.samplers:
        sampler.chain_dropout_prob = 0.0
    ddn.train()
    torch.testing.assert_close(ddn(images, labels=labels, cond=cond), ddn(images))
    ddn.eval()
    assert not torch.allclose(ddn(images, labels=labels, cond=cond), ddn(images))


def test_a_network_by_class_learns_its_classes():
    torch.manual_seed(0)
    # one candidate: the classes differ only by the label
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
def test_what_does_not_fit_is_refused(kwargs, words):
    with pytest.raises(InvalidInput) as raised:
        conditioned_ddn()(digits(4) / 255, **kwargs)
    assert words in str(raised.value)


def test_a_network_without_conditions_takes_none():
    with pytest.raises(InvalidInput, match="network without num_classes"):
        small_ddn()(digits(4) / 255, labels=torch.zeros(4, dtype=torch.long))
    with pytest.raises(InvalidInput, match="labels for a network with num_classes or a prior by class"):
        small_ddn().sample(labels=torch.zeros(4, dtype=torch.long))


def test_a_network_gets_the_arguments_that_it_takes():
    images, labels = digits(4), torch.tensor([0, 1, 2, 0])
    assert conditioning_inputs(small_ddn(), images, labels, CONDS["low"]) == {}
    inputs = conditioning_inputs(conditioned_ddn(), images, labels, lambda x: x.expand(-1, 2, -1, -1))
    assert torch.equal(inputs["labels"], labels)
    assert inputs["cond"].shape == (4, 2, 8, 8)
    with pytest.raises(DataError, match="num_classes=3, got images without"):
        conditioning_inputs(conditioned_ddn(), images, None, CONDS["low"])
    with pytest.raises(InvalidInput, match="cond_channels=2, got None"):
        conditioning_inputs(conditioned_ddn(), images, labels, None)


@pytest.mark.parametrize("name", CONDS)
def test_condition_images_have_the_channels_that_the_network_is_made_for(name):
    for channels in (1, 3):
        images = torch.randint(0, 256, (2, channels, 9, 6), dtype=torch.uint8)
        cond = CONDS[name](images)
        assert cond.shape == (2, cond_channels(name, channels), 9, 6)
        assert float(cond.min()) >= 0
        assert float(cond.max()) <= 1
