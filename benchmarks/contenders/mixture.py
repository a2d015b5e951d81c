"""A mixture of Gaussians on principal components (scikit-learn): the cheapest thing that draws clothes."""

from __future__ import annotations

import time
import warnings

import torch
from common import Clock, Contender, Data, main
from sklearn.decomposition import PCA
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture


class Mixture(Contender):
    def train(self, data: Data, clock: Clock) -> None:
        images = data.train.reshape(len(data.train), -1) / 255.0
        self.components = PCA(100, random_state=0).fit(images)
        points = self.components.transform(images)
        self.mixture = GaussianMixture(100, reg_covar=1e-4, max_iter=5, warm_start=True, random_state=0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            started = time.monotonic()
            while clock.spent() < 1 and not getattr(self.mixture, "converged_", False):
                self.mixture.fit(points)
                self.seen += len(points) * self.mixture.n_iter_
        self.training_seconds = time.monotonic() - started

    def sample(self, count: int) -> torch.Tensor:
        points, _ = self.mixture.sample(count)
        self.mixture.random_state += 1  # else every call draws the same
        points = points[torch.randperm(count).numpy()]  # they come component by component
        images = self.components.inverse_transform(points)
        return torch.from_numpy(images).float().reshape(count, 1, 32, 32).clamp(0, 1)

    def parameters(self) -> int:
        mixture, components = self.mixture, self.components
        return sum(
            array.size
            for array in (
                mixture.means_,
                mixture.covariances_,
                mixture.weights_,
                components.components_,
                components.mean_,
            )
        )


if __name__ == "__main__":
    main(Mixture())
