"""The source distribution has every file of the repository, so that its tests run as they do here."""

import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ALWAYS = {".gitignore", "pyproject.toml"}
"""Packed whatever is listed."""


def test_every_file_of_the_repository_is_packed():
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("this is no git repository")
    tool = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]
    packed = ALWAYS | set(tool["hatch"]["build"]["targets"]["sdist"]["include"])
    assert sorted({name.split("/")[0] for name in listed.stdout.splitlines()} - packed) == []
