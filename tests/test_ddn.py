"""`DDN`: encoding, decoding, sampling and training, for networks of many shapes."""

import subprocess
import sys

import pytest
import torch

from discrete_distribution_network import DDN, Trainer
from discrete_distribution_network.errors import InvalidInput
from discrete_distribution_network.evaluation.metrics import usage

SMALL = {"dim": 8, "dim_max": 16, "num_resnet_blocks": 1}

NETWORKS = {
    "square": {"image_size": 16, "channels": 1, "codebook_size": 7},
    "colour": {"image_size": 8, "codebook_size": 4},
    "five channels": {"image_size": 8, "channels": 5, "codebook_size": 4},
    "not square": {"image_size": (12, 20), "codebook_size": 4},
    "odd": {"image_size": (13, 7), "codebook_size": 4},
    "28": {"image_size": 28, "channels": 1, "codebook_size": 4},
    "one pixel": {"image_size": 1, "channels": 2, "codebook_size": 9},
    "levels by resolution": {"image_size": 16, "codebook_size": 4, "levels_per_resolution": [0, 3, 1]},
    "K per level": {"image_size": 8, "codebook_size": [2, 3, 5, 8]},
    "recurrence": {"image_size": 16, "codebook_size": 4, "recurrence": 5},
    "recurrence of two levels": {
        "image_size": 8, "codebook_size": [3, 4], "recurrence": 3, "levels_per_resolution": [0, 2],
    },
    "attention": {"image_size": 16, "codebook_size": 4, "attention_resolutions": [8]},
    "patches": {"image_size": 16, "codebook_size": 4, "patch_size": [None, 4, 8]},
    "patches everywhere": {"image_size": (8, 16), "codebook_size": 4, "patch_size": 2},
    "recurrence of patches": {"image_size": 8, "codebook_size": 4, "recurrence": 3, "patch_size": [None, 4]},
    "dropout": {"image_size": 8, "codebook_size": 4, "dropout": 0.5},
    "Taiji": {"image_size": 8, "codebook_size": 2, "levels_per_resolution": 6},
    "one node": {"image_size": 8, "codebook_size": 1},
    "separate values": {
        "image_size": 8,
        "codebook_size": 5,
        "patch_size": [None, 4],
        "guided_sampler_kwargs": {"separate_values": True},
    },
    "convolutions as heads": {
        "image_size": 8,
        "codebook_size": 4,
        "guided_sampler_kwargs": {"network": torch.nn.Conv2d(8, 3, 3, padding=1)},
        "dim_max": 8,
    },
    "sampler options": {
        "image_size": 8,
        "codebook_size": 6,
        "guided_sampler_kwargs": {"straight_through_distance_logits": True, "crossover_top2_prob": 0.5},
    },
}  # fmt: skip


def make(name):
    return DDN(**{**SMALL, **NETWORKS[name]})


def train(ddn, images, steps=40, lr=1e-2):
    optimizer = torch.optim.Adam(ddn.parameters(), lr=lr)
    losses = []
    for _ in range(steps):
        loss = ddn(images)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        ddn.split_and_prune_(optimizer)
        losses.append(loss.item())
    return losses


@pytest.fixture(params=NETWORKS)
def ddn(request):
    return make(request.param)


def images_for(ddn, batch=3):
    return torch.rand(batch, ddn.channels, *ddn.image_size)


def test_decoding_the_codes_gives_the_reconstruction(ddn):
    images = images_for(ddn)
    codes = ddn.encode(images)
    assert codes.shape == (3, sum(ddn.codes_per_level))
    assert codes.dtype == torch.long
    reconstruction = ddn.reconstruct(images)
    assert reconstruction.shape == images.shape
    torch.testing.assert_close(ddn.decode(codes), reconstruction, rtol=1e-4, atol=1e-5)


def test_a_prefix_decodes_to_the_coarser_image(ddn):
    images = images_for(ddn)
    codes, number = ddn.encode(images), 0
    for level, count in enumerate(ddn.codes_per_level, start=1):
        number += count
        coarse = ddn.decode(codes[:, :number])
        assert coarse.shape == images.shape
        torch.testing.assert_close(coarse, ddn.reconstruct(images, levels=level), rtol=1e-4, atol=1e-5)


def test_one_step_of_training_reaches_every_parameter(ddn):
    images = images_for(ddn, batch=4)
    loss, (codes, outputs) = ddn(images, return_intermediates=True)
    loss.backward()
    assert len(outputs) == ddn.num_levels
    assert codes.shape == (4, sum(ddn.codes_per_level))
    missing = [name for name, parameter in ddn.named_parameters() if parameter.grad is None]
    assert not missing
    assert all(int(sampler.counts.sum()) > 0 for sampler in ddn.samplers)


