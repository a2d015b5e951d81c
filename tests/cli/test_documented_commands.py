"""Every `ddn` command in the README and the documentation has options that exist; none is run."""

import re
import shlex
from pathlib import Path

import pytest

from discrete_distribution_network.cli.commands import COMMANDS
from discrete_distribution_network.cli.main import parse
from discrete_distribution_network.cli.reference import WIDTH, description, help_text, reference

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *(page for page in sorted((ROOT / "docs").glob("*.md")) if page.name != "log.md")]
"""Not the log, whose commands are of older versions."""

FENCED = re.compile(r"^```(\w*).*?\n(.*?)^```", re.DOTALL | re.MULTILINE)
INDENTED = re.compile(r"^    (?! )(.*)$", re.MULTILINE)
INLINE = re.compile(r"`(ddn\s[^`]+)`")
SHELL = ("sh", "bash", "shell", "console")
PLACEHOLDER = "COMMAND"


def documented(text):
    """The arguments of each `ddn` command in a page."""
    lines = [line for kind, block in FENCED.findall(text) if kind in SHELL for line in block.splitlines()]
    text = FENCED.sub("", text)
    lines += INDENTED.findall(text) + [" ".join(code.split()) for code in INLINE.findall(text)]
    return [arguments for line in lines for arguments in commands_of(line) if PLACEHOLDER not in arguments]


def commands_of(line):
    """The arguments of each `ddn` command in a line of shell, without comments and redirections."""
    words = shlex.shlex(line, posix=True, punctuation_chars=True)
    words.whitespace_split = True
    try:
        words = list(words)
    except ValueError:  # no shell
        return
    command = []
    for word in [*words, ";"]:
        if set(word) <= set("();&|"):
            if command and Path(command[0]).name == "ddn":
                yield command[1:]
            command = []
        else:
            command.append(word)


def without_redirections(arguments):
    kept = [word for word, before in zip(arguments, ["", *arguments], strict=False) if before not in ("<", ">", ">>")]
    return [word for word in kept if word not in ("<", ">", ">>")]


CASES = [
    pytest.param(without_redirections(arguments), id=f"{page.name}: {' '.join(arguments)}")
    for page in PAGES
    for arguments in documented(page.read_text(encoding="utf-8"))
]


def test_commands_are_found():
    text = "    ddn encode - -o - < a.png | ddn decode - -o - > b.png  # both\n\n"
    text += "```sh\n.venv/bin/ddn info && ddn tree\n```\n"
    text += "Of `ddn prior\n--resume` and `ddn COMMAND --help`.\n\n```python\nddn = DDN()\n```\n"
    found = [without_redirections(arguments) for arguments in documented(text)]
    assert found == [["info"], ["tree"], ["encode", "-", "-o", "-"], ["decode", "-", "-o", "-"], ["prior", "--resume"]]
    assert len(CASES) > 30


@pytest.mark.parametrize("arguments", CASES)
def test_options_exist(arguments, capsys):
    try:
        parse(arguments)
    except SystemExit as end:
        if end.code:  # 0 is of --help
            pytest.fail(capsys.readouterr().err)


def test_every_command_is_in_the_reference():
    page = reference()
    assert page == reference()
    for name in COMMANDS:
        assert f"\n## ddn {name}\n" in page
        assert f"| {description(name)} |" in page
        assert help_text(name) in page
        assert "--device" in help_text(name) or name == "info"
    assert max(map(len, help_text("train").splitlines())) <= WIDTH
    assert "\x1b" not in page
