"""Networks whose priors are tested."""

import pytest
import torch
from small import small_ddn

KINDS = {
    "plain": {},
    "patches": {"patch_size": [None, 4]},
    "recurrence": {"recurrence": 2, "levels_per_resolution": [0, 2]},
    "several sizes of codebook": {"codebook_size": [3, 4, 5, 6]},
}


@pytest.fixture(params=KINDS)
def ddn(request):
    return small_ddn(**KINDS[request.param]).eval()


@pytest.fixture
def perturbed():
    """Moves the weights of a prior away from their initial values, so that no part of it is zero."""

    def perturb(prior):
        torch.manual_seed(5)
        with torch.no_grad():
            for parameter in prior.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.2)
        return prior

    return perturb
