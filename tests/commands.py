"""Running `ddn` in this process, for the tests of the command line."""

import pytest

from discrete_distribution_network.cli import main as cli

FAST = ["--steps", "6", "--dim", "4", "--dim-max", "8", "--codebook-size", "4", "--batch-size", "8", "--device", "cpu"]
FAST += ["--size", "8", "12"]


def run(*arguments):
    cli.main([str(argument) for argument in arguments])


def refused(capsys, *arguments):
    with pytest.raises(SystemExit) as stop:
        run(*arguments)
    assert stop.value.code == 2
    error = capsys.readouterr().err.strip()
    assert "\n" not in error
    return error
