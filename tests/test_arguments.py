"""What the public functions of a network take, and that they refuse the rest in one sentence."""

import re
import warnings
from contextlib import suppress

import numpy as np
import pytest
import torch
from PIL import Image
from small import digits, small_ddn

from discrete_distribution_network.conditioning import low
from discrete_distribution_network.errors import InvalidInput
from discrete_distribution_network.guidance import (
    Classifier,
    Colorize,
    ColorStrokes,
    Custom,
    Edges,
    Inpaint,
    LowBit,
    Match,
    RatePenalty,
    Style,
    SuperResolve,
    edges,
    grey,
)
from discrete_distribution_network.model import pixels
from discrete_distribution_network.model.selection import Nearest, Uniform
from discrete_distribution_network.prior import Frequencies, Prior

BYTES = digits(3)
IMAGES = BYTES / 255
LABELS = torch.tensor([0, 2, 1])
NO_COUNT = [-3, 0, True, 2.5, "2", torch.tensor(2), float("nan")]


def ddn_with_heads(**kwargs):
    ddn = small_ddn(patch_size=[None, 4], **kwargs).eval()
    with torch.no_grad():
        for sampler in ddn.samplers:
            sampler.keys.weight.normal_(0, 0.2)
    return ddn


def likely(ddn):
    """A prior by which all codes but 3 and 7 hardly occur."""
    counts = [torch.zeros(size).index_fill(0, torch.tensor([3, 7]), 10**6) for size in ddn.codebook_sizes]
    counts = [own.index_fill(0, torch.tensor([3]), 2 * 10**6) for own in counts]
    return Frequencies(counts, ddn.code_shapes)


def refused(call, *words):
    with pytest.raises(InvalidInput) as told:
        call()
    message = str(told.value)
    assert "\n" not in message
    assert len(message) < 400
    assert all(word in message for word in words), message
    return message


def image_list():
    return [Image.fromarray(image[0].numpy()) for image in BYTES]


DOORS = {
    "loss": lambda ddn, x: ddn(x),
    "encode": lambda ddn, x: ddn.encode(x),
    "encode with beams": lambda ddn, x: ddn.encode(x, beams=2),
    "encode_walk": lambda ddn, x: ddn.encode_walk(x).outputs[-1],
    "reconstruct": lambda ddn, x: ddn.reconstruct(x),
    "Nearest": lambda ddn, x: ddn.walk(Nearest(x), 3).codes,
    "Match": lambda ddn, x: ddn.guide(Match(x)).codes,
    "Inpaint": lambda ddn, x: ddn.guide(Inpaint(x, torch.ones(8, 8))).codes,
    "SuperResolve": lambda ddn, x: ddn.guide(SuperResolve(x)).codes,
    "Colorize": lambda ddn, x: ddn.guide(Colorize(x, shares=[1.0])).codes,
    "ColorStrokes": lambda ddn, x: ddn.guide(ColorStrokes(x, torch.ones(8, 8))).codes,
    "LowBit": lambda ddn, x: ddn.guide(LowBit(x)).codes,
    "Edges": lambda ddn, x: ddn.guide(Edges(x), generator=torch.Generator().manual_seed(0)).codes,
    "Style": lambda ddn, x: (
        ddn.guide(Style(x, lambda images: images), generator=torch.Generator().manual_seed(0)).codes
    ),
    "edges": lambda ddn, x: edges(x),
    "grey": lambda ddn, x: grey(x),
    "low": lambda ddn, x: low(x),
}


@pytest.mark.parametrize("name", DOORS)
def test_uint8_pixels_are_scaled_at_every_door_and_arrays_told_of(name):
    ddn, door = ddn_with_heads(), DOORS[name]
    torch.testing.assert_close(door(ddn, BYTES), door(ddn, IMAGES))
    refused(lambda: door(ddn, BYTES.long()), "floating-point", "torch.int64")
    refused(lambda: door(ddn, IMAGES.numpy()), "tensor", "ndarray", "from_numpy")
    refused(lambda: door(ddn, image_list()), "tensor", "list", "to_pixels")


