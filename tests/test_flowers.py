"""The example script, on real photographs in a data set of the same columns."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import datasets

from discrete_distribution_network import DDN

SCRIPT = Path(__file__).parent.parent / "train_oxford_flowers.py"


def flowers(*arguments, folder, **environment):
    import os

    return subprocess.run(
        [sys.executable, SCRIPT, *map(str, arguments)],
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_it_trains_on_a_local_data_set_of_the_same_columns(photographs, tmp_path):
    columns = {"image": photographs, "label": [index % 102 for index in range(len(photographs))]}
    features = datasets.Features(image=datasets.Image(), label=datasets.ClassLabel(num_classes=102))
    parts = datasets.Dataset.from_dict(columns, features).train_test_split(40, seed=0)
    parts.save_to_disk(tmp_path / "flowers")
    options = ["--steps", "8", "--size", "16", "16", "--dim", "8", "--dim-max", "16", "--batch-size", "8"]
    done = flowers("--dataset", tmp_path / "flowers", *options, "--device", "cpu", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "200 images to learn from" in done.stdout
    assert "on 40 test images" in done.stdout
    DDN.from_pretrained(tmp_path / "runs" / "oxford-flowers")


def test_a_config_is_read(tmp_path):
    done = flowers("--config", "nowhere.json", folder=tmp_path)
    assert done.returncode == 1
    assert "nowhere.json" in done.stderr


def test_without_the_hub_it_says_so_in_one_sentence(tmp_path):
    done = flowers("--out", tmp_path / "out", folder=tmp_path, HF_HUB_OFFLINE="1", HF_HOME=str(tmp_path / "cache"))
    assert done.returncode == 1
    error = done.stderr.strip()
    assert error.count("\n") == 0
    assert "nelorth/oxford-flowers" in error
    assert "--dataset PATH" in error
    assert not (tmp_path / "out").exists()


def test_its_header_names_this_package_and_its_place():
    header = re.search(r"^# /// script\n(.*?)^# ///$", SCRIPT.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    said = tomllib.loads("".join(line[2:] for line in header[1].splitlines(keepends=True)))
    assert said["dependencies"] == ["discrete-distribution-network[huggingface]"]
    assert said["tool"]["uv"]["sources"]["discrete-distribution-network"]["path"] == "."
