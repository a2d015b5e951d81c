"""The table of the kinds of priors, which knows their classes by name only."""

from importlib import import_module
from pkgutil import iter_modules

import pytest

from discrete_distribution_network import prior
from discrete_distribution_network.cli.main import parse
from discrete_distribution_network.cli.reference import help_text
from discrete_distribution_network.prior import PRIORS, LearnedPrior, prior_class


@pytest.mark.parametrize("kind", PRIORS)
def test_a_kind_is_that_of_its_class(kind):
    found = prior_class(kind)
    assert issubclass(found, LearnedPrior)
    assert found.kind == kind
    assert parse(["prior", "--kind", kind]).kind == kind
    assert f"{kind}: {PRIORS[kind].help}" in " ".join(help_text("prior").split())


def test_every_learned_prior_is_a_kind():
    modules = [import_module(f"{prior.__name__}.{module.name}") for module in iter_modules(prior.__path__)]
    classes = {one for module in modules for one in vars(module).values() if isinstance(one, type)}
    learned = {one for one in classes if issubclass(one, LearnedPrior) and one is not LearnedPrior}
    assert learned == {prior_class(kind) for kind in PRIORS}