@pytest.mark.parametrize("name", [name for name in DOORS if name not in ("loss", "Nearest", "edges", "grey", "low")])
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_pixels_that_are_not_finite_are_refused(name, value):
    images = IMAGES.clone()
    images[1, 0, 3, 3] = value
    refused(lambda: DOORS[name](ddn_with_heads(), images), "finite")


def test_cond_as_uint8_and_what_it_may_not_be():
    ddn = ddn_with_heads(cond_channels=2)
    with torch.no_grad():
        for stage in ddn.stages:
            stage.conditioning.images.weight.normal_()
    cond = torch.randint(0, 256, (3, 2, 8, 8), dtype=torch.uint8)
    codes = ddn.encode(BYTES, cond=cond)
    assert torch.equal(codes, ddn.encode(IMAGES, cond=cond / 255))
    assert not torch.equal(codes, ddn.encode(IMAGES))
    torch.testing.assert_close(ddn(IMAGES, cond=cond), ddn(IMAGES, cond=cond / 255))
    torch.testing.assert_close(ddn.decode(codes, cond=cond), ddn.decode(codes, cond=cond / 255))
    for wrong in (cond.numpy(), image_list(), cond.long(), cond[:2], 3):
        for call in (
            lambda cond: ddn.encode(IMAGES, cond=cond),
            lambda cond: ddn(IMAGES, cond=cond),
            lambda cond: ddn.sample(3, cond=cond),
            lambda cond: ddn.guide(Match(IMAGES), cond=cond),
        ):
            refused(lambda call=call, wrong=wrong: call(wrong), "cond")
    refused(lambda: ddn.sample(3, cond=torch.full((3, 2, 8, 8), torch.nan)), "cond", "finite")


def test_a_strange_range_is_warned_of_once(monkeypatch):
    monkeypatch.setattr(pixels, "_warned_of", set())
    ddn = ddn_with_heads()
    with pytest.warns(UserWarning, match=r"images with pixels in \[0, 1\]"):
        ddn(IMAGES * 255)
    monkeypatch.setattr(pixels, "_warned_of", set())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ddn(IMAGES * 255)  # no training step but the first looks
        small_ddn()(IMAGES)
    for call in (lambda: ddn.encode(IMAGES * 2 - 1), lambda: Match(IMAGES * 255), lambda: LowBit(IMAGES * 9)):
        with pytest.warns(UserWarning, match=r"pixels in \[0, 1\]"):
            call()


def test_what_comes_after_the_images_is_named():
    ddn = small_ddn(num_classes=3)
    for call in (ddn.encode, ddn.reconstruct, ddn.encode_walk):
        with pytest.raises(TypeError, match="positional"):
            call(IMAGES, LABELS)


@pytest.mark.parametrize("levels", [0, -1, 99, True, 1.5, "2", torch.tensor([2]), torch.tensor(2)])
def test_levels_are_an_integer_in_range(levels):
    ddn = small_ddn()
    for call in (
        lambda: ddn.encode_walk(IMAGES, levels=levels),
        lambda: ddn.reconstruct(IMAGES, levels=levels),
        lambda: ddn.encode_walk(IMAGES, levels=levels, beams=2),
        lambda: ddn.walk(Uniform(), 3, levels),
    ):
        refused(call, f"levels from 1 to {ddn.num_levels}")


