"""How likely codes are: the protocols of a prior, and how codes are drawn from one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from discrete_distribution_network.errors import is_number, require, shown


class CodeDistribution(Protocol):
    """What a prior is (see `prior.py`): it says, level after level, how likely each node is."""

    def begin(self, batch_size: int, labels: Tensor | None) -> Any:
        """The state of a walk before its first level."""

    def logits(self, level: int, features: Tensor, state: Any) -> Tensor:
        """Scores (B, K), or (B, K, H / p, W / p) with patches: their softmax over K is the chance of each node."""

    def follow(self, level: int, codes: Tensor, state: Any) -> Any:
        """The state once the codes (B,), or (B, H / p, W / p), of this level are chosen."""


Pick = Callable[[Tensor], Tensor]
"""Chooses codes (...) by their scores (..., K)."""


@runtime_checkable
class AutoregressiveDistribution(CodeDistribution, Protocol):
    """A prior whose codes of one level depend on one another, so that they are chosen one after the other."""

    def draw(self, level: int, features: Tensor, state: Any, pick: Pick) -> Tensor:
        """The codes (B,), or (B, H / p, W / p), of a level, each picked by its scores given those picked before it."""


def draw_codes(prior: CodeDistribution, level: int, features: Tensor, state: Any, pick: Pick) -> Tensor:
    """The codes of a level as `AutoregressiveDistribution.draw` gives them, by any prior."""
    if isinstance(prior, AutoregressiveDistribution):
        return prior.draw(level, features, state, pick)
    return pick(prior.logits(level, features, state).float().movedim(1, -1))


Temperature = float | Sequence[float]
"""Of a prior: below 1 likely nodes become likelier; 0 always takes the likeliest. One, or one for each level."""


def check_temperature(temperature: Temperature, levels: int | None = None) -> None:
    """Raise `InvalidInput` unless it is a number of at least 0, or a list of them, one for each of so many levels."""
    several = temperature if isinstance(temperature, Sequence) else [temperature]
    fits = all(is_number(own) and own >= 0 for own in several)
    require(fits, "a temperature of at least 0, or one for each level", shown(temperature))
    if isinstance(temperature, Sequence) and levels is not None:
        expected = f"a temperature, or {levels}, one for each level"
        require(len(temperature) == levels, expected, f"{len(temperature)} of them")


def at_level(temperature: Temperature, level: int) -> float:
    return temperature[level] if isinstance(temperature, Sequence) else temperature


def check_prior(prior: object) -> None:
    """Raise `InvalidInput` for what cannot be asked as `selection.CodeDistribution` is."""
    fits = all(callable(getattr(prior, name, None)) for name in ("begin", "logits", "follow"))
    require(fits, "a prior (see `prior.py`)", shown(prior))


def takes_labels(prior: CodeDistribution | None) -> bool:
    """Whether it is a prior by class."""
    return getattr(prior, "num_classes", None) is not None
