"""Discrete Distribution Networks: images drawn by choosing, level after level, one of K candidates.

The names below are imported when first used, so that `ddn --help` need not wait for PyTorch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from discrete_distribution_network.codec import ImageCodec
    from discrete_distribution_network.ddn import DDN
    from discrete_distribution_network.guided_sampler import GuidedSampler
    from discrete_distribution_network.prior import Prior
    from discrete_distribution_network.selection import SamplerOutput
    from discrete_distribution_network.split_and_prune import split_and_prune_
    from discrete_distribution_network.trainer import Trainer

__all__ = ["DDN", "GuidedSampler", "ImageCodec", "Prior", "SamplerOutput", "Trainer", "split_and_prune_"]

_HOME = {
    "DDN": "ddn",
    "GuidedSampler": "guided_sampler",
    "ImageCodec": "codec",
    "Prior": "prior",
    "SamplerOutput": "selection",
    "Trainer": "trainer",
    "split_and_prune_": "split_and_prune",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    # not kept in globals(): `split_and_prune` stays the submodule of that name, whatever is imported first
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