def test_samples_are_what_their_codes_decode_to(ddn):
    images, codes = ddn.sample(5, return_codes=True, generator=torch.Generator().manual_seed(1))
    again = ddn.sample(5, generator=torch.Generator().manual_seed(1))
    assert torch.equal(images, again)
    torch.testing.assert_close(ddn.sample(codes=codes), images, rtol=1e-4, atol=1e-5)
    assert ddn.training


def test_bits_are_those_of_all_codes():
    assert make("K per level").bits_per_image == pytest.approx(7.907, abs=1e-3)
    assert make("Taiji").bits_per_image == 12
    assert make("one node").bits_per_image == 0
    assert make("patches").bits_per_image == 2 * (2 * 1 + 2 * 4 + 2 * 4)
    assert make("recurrence").bits_per_image == 10


def test_sampling_is_uniform_over_nodes():
    _, codes = make("square").sample(2000, return_codes=True)
    assert all(usage(torch.bincount(column, minlength=7)) > 0.99 for column in codes.T)


@pytest.mark.parametrize("name", ["square", "recurrence", "patches", "Taiji", "attention"])
def test_it_learns(name):
    torch.manual_seed(0)
    ddn = make(name)
    corners = torch.rand(16, ddn.channels, 2, 2)
    images = torch.nn.functional.interpolate(corners, ddn.image_size, mode="bilinear")
    losses = train(ddn, images, steps=80)
    assert sum(losses[-10:]) < 0.6 * sum(losses[:10])


def test_using_a_model_changes_nothing_in_it():
    ddn = make("dropout")
    before = {name: value.clone() for name, value in ddn.state_dict().items()}
    ddn.encode(images_for(ddn))
    ddn.sample(2)
    assert ddn.training
    assert all(torch.equal(value, before[name]) for name, value in ddn.state_dict().items())
    images = images_for(ddn)
    assert torch.equal(ddn.encode(images), ddn.encode(images))  # no dropout in use


def test_no_gradient_flows_back_through_the_chosen_image():
    """What the first level's heads learn does not depend on the levels after it."""
    ddn = make("square")
    walk = ddn.walk(lambda level, sampler, f, r: sampler(f, torch.zeros_like(r), residual=r), 2)
    first = ddn.samplers[0].keys.weight
    own = torch.autograd.grad(walk.losses[0], first, retain_graph=True)[0]
    everything = torch.autograd.grad(walk.losses.sum(), first)[0]
    assert torch.equal(own, everything)


def test_modules_among_the_sampler_arguments_are_copied_for_each_level():
    arguments = {"pre_network_activation": torch.nn.PReLU(), "prenorm": True}
    ddn = DDN(**SMALL, image_size=8, codebook_size=4, guided_sampler_kwargs=arguments)
    ddn(images_for(ddn)).backward()
    own = {id(sampler.pre_network_activation) for sampler in ddn.samplers}
    assert len(own) == len(ddn.samplers)
    assert type(ddn.samplers[0].norm).__name__ == "ChannelRMSNorm"


def test_bfloat16_autocast_trains():
    ddn = make("square")
    with torch.autocast("cpu", torch.bfloat16):
        loss = ddn(images_for(ddn))
    loss.backward()
    assert torch.isfinite(loss)
    assert all(torch.isfinite(parameter.grad).all() for parameter in ddn.parameters())


def test_a_batch_of_one():
    ddn = make("colour")
    ddn(images_for(ddn, batch=1)).backward()


def test_bad_input_gets_one_sentence_before_anything_is_computed():
    ddn = make("K per level")  # K = 2, 3, 5, 8
    good = ddn.encode(images_for(ddn))
    ddn.stages = None  # any computing would fail with another error
    too_large = good.clone()
    too_large[0, 2] = 5
    cases = [
        (lambda: ddn(torch.rand(2, 1, 8, 8)), "images"),
        (lambda: ddn(torch.rand(2, 3, 8, 9)), "images"),
        (lambda: ddn(torch.rand(0, 3, 8, 8)), "batch"),
        (lambda: ddn(torch.zeros(2, 3, 8, 8, dtype=torch.long)), "floating-point numbers in"),
        (lambda: ddn.encode(torch.rand(3, 8, 8)), "images"),
        (lambda: ddn.decode(too_large), r"level 2: .*\[0, 5\)"),
        (lambda: ddn.decode(good - 9), r"level 0: .*\[0, 2\)"),
        (lambda: ddn.decode(good.float()), "integer codes"),
        (lambda: ddn.decode(good[0]), "codes of shape"),
        (lambda: ddn.decode(torch.zeros(1, 5, dtype=torch.long)), "codes of shape"),
        (lambda: ddn.decode(good[:, :0]), "codes of shape"),
        (lambda: ddn.sample(0), "batch_size"),
        (lambda: ddn.sample(2, codes=good), "batch_size"),
        (lambda: ddn.reconstruct(torch.rand(1, 3, 8, 8), levels=5), "levels from 1 to 4"),
    ]
    for call, word in cases:
        with pytest.raises(ValueError, match=word) as error:
            call()
        assert "\n" not in str(error.value)


