"""The shapes that follow from a network's arguments, and that fresh weights depend on the seed only."""

import hashlib
import inspect
from dataclasses import FrozenInstanceError

import pytest
import torch

from discrete_distribution_network import DDN
from discrete_distribution_network.errors import InvalidInput
from discrete_distribution_network.model.network_config import NetworkConfig, resolutions


def config(**arguments):
    """A config with the defaults of `DDN`."""
    known = inspect.signature(DDN).parameters.values()
    defaults = {own.name: own.default for own in known if own.default is not inspect.Parameter.empty}
    return NetworkConfig(**{**defaults, "dim": 8, "dim_max": 16, "image_size": 16, **arguments})


def test_its_fields_are_the_arguments_of_a_network():
    assert list(inspect.signature(DDN).parameters) == list(inspect.signature(NetworkConfig).parameters)


def test_shapes_by_resolution_and_by_level():
    made = config(levels_per_resolution=[1, 0, 2], patch_size=[None, None, 4], codebook_size=[5, 6, 7])
    assert made.sizes == [(4, 4), (8, 8), (16, 16)]
    assert made.widths == [16, 16, 8]
    assert made.levels == [1, 0, 2]
    assert made.codebook_sizes == [5, 6, 7]
    assert made.level_sizes == [(4, 4), (16, 16), (16, 16)]
    assert made.code_shapes == [(), (4, 4), (4, 4)]
    assert [len(made.make_samplers(resolution)) for resolution in range(3)] == [1, 0, 2]
    assert [sampler.codebook_size for sampler in made.make_samplers(2)] == [6, 7]


def test_a_recurrence_repeats_its_levels():
    made = config(recurrence=3, levels_per_resolution=[0, 0, 2], codebook_size=[3, 4], patch_size=[None, None, 8])
    assert made.codebook_sizes == [3, 4] * 3
    assert made.level_sizes == [(16, 16)] * 6
    assert made.code_shapes == [(2, 2)] * 6


def test_resolutions_are_halved_and_rounded_up():
    assert resolutions((28, 28)) == [(4, 4), (7, 7), (14, 14), (28, 28)]
    assert resolutions((13, 7)) == [(4, 2), (7, 4), (13, 7)]
    assert resolutions((1, 1)) == [(1, 1)]


def test_it_cannot_be_changed():
    with pytest.raises(FrozenInstanceError):
        config().dim = 4


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"image_size": 1 << 16}, "image_size from 1 to 65535, got 65536"),
        ({"levels_per_resolution": 4097}, "at most 4096 levels, got 12291"),
        ({"codebook_size": [4, 4]}, "6 integers, one per level, got 2 values"),
        ({"patch_size": [None, 4]}, "patch_size to be one value or 3, one per resolution, got 2 values"),
        ({"guided_sampler_kwargs": {"dim": 3, "patch_size": 2}}, "got dim, patch_size"),
        ({"guided_sampler_kwargs": [1]}, r"a dictionary, got \[1\]"),
        ({"dim_max": 0}, "dim_max"),
        ({"num_classes": 0}, "num_classes"),
        ({"cond_channels": -1}, "cond_channels"),
        ({"adversarial_loss_weight": -0.5}, "adversarial_loss_weight of at least 0, got -0.5"),
    ],
)
def test_an_error_says_what_was_given(arguments, words):
    with pytest.raises(InvalidInput, match=words):
        config(**arguments)


WEIGHTS = {
    "plain": ({}, "df2dfc70", [-0.410067, -0.000645, 0.000876]),
    "recurrence": (
        {"recurrence": 3, "levels_per_resolution": [0, 0, 2], "codebook_size": [3, 4]},
        "15d9e3c9",
        [-0.410067, 0.031011, 0.016068],
    ),
    "conditions": (
        {"num_classes": 5, "cond_channels": 2, "attention_resolutions": (8,)},
        "a8663d82",
        [-0.410067, 0.003107, 0.007325],
    ),
    "discriminator": (
        {"use_adversarial_loss": True, "patch_size": [None, 4, 8]},
        "7f668268",
        [-0.410067, 0.153094, 0.100632],
    ),
}
"""Arguments -> a hash of the parameters' names, and a number each of the first, the middle and the last random one."""


@pytest.mark.parametrize("name", WEIGHTS)
def test_a_seed_gives_the_same_weights_as_in_earlier_versions(name):
    arguments, names, numbers = WEIGHTS[name]
    torch.manual_seed(7)
    ddn = DDN(**{"dim": 8, "dim_max": 16, "image_size": 16, "codebook_size": 5, **arguments})
    joined = " ".join(own for own, _ in ddn.named_parameters())
    drawn = [parameter for parameter in ddn.parameters() if parameter.ndim > 1 and parameter.abs().sum() > 0]
    found = [float(drawn[place].detach().flatten()[0]) for place in (0, len(drawn) // 2, -1)]
    assert hashlib.sha256(joined.encode()).hexdigest()[:8] == names
    assert found == pytest.approx(numbers, abs=1e-6)
