"""The command-line reference as Markdown, for the documentation.

python -m discrete_distribution_network.cli.reference > docs/commands.md
"""

from __future__ import annotations

import io
import os
from contextlib import redirect_stdout, suppress
from unittest.mock import patch

from discrete_distribution_network.cli.commands import COMMANDS
from discrete_distribution_network.cli.main import parse

WIDTH = 88
"""Columns of the help texts, as many as a page of the documentation shows."""


def reference() -> str:
    """A page with a table of the commands, then a section with the `--help` text of each."""
    rows = [f"| [`ddn {name}`](#ddn-{name}) | {description(name)} |" for name in COMMANDS]
    sections = [f"## ddn {name}\n\n```text\n{help_text(name)}\n```" for name in COMMANDS]
    table = "\n".join(["| Command | |", "|---|---|", *rows])
    return "\n\n".join(["# Commands", "Generated from `ddn COMMAND --help`.", table, *sections]) + "\n"


def description(name: str) -> str:
    """The first paragraph of a command's description, on one line."""
    return " ".join((COMMANDS[name].__doc__ or "").partition("\n\n")[0].split())


def help_text(name: str) -> str:
    """What `ddn NAME --help` prints, in plain text of `WIDTH` columns."""
    text = io.StringIO()  # has no encoding, so the text has no boxes; is no terminal, so it has no colours
    with patch.dict(os.environ, {"COLUMNS": str(WIDTH)}), redirect_stdout(text), suppress(SystemExit):
        parse([name, "--help"])
    return "\n".join(line.rstrip() for line in text.getvalue().strip().splitlines())


if __name__ == "__main__":
    print(reference(), end="")
