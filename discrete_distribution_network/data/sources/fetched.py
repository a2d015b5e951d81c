"""Data sets that a script of `benchmarks/` fetches into a folder of images under `data/`: `emoji` and others."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from discrete_distribution_network.data.datasets import Split
from discrete_distribution_network.data.sources import folder
from discrete_distribution_network.data.sources.request import DataRequest
from discrete_distribution_network.errors import DataError

FETCHED = ("emoji", "emoji-256", "sprites", "squares-64", "squares-128")
"""Names of the data sets, and of their folders."""


def open_source(request: DataRequest) -> Split | None:
    """A name of `FETCHED`, unless a folder has that name."""
    if request.name not in FETCHED or os.path.exists(request.folder):
        return None
    place = Path(request.root) / request.name
    if not place.is_dir():
        raise DataError(
            f"expected the data set {request.name} in {place}, found none; fetch it with "
            f"`python benchmarks/data.py {request.name}` in a clone of the repository, and give its folder"
        )
    return folder.open_source(replace(request, name=str(place)))
