"""The Python blocks of the README and of the documentation run as they stand; links lead to files."""

import re
from pathlib import Path

import pytest

README = Path(__file__).parent.parent / "README.md"
PAGES = [README, *sorted((README.parent / "docs").glob("*.md"))]
BLOCKS = [
    pytest.param(block, id=f"{page.name}-{number}")
    for page in PAGES
    for number, block in enumerate(re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL))
]


def test_the_seed_examples_are_there():
    text = README.read_text(encoding="utf-8")
    assert "DDN(dim = 32, image_size = 256)" in text
    assert "GuidedSampler(dim = 16, dim_query = 3, codebook_size = 10)" in text


def test_the_readme_is_a_door():
    assert len(README.read_text(encoding="utf-8").splitlines()) <= 150


@pytest.mark.parametrize("block", BLOCKS)
def test_block(block, tmp_path, monkeypatch, request):
    monkeypatch.chdir(tmp_path)
    exec(compile(block, request.node.callspec.id, "exec"), {})


def test_the_tests_that_prove_reliability_exist():
    named = re.findall(r"`(test_\w+)`", (README.parent / "docs" / "reliability.md").read_text(encoding="utf-8"))
    tests = "".join(path.read_text(encoding="utf-8") for path in (README.parent / "tests").rglob("test_*.py"))
    assert len(named) > 30
    assert [name for name in named if f"def {name}(" not in tests] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_linked_files_are_kept(page):
    links = re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8"))
    own = [link for link in links if "://" not in link]
    assert [link for link in own if not (page.parent / link).is_file()] == []
