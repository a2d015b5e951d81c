"""Zero-shot guidance: conditions, and walks whose images fit them."""

from discrete_distribution_network.guidance.conditions import (
    Colorize,
    ColorStrokes,
    Condition,
    Inpaint,
    Match,
    Measured,
    Measurement,
    RatePenalty,
    ScoreFn,
    Scorer,
    SuperResolve,
    grey,
    known_pixels,
)
from discrete_distribution_network.guidance.config import GuidanceConfig, Request
from discrete_distribution_network.guidance.guidance import Guided, as_conditions, guided_walk
from discrete_distribution_network.guidance.scorers import Classifier, Clip, Custom, Edges, LowBit, Style, edges

__all__ = [
    "Classifier",
    "Clip",
    "ColorStrokes",
    "Colorize",
    "Condition",
    "Custom",
    "Edges",
    "GuidanceConfig",
    "Guided",
    "Inpaint",
    "LowBit",
    "Match",
    "Measured",
    "Measurement",
    "RatePenalty",
    "Request",
    "ScoreFn",
    "Scorer",
    "Style",
    "SuperResolve",
    "as_conditions",
    "edges",
    "grey",
    "guided_walk",
    "known_pixels",
]
