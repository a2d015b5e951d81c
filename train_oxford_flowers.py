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

import tyro

from discrete_distribution_network.config import TrainConfig, configured
from discrete_distribution_network.errors import DataError, DDNError


@dataclass
class Flowers(TrainConfig):
    dataset: str = "nelorth/oxford-flowers"
    """Name on the Hugging Face hub, or a folder that holds the data set or plain images."""
    minutes: float = 60.0


def main() -> None:
    try:
        flowers = tyro.cli(Flowers, description=__doc__, default=Flowers(**configured(sys.argv[1:])))
        from discrete_distribution_network.training_run import train  # imports torch, which --help need not wait for

        train(flowers, "oxford-flowers")
    except DataError as error:
        sys.exit(f"train_oxford_flowers.py: {error}; --dataset PATH takes images from there")
    except (DDNError, OSError) as error:
        sys.exit(f"train_oxford_flowers.py: {error}")


if __name__ == "__main__":
    main()
