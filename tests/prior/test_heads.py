"""`Prior`: what each patch is conditioned on, and its arguments."""

import pytest
import torch
from small import small_ddn

from discrete_distribution_network.errors import InvalidInput
from discrete_distribution_network.prior.heads import Prior, shifted


def test_patches_know_those_before_them_and_no_others(perturbed):
    ddn = small_ddn(image_size=16, patch_size=[None, None, 4], levels_per_resolution=[1, 0, 1]).eval()
    prior = perturbed(Prior(ddn, dim=8)).eval()
    seen = []

    def scores_with(codes):
        """The scores (16, K) of the places of the last level, as these codes (16,) are picked one after the other."""
        asked = []

        def pick(scores):
            asked.append(scores[0])
            return torch.full(scores.shape[:-1], int(codes[len(asked) - 1]))

        def watched(level, sampler, features, residual):
            if level == 1:
                prior.draw(level, features, prior.begin(1).expand(-1, -1, 4, 4), pick)
                seen.append(prior.logits(level, features, prior.begin(1).expand(-1, -1, 4, 4)))
            return sampler.draw(features, torch.zeros(sampler.codes_shape(features), dtype=torch.long), residual)

        with torch.no_grad():
            ddn.walk(watched, 1)
        return torch.stack(asked)

    plain = scores_with([0] * 16)
    for place in (0, 5, 15):
        codes = [0] * 16
        codes[place] = 3
        changed = (scores_with(codes) - plain).abs().amax(1) > 1e-5
        row, column = divmod(place, 4)
        # those it stands before: on the right, and the three below; beyond these by way of none
        near = {(row, column + 1), *((row + 1, column + step) for step in (-1, 0, 1))}
        assert {divmod(int(i), 4) for i in changed.nonzero()} == {(i, j) for i, j in near if i < 4 and 0 <= j < 4}
    # asked for all at once it is as if none were known, which is how the first place is drawn
    assert torch.allclose(seen[0][0, :, 0, 0], plain[0], atol=1e-5)
    assert not torch.allclose(seen[0][0, :, 1, 1], plain[5], atol=1e-3)


def test_shifted_by_hand():
    grid = torch.arange(1.0, 7).reshape(1, 2, 3, 1)
    assert shifted(grid, ((0, -1), (1, 1))).tolist() == [[[[0, 5], [1, 6], [2, 0]], [[0, 0], [4, 0], [5, 0]]]]


def test_the_old_name_of_independent_fraction_works_for_one_release():
    with pytest.warns(DeprecationWarning, match="alone is now independent_fraction"):
        prior = Prior(small_ddn(), dim=4, alone=0.3)
    assert prior.independent_fraction == 0.3
    assert Prior(small_ddn(), 4, None, 0.1, 0.2).independent_fraction == 0.2
    with pytest.raises(InvalidInput, match=r"independent_fraction in \[0, 1\], got 2"):
        Prior(small_ddn(), dim=4, independent_fraction=2)


def test_patches_of_the_independent_fraction_do_not_see_one_another(perturbed):
    ddn, images = small_ddn(patch_size=[None, 4]).eval(), torch.rand(6, 1, 8, 8)
    prior, bits = perturbed(Prior(ddn, dim=8, dropout=0.0)).train(), []
    for fraction in (0.0, 1.0):
        prior.independent_fraction = fraction
        with torch.no_grad():
            bits.append(prior.bits(ddn, images))
    is_global, apart = torch.tensor([head.is_global for head in prior.heads]), (bits[0] - bits[1]).abs()
    assert bool((apart[is_global] < 1e-5).all())
    assert bool((apart[~is_global] > 1e-3).all())
