"""Metrics of reconstructions: against the same written out."""

import pytest
import torch
from small import digits, small_ddn

from discrete_distribution_network.errors import DataError
from discrete_distribution_network.evaluation.metrics import evaluate


def test_evaluation_counts_every_image_once():
    ddn, images = small_ddn(), digits(25)
    whole, parts = evaluate(ddn, images, 25), evaluate(ddn, images, 10)
    error = (ddn.reconstruct(images / 255) - images / 255).square().mean()
    assert whole.images == parts.images == 25
    assert whole.error == pytest.approx(float(error), rel=1e-5)
    assert parts.error == pytest.approx(whole.error, rel=1e-5)
    assert parts.usage_by_level == pytest.approx(whole.usage_by_level)
    with pytest.raises(DataError, match="expected images"):
        evaluate(ddn, images[:0])


def test_the_former_name_of_cond_fn():
    ddn, images = small_ddn(cond_channels=1), digits(10)
    expected = evaluate(ddn, images, cond_fn=torch.zeros_like)
    with pytest.warns(DeprecationWarning, match="make_cond is now cond_fn") as warned:
        assert evaluate(ddn, images, make_cond=torch.zeros_like) == expected
    assert warned[0].filename == __file__
