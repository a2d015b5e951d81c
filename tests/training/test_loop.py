"""The loop: figures, pictures and trackers; images that cannot be decoded."""

import pytest
from small import Faulty, digits, train, trainer

from discrete_distribution_network.errors import DataError
from discrete_distribution_network.training.report import read_metrics


def test_figures_pictures_and_trackers(tmp_path):
    trained = train(
        tmp_path,
        num_train_steps=20,
        test_dataset=digits(30),
        evaluate_every=10,
        save_results_every=10,
        trackers=["tensorboard"],
    )
    lines = read_metrics(tmp_path / "results")
    figures = [line for line in lines if "loss" in line]
    assert [line["step"] for line in figures] == [5, 10, 15, 20]
    last = figures[-1]
    assert len(last["loss_by_level"]) == len(last["usage_by_level"]) == trained.ddn.num_levels
    assert sum(last["loss_by_level"]) / trained.ddn.num_levels == pytest.approx(last["loss"])
    assert last["epoch"] == pytest.approx(20 / 7)
    assert last["splits"] == trained.splits
    assert last["images_per_second"] > 0
    assert all(0 < share <= 1 for share in last["usage_by_level"])
    assert [(line["step"], line["test"]["images"]) for line in lines if "test" in line] == [(10, 30), (20, 30)]
    names = {path.name for path in (tmp_path / "results" / "pictures").iterdir()}
    assert names == {f"{what}-{step:08d}.png" for what in ("samples", "reconstructions") for step in (10, 20)}
    assert list((tmp_path / "results").rglob("events.out.tfevents*"))


def test_a_line_that_a_kill_cut_off_is_passed_over(tmp_path):
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "metrics.jsonl").write_text('{"step": 1}\n{"step": 2, "lo')
    train(tmp_path, resume=True, num_train_steps=5)
    assert [line["step"] for line in read_metrics(tmp_path / "results")] == [1, 5]
    train(tmp_path, overwrite=True, num_train_steps=10)
    assert [line["step"] for line in read_metrics(tmp_path / "results")] == [5, 10]


def test_images_and_labels_bad_images_and_too_few(tmp_path):
    with pytest.raises(DataError, match=r"got file \d+"):
        train(tmp_path / "a", dataset=Faulty())
    trained = train(tmp_path / "b", dataset=Faulty(), max_bad_images=3)
    assert len(trained.loader.faults) == 3
    assert read_metrics(tmp_path / "b/results")[-1]["bad_images"] == 3
    assert len(trainer(tmp_path / "b", dataset=Faulty(), max_bad_images=3, resume=True).loader.faults) == 3
    with pytest.raises(DataError, match="batch of 64 images, got 60"):
        trainer(tmp_path / "c", batch_size=64)
