"""Data sets that a script fetches are folders under `data/`."""

import pytest
from PIL import Image

from discrete_distribution_network.data import open_data
from discrete_distribution_network.errors import DataError


def test_a_fetched_data_set_is_opened_by_its_name(tmp_path):
    for place in ("train/food", "train/flags", "test/food"):
        (tmp_path / "emoji" / place).mkdir(parents=True)
        Image.new("RGB", (64, 64), "red").save(tmp_path / "emoji" / place / "one.png")
    split = open_data("emoji", (32, 32), 3, root=tmp_path)
    assert (len(split.train), len(split.test)) == (2, 1)
    assert split.test[0].label == split.train[1].label == 1


def test_one_that_is_not_there_says_how_to_fetch_it(tmp_path):
    with pytest.raises(DataError, match=r"found none; fetch it with `python benchmarks/data.py emoji`"):
        open_data("emoji", (32, 32), 3, root=tmp_path)


def test_a_folder_of_that_name_is_meant_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "emoji").mkdir()
    for name in "ab":
        Image.new("RGB", (64, 64), "red").save(tmp_path / "emoji" / f"{name}.png")
    assert len(open_data("emoji", (32, 32), 3, root=tmp_path / "other").train) == 1
