"""Images: files and folders of them, data sets, and batches."""

import warnings
from typing import Any

from discrete_distribution_network.data.datasets import (
    ImageDataset,
    ImageFiles,
    Pixels,
    Split,
    is_stream,
    split_indices,
)
from discrete_distribution_network.data.fingerprint import fingerprint
from discrete_distribution_network.data.image_folder import find_images
from discrete_distribution_network.data.images import load_image, to_pixels
from discrete_distribution_network.data.items import Item
from discrete_distribution_network.data.loader import Batch, Loader, in_order
from discrete_distribution_network.data.sources import open_data
from discrete_distribution_network.data.sources.folder import folder_split
from discrete_distribution_network.data.sources.hugging_face import hugging_face_split
from discrete_distribution_network.data.sources.idx import idx_split
from discrete_distribution_network.data.sources.mnist_digits import mnist_digits
from discrete_distribution_network.data.sources.torchvision import torchvision_split

__all__ = [
    "Batch",
    "ImageDataset",
    "ImageFiles",
    "Item",
    "Loader",
    "Pixels",
    "Split",
    "find_images",
    "fingerprint",
    "folder_split",
    "hugging_face_split",
    "idx_split",
    "in_order",
    "is_stream",
    "load_image",
    "mnist_digits",
    "open_data",
    "split_indices",
    "to_pixels",
    "torchvision_split",
]


def __getattr__(name: str) -> Any:
    if name != "held_out":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    warnings.warn("held_out is now split_indices; the old name goes in the next release", DeprecationWarning, 2)
    return split_indices
