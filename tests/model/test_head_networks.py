"""Heads that are networks: in any memory format, of the width that the network gives, apart for keys and values."""

import pytest
import torch
import torch.nn.functional as F
from small import digits, small_ddn, trainer
from torch import nn

from discrete_distribution_network import DDN, GuidedSampler
from discrete_distribution_network.errors import InvalidInput
from discrete_distribution_network.guidance.conditions import Match
from discrete_distribution_network.model.heads import _width

IMAGES = digits(4) / 255


class Volume(nn.Module):
    """Features as a volume of one channel: its filters have five axes, a stack of them six."""

    def __init__(self):
        super().__init__()
        self.filters = nn.Conv3d(1, 1, (4, 3, 3), padding=(0, 1, 1))

    def forward(self, features):
        return self.filters(features.unsqueeze(1)).squeeze(1)


NETWORKS = {
    "convolution": nn.Conv2d(4, 1, 3, padding=1),
    "deep": nn.Sequential(nn.Conv2d(4, 6, 3, padding=1), nn.GroupNorm(2, 6), nn.SiLU(), nn.Conv2d(6, 1, 1)),
    "transposed": nn.ConvTranspose2d(4, 1, 3, padding=1),
    "by group": nn.Sequential(nn.Conv2d(4, 4, 3, padding=1, groups=4), nn.Conv2d(4, 1, 1)),
    "volume": Volume(),
}


def made(network, **kwargs):
    return small_ddn(sampler={"network": network, **kwargs}, dim_max=4)


@pytest.mark.parametrize("name", NETWORKS)
def test_head_networks_are_converted_to_channels_last(name, tmp_path):
    ddn, plain = made(NETWORKS[name]).eval(), made(NETWORKS[name]).eval()
    names, codes = list(ddn.state_dict()), ddn.encode(IMAGES)
    ddn(IMAGES).backward()
    assert ddn.to(memory_format=torch.channels_last) is ddn
    assert ddn.stages[0].levels[0].feedback.weight.is_contiguous(memory_format=torch.channels_last)
    assert all(torch.equal(a, b) for a, b in zip(ddn.parameters(), plain.parameters(), strict=True))
    assert list(ddn.state_dict()) == names
    channels_last = IMAGES.contiguous(memory_format=torch.channels_last)
    assert torch.equal(ddn.encode(channels_last), codes)
    assert ddn.double().samplers[0].keys.stacked[0].dtype == torch.float64
    assert torch.equal(ddn.float().encode(IMAGES), codes)

    training = trainer(tmp_path, made(NETWORKS[name]), num_train_steps=3, channels_last=True)
    before = [parameter.clone() for parameter in training.ddn.samplers[-1].node_parameters()]
    batches = training.loader.batches()
    for _ in range(3):
        training.loop.step(batches)
    assert all(not torch.equal(a, b) for a, b in zip(before, training.ddn.samplers[-1].node_parameters(), strict=True))
    again = made(NETWORKS[name])
    again.load_state_dict(training.ddn.state_dict())
    assert torch.equal(again.eval().encode(IMAGES), training.ddn.eval().encode(IMAGES))


def test_the_network_says_how_wide_candidates_are():
    for network in (
        nn.Linear(32, 16),
        nn.Sequential(nn.Linear(32, 8), nn.SiLU(), nn.Linear(8, 16)),
        nn.Sequential(nn.Linear(32, 16), nn.LayerNorm(16)),
    ):
        for more in ({}, {"post_network_activation": nn.Tanh()}, {"separate_values": True}, {"dim_query": 5}):
            sampler = GuidedSampler(dim=32, codebook_size=10, network=network, **more)
            features, query = torch.randn(6, 32), torch.randn(6, 16)
            (output, codes, loss), distances = sampler(features, query, return_distances=True)
            loss.backward()
            assert (output.shape, codes.shape, distances.shape) == ((6, 16), (6,), (6, 10))
            assert sampler.dim_query == 16
            sampler.eval()
            torch.testing.assert_close(
                sampler.forward_for_codes(features, codes, query), sampler.draw(features, codes, query).output
            )
            with pytest.raises(InvalidInput, match=r"query of shape \(6, 16\), got \(6, 3\)"):
                sampler(features, torch.randn(6, 3))
    for network in (nn.Conv2d(4, 7, 1), nn.Conv2d(4, 7, 3, padding=1), nn.ConvTranspose2d(4, 7, 3, padding=1)):
        sampler = GuidedSampler(4, network=network, patch_size=2)
        assert sampler(torch.randn(2, 4, 4, 6), torch.randn(2, 7, 4, 6)).output.shape == (2, 7, 4, 6)
        with pytest.raises(InvalidInput, match=r"query of shape \(2, 7, 4, 6\)"):
            sampler(torch.randn(2, 4, 4, 6), torch.randn(2, 3, 4, 6))


def test_trying_a_network_draws_no_random_numbers():
    network = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.Dropout(0.5), nn.Conv2d(4, 1, 1))
    before = torch.get_rng_state()
    assert _width(network, 4) == 1
    assert torch.equal(torch.get_rng_state(), before)
    assert network.training


