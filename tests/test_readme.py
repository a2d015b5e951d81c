"""The Python blocks of the README and of the documentation run as they stand, commands parse, links lead to files."""

import re
import shlex
from pathlib import Path

import pytest
import torch

from discrete_distribution_network.cli.main import main, parse
from discrete_distribution_network.cli.reference import reference
from discrete_distribution_network.viz import to_pil

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
PAGES = [README, ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
TEXTS = {page.relative_to(ROOT).as_posix(): page.read_text(encoding="utf-8") for page in PAGES}

BLOCKS = [
    pytest.param(block, id=f"{name}-{number}")
    for name, text in TEXTS.items()
    for number, block in enumerate(re.findall(r"```python\n(.*?)```", text, re.DOTALL))
]


def commands_in(text: str) -> list[list[str]]:
    """The arguments of each `ddn` command of indented lines and in backquotes, but those for help or the version."""
    lines = re.findall(r"^    (.*)$", re.sub(r"```.*?```", "", text, flags=re.DOTALL), re.MULTILINE)
    lines += [" ".join(code.split()) for code in re.findall(r"`(ddn [^`]+)`", text)]
    found = []
    for line in lines:
        words: list[str] = []
        for word in [*shlex.split(line.replace("[...]", ""), comments=True), "&&"] if "ddn " in line else []:
            if word not in ("&&", "|", "<", ">", ";"):
                words.append(word)
                continue
            if words and words[0] in ("ddn", ".venv/bin/ddn") and not {"--help", "--version"} & set(words):
                found.append(words[1:])
            words = []
    return found


COMMANDS = [
    pytest.param(command, id=f"{name}: {' '.join(command)}")
    for name, text in TEXTS.items()
    for command in commands_in(text)
    if name != "docs/log.md"  # history
]


def test_the_seed_examples_are_there():
    text = README.read_text(encoding="utf-8")
    assert "DDN(dim = 32, image_size = 256)" in text
    assert "GuidedSampler(dim = 16, dim_query = 3, codebook_size = 10)" in text


def test_the_readme_is_a_door():
    assert len(README.read_text(encoding="utf-8").splitlines()) <= 150


@pytest.fixture
def pictures(tmp_path, monkeypatch):
    """The folder of the reader of the tutorial, in the working directory."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pictures").mkdir()
    for name in ("one", "two", *range(18)):
        to_pil(torch.rand(3, 40, 48)).save(tmp_path / "pictures" / f"{name}.png")


@pytest.mark.parametrize("block", BLOCKS)
def test_block(block, pictures, request):
    exec(compile(block, request.node.callspec.id, "exec"), {"__name__": "__main__"})


def test_the_tutorial_can_be_followed(pictures):
    """All its commands but those that open a page, with steps in place of minutes."""
    for command in commands_in(TEXTS["docs/tutorial.md"]):
        if command[0] in ("quickstart", "demo"):
            continue
        if "--minutes" in command:
            place = command.index("--minutes")
            command[place : place + 2] = ["--steps", "2"]
        main([*command, "--batch-size", "4"] if command[0] == "train" else command)
    assert Path("guided.png").is_file()
    assert Path("smaller.ddn").stat().st_size > 0


def test_commands_are_found():
    assert commands_in("    ddn train FOLDER --size 64 64  # that\n\n`ddn COMMAND --help`, `ddn info`") == [
        ["train", "FOLDER", "--size", "64", "64"],
        ["info"],
    ]
    assert len(COMMANDS) > 60


@pytest.mark.parametrize("command", COMMANDS)
def test_command_parses(command):
    parse(command, {})


def test_the_reference_of_the_commands_is_up_to_date():
    """Made anew by: python -m discrete_distribution_network.cli.reference > docs/commands.md"""
    pages = (TEXTS["docs/commands.md"], reference())
    written, now = ([word for word in page.split() if word.strip("-")] for page in pages)
    assert written == now  # whichever version of tyro breaks the lines


def test_the_tests_that_prove_reliability_exist():
    named = re.findall(r"`(test_\w+)`", (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8"))
    tests = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py"))
    assert len(named) > 30
    assert [name for name in named if f"def {name}(" not in tests] == []


@pytest.mark.parametrize("page", PAGES, ids=TEXTS)
def test_linked_files_are_kept(page):
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    links = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", text)
    own = [link for link in links if "://" not in link]
    assert [link for link in own if not (page.parent / link).is_file()] == []