def test_codes_are_split_by_level(ddn):
    codes = ddn.encode(images_for(ddn))
    parts = ddn.split_codes(codes)
    assert [part.shape[1:] for part in parts] == ddn.code_shapes
    assert torch.equal(torch.cat([part.reshape(3, -1) for part in parts], 1), codes)
    assert ddn.check_codes(codes) == ddn.num_levels
    assert ddn.check_codes(codes[:, : ddn.codes_per_level[0]]) == 1
    assert ddn.split_codes(codes[:, :0]) == []


def test_sizes_of_the_levels_are_those_of_their_images(ddn):
    assert ddn.level_sizes == [tuple(image.shape[2:]) for image in ddn.encode_walk(images_for(ddn)).outputs]


def test_codes_that_end_inside_a_level_are_refused():
    ddn = make("patches")
    with pytest.raises(InvalidInput, match="end with a level"):
        ddn.decode(ddn.encode(images_for(ddn))[:, :3])


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ({"codebook_size": 0}, "codebook_size"),
        ({"image_size": 0}, "image_size"),
        ({"image_size": (8, 8, 8)}, "image_size"),
        ({"channels": 0}, "channels"),
        ({"dim": 0}, "dim"),
        ({"recurrence": 0}, "recurrence"),
        ({"image_size": 20, "patch_size": 3}, "use 1 or 5"),
        ({"image_size": 8, "levels_per_resolution": [1]}, "one per resolution"),
        ({"image_size": 8, "levels_per_resolution": [1, 0]}, "full resolution"),
        ({"image_size": 8, "levels_per_resolution": [1, 1], "recurrence": 2}, r"use \[0, 1\]"),
        ({"image_size": 8, "codebook_size": [4, 4]}, "4 integers"),
        ({"image_size": 28, "attention_resolutions": (16,)}, "attention_resolutions"),
        ({"num_resnet_blocks": 0}, "num_resnet_blocks"),
        ({"guided_sampler_kwargs": {"separate_value": True}}, "separate_value"),
        ({"guided_sampler_kwargs": {"separate_values": True, "dim_values": 4}}, "3 channels"),
        ({"guided_sampler_kwargs": {"codebook_size": 4}}, "codebook_size"),
    ],
)
def test_bad_arguments_get_one_sentence(arguments, word):
    with pytest.raises(InvalidInput, match=word):
        DDN(**{"dim": 8, "dim_max": 8, **arguments})


@pytest.mark.parametrize("name", ["square", "patches", "sampler options"])
def test_training_step_and_decode_compile_whole(name):
    ddn = make(name)
    images = images_for(ddn)
    torch.compile(ddn, fullgraph=True, backend="aot_eager")(images).backward()
    assert all(parameter.grad is not None for parameter in ddn.parameters())
    ddn.eval()
    codes = ddn.encode(images)
    decode = torch.compile(ddn.decode, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(decode(codes), ddn.decode(codes), rtol=1e-4, atol=1e-5)


def test_the_readme_network_trains_in_four_gib():
    """`DDN(dim=32, image_size=256)`, a step on a batch of 2 with Adam, in a process of its own."""
    code = """
import resource, torch
from discrete_distribution_network import DDN
ddn = DDN(dim=32, image_size=256)
assert all(len(stage.levels) >= 2 for stage in ddn.stages)
optimizer = torch.optim.Adam(ddn.parameters())
ddn(torch.rand(2, 3, 256, 256)).backward()
optimizer.step()
assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < 4 * 2**20, "more than 4 GiB"
"""
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["square", "sampler options"])
def test_inductor_compiles_and_agrees(name):
    ddn = make(name)
    images = images_for(ddn)
    compiled = torch.compile(ddn, fullgraph=True)
    compiled(images).backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in ddn.parameters())
    ddn.eval()
    torch.testing.assert_close(compiled(images), ddn(images), rtol=1e-4, atol=1e-5)
    codes = ddn.encode(images)
    decode = torch.compile(ddn.decode, fullgraph=True)
    torch.testing.assert_close(decode(codes), ddn.decode(codes), rtol=1e-4, atol=1e-5)


def test_names_of_the_published_package_can_be_imported_from_its_module():
    from discrete_distribution_network import ddn
    from discrete_distribution_network.data.datasets import ImageDataset

    assert ddn.DDN is DDN
    assert ddn.Trainer is Trainer
    assert ddn.ImageDataset is ImageDataset
    with pytest.raises(AttributeError, match="nothing"):
        ddn.nothing  # noqa: B018
