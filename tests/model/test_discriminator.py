"""The adversarial term: its gradients by hand, that it learns, and that a training with it is like any other."""

import pytest
import torch
import torch.nn.functional as F
from small import digits, small_ddn, trainer

from discrete_distribution_network import DDN
from discrete_distribution_network.errors import InvalidInput
from discrete_distribution_network.model.discriminator import R1

ON = {"use_adversarial_loss": True, "discr_base_dim": 4, "discr_attn_res_layers": (8,)}


@pytest.mark.parametrize("penalty", [False, True])
def test_gradients_by_hand(penalty):
    ddn = small_ddn(**ON, adversarial_loss_weight=3.0)
    judge, images = ddn.discriminator, digits(5) / 255
    torch.manual_seed(0)
    drawn = (images + 0.1 * torch.randn_like(images)).requires_grad_()
    term = ddn.adversarial(images, drawn, penalty)
    term.backward()
    given = {name: parameter.grad.clone() for name, parameter in judge.named_parameters()}
    (pull,) = torch.autograd.grad(-judge(drawn).mean(), drawn)
    (error,) = torch.autograd.grad(F.mse_loss(drawn, images) / ddn.num_levels, drawn)
    torch.testing.assert_close(drawn.grad, 3.0 * pull * error.norm() / pull.norm())

    real = images.clone().requires_grad_()
    loss = F.relu(1 - judge(real)).mean() + F.relu(1 + judge(drawn.detach())).mean()
    if penalty:
        (slope,) = torch.autograd.grad(judge(real).sum(), real, create_graph=True)
        loss = loss + R1 / 2 * slope.square().sum() / len(images)
    for (name, own), by_hand in zip(given.items(), torch.autograd.grad(loss, list(judge.parameters())), strict=True):
        torch.testing.assert_close(own, by_hand, msg=name)
    value = loss + 3.0 * (error.norm() / pull.norm()) * -judge(drawn).mean()
    torch.testing.assert_close(term.detach(), value.detach())


def test_it_is_part_of_the_loss_in_training_alone():
    ddn, images = small_ddn(**ON), digits(4) / 255
    torch.manual_seed(0)
    loss, (_, outputs) = ddn(images, return_intermediates=True)
    torch.manual_seed(0)
    by_level = ddn(images, reduction="none")
    torch.testing.assert_close(loss, by_level.mean() + ddn.adversarial(images, outputs[-1]))
    loss.backward()
    assert all(parameter.grad is not None for parameter in ddn.parameters())
    ddn.eval()
    torch.testing.assert_close(ddn(images), ddn(images, reduction="none").mean())
    with pytest.raises(InvalidInput, match="use_adversarial_loss"):
        small_ddn().adversarial(images, outputs[-1])
    for wrong in ({"adversarial_loss_weight": -1.0}, {"discr_base_dim": 0}):
        with pytest.raises(InvalidInput, match=next(iter(wrong))):
            small_ddn(**{**ON, **wrong})


def test_a_discriminator_learns_to_tell():
    torch.manual_seed(0)
    ddn = small_ddn(**ON)
    judge = ddn.discriminator
    optimizer = torch.optim.Adam(judge.parameters(), lr=3e-3)
    images = digits() / 255
    blurred = F.avg_pool2d(images, 3, 1, 1)
    for step in range(60):
        optimizer.zero_grad()
        ddn.adversarial(images, blurred.clone().requires_grad_(), penalty=step % 4 == 0).backward()
        optimizer.step()
    with torch.no_grad():
        assert float((judge(images) > judge(blurred).max()).float().mean()) > 0.9


@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_a_training_with_it(tmp_path, precision):
    network = small_ddn(**ON, adversarial_loss_weight=0.3)
    made = trainer(tmp_path, network, num_train_steps=300, mixed_precision=precision, test_dataset=digits(20))
    before = [parameter.clone() for parameter in made.ddn.parameters()]
    with torch.no_grad():
        error = made.ddn.eval()(digits() / 255)
    made.ddn.train()
    figures = made()
    assert not any(torch.equal(a, b) for a, b in zip(before, made.ddn.parameters(), strict=True))
    assert all(bool(parameter.isfinite().all()) for parameter in made.ddn.parameters())
    assert figures.error < 0.5 * float(error)
    loaded = DDN.from_pretrained(tmp_path / "results" / "model")
    assert loaded.discriminator is not None
    images = digits(3) / 255
    assert torch.equal(loaded.eval().encode(images), made.result.eval().encode(images))


def test_the_penalty_comes_now_and_then(tmp_path, monkeypatch):
    penalties = []
    original = DDN.adversarial

    def adversarial(self, images, drawn, penalty=True):
        penalties.append(penalty)
        return original(self, images, drawn, penalty)

    monkeypatch.setattr(DDN, "adversarial", adversarial)
    trainer(tmp_path, small_ddn(**ON), num_train_steps=7, apply_grad_penalty_every=3)()
    assert penalties == [True, False, False, True, False, False, True]
