"""The temperatures of a prior are chosen by held-out images."""

import pytest
import torch
from small import colour_ddn, digits, small_ddn

from discrete_distribution_network.evaluation.coverage import covered
from discrete_distribution_network.prior import Prior, fit, temperatures
from discrete_distribution_network.training import temperatures as module
from discrete_distribution_network.training.temperatures import choose_temperatures, first_images


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(module, "STEPS", 20)


def opinionated():
    """A network whose candidates differ, and a prior that has favourites."""
    ddn = colour_ddn(channels=1)
    torch.manual_seed(2)
    prior = Prior(ddn, dim=8).eval()
    with torch.no_grad():
        for head in prior.heads:
            head.score.bias.normal_(0, 2)
    ddn.prior = prior
    return ddn, prior


def test_typical_images_ask_for_low_temperatures_and_varied_ones_for_high():
    ddn, prior = opinionated()
    chosen = {}
    by_default = temperatures(ddn)
    for name, power in {"typical": 1.5, "varied": 0.0}.items():
        at = [value**power for value in by_default]
        images = ddn.sample(300, temperature=at, generator=torch.Generator().manual_seed(9)).clamp(0, 1)
        figures = choose_temperatures(ddn, prior, images, images, seed=0)
        nearest = min(figures, key=lambda one: figures[one].distance)
        assert prior.temperatures["fidelity"] == [value**nearest for value in by_default]
        precise = [own.recall for own in figures.values() if own.precision >= 0.95 * figures[nearest].precision]
        varied = next(one for one in figures if prior.temperatures["diversity"] == [value**one for value in by_default])
        assert figures[varied].recall == max(precise)
        chosen[name] = nearest
    assert chosen["typical"] >= 1
    assert chosen["varied"] <= 0.33


def test_the_same_seed_chooses_the_same_and_random_numbers_go_on():
    ddn, prior = opinionated()
    images = ddn.sample(200, generator=torch.Generator().manual_seed(9)).clamp(0, 1)
    torch.manual_seed(4)
    expected = torch.rand(2)
    torch.manual_seed(4)
    first = choose_temperatures(ddn, prior, images, images, seed=1)
    assert torch.equal(torch.rand(2), expected)
    torch.rand(5)
    assert choose_temperatures(ddn, prior, images, images, seed=1) == first


@pytest.mark.parametrize("settings", [{"num_classes": 3}, {"image_size": (16, 12)}, {"channels": 3}])
def test_by_class_not_square_and_in_colour(settings):
    ddn = small_ddn(**settings).eval()
    prior = Prior(ddn, dim=8, num_classes=settings.get("num_classes"))
    images = first_images(torch.rand(120, ddn.channels, *ddn.image_size), ddn, 120)
    assert choose_temperatures(ddn, prior, images, images, seed=0)
    assert len(prior.temperatures["diversity"]) == ddn.num_levels


def test_with_few_images_or_a_condition_nothing_is_chosen():
    ddn, prior = opinionated()
    before = dict(prior.temperatures)
    images = torch.rand(99, 1, 16, 16)
    assert choose_temperatures(ddn, prior, images, images, seed=0) == {}
    conditioned = small_ddn(cond_channels=1)
    other = Prior(conditioned, dim=8)
    assert choose_temperatures(conditioned, other, torch.rand(120, 1, 8, 8), torch.rand(120, 1, 8, 8), seed=0) == {}
    assert prior.temperatures == before


def test_a_fit_chooses_them(monkeypatch):
    monkeypatch.setattr(module, "POWERS", (2.0, 3.0))
    ddn = small_ddn(patch_size=[None, 4]).eval()
    prior = Prior(ddn, dim=8)
    fit(prior, ddn, digits(150), digits(120), steps=3, minutes=None, batch_size=8, progress=False)
    assert prior.temperatures["fidelity"] in ([value**power for value in temperatures(ddn)] for power in (2.0, 3.0))


def test_first_images_are_those_of_the_data_set():
    ddn = small_ddn()
    assert torch.equal(first_images(digits(30), ddn, 20), digits(30)[:20] / 255)
    assert len(first_images(digits(30), ddn, 200)) == 30


def test_images_are_compared_as_squares_that_are_not_large():
    wide, tall = small_ddn(image_size=(16, 24)), small_ddn(image_size=(256, 128))
    images = torch.rand(2, 1, 16, 24)
    torch.testing.assert_close(first_images(images, wide, 2), images[..., 4:20])
    assert first_images(torch.rand(2, 1, 256, 128), tall, 2).shape == (2, 1, 64, 64)


def test_precision_and_recall():
    torch.manual_seed(0)
    data = torch.randn(500, 4)
    assert covered(data, data) == 1
    assert covered(data[:400], torch.randn(500, 4)) > 0.8
    assert covered(data + 50, data) == 0
    one_kind = 0.01 * torch.randn(500, 4)
    assert covered(one_kind, data) > 0.95  # precise
    assert covered(data, one_kind) < 0.05  # and not varied


def test_features_are_learnt_without_autocast(monkeypatch):
    # autocast keeps copies of weights until it ends: a network that is trained inside it does not see its new weights
    ddn, prior = opinionated()
    images = ddn.sample(200, generator=torch.Generator().manual_seed(9)).clamp(0, 1)
    nets = []
    original = module.rotation_features

    def rotation_features(*arguments):
        nets.append(original(*arguments))
        return nets[-1]

    monkeypatch.setattr(module, "rotation_features", rotation_features)
    choose_temperatures(ddn, prior, images, images, seed=1)
    with torch.autocast("cpu", torch.bfloat16):
        choose_temperatures(ddn, prior, images, images, seed=1)
    one, other = nets
    for first, second in zip(one.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(first, second)