@pytest.mark.parametrize(
    ("labels", "word"),
    [
        (torch.tensor([0, 1, 3]), "labels below 3"),
        (torch.tensor([0, 1]), "(3,)"),
        (torch.zeros(3, 1, dtype=torch.long), "(3,)"),
        (torch.zeros(3), "integer"),
        (torch.zeros(3, dtype=torch.bool), "integer"),
        ([0, 1, 2], "tensor"),
        (np.array([0, 1, 2]), "tensor"),
        (2, "tensor"),
    ],
)
def test_labels_are_integers_in_range(labels, word):
    ddn = small_ddn(num_classes=3).eval()
    codes = ddn.encode(IMAGES)
    for call in (
        lambda: ddn(IMAGES, labels=labels),
        lambda: ddn.encode(IMAGES, labels=labels),
        lambda: ddn.encode(IMAGES, labels=labels, beams=2),
        lambda: ddn.reconstruct(IMAGES, labels=labels),
        lambda: ddn.decode(codes, labels),
        lambda: ddn.sample(3, labels=labels),
        lambda: ddn.guide(Match(IMAGES), labels=labels),
    ):
        refused(call, word)
    ddn.encode(IMAGES, labels=torch.tensor([-1, 2, -1], dtype=torch.int8))


def test_labels_that_nobody_knows_are_refused_everywhere():
    ddn = ddn_with_heads()
    for prior in (None, likely(ddn), Prior(ddn, dim=4)):
        for call in (ddn.sample, lambda **how: ddn.guide(Match(IMAGES), **how)):
            refused(lambda call=call, prior=prior: call(labels=LABELS, prior=prior), "num_classes", "prior by class")
    by_class = Prior(ddn, dim=4, num_classes=3).eval()
    assert ddn.guide(Match(IMAGES), labels=LABELS, prior=by_class).images.shape == IMAGES.shape
    for call in (
        lambda: ddn.sample(2, prior=5),
        lambda: ddn.guide(Match(IMAGES), prior="x"),
        lambda: RatePenalty(None),
    ):
        refused(call, "a prior")


@pytest.mark.parametrize("count", NO_COUNT, ids=str)
def test_counts_are_integers_of_at_least_one(count):
    ddn, prior = ddn_with_heads(), likely(ddn_with_heads())
    for word, call in (
        ("beams", lambda: ddn.encode(IMAGES, beams=count)),
        ("beams", lambda: ddn.encode_walk(IMAGES, beams=count)),
        ("beams", lambda: ddn.guide(Match(IMAGES), beams=count)),
        ("top_k", lambda: ddn.guide(Match(IMAGES), top_k=count)),
        ("proposals", lambda: ddn.guide(Match(IMAGES), prior=prior, proposals=count)),
        ("batch_size", lambda: ddn.guide(grey_mean, count)),
        ("batch_size", lambda: ddn.sample(count)),
        ("batch_size", lambda: ddn.walk(Uniform(), count)),
        ("bits", lambda: LowBit(IMAGES, count)),
        ("block", lambda: ColorStrokes(IMAGES, torch.ones(8, 8), count)),
        ("num_classes", lambda: small_ddn(num_classes=count)),
        ("codebook_size", lambda: small_ddn(codebook_size=count)),
        ("image_size", lambda: small_ddn(image_size=count)),
        ("patch_size", lambda: small_ddn(patch_size=count)),
        ("dim", lambda: small_ddn(dim=count)),
        ("patch_size", lambda: small_ddn(sampler={"patch_size": count})),
    ):
        refused(call, word)
    if count != 0 or count is False:
        refused(lambda: ddn.guide(grey_mean, 2, rollouts=count), "rollouts")
        refused(lambda: small_ddn(sampler={"max_swaps": count}), "max_swaps")
        refused(lambda: small_ddn(cond_channels=count), "cond_channels")


def grey_mean(images):
    return images.mean((1, 2, 3))


