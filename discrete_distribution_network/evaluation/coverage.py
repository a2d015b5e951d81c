"""Precision and recall of samples (Kynkäänniemi et al., arXiv 1904.06991): `covered` one way and the other."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

NEIGHBOURS = 3
"""The neighbour whose distance is a point's radius."""


@torch.no_grad()
def covered(points: Float[Tensor, "points features"], by: Float[Tensor, "others features"]) -> float:
    """The share of points within the radius of at least one of the others, the distance to its third neighbour.

    Of samples by real images it is the precision of the samples, of real images by samples the recall.
    """

    def distances(part: Tensor) -> Tensor:  # exact, so that a point is at 0 from itself
        return torch.cdist(part, by, compute_mode="donot_use_mm_for_euclid_dist")

    # the first neighbour is the point itself
    neighbours = min(NEIGHBOURS + 1, len(by))
    radii = torch.cat([distances(part).topk(neighbours, largest=False).values[:, -1] for part in by.split(500)])
    return float(torch.cat([(distances(part) <= radii).any(1).float() for part in points.split(500)]).mean())
