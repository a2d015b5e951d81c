"""Data sets of torchvision, by the names of their classes."""

from __future__ import annotations

import inspect
from importlib import import_module
from pathlib import Path
from typing import Any

from torch.utils.data import Subset

from discrete_distribution_network.data.datasets import Split, split_indices
from discrete_distribution_network.data.sources.request import DataRequest
from discrete_distribution_network.errors import DataError, one_line

PREFIX = "torchvision:"


def open_source(request: DataRequest) -> Split | None:
    """`torchvision:CIFAR10` and the like."""
    if not request.name.startswith(PREFIX):
        return None
    return torchvision_split(request.name.removeprefix(PREFIX), request.root, request.test_share)


def import_torchvision(module: str) -> Any:
    """A module of torchvision, such as transforms.v2.

    Raises:
        DataError: torchvision is not installed, or for another version of torch.
    """
    try:
        return import_module(f"torchvision.{module}")
    except (ImportError, RuntimeError) as error:  # RuntimeError: a torchvision built for another torch
        raise DataError(
            f"expected torchvision, which cannot be imported ({error}); install the torchvision of your torch's version"
        ) from error


def torchvision_split(name: str, root: str | Path = "data", test_share: float = 0.1) -> Split:
    """A data set of torchvision by its class's name, such as CIFAR10, from `root` or downloaded into it.

    Raises:
        DataError: there is no such data set, or it cannot be downloaded.
    """
    collection = import_torchvision("datasets")
    kind: Any = getattr(collection, name, None)
    if not isinstance(kind, type):
        raise DataError(f"expected the name of one of torchvision's data sets, got {name}; CIFAR10 is one")
    arguments = inspect.signature(kind).parameters
    places = {name: value for name, value in (("root", str(root)), ("download", True)) if name in arguments}
    try:
        if "train" in arguments:
            return Split(*(kind(**places, train=train) for train in (True, False)))
        if "split" in arguments:
            return Split(*(kind(**places, split=part) for part in ("train", "test")))
        whole: Any = kind(**places)
    except Exception as error:  # each data set raises its own
        raise DataError(
            f"expected torchvision's {name} in {root}, or to fetch it there, but {one_line(error)}"
        ) from error
    return Split(*(Subset(whole, part) for part in split_indices(len(whole), test_share)))
