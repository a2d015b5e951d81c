"""`benchmarks/gpu.py` in small on a CPU: every slice runs to its end."""

import json
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parent.parent / "benchmarks" / "gpu.py"


def test_every_slice_runs(tmp_path):
    results = tmp_path / "results.json"
    command = [sys.executable, str(SCRIPT), "--smoke", "--results", str(results)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert "all slices are measured" in done.stdout, done.stdout + done.stderr
    (own,) = json.loads(results.read_text()).values()
    assert len(own) == 10
    for name, found in own.items():
        assert "given" in found, (name, found)
        assert "failed" not in json.dumps(found["given"]), (name, found)
    assert own["training"]["given"][0]["images_per_second"] > 0
    assert own["processes"]["given"]["gloo, one card"]["processes"] == 2


def test_it_says_that_there_is_no_gpu(tmp_path):
    command = [sys.executable, str(SCRIPT), "--results", str(tmp_path / "none.json")]
    done = subprocess.run(command, capture_output=True, text=True, env={"CUDA_VISIBLE_DEVICES": "", "PATH": ""})
    assert done.returncode == 1
    assert "expected a CUDA device, found none" in done.stderr
