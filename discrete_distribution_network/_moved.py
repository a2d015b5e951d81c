"""Modules that stood flat in this package until version 0.3: their old paths work for one release, with a warning.

`import discrete_distribution_network.presets` gives the module `discrete_distribution_network.training.presets`.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

PACKAGE = __name__.rpartition(".")[0]

MODULES = {
    "adversarial": "model.discriminator",
    "bitstream": "codec.bitstream",
    "blocks": "model.blocks",
    "candidates": "model.candidates",
    "checkpoints": "training.checkpoints",
    "classifier": "evaluation.classifier",
    "code_prior": "codec.entropy_model",
    "code_transformer": "prior.transformer",
    "conditions": "guidance.conditions",
    "config": "cli.config",
    "frechet": "evaluation.frechet",
    "guided_sampler": "model.guided_sampler",
    "images": "data.images",
    "loader": "data.loader",
    "metrics": "evaluation.metrics",
    "moving_average": "training.moving_average",
    "pictures": "viz.pictures",
    "presets": "training.presets",
    "pretrained": "io.pretrained",
    "processes": "training.processes",
    "range_coding": "codec.range_coding",
    "report": "training.report",
    "runs": "cli.runs",
    "schedule": "training.schedule",
    "search": "evaluation.neighbours",
    "selection": "model.selection",
    "shown_with": "conditioning",
    "split_and_prune": "model.split_and_prune",
    "trainer": "training.trainer",
    "tree": "viz.tree",
    "whole_folder": "io.atomic_folder",
}
"""Old name -> new one, both below the package."""


class _Finder(MetaPathFinder, Loader):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        package, _, name = fullname.rpartition(".")
        return ModuleSpec(fullname, self) if package == PACKAGE and name in MODULES else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        new = f"{PACKAGE}.{MODULES[spec.name.rpartition('.')[2]]}"
        warnings.warn(f"{spec.name} is now {new}; the old path goes in the next release", DeprecationWarning, 2)
        module = import_module(new)
        self._kept = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self._kept  # the import system has put the old name there


def install() -> None:
    """Let the old paths be found, after all others."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.append(_Finder())
