"""The kinds of learned priors, for `ddn prior --kind` and `prior.json`; needs no PyTorch, so that `--help` is quick."""

from __future__ import annotations

from typing import NamedTuple


class Kind(NamedTuple):
    """A kind of learned prior.

    Attributes:
        module: of its class, in this package.
        name: of its class, a subclass of `LearnedPrior`.
        help: its description in `ddn prior --help`.
    """

    module: str
    name: str
    help: str


PRIORS = {
    "heads": Kind("heads", "Prior", "a head on the network's features at each level (default)"),
    "transformer": Kind("transformer", "CodeTransformer", "over the codes alone"),
}
"""By the name that each has as `LearnedPrior.kind`; `base.prior_class` gives the class."""
