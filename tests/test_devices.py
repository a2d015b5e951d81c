"""What runs on an accelerator, on one that is only pretended: every tensor lies there, and none is waited for.

Tensors on the device "meta" have shapes but no values. An operation on them and on a tensor of the CPU raises, and so
does everything that reads a value.
"""

import pytest
import torch
from small import small_ddn

from discrete_distribution_network.prior.base import recorded_walk
from discrete_distribution_network.prior.heads import Prior
from discrete_distribution_network.training.flat_parameters import FlatParameters
from discrete_distribution_network.training.muon import Muon, matrix_names

DEVICE = "meta"
NETWORKS = {
    "images": {},
    "patches": {"patch_size": [None, 4], "sampler": {"chain_dropout_prob": 0.05}},
    "classes": {"num_classes": 3},
    "condition images": {"cond_channels": 1},
    "separate values": {"sampler": {"separate_values": True}},
    "recurrence": {"recurrence": 2, "levels_per_resolution": [0, 1]},
    "decoder": {"decoder_dim": 4},
    "attention": {"attention_resolutions": (8,)},
    "adversarial": {"use_adversarial_loss": True, "discr_base_dim": 4},
    "stochastic": {
        "sampler": {"stochastic": True, "crossover_top2_prob": 0.5, "straight_through_distance_logits": True}
    },
}


def fake(prior=None, **arguments):
    """A network on the pretended device."""
    with torch.device(DEVICE):  # only while it is made: what it makes later has to know the device
        ddn = small_ddn(**arguments)
        if prior is not None:
            ddn.prior = Prior(ddn, dim=8, **prior)
    ddn._seen_images = True  # the first images of a training are looked at
    return ddn


def inputs(ddn, batch=6):
    labels = None if ddn.num_classes is None else torch.zeros(batch, dtype=torch.long, device=DEVICE)
    cond = torch.rand(batch, 1, 8, 8, device=DEVICE) if ddn.cond_channels else None
    return torch.rand(batch, 1, 8, 8, device=DEVICE), {"labels": labels, "cond": cond}


@pytest.fixture(autouse=True)
def autocast(monkeypatch):
    """Autocast of the CPU for the pretended device, which has none."""
    enabled, context = torch.is_autocast_enabled, torch.autocast

    def known(device):
        return "cpu" if device == DEVICE else device

    monkeypatch.setattr(torch, "is_autocast_enabled", lambda device: enabled(known(device)))
    monkeypatch.setattr(torch, "autocast", lambda device, *more, **given: context(known(device), *more, **given))


@pytest.mark.parametrize("name", NETWORKS)
def test_a_training_step(name):
    ddn = fake(**NETWORKS[name]).train()
    images, given = inputs(ddn)
    optimizer = torch.optim.AdamW(ddn.parameters(), 1e-3, fused=False, foreach=True, capturable=False)
    loss = ddn(images, **given)
    assert loss.device.type == DEVICE
    loss.backward()
    torch.nn.utils.clip_grad_norm_(ddn.parameters(), 1.0)
    optimizer.step()
    assert {parameter.grad.device.type for parameter in ddn.parameters() if parameter.grad is not None} == {DEVICE}


def test_muon():
    ddn = fake()
    flat = FlatParameters(ddn.named_parameters(), matrix_names(ddn, ddn.guided_sampler_codes_param_names()))
    muon = Muon(flat.matrices, flat.matrix_shapes, 0.02, 0.1)
    images, _ = inputs(ddn)
    flat.set_gradients(torch.autograd.grad(ddn.train()(images), flat.parameters, allow_unused=True))
    muon.step()
    assert flat.values.device.type == DEVICE


@pytest.mark.parametrize("classes", [None, 3])
def test_the_bits_and_the_draws_of_a_prior(classes):
    ddn = fake({"num_classes": classes}, patch_size=[None, 4]).eval()
    levels = recorded_walk(ddn, inputs(ddn)[0])[1]
    labels = None if classes is None else torch.zeros(6, dtype=torch.long, device=DEVICE)
    bits = ddn.prior.bits_of(levels, labels)
    bits.sum().backward()
    samples, codes = ddn.sample(6, return_codes=True, labels=labels)
    assert bits.device.type == samples.device.type == codes.device.type == DEVICE


def test_a_planted_tensor_of_the_cpu_is_found(monkeypatch):
    ddn = fake().train()
    monkeypatch.setattr(
        "discrete_distribution_network.model.network.resize", lambda image, size: torch.rand(6, 1, *size)
    )
    with pytest.raises(RuntimeError, match="meta"):
        ddn(inputs(ddn)[0]).backward()


def test_a_planted_wait_is_found(monkeypatch):
    ddn = fake().train()
    monkeypatch.setattr(
        "discrete_distribution_network.model.guided_sampler.count", lambda counts, codes: int(codes.max())
    )
    with pytest.raises(RuntimeError, match="meta"):
        ddn(inputs(ddn)[0])
