"""Priors by counting: what they count, and that samples follow it."""

import pytest
import torch
from small import small_ddn

from discrete_distribution_network.errors import InvalidInput
from discrete_distribution_network.prior.counts import Chain, Frequencies


def test_frequencies_and_chain_by_hand():
    ddn = small_ddn(codebook_size=3, levels_per_resolution=[0, 2])
    codes = torch.tensor([[0, 1], [0, 1], [0, 2], [2, 0]])
    chances = Frequencies.of(ddn, codes).logits(0, torch.zeros(1), 1).softmax(1)
    torch.testing.assert_close(chances, torch.tensor([[4, 1, 2]]) / 7)  # one more each
    chain = Chain.of(ddn, codes)
    state = chain.follow(0, torch.tensor([0, 2, 1]), chain.begin(3, None))
    chances = chain.logits(1, torch.zeros(1), state).softmax(1)
    expected = torch.tensor([[0 + 1 / 3, 2 + 1 / 3, 1 + 1 / 3], [1 + 1 / 3, 1 / 3, 1 / 3], [1 / 3] * 3])
    torch.testing.assert_close(chances, expected / expected.sum(1, keepdim=True))
    for plain in (chain, Frequencies.of(ddn, codes)):
        with pytest.raises(InvalidInput, match="labels"):
            plain.begin(2, torch.zeros(2))
        assert ddn.sample(5, prior=plain).shape == (5, 1, 8, 8)


def test_a_chain_asks_the_code_that_lay_at_the_same_place():
    ddn = small_ddn(codebook_size=4, levels_per_resolution=[1, 2], patch_size=[None, 4])  # 1, then twice 2x2 codes
    upper, lower = torch.tensor([1, 2, 3, 0]), torch.tensor([3, 0, 1, 2])
    codes = torch.cat([torch.tensor([2]), upper, lower]).expand(100_000, -1)
    chain = Chain.of(ddn, codes)
    drawn = ddn.sample(6, return_codes=True, prior=chain, generator=torch.Generator().manual_seed(0))[1]
    assert torch.equal(drawn[:, 0], torch.full((6,), 2))
    assert set(drawn[:, 1:5].flatten().tolist()) == {0, 1, 2, 3}  # after the one code of the image each is as likely
    follows = dict(zip(upper.tolist(), lower.tolist(), strict=True))
    assert drawn[:, 5:].tolist() == [[follows[code] for code in row] for row in drawn[:, 1:5].tolist()]


def test_frequencies_of_any_network(ddn):
    # only the last node of each level is ever chosen
    last = torch.tensor(
        [ddn.codebook_sizes[level] - 1 for level, n in enumerate(ddn.codes_per_level) for _ in range(n)]
    )
    counted = Frequencies.of(ddn, last.expand(100_000, -1))
    images, codes = ddn.sample(6, return_codes=True, prior=counted, generator=torch.Generator().manual_seed(1))
    assert torch.equal(codes, last.expand(6, -1))
    torch.testing.assert_close(ddn.decode(codes), images)
