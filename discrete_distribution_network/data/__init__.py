"""Images: files and folders of them, data sets, and batches."""

from discrete_distribution_network.data.datasets import (
    ImageDataset,
    ImageFiles,
    Item,
    Split,
    folder_split,
    held_out,
    hugging_face_split,
    idx_split,
    is_stream,
    mnist_digits,
    open_data,
    torchvision_split,
)
from discrete_distribution_network.data.image_folder import find_images
from discrete_distribution_network.data.images import load_image, to_pixels
from discrete_distribution_network.data.loader import Batch, Loader, in_order

__all__ = [
    "Batch",
    "ImageDataset",
    "ImageFiles",
    "Item",
    "Loader",
    "Split",
    "find_images",
    "folder_split",
    "held_out",
    "hugging_face_split",
    "idx_split",
    "in_order",
    "is_stream",
    "load_image",
    "mnist_digits",
    "open_data",
    "to_pixels",
    "torchvision_split",
]