def test_numbers_are_finite_and_in_range():
    ddn = ddn_with_heads()
    prior, by_class = likely(ddn), Prior(ddn, dim=4, num_classes=3).eval()
    nan, inf = float("nan"), float("inf")
    for wrong in (nan, inf, -0.5, True, "1", None, [1.0], [1.0, nan, 1.0, 1.0, 1.0, 1.0], torch.ones(6)):
        if wrong is not None:  # the prior's own
            refused(lambda wrong=wrong: ddn.sample(2, prior=prior, temperature=wrong), "temperature")
            refused(lambda wrong=wrong: ddn.guide(Match(IMAGES), prior=prior, temperature=wrong), "temperature")
    for wrong in (nan, 0, 1.1, -1, True, "1"):
        refused(lambda wrong=wrong: ddn.sample(2, prior=prior, top_p=wrong), "top_p")
    for wrong in (nan, inf, True, "2", None):
        refused(lambda wrong=wrong: ddn.sample(labels=LABELS, prior=by_class, guidance_scale=wrong), "guidance_scale")
    for wrong in (nan, inf, -1, True, "1", torch.tensor([1.0, nan])):
        refused(lambda wrong=wrong: Match(IMAGES, weight=wrong), "weight of at least 0")
    for name in ("dropout", "cond_dropout", "adversarial_loss_weight"):
        for wrong in (nan, -1, "1", True):
            refused(lambda name=name, wrong=wrong: small_ddn(**{name: wrong}), name)
    for name in ("chain_dropout_prob", "split_thres", "gumbel_noise_scale"):
        for wrong in (nan, -1, "1", True):
            refused(lambda name=name, wrong=wrong: small_ddn(sampler={name: wrong}), name)


def test_levels_of_a_condition_are_levels_of_the_network():
    ddn = small_ddn()
    for wrong in ([99], [-1], [1.5], torch.tensor([1]), [True], "1"):
        refused(lambda wrong=wrong: ddn.guide(Match(IMAGES, levels=wrong)), "levels of Match")
    assert torch.equal(ddn.guide(Match(IMAGES, levels=range(ddn.num_levels))).codes, ddn.encode(IMAGES))


def test_what_is_also_asked_of_an_encoding_is_checked():
    ddn = ddn_with_heads()
    assert torch.equal(
        ddn.encode_walk(IMAGES, also=Match(IMAGES)).codes, ddn.encode_walk(IMAGES, also=[Match(IMAGES)]).codes
    )
    assert ddn.encode_walk(IMAGES, also=[grey_mean]).codes.shape == (3, sum(ddn.codes_per_level))
    for wrong, word in (
        (Match(IMAGES[:, :, :7]), "target of Match"),
        (Match(IMAGES[:2]), "target of Match"),
        (Match(IMAGES, weight=torch.ones(2)), "one weight or 3"),
        (Inpaint(IMAGES[:1, :, :4, :4], torch.ones(4, 4)), "target of Inpaint"),
        (5, "a condition"),
        (IMAGES.numpy(), "a condition"),
    ):
        refused(lambda wrong=wrong: ddn.encode_walk(IMAGES, also=[wrong]), word)
        refused(lambda wrong=wrong: ddn.guide([wrong, Match(IMAGES)]), word)


def test_conditions_find_their_batch_size():
    ddn = ddn_with_heads()
    for condition in (
        Style(IMAGES[:2], lambda images: images),
        LowBit(IMAGES[:2]),
        Custom(grey_mean, weight=torch.ones(2)),
        Classifier(lambda images: images.flatten(1), torch.tensor([1, 2])),
    ):
        assert len(ddn.guide(condition).images) == 2
        refused(lambda condition=condition: ddn.guide([condition, Match(IMAGES)]), str(condition))
    for wrong in (1.5, True, [0.5], torch.tensor([0.5]), "1", -1):
        refused(lambda wrong=wrong: Classifier(lambda images: images.flatten(1), wrong), "Classifier")


def test_codes_that_prior_finds_likely_are_what_a_condition_by_it_takes():
    ddn = ddn_with_heads()
    prior = likely(ddn)
    assert set(ddn.guide(RatePenalty(prior), 4).codes.unique().tolist()) == {3}
    assert set(ddn.guide(RatePenalty(prior), 4, beams=2).codes.unique().tolist()) <= {3, 7}
    # beside a black box it counts too: where it counts much, its codes are taken
    both = ddn.guide([RatePenalty(prior, weight=1000.0), Custom(grey_mean)], 4)
    assert set(both.codes.unique().tolist()) == {3}
    corner = torch.zeros(8, 8)
    corner[:4, :4] = 1
    codes = ddn.guide(RatePenalty(prior, region=corner), 300, generator=torch.Generator().manual_seed(0)).codes
    patches = codes[:, -4:]
    assert set(patches[:, 0].unique().tolist()) == {3}
    assert all(len(patches[:, place].unique()) == 8 for place in (1, 2, 3))


