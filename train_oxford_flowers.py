# /// script
# requires-python = ">=3.11"
# dependencies = ["discrete-distribution-network[huggingface]"]
#
# [tool.uv.sources]
# discrete-distribution-network = { path = "." }
# ///
"""Train on photographs of flowers: `uv run train_oxford_flowers.py`.

The data set comes from the Hugging Face hub; `--dataset PATH` takes one from a folder instead. All options of
`ddn train` are options here too; `--help` lists them.
"""

import sys
from dataclasses import dataclass
from typing import Any, ClassVar

import tyro

from discrete_distribution_network.cli import exits
from discrete_distribution_network.cli.config import TrainConfig
from discrete_distribution_network.cli.options import resolve_options
from discrete_distribution_network.errors import DataError


@dataclass
class Flowers(TrainConfig):
    dataset: str = "nelorth/oxford-flowers"
    """Name on the Hugging Face hub, or a folder that holds the data set or plain images."""
    minutes: float = 60.0

    name: ClassVar[str] = "oxford-flowers"


def parse(training: dict[str, Any]) -> Flowers:
    return tyro.cli(Flowers, description=__doc__, default=Flowers(**training))


def main() -> None:
    with exits.command("train_oxford_flowers.py", failed=1):
        flowers = resolve_options(parse, sys.argv[1:])
        from discrete_distribution_network.cli.train import train  # imports torch, which --help need not wait for

        try:
            train(flowers, flowers.name)
        except DataError as error:
            raise DataError(f"{error}; --dataset PATH takes images from there") from error


if __name__ == "__main__":
    main()
