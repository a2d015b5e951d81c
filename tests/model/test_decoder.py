"""The decoder: it changes no code, learns by itself, and is there wherever a finished image is."""

import pytest
import torch
from small import digits, pictures, small_ddn

from discrete_distribution_network import DDN
from discrete_distribution_network.errors import InvalidInput
from discrete_distribution_network.guidance import Match
from discrete_distribution_network.model.decoder import Decoder

IMAGES = digits(6) / 255


def with_decoder(**settings):
    ddn = small_ddn(**{"patch_size": [None, 4], "decoder_dim": 8, **settings}).eval()
    with torch.no_grad():
        ddn.decoder.exit.weight.normal_(0, 0.1, generator=torch.Generator().manual_seed(0))
    return ddn


def test_it_is_the_identity_at_first():
    plain, decoded = small_ddn().eval(), small_ddn(decoder_dim=8).eval()
    assert torch.equal(plain.reconstruct(IMAGES), decoded.reconstruct(IMAGES))
    assert torch.equal(plain.encode(IMAGES), decoded.encode(IMAGES))


def test_codes_and_outputs_do_not_depend_on_it():
    plain, decoded = small_ddn(patch_size=[None, 4]).eval(), with_decoder()
    one, other = plain.encode_walk(IMAGES), decoded.encode_walk(IMAGES)
    assert torch.equal(one.codes, other.codes)
    assert all(map(torch.equal, one.outputs, other.outputs))
    assert not torch.equal(plain.finish(one), decoded.finish(other))
    assert torch.equal(plain.finish(one), one.outputs[-1])
    assert torch.equal(decoded.pictures(other)[-1], decoded.finish(other))


@pytest.mark.parametrize("beams", [1, 3])
def test_every_finished_image_is_decoded(beams):
    ddn = with_decoder()
    codes = ddn.encode(IMAGES, beams=beams)
    images = ddn.decode(codes)
    torch.testing.assert_close(ddn.finish(ddn.encode_walk(IMAGES, beams=beams)), images)
    torch.testing.assert_close(ddn.guide(Match(IMAGES), beams=beams, prior=None).images, images)
    if beams == 1:
        torch.testing.assert_close(ddn.reconstruct(IMAGES), images)
    drawn, codes = ddn.sample(5, return_codes=True)
    torch.testing.assert_close(ddn.decode(codes), drawn)


def test_a_coarser_image_is_not():
    ddn = with_decoder()
    levels = ddn.num_levels - 1
    coarse = ddn.reconstruct(IMAGES, levels=levels)
    assert torch.equal(coarse, small_ddn(patch_size=[None, 4]).eval().reconstruct(IMAGES, levels=levels))
    assert coarse.shape == IMAGES.shape


def test_its_loss_trains_it_and_nothing_else():
    torch.manual_seed(0)
    ddn = with_decoder().train()
    loss, (_, outputs) = ddn(IMAGES, return_intermediates=True)
    by_level = ddn(IMAGES, reduction="none").mean()  # chain dropout makes it another walk
    assert loss > by_level * 0.5
    assert outputs[-1].shape == IMAGES.shape
    walk = ddn.nearest_walk(IMAGES)
    ddn.decoder_loss(walk, IMAGES).backward()
    trained = {name for name, parameter in ddn.named_parameters() if parameter.grad is not None}
    assert trained == {name for name, _ in ddn.named_parameters() if name.startswith("decoder.")}


def test_it_learns():
    torch.manual_seed(0)
    ddn = small_ddn(decoder_dim=16, sampler={"chain_dropout_prob": 0.0})
    optimizer = torch.optim.Adam(ddn.parameters(), 3e-3)
    for _ in range(150):
        optimizer.zero_grad()
        ddn(IMAGES).backward()
        optimizer.step()
    walk = ddn.eval().encode_walk(IMAGES)
    assert (ddn.finish(walk) - IMAGES).square().mean() < 0.8 * (walk.outputs[-1] - IMAGES).square().mean()


@pytest.mark.parametrize("size", [(7, 9), (8, 5), (3, 3)])
def test_sides_that_are_not_even(size):
    decoder = Decoder(2, 4, 8)
    torch.nn.init.normal_(decoder.exit.weight)
    image = torch.rand(3, 2, *size)
    decoded = decoder(torch.rand(3, 4, *size), image)
    assert decoded.shape == image.shape
    assert not torch.allclose(decoded, image)


def test_it_is_saved(tmp_path):
    ddn = with_decoder()
    ddn.save_pretrained(tmp_path)
    assert torch.equal(DDN.from_pretrained(tmp_path).eval().reconstruct(IMAGES), ddn.reconstruct(IMAGES))


def test_in_half_precision_and_in_colour():
    ddn = with_decoder(channels=3, image_size=16, patch_size=[None, 4, 8]).to(torch.bfloat16)
    assert ddn.reconstruct(pictures()).isfinite().all()


@pytest.mark.parametrize("wrong", [-1, 1.5, "8", True])
def test_a_wrong_width_is_refused(wrong):
    with pytest.raises(InvalidInput, match="decoder_dim"):
        small_ddn(decoder_dim=wrong)
