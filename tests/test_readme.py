"""The README's Python blocks run as they stand."""

import re
from pathlib import Path

import pytest

README = Path(__file__).parent.parent / "README.md"
BLOCKS = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), flags=re.DOTALL)


def test_the_seed_examples_are_there():
    text = "\n".join(BLOCKS)
    assert "DDN(dim = 32, image_size = 256)" in text
    assert "GuidedSampler(dim = 16, dim_query = 3, codebook_size = 10)" in text


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_block(number, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(compile(BLOCKS[number], f"README.md, Python block {number}", "exec"), {})


def test_the_tests_that_prove_reliability_exist():
    named = re.findall(r"`(test_\w+)`", (README.parent / "docs" / "reliability.md").read_text(encoding="utf-8"))
    tests = "".join(path.read_text(encoding="utf-8") for path in (README.parent / "tests").glob("test_*.py"))
    assert len(named) > 30
    assert [name for name in named if f"def {name}(" not in tests] == []


@pytest.mark.parametrize("page", ["README.md", "docs/codes.md", "docs/guidance.md", "docs/reliability.md"])
def test_linked_files_are_kept(page):
    root = README.parent
    links = re.findall(r"\]\(([^)#]+)\)", (root / page).read_text(encoding="utf-8"))
    own = [link for link in links if "://" not in link]
    assert [link for link in own if not ((root / page).parent / link).is_file()] == []
