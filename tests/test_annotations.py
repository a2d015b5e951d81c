"""Annotations, shapes among them, are what functions are called with and what they give."""

import subprocess
import sys
from pathlib import Path


def test_annotations_hold_in_use():
    script = Path(__file__).parent / "typed_use.py"
    run = subprocess.run([sys.executable, script], capture_output=True, text=True, cwd=script.parents[1])
    assert run.returncode == 0, run.stderr[-3000:]
