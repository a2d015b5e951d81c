"""`ddn info`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro

from discrete_distribution_network.cli.options import newest_run


@dataclass
class Info:
    """Describe a run or a model: network, bits, levels, share of nodes in use, last metrics."""

    folder: tyro.conf.Positional[Path | None] = None
    """Run or model folder; the newest run under ./runs if not given."""

    def run(self) -> None:
        from discrete_distribution_network.cli.info import describe

        print(describe(self.folder or newest_run()))
