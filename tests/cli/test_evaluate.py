"""`ddn evaluate` looks before it computes, and `ddn info` reads what is left of its figures."""

import errno
import json
from pathlib import Path

import pytest
import torch
from commands import refused, run
from PIL import Image
from small import digits, small_ddn
from torch.utils.data import TensorDataset

from discrete_distribution_network.cli import evaluate as evaluation
from discrete_distribution_network.cli import runs
from discrete_distribution_network.cli.config import TrainConfig
from discrete_distribution_network.cli.runs import CLASSIFIER, classifier_of
from discrete_distribution_network.errors import DataError, InvalidInput
from discrete_distribution_network.evaluation.classifier import Classifier, NoClasses, num_classes, train_classifier
from discrete_distribution_network.evaluation.frechet import frechet_figures
from discrete_distribution_network.evaluation.metrics import evaluate
from discrete_distribution_network.io import atomic_file

RUN = Path("runs/train")


def pictures(folder, count=30):
    Path(folder).mkdir(parents=True)
    for index, image in enumerate(digits(count)):
        Image.fromarray(image[0].numpy()).save(f"{folder}/{index:02d}.png")


@pytest.fixture(autouse=True)
def trained(tmp_path, monkeypatch):
    """A run as training leaves it, of pictures without labels; others have two classes, or one."""
    monkeypatch.chdir(tmp_path)
    small_ddn().save_pretrained(RUN / "model")
    pictures("plain")
    for name in ("of-two/a", "of-two/b"):
        pictures(name, 15)
    of("plain")


def of(dataset, **options):
    TrainConfig(dataset=dataset, size=(8, 8), channels=1, **options).save(RUN / "config.json")


def figures():
    return json.loads((RUN / "evaluation.json").read_text())


def test_without_labels_the_distance_is_left_out_and_said(capsys):
    run("evaluate", "--samples", "9")
    said = capsys.readouterr()
    assert "no Fréchet distance: expected a label with every image" in said.err
    assert len(said.err.splitlines()) == 1
    assert "error:" in said.out
    assert not any(name.startswith("frechet") for name in figures())
    of("of-two")
    run("evaluate", "--samples", "9")
    assert "classifier of this data set" in figures()["frechet_features"]
    of("of-two/a", test_share=0.01)  # one image for testing
    run("evaluate", "--samples", "9")
    assert "at least 2 test images, and there are 1" in capsys.readouterr().err
    assert not any(name.startswith("frechet") for name in figures())


def test_what_cannot_be_measured_is_said_before_anything_is_computed(torchvision, monkeypatch, capsys):
    monkeypatch.setattr(evaluation, "evaluate", None)
    monkeypatch.setattr(evaluation, "train_classifier", None)
    assert "label with every image" in refused(capsys, "evaluate", "--features", "classifier")
    assert "Inception" in refused(capsys, "evaluate", "--features", "nowhere.pth")
    for samples in ("0", "-1", "1"):
        for features in ([], ["--features", "none"]):
            assert "samples" in refused(capsys, "evaluate", "--samples", samples, *features)
    assert "temperature" in refused(capsys, "evaluate", "--temperature", "-1")
    assert "seed" in refused(capsys, "evaluate", "--seed", "99999999999999999999999")
    monkeypatch.setattr(atomic_file.Path, "touch", read_only)
    assert f"cannot write {RUN}" in refused(capsys, "evaluate")


def read_only(*_, **__):
    raise OSError(errno.EROFS, "Read-only file system")


def test_a_network_that_learnt_with_images_has_no_distance(capsys):
    small_ddn(cond_channels=1).save_pretrained(RUN / "model")
    of("of-two", cond="grey")
    assert "--features none" in refused(capsys, "evaluate", "--features", "classifier")
    run("evaluate")
    assert "conditioned on images of 1 channels" in capsys.readouterr().err


