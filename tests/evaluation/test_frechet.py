"""Fréchet distances: against formulas with known values; the classifier learns; Inception is loaded safely."""

import math
import pickle

import numpy as np
import pytest
import torch
from small import digits, small_ddn

from discrete_distribution_network.data.sources.mnist_digits import mnist_digits
from discrete_distribution_network.errors import DataError, InvalidInput, ModelFileError
from discrete_distribution_network.evaluation.classifier import Classifier, accuracy, train_classifier
from discrete_distribution_network.evaluation.frechet import (
    Statistics,
    frechet_distance,
    frechet_figures,
    inception,
    statistics,
)


def flat(images):
    return images.flatten(1)


def test_statistics_of_batches_are_those_of_the_whole():
    images = torch.rand(50, 1, 3, 2)
    found = statistics(flat, images.split(7))
    assert found.images == 50
    torch.testing.assert_close(found.mean, images.flatten(1).double().mean(0))
    torch.testing.assert_close(found.covariance, images.flatten(1).double().T.cov())


def test_distances_that_are_known():
    def gaussian(mean, deviations):
        mean, deviations = torch.tensor(mean).double(), torch.tensor(deviations).double()
        return Statistics(100, mean, deviations.square().diag())

    one = gaussian([0.0, 0.0], [1.0, 2.0])
    assert frechet_distance(one, one) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(one, gaussian([3.0, 4.0], [1.0, 2.0])) == pytest.approx(25)
    assert frechet_distance(one, gaussian([0.0, 0.0], [3.0, 2.5])) == pytest.approx(2**2 + 0.5**2)
    with pytest.raises(InvalidInput, match="features of 2 numbers"):
        frechet_distance(one, gaussian([0.0], [1.0]))


def test_distance_against_the_matrix_root_of_scipy():
    from scipy.linalg import sqrtm

    first, second = torch.randn(40, 5).double() @ torch.randn(5, 5).double(), torch.randn(60, 5).double() + 0.3
    a, b = (statistics(lambda x: x, [features]) for features in (first, second))
    root = np.real(sqrtm(a.covariance.numpy() @ b.covariance.numpy()))
    expected = float((a.mean - b.mean).square().sum() + (a.covariance + b.covariance).trace()) - 2 * np.trace(root)
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-6)
    assert frechet_distance(b, a) == pytest.approx(expected, rel=1e-6)


def test_figures_of_a_model():
    ddn, images = small_ddn().eval(), digits(80)
    figures = frechet_figures(ddn, flat, images[:60], images[60:], count=40, batch_size=16)
    assert (figures.drawn, figures.test_images) == (40, 20)
    assert figures.floor < figures.samples
    assert all(math.isfinite(value) for value in figures)
    assert figures == frechet_figures(ddn, flat, images[:60], images[60:], count=40, batch_size=16)
    with pytest.raises(DataError, match="at least 2 images"):
        frechet_figures(ddn, flat, images, images[:1], count=4)


def test_a_classifier_learns_digits():
    split = mnist_digits()
    shape = small_ddn(image_size=32)
    some = torch.utils.data.Subset(split.train, range(0, len(split.train), 2))
    classifier = train_classifier(some, shape, epochs=4)
    assert accuracy(classifier, split.test, shape) > 0.93
    assert classifier.features(torch.rand(3, 1, 32, 32)).shape == (3, 128)
    assert accuracy(Classifier(1, 10).eval(), split.test, shape) < 0.4


def test_a_classifier_is_made_again_by_its_seed():
    split = mnist_digits()
    few, shape = torch.utils.data.Subset(split.train, range(256)), small_ddn(image_size=32)
    first, second, other = (train_classifier(few, shape, 10, epochs=1, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(first.head.weight, second.head.weight)
    assert not torch.equal(first.head.weight, other.head.weight)
    with pytest.raises(DataError, match="needs labels"):
        train_classifier(digits(), small_ddn())


@pytest.fixture(scope="module")
def inception_file(torchvision, tmp_path_factory):
    """The network with random weights: the real ones cannot be shipped."""
    from unittest.mock import patch

    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    path = tmp_path_factory.mktemp("inception") / "weights.pth"
    with (
        patch("torch_fidelity.feature_extractor_inceptionv3.load_state_dict_from_url", lambda *_, **__: {}),
        patch.object(FeatureExtractorInceptionV3, "load_state_dict", lambda *_: None),
    ):
        net = FeatureExtractorInceptionV3("inception", ["2048"])
    torch.save(net.state_dict(), path)
    return path


def test_inception_from_a_path(inception_file):
    net = inception(inception_file)
    features = net(torch.rand(2, 1, 32, 32))
    assert features.shape == (2, 2048)
    assert not torch.equal(features, net(torch.zeros(2, 3, 32, 32)))


class Harmful:
    def __reduce__(self):
        return (exec, ("raise SystemExit('a pickle was executed')",))


def test_inception_is_refused_where_its_file_is_missing_damaged_or_a_pickle(torchvision, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(ModelFileError, match="there is no file"):
        inception()
    (tmp_path / "pickle.pth").write_bytes(pickle.dumps(Harmful()))
    torch.save({"weights": Harmful()}, tmp_path / "zipped.pth")
    torch.save({"weights": torch.zeros(2)}, tmp_path / "other.pth")
    (tmp_path / "text.pth").write_text("no weights")
    for name in ("pickle", "zipped", "other", "text"):
        with pytest.raises(ModelFileError, match=f"{name}.pth"):
            inception(tmp_path / f"{name}.pth")
