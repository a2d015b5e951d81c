"""What README and documentation imported in version 0.3 can be imported in this one, with a warning."""

import importlib
import subprocess
import sys

import pytest

import discrete_distribution_network
from discrete_distribution_network._moved import NAMES

PACKAGE = "discrete_distribution_network"
STILL = {
    "": "DDN GuidedSampler ImageCodec Prior SamplerOutput Trainer split_and_prune_",
    ".ddn": "DDN GuidedSampler ImageDataset Trainer Walk split_and_prune_",
    ".data": "ImageDataset ImageFiles Pixels Split open_data",
    ".prior": "Chain Frequencies LearnedPrior Prior fit temperatures",
    ".codec": "ImageCodec",
    ".errors": "DDNError DataError InvalidInput ModelFileError OutputError",
}
MOVED = {
    "bitstream": "CodeFileError Reader",
    "candidates": "Candidates",
    "checkpoints": "Checkpoints",
    "classifier": "Classifier accuracy train_classifier",
    "code_prior": "CodePrior fit_codes",
    "code_transformer": "CodeTransformer",
    "conditions": (
        "Cheap Classifier Clip ColorStrokes Colorize Condition Custom Edges Inpaint LowBit Match Style SuperResolve"
    ),
    "config": "TrainConfig load_config",
    "frechet": "frechet_distance frechet_figures inception statistics",
    "guided_sampler": "GuidedSampler",
    "images": "find_images load_image to_pixels",
    "loader": "Loader first_batch in_order",
    "metrics": "evaluate psnr usage_by_level",
    "pictures": "grid to_pil",
    "presets": "preset recipe",
    "pretrained": "released",
    "report": "read_metrics",
    "runs": "load_model load_prior model_folder",
    "search": "neighbours",
    "selection": "Branches Contrasted Drawn Given InOrder Likely Nearest SamplerOutput Selection Uniform",
    "shown_with": "shown_with",
    "split_and_prune": "apply_plan plan_split_and_prune",
    "trainer": "Trainer",
    "tree": "nested_grids",
    "whole_folder": "check seal",
}


@pytest.mark.parametrize("module", STILL)
def test_what_has_not_moved(module):
    found = importlib.import_module(PACKAGE + module)
    assert [name for name in STILL[module].split() if not hasattr(found, name)] == []


@pytest.fixture
def fresh(monkeypatch):
    """Imports an old path as if for the first time."""

    def load(module):
        monkeypatch.delitem(sys.modules, f"{PACKAGE}.{module}", raising=False)
        with pytest.warns(DeprecationWarning, match=rf"{PACKAGE}\.{module} is {PACKAGE}\.[\w.]+ now"):
            return importlib.import_module(f"{PACKAGE}.{module}")

    return load


@pytest.mark.parametrize("module", MOVED)
def test_old_paths_warn_and_give_what_there_is_now(module, fresh):
    found = fresh(module)
    for name in MOVED[module].split():
        if name not in NAMES:
            getattr(found, name)
        else:
            with pytest.warns(DeprecationWarning, match=f"{name} is {NAMES[name]} now"):
                assert getattr(found, name).__name__ == NAMES[name]


def test_a_module_as_an_attribute(fresh):
    fresh("split_and_prune")
    assert discrete_distribution_network.split_and_prune.apply_plan.__module__.endswith(".model.split_and_prune")


def test_what_never_was_is_not_there(fresh):
    with pytest.raises(ImportError):
        importlib.import_module(f"{PACKAGE}.never")
    with pytest.raises(AttributeError, match=rf"'{PACKAGE}\.search' has no attribute 'never'"):
        _ = fresh("search").never


def test_the_warning_names_the_line_that_imports():
    code = f"import {PACKAGE}\nfrom {PACKAGE}.presets import preset"
    run = subprocess.run([sys.executable, "-W", "always", "-c", code], capture_output=True, text=True)
    assert run.stderr.startswith("<string>:2: DeprecationWarning")