def test_a_full_disk_leaves_the_figures_that_were_there(monkeypatch, capsys):
    run("evaluate", "--features", "none")
    before = figures()

    def full(path):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(atomic_file, "fsync", full)
        assert "evaluation.json: No space left" in refused(capsys, "evaluate", "--features", "none")
    assert figures() == before
    run("info", RUN)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[1]",
        "3",
        "null",
        '"text"',
        "{}",
        '{"error": "x", "psnr": 1, "images": 2}',
        '{"error": 1e9, "psnr": [], "images": 2}',
        '{"error": 1, "psnr": 1, "images": 2, "usage_by_level": [1], "error_by_level": "none"}',
        '{"error": 1' + "0" * 400 + ', "psnr": 1, "images": 2}',
        "[" * 100_000,
        "\ud800",
    ],
)
def test_info_of_damaged_figures(text, capsys):
    (RUN / "evaluation.json").write_bytes(text.encode("utf-8", "surrogatepass"))
    (RUN / "metrics.jsonl").write_bytes(b'{"step": 1, "loss": "x"}\n{"test": ' + text[:50].encode("utf-8", "replace"))
    run("info", RUN)
    said = capsys.readouterr().out
    assert "metrics.jsonl is damaged" in said
    levels = [line for line in said.splitlines() if line.strip()[:1].isdigit()]
    assert len(levels) == small_ddn().num_levels
    if text not in ("null", '{"error": 1, "psnr": 1, "images": 2, "usage_by_level": [1], "error_by_level": "none"}'):
        assert "evaluation.json is damaged" in said


def labelled(labels, count=None):
    return TensorDataset(digits(count or len(labels)), torch.tensor(labels))


def test_labels_that_number_no_classes_are_one_sentence():
    ddn = small_ddn()
    for data, said in (
        (digits(5), "images without"),
        (labelled([0, -1]), "got -1"),
        (labelled([0, 1_000_000_000]), "got 1000000000"),
        (labelled([0, 1 << 62]), "got"),
        ([(image, 10**30) for image in digits(3)], "images without"),
    ):
        for look in (num_classes, train_classifier):
            with pytest.raises(NoClasses, match=said):
                look(data, ddn)
    for look in (num_classes, train_classifier):
        with pytest.raises(DataError, match="images"):
            look(digits(0), ddn)
        with pytest.raises(DataError, match="images"):
            look([], ddn)
    with pytest.raises(NoClasses, match="at least 2 classes"):
        train_classifier(labelled([0, 0, 0]), ddn)
    with pytest.raises(NoClasses, match=r"in \[0, 2\), got 5"):
        train_classifier(labelled([0, 1, 5]), ddn, 2, epochs=1)
    assert num_classes(labelled([0, 7]), ddn) == 8
    for wrong in (1, 0, 10**9):
        with pytest.raises(InvalidInput, match="classes"):
            Classifier(1, wrong)


def test_wrong_arguments_are_one_sentence():
    ddn, data = small_ddn(), labelled([0, 1, 0, 1])
    for name, wrong in (("epochs", 0), ("batch_size", 1.5), ("learning_rate", -1), ("seed", "x")):
        with pytest.raises(InvalidInput, match=name):
            train_classifier(data, ddn, **{name: wrong})
    for count in (0, -5, 1, 2.5, None):
        with pytest.raises(InvalidInput, match="samples"):
            frechet_figures(ddn, lambda images: images.flatten(1), digits(9), digits(9), count)
    for name in ("batch_size", "limit"):
        with pytest.raises(InvalidInput, match=name):
            evaluate(ddn, digits(9), **{name: 0})


def test_a_classifier_is_kept_whole_or_not_at_all(monkeypatch):
    of("of-two")
    ddn = small_ddn().eval()
    path = RUN / "model" / CLASSIFIER
    with monkeypatch.context() as patch:
        patch.setattr(atomic_file, "fsync", read_only)
        with pytest.raises(OSError, match=r"cannot write .*classifier.safetensors"):
            classifier_of(ddn, RUN)
    assert not path.exists()
    with monkeypatch.context() as patch:
        patch.setattr(atomic_file.Path, "touch", read_only)
        patch.setattr(runs, "train_classifier", None)
        with pytest.raises(OSError, match=r"cannot write .*model"):
            classifier_of(ddn, RUN)
    classifier_of(ddn, RUN)
    assert path.is_file()
