"""Module paths and names of version 0.3, which work for one more release with a `DeprecationWarning`.

So `from discrete_distribution_network.presets import preset` imports from `training/presets.py`.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterable
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

PACKAGE = __name__.rpartition(".")[0]

MODULES = {
    "adversarial": "model.discriminator",
    "bitstream": "codec.bitstream",
    "blocks": "model.blocks",
    "candidates": "model.candidates",
    "checkpoints": "training.checkpoints",
    "classifier": "evaluation.classifier",
    "code_prior": "codec",
    "code_transformer": "prior.transformer",
    "conditions": "guidance",
    "config": "cli.config",
    "frechet": "evaluation.frechet",
    "guided_sampler": "model.guided_sampler",
    "images": "data",
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
    "selection": "model",
    "shown_with": "conditioning",
    "split_and_prune": "model.split_and_prune",
    "trainer": "training.trainer",
    "tree": "viz.tree",
    "whole_folder": "io.atomic_folder",
}
"""Old module -> the module or package that now defines its names."""

NAMES = {
    "CODE_PRIOR": "ENTROPY_MODEL",
    "Cheap": "RatePenalty",
    "CodePrior": "EntropyModel",
    "Contrasted": "ClassifierFreeGuidance",
    "Drawn": "PriorSampling",
    "Given": "FixedCodes",
    "InOrder": "AutoregressiveDistribution",
    "Likely": "CodeDistribution",
    "MakeCond": "CondFn",
    "Scores": "ScoreFn",
    "alike": "projected_weights",
    "check": "verify",
    "drawn_by": "draw_codes",
    "fit_codes": "fit_entropy_model",
    "seal": "write_manifest",
    "shown_with": "conditioning_inputs",
    "write": "write_atomically",
}
"""Old name -> new one, in those modules."""

ELSEWHERE = {"load_prior": "prior.base"}
"""Names that went elsewhere than the other names of their old module -> the module that now has them."""


class _Finder(MetaPathFinder, Loader):
    def find_spec(
        self, fullname: str, path: Iterable[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        package, _, name = fullname.rpartition(".")
        return ModuleSpec(fullname, self) if package == PACKAGE and name in MODULES else None

    def exec_module(self, module: ModuleType) -> None:
        """Give a module a `__getattr__` that looks its names up in the new module."""
        old = module.__name__
        new = import_module(f"{PACKAGE}.{MODULES[old.rpartition('.')[2]]}")
        warnings.warn(f"{old} is {new.__name__} now; the old path goes in the next release", DeprecationWarning, 2)

        def get(name: str) -> Any:
            found = NAMES.get(name, name)
            home = import_module(f"{PACKAGE}.{ELSEWHERE[name]}") if name in ELSEWHERE else new
            if found.startswith("__") or not hasattr(home, found):
                raise AttributeError(f"module {old!r} has no attribute {name!r}")
            if found != name:
                warnings.warn(f"{name} is {found} now; the old name goes in the next release", DeprecationWarning, 2)
            return getattr(home, found)

        module.__getattr__ = get  # type: ignore[method-assign]


def install() -> None:
    """Add the finder of the old paths to `sys.meta_path`, after all others."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.append(_Finder())
