"""Chances of codes in integers: exact, learnt, saved."""

import hashlib
import math

import pytest
import torch
from entropy import SHAPES, any_codes, any_model, fixed_model
from small import colour_ddn, small_ddn

from discrete_distribution_network.errors import InvalidInput, ModelFileError
from discrete_distribution_network.model.tensors import by_level
from discrete_distribution_network.prior.entropy_model import (
    ACTIVATION_UNIT,
    ENTROPY_MODEL,
    EXP,
    SCORE_UNIT,
    WEIGHT_UNIT,
    EntropyModel,
)
from discrete_distribution_network.training.entropy_fitting import fit_entropy_model


def all_counts(model, codes):
    state, found = model.begin(len(codes)), []
    for level, part in enumerate(by_level(codes, SHAPES)):
        found.append(model.counts(level, state))
        state = model.follow(level, part, state)
    return found


def test_counts_are_chances_as_the_network_has_them():
    model, codes = any_model(), any_codes(40)
    with torch.no_grad():
        expected = model.bits(codes)
    model.exact()
    counts = all_counts(model, codes)
    for own in counts:
        assert own.dtype == torch.int64
        assert int(own.min()) >= 1
        assert bool((own.sum(1) == 2**16).all())
    for own, part, bits in zip(counts, by_level(codes, model.grids), expected, strict=True):
        cost = (16 - own.gather(1, part.unsqueeze(1)).double().log2()).sum() / len(codes)
        # unlikely codes cost less than they should, since no count is below 1
        assert float(cost) == pytest.approx(float(bits), rel=0.05)
    assert model.cost(codes) == pytest.approx(float(expected.sum()), rel=0.05)


def test_it_is_the_same_to_the_last_bit_in_any_order():
    """Batches, threads and the order of sums, here that of the channels, change nothing."""
    model, codes = any_model().exact(), any_codes(9)
    want = all_counts(model, codes)
    threads = torch.get_num_threads()
    for number in (1, 2, 3):
        torch.set_num_threads(number)
        for row in (0, 4, 8):
            for own, whole in zip(all_counts(model, codes[row : row + 1]), want, strict=True):
                assert torch.equal(own, whole[row : row + 1])
    torch.set_num_threads(threads)
    turned = any_model().exact()
    with torch.no_grad():
        for level in turned.levels:
            order, inner = torch.randperm(20), torch.randperm(20)
            level.first.weight.copy_(level.first.weight[order])
            level.first.bias.copy_(level.first.bias[order])
            level.second.weight.copy_(level.second.weight[inner][:, order])
            level.second.bias.copy_(level.second.bias[inner])
            level.score.weight.copy_(level.score.weight[:, inner])
            level.rest.weight.copy_(level.rest.weight[:, inner])
    for own, whole in zip(all_counts(turned, codes), want, strict=True):
        assert torch.equal(own, whole)


def test_what_is_computed_is_fixed_point_numbers_that_float64_holds():
    model, codes = any_model().exact(), any_codes(30)
    for parameter in model.parameters():
        assert torch.equal(parameter / WEIGHT_UNIT, (parameter / WEIGHT_UNIT).round())
    state = model.begin(len(codes))
    for level, part in enumerate(by_level(codes, SHAPES)):
        state = model.follow(level, part, state)
        assert torch.equal(state / ACTIVATION_UNIT, (state / ACTIVATION_UNIT).round())
    assert float(state.abs().max()) > 1
    # largest sum: 128 + place, times 8, over 3x3 places of as many channels as a model will have, in parts of 2^-24
    assert 9 * 1024 * 136 * 8 * 2**24 < 2**53


def test_golden_counts():
    """What files were written with must never change."""
    counts = torch.cat([own.flatten() for own in all_counts(fixed_model(), any_codes(1, seed=3))])
    assert hashlib.sha256(counts.numpy().tobytes()).hexdigest() == GOLDEN
    # the table of the exponential: no entry is where another machine's last digit could round it otherwise
    exact = torch.tensor([2**24 * math.exp(-place * SCORE_UNIT) for place in range(len(EXP))], dtype=torch.float64)
    assert float((exact - exact.floor() - 0.5).abs().min()) > 1e-5
    assert torch.equal(EXP, exact.round().long())


GOLDEN = "f536f728de37e6179a66a735bf6ff215dec4ad10a5da6a6ed3bf7cfec37a50a4"


def test_it_learns_which_codes_follow_which():
    ddn = small_ddn(codebook_size=8)  # levels of one code each
    first = torch.randint(8, (400, 1), generator=torch.Generator().manual_seed(1))
    codes = torch.cat([(first + shift) % 8 for shift in range(ddn.num_levels)], 1)
    model = EntropyModel.of(ddn, dim=16, hidden=16)
    fitted = fit_entropy_model(
        model, codes[:300], codes[300:], steps=200, minutes=None, learning_rate=1e-2, progress=False
    )
    assert fitted.uniform_bits == ddn.bits_per_image
    # the first code says all others
    assert 2.5 < fitted.test_bits < 3.8
    assert model.cost(codes[300:]) == fitted.test_bits


def test_saved_and_loaded(tmp_path):
    ddn = colour_ddn()
    model = EntropyModel.of(ddn, dim=8, hidden=12)
    with pytest.raises(InvalidInput, match="made exact"):
        model.begin(1)
    model.exact().save(tmp_path)
    loaded = EntropyModel.load(tmp_path, ddn)
    assert loaded.fingerprint == model.fingerprint
    codes = ddn.encode(torch.rand(5, 3, 16, 16))
    assert loaded.cost(codes) == model.cost(codes)
    with torch.no_grad():
        model.levels[0].place[0] += WEIGHT_UNIT
    assert loaded.fingerprint != model.fingerprint


def test_files_that_do_not_fit_are_told(tmp_path):
    ddn = colour_ddn()
    with pytest.raises(ModelFileError, match="found none"):
        EntropyModel.load(tmp_path, ddn)
    EntropyModel.of(ddn, dim=8, hidden=12).exact().save(tmp_path)
    with pytest.raises(ModelFileError):
        EntropyModel.load(tmp_path, small_ddn())
    (tmp_path / ENTROPY_MODEL).write_bytes(b"nothing")
    with pytest.raises(ModelFileError):
        EntropyModel.load(tmp_path, ddn)


def test_it_is_a_prior_to_draw_by():
    ddn = colour_ddn()
    model = EntropyModel.of(ddn, dim=8, hidden=12).exact()
    images = ddn.sample(3, prior=model, temperature=0.7, generator=torch.Generator().manual_seed(0))
    assert images.shape == (3, 3, 16, 16)
    with pytest.raises(InvalidInput, match="no labels"):
        model.begin(2, torch.zeros(2))


def test_whole_codes_are_dropped_and_the_others_scaled_up():
    level = any_model().levels[2]
    state, hidden, codes = torch.zeros(4000, 12, 2, 2), torch.zeros(4000, 20, 2, 2), torch.full((4000, 2, 2), 5)
    with torch.no_grad():
        level.rest.bias.zero_()
        learnt = level.update(state, hidden, codes, dropout=0.25)
        row = level.nodes.weight[5]
    gone = (learnt == 0).all(1)
    assert float(gone.float().mean()) == pytest.approx(0.25, abs=0.02)
    torch.testing.assert_close(learnt.movedim(1, -1)[~gone], (row / 0.75).expand(int((~gone).sum()), -1))
