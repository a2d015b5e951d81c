"""Discrete Distribution Networks: images drawn by choosing, level after level, one of K candidates.

The names below are imported when first used, so that `ddn --help` need not wait for PyTorch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from discrete_distribution_network import _moved
from discrete_distribution_network._lazy import lazy

if TYPE_CHECKING:
    from discrete_distribution_network.codec import ImageCodec
    from discrete_distribution_network.ddn import DDN
    from discrete_distribution_network.model import GuidedSampler, SamplerOutput, split_and_prune_
    from discrete_distribution_network.prior import Prior
    from discrete_distribution_network.training import Trainer

__all__ = ["DDN", "GuidedSampler", "ImageCodec", "Prior", "SamplerOutput", "Trainer", "split_and_prune_"]

_moved.install()
_get = lazy(
    __name__,
    {
        "DDN": "ddn",
        "GuidedSampler": "model",
        "ImageCodec": "codec",
        "Prior": "prior",
        "SamplerOutput": "model",
        "Trainer": "training",
        "split_and_prune_": "model",
    },
)


def __getattr__(name: str) -> Any:
    return import_module(f"{__name__}.{name}") if name in _moved.MODULES else _get(name)