def test_a_temperature_for_each_level_guides():
    ddn = ddn_with_heads()
    prior, corner = likely(ddn), torch.zeros(8, 8)
    corner[:4, :4] = 1
    condition = Inpaint(IMAGES[:1].expand(40, -1, -1, -1), corner)

    def drawn(temperature):
        generator = torch.Generator().manual_seed(0)
        return ddn.guide(condition, prior=prior, temperature=temperature, generator=generator).codes[:, -1]

    levels = ddn.num_levels
    assert torch.equal(drawn([0.7] * levels), drawn(0.7))
    assert set(drawn([0.7] * (levels - 1) + [0]).unique().tolist()) == {3}
    assert set(drawn((0.7,) * levels).unique().tolist()) == {3, 7}
    refused(lambda: drawn([0.7] * (levels - 1)), f"or {levels}, one for each level")
    # by default the prior's own, but at most 0.7
    assert torch.equal(drawn(None), drawn(0.7))
    prior.temperatures = {"fidelity": [1.0] * (levels - 1) + [0.0], "diversity": [1.0] * levels}
    assert torch.equal(drawn(None), drawn([0.7] * (levels - 1) + [0]))
    assert torch.equal(drawn("diversity"), drawn(1.0))


def test_batches_that_differ_are_told_with_their_own_numbers():
    ddn, given = small_ddn(num_classes=3, cond_channels=1).eval(), ("(3, 1, 8, 8)", "(4, 1, 8, 8)")
    prior, cond = Prior(ddn, dim=4, num_classes=3).eval(), torch.rand(4, 1, 8, 8)
    for how in ({}, {"guidance_scale": 2.0}):
        message = refused(lambda how=how: ddn.sample(5, labels=LABELS, prior=prior, **how), "(5,)", "(3,)")
        assert not re.search(r"10|6", message)
        refused(lambda how=how: ddn.sample(3, labels=LABELS, cond=cond, prior=prior, **how), *given)
    refused(lambda: ddn.guide(grey_mean, 5, labels=LABELS), "(5,)", "(3,)")
    refused(lambda: ddn.guide(grey_mean, 3, labels=LABELS, cond=cond, rollouts=2), *given)


@pytest.mark.parametrize("codes", [[[0, 1]], np.zeros((1, 2), dtype=np.int64), 3, None])
def test_codes_are_a_tensor(codes):
    ddn = small_ddn()
    refused(lambda: ddn.decode(codes), "codes as a tensor")
    if codes is not None:
        refused(lambda: ddn.sample(codes=codes), "codes as a tensor")


@pytest.mark.parametrize("training", [True, False])
def test_each_module_keeps_its_mode(training):
    ddn = small_ddn(dropout=0.5, sampler={"network": torch.nn.Conv2d(4, 1, 3, padding=1)}, dim_max=4)
    ddn.train(training)
    ddn.stages[0].eval()
    ddn.stages[1].levels[0].sampler.train()
    modes = [module.training for module in ddn.modules()]
    counts = [sampler.counts.clone() for sampler in ddn.samplers]
    assert torch.equal(ddn.encode(IMAGES), ddn.encode(IMAGES))
    for use in (
        lambda: ddn.reconstruct(IMAGES),
        lambda: ddn.sample(2),
        lambda: ddn.decode(ddn.encode(IMAGES)),
        lambda: ddn.guide(Match(IMAGES)),
        lambda: ddn.guide(lambda images: 1 / 0, 2),
    ):
        with suppress(ZeroDivisionError):
            use()
        assert [module.training for module in ddn.modules()] == modes
    assert all(torch.equal(sampler.counts, own) for sampler, own in zip(ddn.samplers, counts, strict=True))
    for sampler in ddn.samplers:
        assert sampler.keys.template.training == sampler.keys.training
