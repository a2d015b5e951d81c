"""`ddn`: parses the arguments and runs the command (`commands/`). PyTorch is imported when a command runs."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import redirect_stdout, suppress
from functools import partial
from importlib.metadata import version
from typing import Annotated, Any, Union

import tyro

from discrete_distribution_network.cli import exits
from discrete_distribution_network.cli.commands import COMMANDS
from discrete_distribution_network.cli.config import TrainConfig
from discrete_distribution_network.cli.options import resolve_options


def main(args: list[str] | None = None) -> None:
    """Run a command; an error of the library, or of the file system, is one line and exit code 2."""
    args = sys.argv[1:] if args is None else args
    with exits.command("ddn"):
        if args == ["--version"]:
            print(f"ddn {version('discrete-distribution-network')}")
        elif not args:
            with redirect_stdout(sys.stderr), suppress(SystemExit):
                parse(["--help"])
            sys.exit(2)
        else:
            resolve_options(partial(parse, args), args).run()


def parse(args: Sequence[str], training: dict[str, Any] | None = None) -> Any:
    """The command of these arguments, with its options.

    Args:
        training: new defaults of the commands that train.
    """
    commands: Any = Union[  # noqa: UP007
        tuple(
            Annotated[kind, tyro.conf.subcommand(name, default=kind(**training or {}))]
            if issubclass(kind, TrainConfig)
            else Annotated[kind, tyro.conf.subcommand(name)]
            for name, kind in COMMANDS.items()
        )
    ]
    description = "Discrete Distribution Networks. Run any command with `--help`; `ddn --version` prints the version."
    return tyro.cli(commands, prog="ddn", description=description, args=args)
