"""A distribution over codes: the protocols of a prior, and how codes are drawn from one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, Protocol, get_args, runtime_checkable

from jaxtyping import Float, Integer
from torch import Tensor

from discrete_distribution_network.errors import InvalidInput, is_number, require, shown

Features = Float[Tensor, "batch dim height width"]

Logits = Float[Tensor, "batch nodes"] | Float[Tensor, "batch nodes rows columns"]
"""Their softmax over the K nodes is the probability of each: (B, K), or (B, K, H / p, W / p) with patches."""

Codes = Integer[Tensor, " batch"] | Integer[Tensor, "batch rows columns"]
"""In [0, K): (B,), or (B, H / p, W / p) with patches."""


@runtime_checkable
class CodeDistribution(Protocol):
    """A prior: level after level, the probability of each node given the codes so far.

    Its state may be a tensor, a named tuple of tensors (both with a row for each walk), or the batch size.
    """

    def begin(self, batch_size: int, labels: Integer[Tensor, " batch"] | None) -> Any:
        """The state of a walk before its first level."""

    def logits(self, level: int, features: Features, state: Any) -> Logits:
        """The logits of a level's nodes, given the features that its sampler sees."""

    def follow(self, level: int, codes: Codes, state: Any) -> Any:
        """The state once these codes of the level are chosen."""


Pick = Callable[[Tensor], Tensor]
"""Chooses codes (...) by their logits (..., K)."""


@runtime_checkable
class AutoregressiveDistribution(CodeDistribution, Protocol):
    """A prior whose codes within a level depend on one another, so that they are chosen one after the other."""

    def draw(self, level: int, features: Features, state: Any, pick: Pick) -> Codes:
        """The codes of a level, each picked by its logits given those picked before it."""


def draw_codes(prior: CodeDistribution, level: int, features: Features, state: Any, pick: Pick) -> Codes:
    """The codes of a level, from any prior; see `AutoregressiveDistribution.draw`."""
    if isinstance(prior, AutoregressiveDistribution):
        return prior.draw(level, features, state, pick)
    return pick(prior.logits(level, features, state).float().movedim(1, -1))


Temperature = float | Sequence[float]
"""Divides a prior's logits: below 1 likely nodes become likelier, 0 takes the likeliest. One, or one for each level."""

Own = Literal["own"]
"""In place of a prior: that of the model itself."""

Aim = Literal["fidelity", "diversity"]
"""What a prior's own temperatures are chosen for: images like those of the data, or as varied as they are."""


def check_temperature(temperature: Temperature, levels: int | None = None) -> None:
    """Raise `InvalidInput` unless it is a number of at least 0, or a list of such numbers, one for each level."""
    values = temperature if isinstance(temperature, Sequence) else [temperature]
    fits = all(is_number(value) and value >= 0 for value in values)
    require(fits, "a temperature of at least 0, or one for each level", shown(temperature))
    if isinstance(temperature, Sequence) and levels is not None:
        expected = f"a temperature, or {levels}, one for each level"
        require(len(temperature) == levels, expected, f"{len(temperature)} values")


def chosen_temperature(
    prior: CodeDistribution | None, asked: Temperature | Aim | None, default: float = 1.0
) -> Temperature:
    """The temperature to sample at: the one that is asked for, or the prior's own for an aim.

    Args:
        prior: may have `temperatures`, by their aim.
        asked: a temperature, an aim, or None for "fidelity".
        default: for a prior without temperatures of its own.
    """
    if asked is not None and not isinstance(asked, str):
        return asked
    own: Mapping[str, list[float]] = getattr(prior, "temperatures", {})
    if asked is not None and asked not in (*own, *get_args(Aim)):
        raise InvalidInput(f"expected a temperature, or {' or '.join(get_args(Aim))}, got {asked!r:.80}")
    return own.get(asked or "fidelity", default)


def scaled(temperature: Temperature, factor: float) -> Temperature:
    """The temperature of each level times a factor."""
    if isinstance(temperature, Sequence):
        return [factor * value for value in temperature]
    return factor * temperature


def at_most(temperature: Temperature, highest: float) -> Temperature:
    """The temperature of each level, lowered to this where it is above."""
    if isinstance(temperature, Sequence):
        return [min(value, highest) for value in temperature]
    return min(temperature, highest)


def at_level(temperature: Temperature, level: int) -> float:
    """The temperature of a level."""
    return temperature[level] if isinstance(temperature, Sequence) else temperature


def check_prior(prior: object) -> None:
    """Raise `InvalidInput` unless it has the methods of a `CodeDistribution`."""
    if not isinstance(prior, CodeDistribution):  # what is shown of a module cannot be part of a compiled graph
        raise InvalidInput(f"expected a prior with methods begin, logits and follow, got {shown(prior)}")


def takes_labels(prior: CodeDistribution | None) -> bool:
    """Whether the prior is class-conditional."""
    return getattr(prior, "num_classes", None) is not None
