"""Images at every door: uint8 is scaled, floats are kept, what is neither is refused in one sentence."""

import warnings

import numpy as np
import pytest
import torch

from discrete_distribution_network.errors import InvalidInput
from discrete_distribution_network.model import pixels
from discrete_distribution_network.model.pixels import as_pixels, require_finite, warn_of_range

SHAPE = (None, 3, 4, 5)


def test_uint8_is_scaled_and_floats_are_kept():
    whole = torch.randint(0, 256, (2, 3, 4, 5), dtype=torch.uint8)
    scaled = as_pixels(whole, SHAPE)
    assert scaled.dtype == torch.float32
    assert torch.equal(scaled, whole.float() / 255)
    assert float(as_pixels(torch.full((1, 3, 4, 5), 255, dtype=torch.uint8), SHAPE).min()) == 1
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        images = torch.rand(2, 3, 4, 5).to(dtype)
        assert as_pixels(images, SHAPE) is images


def test_an_empty_batch_is_one_sentence():
    with pytest.raises(InvalidInput, match=r"photos .*got \(0, 3, 4, 5\)"):
        as_pixels(torch.zeros(0, 3, 4, 5), SHAPE, "photos")


@pytest.mark.parametrize("shape", [(3, 4, 5), (2, 3, 4, 6), (2, 1, 4, 5), (1, 2, 3, 4, 5), ()])
def test_another_shape_is_one_sentence(shape):
    with pytest.raises(InvalidInput, match=r"photos of shape \(any, 3, 4, 5\), got \(") as raised:
        as_pixels(torch.zeros(shape), SHAPE, "photos")
    assert "\n" not in str(raised.value)
    with pytest.raises(InvalidInput):
        as_pixels(torch.zeros(shape, dtype=torch.uint8), SHAPE)


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.int8, torch.bool, torch.complex64])
def test_another_type_is_one_sentence(dtype):
    with pytest.raises(InvalidInput, match=str(dtype)):
        as_pixels(torch.zeros(2, 3, 4, 5, dtype=dtype), SHAPE)


@pytest.mark.parametrize("images", [None, [[1.0]], np.zeros((2, 3, 4, 5)), "image.png", 3])
def test_what_is_no_tensor_is_one_sentence(images):
    with pytest.raises(InvalidInput, match=f"a tensor, got a {type(images).__name__}"):
        as_pixels(images, SHAPE)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_pixels_that_are_not_finite_are_refused(value):
    images = torch.rand(2, 3, 4, 5)
    require_finite(images)
    images[1, 2, 3, 4] = value
    with pytest.raises(InvalidInput, match="scans with finite pixels"):
        require_finite(images, "scans")


@pytest.mark.parametrize(("low", "high"), [(-1, 1), (0, 255), (-3, 3)])
def test_another_range_is_warned_of_once(monkeypatch, low, high):
    monkeypatch.setattr(pixels, "_warned_of", set())
    images = torch.tensor([float(low), float(high)])
    with pytest.warns(UserWarning, match=rf"\[{low}, {high}\]"):
        warn_of_range(images)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_range(images)
        for fine in (torch.rand(9), torch.tensor([-0.2, 1.2]), torch.empty(0)):
            warn_of_range(fine, "others")
    with pytest.warns(UserWarning, match="masks"):
        warn_of_range(images, "masks")