def test_what_is_no_network_for_these_features_is_refused():
    for make, word in (
        (lambda: GuidedSampler(32, network=nn.Linear(16, 8)), "features of 32 channels"),
        (lambda: GuidedSampler(4, network=nn.Conv2d(8, 3, 3, padding=1)), "features of 4 channels"),
        (lambda: GuidedSampler(4, network=lambda features: features), "network to be a torch.nn.Module"),
        (lambda: GuidedSampler(4, norm_module="layer"), "norm_module to be a torch.nn.Module"),
        (lambda: made(nn.Conv2d(4, 3, 3, padding=1)), "the images' 1 channels, got 3"),
        (lambda: made(nn.Conv2d(4, 3, 1)), "the images' 1 channels, got 3"),
    ):
        with pytest.raises(InvalidInput) as raised:
            make()
        assert word in str(raised.value)
        assert "\n" not in str(raised.value)


def test_names_of_the_parameters_that_hold_the_nodes():
    for kwargs in ({}, {"separate_values": True}, {"network": nn.Conv2d(4, 1, 3, padding=1), "prenorm": True}):
        ddn = small_ddn(sampler={**kwargs, "pre_network_activation": nn.PReLU()}, dim_max=4, recurrence=1)
        names, parameters = ddn.guided_sampler_codes_param_names(), dict(ddn.named_parameters())
        assert isinstance(names, set)
        assert names < set(parameters)
        rows = {id(parameter) for sampler in ddn.samplers for parameter in sampler.node_parameters()}
        assert {id(parameters[name]) for name in names} == rows
        assert all(parameters[name].shape[0] == 8 for name in names)
        assert not any("norm" in name or "activation" in name or "blocks" in name for name in names)
    one = small_ddn().guided_sampler_codes_param_names()
    assert sorted(one)[0] == "stages.0.levels.0.sampler.keys.weight"


def values_ddn(**kwargs):
    ddn = small_ddn(sampler={"separate_values": True, "chain_dropout_prob": 0.0}, patch_size=[None, 4], **kwargs)
    with torch.no_grad():
        for sampler in ddn.samplers:
            for parameter in sampler.node_parameters():
                parameter.normal_(0, 0.2)
    return ddn


def test_keys_choose_and_values_are_drawn():
    ddn = values_ddn().eval()
    codes = ddn.encode(IMAGES)
    walk = ddn.encode_walk(IMAGES)
    torch.testing.assert_close(ddn.decode(codes), ddn.reconstruct(IMAGES))
    torch.testing.assert_close(ddn.sample(codes=codes), ddn.reconstruct(IMAGES))
    images, drawn = ddn.sample(3, return_codes=True)
    torch.testing.assert_close(ddn.decode(drawn), images)
    first, features, size = ddn.samplers[0], None, None

    def look(level, sampler, f, residual):
        nonlocal features, size
        if level == 0:
            features, size = f, f.shape[2:]
        return sampler(f, F.adaptive_avg_pool2d(IMAGES, f.shape[2:]), residual=residual)

    with torch.no_grad():
        ddn.walk(look, 4)
        normed, query = first.norm(features), F.adaptive_avg_pool2d(IMAGES, size)
        nearest = first.keys(normed, None).distances(query).argmin(1)
        values = torch.einsum("kcd,bdhw->bkchw", first.values.weight, normed)
    assert torch.equal(codes[:, 0], nearest)
    torch.testing.assert_close(walk.outputs[0], values[torch.arange(4), nearest])
    errors = [F.mse_loss(own, F.adaptive_avg_pool2d(IMAGES, own.shape[2:])) for own in walk.outputs]
    torch.testing.assert_close(walk.losses, torch.stack(errors))
    torch.testing.assert_close(ddn(IMAGES), torch.stack(errors).mean())


def test_keys_and_values_learn_from_the_images():
    ddn = values_ddn()
    walk = ddn.walk(lambda level, sampler, f, r: sampler(f, torch.zeros_like(r), residual=r), 4)
    ddn(IMAGES).backward()
    for sampler in ddn.samplers:
        assert float(sampler.keys.weight.grad.abs().sum()) > 0
        assert float(sampler.values.weight.grad.abs().sum()) > 0
    assert walk.losses is not None
    optimizer = torch.optim.Adam(ddn.parameters(), 1e-2)
    losses = []
    for _ in range(40):
        loss = ddn(IMAGES)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        ddn.split_and_prune_(optimizer)
        losses.append(float(loss))
    assert losses[-1] < 0.5 * losses[0]


def test_guidance_and_beams_see_what_is_drawn():
    ddn = values_ddn().eval()
    for beams in (1, 4):
        walk = ddn.encode_walk(IMAGES, beams=beams)
        torch.testing.assert_close(ddn.decode(walk.codes), walk.outputs[-1])
        error = (walk.outputs[-1] - IMAGES).square().mean()
        torch.testing.assert_close(walk.losses[-1], error)
    assert error <= ddn.encode_walk(IMAGES).losses[-1]
    guided = ddn.guide(Match(IMAGES))
    torch.testing.assert_close(guided.scores[:, -1, 0], -(guided.images - IMAGES).square().mean((1, 2, 3)))
    bright = ddn.guide(lambda images: images.mean((1, 2, 3)), 3)
    torch.testing.assert_close(bright.scores[:, -1, 0], bright.images.mean((1, 2, 3)))
    torch.testing.assert_close(ddn.decode(bright.codes), bright.images)


def test_separate_values_are_saved_and_loaded(tmp_path):
    ddn = DDN(dim=4, image_size=8, codebook_size=4, channels=1, guided_sampler_kwargs={"separate_values": True}).eval()
    ddn.save_pretrained(tmp_path)
    loaded = DDN.from_pretrained(tmp_path).eval()
    assert torch.equal(loaded.reconstruct(IMAGES), ddn.reconstruct(IMAGES))
