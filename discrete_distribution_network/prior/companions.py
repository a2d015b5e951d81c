"""`Companions`: the prior and the entropy model that a model knows, saves, loads and moves with itself."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from discrete_distribution_network.errors import require, shown
from discrete_distribution_network.io.pretrained import Pretrained
from discrete_distribution_network.model.code_distribution import CodeDistribution, Own, check_prior, takes_labels
from discrete_distribution_network.model.network import Network
from discrete_distribution_network.prior.base import CONFIG, WEIGHTS, LearnedPrior, has_prior, load_prior
from discrete_distribution_network.prior.entropy_model import ENTROPY_MODEL, EntropyModel, load_entropy_model


class Companions(Network, Pretrained):
    """A network that knows a distribution of its codes; see `DDN`."""

    companions: ClassVar[tuple[str, ...]] = (CONFIG, WEIGHTS, ENTROPY_MODEL)
    _prior: CodeDistribution | None = None
    _entropy_model: EntropyModel | None = None

    @property
    def prior(self) -> CodeDistribution | None:
        return self._prior

    @prior.setter
    def prior(self, prior: CodeDistribution | None) -> None:
        if prior is not None:
            check_prior(prior)
        if isinstance(prior, LearnedPrior):
            prior.require_network(self)
        object.__setattr__(self, "_prior", prior)

    @property
    def entropy_model(self) -> EntropyModel | None:
        return self._entropy_model

    @entropy_model.setter
    def entropy_model(self, model: EntropyModel | None) -> None:
        require(model is None or isinstance(model, EntropyModel), "an EntropyModel, or None", shown(model))
        object.__setattr__(self, "_entropy_model", model)

    def __setattr__(self, name: str, value: Any) -> None:
        """Keep the prior and the entropy model out of the network's own modules."""
        if name in ("prior", "entropy_model"):
            object.__setattr__(self, name, value)
        else:
            super().__setattr__(name, value)

    def _apply(self, fn: Any, recurse: bool = True) -> Self:
        super()._apply(fn, recurse)
        if isinstance(self.prior, nn.Module):
            self.prior._apply(fn, recurse)
        return self

    def _save_pretrained(self, save_directory: Path) -> None:
        super()._save_pretrained(save_directory)
        if isinstance(self.prior, LearnedPrior):
            self.prior.save(save_directory)
        elif self.prior is not None:
            warnings.warn(f"a {type(self.prior).__name__} is not saved with its model; give it again", stacklevel=4)
        if self.entropy_model is not None:
            self.entropy_model.save(save_directory)

    def _load_companions(self, folder: Path) -> None:
        if has_prior(folder):
            self.prior = load_prior(self, folder)
        elif (folder / CONFIG).is_file():
            text = f"the prior in {folder} is of another model and is left out; fit one with `ddn prior`"
            warnings.warn(text, stacklevel=3)
        self.entropy_model = load_entropy_model(folder, self)

    def resolved(self, prior: CodeDistribution | Own | None) -> CodeDistribution | None:
        """The prior that `sample` and `guide` use for this argument."""
        return self.prior if isinstance(prior, str) and prior == "own" else prior


def prior_labels(prior: CodeDistribution | None, labels: Tensor | None, walks: int) -> Tensor | None:
    """The labels for a prior: none unless it is by class; without labels no class (-1), if it is a learned one."""
    if not takes_labels(prior):
        return None
    return torch.full((walks,), -1) if labels is None and isinstance(prior, LearnedPrior) else labels


def number_of_classes(network: Network, prior: CodeDistribution | None) -> int | None:
    """Number of classes that the network or a prior of its codes is conditioned on; None without classes."""
    return network.num_classes or getattr(prior, "num_classes", None)
