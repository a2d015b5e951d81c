"""The table of the kinds of priors, which knows their classes by name only."""

import pytest

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
    for kind in PRIORS:
        prior_class(kind)  # imports its module
    assert {one.kind for one in LearnedPrior.__subclasses__()} == set(PRIORS)
