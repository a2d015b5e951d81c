from pathlib import Path

import pytest
from commands import FAST, run


@pytest.fixture
def trained(photograph_folder, tmp_path, monkeypatch, capsys):
    """A run under ./runs, and the folder of its photographs."""
    monkeypatch.chdir(tmp_path)
    run("train", photograph_folder, *FAST)
    capsys.readouterr()
    return Path("runs/train")
