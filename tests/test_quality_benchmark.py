"""What `benchmarks/quality.py` and its contenders share: figures by hand, and the order of the images."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from discrete_distribution_network.cli.config import TrainConfig
from discrete_distribution_network.cli.runs import CLASSIFIER
from discrete_distribution_network.evaluation.classifier import Classifier
from discrete_distribution_network.io.pretrained import RELEASED
from discrete_distribution_network.io.safetensors_file import load_strictly, read_tensors
from discrete_distribution_network.model.guided_sampler import GuidedSampler, split_and_prune_
from discrete_distribution_network.training.optimisation import LossByLevel

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


def script(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    sys.path.insert(0, str(BENCHMARKS))  # scripts know one another
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(BENCHMARKS))
    return module


@pytest.fixture(scope="module")
def quality():
    return script(BENCHMARKS / "quality.py")


@pytest.fixture(scope="module")
def common():
    return script(BENCHMARKS / "contenders" / "common.py")


def test_precision_and_recall_by_hand(quality):
    real = torch.tensor([[0.0], [1.0], [2.0], [3.0], [10.0], [11.0], [12.0], [13.0]])
    # the third neighbour of 0 is 3 away, of 1 and 2 it is 2 away
    assert quality.covered(torch.tensor([[-2.9], [-3.1], [5.9], [6.1], [8.0]]), real) == pytest.approx(3 / 5)
    assert quality.covered(real, real) == 1
    many = torch.rand(60, 40, generator=torch.Generator().manual_seed(0)).repeat(2, 1) + 100
    assert quality.covered(many, many) == 1  # also of points that are there twice
    # samples of one half alone: precise, but half is missed
    half = real[:4]
    assert quality.covered(half, real) == 1
    assert quality.covered(real, half) == 1 / 2


def test_distance_of_equal_sets_is_nothing(quality):
    points = torch.randn(600, 4, generator=torch.Generator().manual_seed(0))
    assert quality.distance(points, points) == pytest.approx(0, abs=1e-6)
    assert quality.distance(points + 2, points) == pytest.approx(16, rel=1e-3)


def test_the_table_has_a_line_for_each_run(quality):
    run = {
        "contender": "ours",
        "budget": 5.0,
        "distance": 12.3,
        "used_by_level": [1.0, 0.5],
        "perplexity_by_level": [0.9, 0.4],
        "parameters": 1234567,
    }
    text = quality.table({"runs": {"a": run, "b": run | {"contender": "theirs", "distance": 9.0}}, "floor": 0.66})
    lines = text.splitlines()
    assert lines[2].startswith("| theirs | 5 |")
    assert lines[3].startswith("| ours | 5 |")
    assert "| 12.3 |" in lines[3]
    assert "| 0.50 | 0.40 |" in lines[3]
    assert "1.2M" in lines[3]
    assert "0.66" in text


def test_the_judge_comes_along_and_with_the_released_model(quality):
    judge, released = read_tensors(quality.JUDGE), read_tensors(RELEASED / "fashion-mnist" / CLASSIFIER)
    load_strictly(Classifier(1, 10), judge, quality.JUDGE)
    assert all(torch.equal(judge[name], released[name]) for name in judge)


def test_every_contender_has_its_script(quality):
    scripts = {path.stem for path in (BENCHMARKS / "contenders").glob("*.py")} - {"common"}
    assert scripts == set(quality.CONTENDERS)


def test_torchvision_chooses_its_pytorch_and_the_others_get_ours(quality, monkeypatch, tmp_path):
    ran = []

    def run(command, check):
        if "venv" in command:
            Path(command[-1]).mkdir(parents=True)
        else:
            ran.append(command[5:])

    monkeypatch.setattr(quality, "ROOT", tmp_path)
    monkeypatch.setattr(quality.subprocess, "run", run)
    quality.environment("published")
    assert not any(package.startswith("torch==") for packages in ran for package in packages)
    ran.clear()
    quality.environment("official")
    assert ran[0] == ran[1][:1] == [f"torch=={torch.__version__.partition('+')[0]}"]
    quality.environment("official")
    assert len(ran) == 2  # it is made once


def test_everyone_sees_the_same_images_whatever_the_batch(common, tmp_path):
    images = np.arange(6, dtype=np.uint8).reshape(6, 1, 1, 1).repeat(2, axis=2)
    np.save(tmp_path / "train.npy", images)
    np.save(tmp_path / "test.npy", images[:2])
    order = np.array([[5, 4, 3, 2, 1, 0], [0, 2, 4, 1, 3, 5]], dtype=np.int32)
    np.save(tmp_path / "order.npy", order)
    data = common.Data(tmp_path)

    def seen(size, count, start=0):
        batches = [batch for batch, _ in zip(data.batches(size, start), range(count), strict=False)]
        assert all(len(batch) == size for batch in batches)
        return (torch.cat(batches)[:, 0, 0, 0] * 255).round().int().tolist()

    assert seen(4, 3) == seen(3, 4) == order.flatten().tolist()
    assert seen(2, 2, start=5) == [0, 0, 2, 4]
    assert seen(6, 3)[12:] == order[0].tolist()  # and again


def test_used_nodes_are_counted_by_level(common):
    codes = torch.tensor([[0, 1, 1, 2], [0, 1, 3, 2]])
    used, even = common.use_by_level(codes, [(2, 1), (4, 3)])
    assert used == [0.5, 0.75]
    assert even == pytest.approx([0.5, 1 / 4 * 2 ** (3 / 6 * 1 + 2 / 6 * np.log2(3) + 1 / 6 * np.log2(6))])


def test_the_clock_tells_what_is_left(common):
    clock = common.Clock(2)
    assert 0 <= clock.spent() < 0.1
    assert clock.minutes_until(0.5) == pytest.approx(1, abs=0.05)
    assert common.rate(1.0, 0, 0.0) == pytest.approx(0.01)
    assert common.rate(1.0, 1000, 0.5) == pytest.approx(0.5)
    assert common.rate(1.0, 1000, 2.0) == 0


@pytest.fixture(scope="module")
def ablation(quality):
    return script(BENCHMARKS / "ablation.py")


def test_every_ablation_can_be_trained(ablation):
    for make, options in ablation.VARIANTS.values():
        TrainConfig(**options)
        ddn = make()
        losses, more = LossByLevel(ddn)(torch.rand(2, 1, 32, 32))
        assert bool((losses.mean() + more).isfinite())
        split_and_prune_(ddn)


def sampler_of(kind, size=8):
    """Nodes that draw 0, 1, 2, ..., of which the first was chosen 20 times."""
    sampler = GuidedSampler(1, 1, size, chain_dropout_prob=0.0, max_swaps=None, min_total_count_before_split_prune=1)
    sampler.__class__ = kind
    with torch.no_grad():
        sampler.keys.weight.copy_(torch.arange(size)[:, None, None])
    sampler(torch.ones(20, 1), torch.zeros(20, 1))
    return sampler


def test_runners_up_are_counted_half_as_much(ablation):
    assert sampler_of(ablation.WithRunnersUp).counts.tolist() == [40, 20, 0, 0, 0, 0, 0, 0]


def test_counts_of_chance_alone_move_no_node(ablation):
    few, many = [5, 1, 1, 1, 1, 1, 1, 1], [500, 100, 100, 100, 100, 100, 100, 100]
    sampler = sampler_of(ablation.Significant)
    assert sampler.apply_counts_(few) == 0
    assert (sampler.split_thres, sampler.prune_thres) == (2.0, 0.5)
    assert sampler.apply_counts_(many) > 0
    assert sampler_of(GuidedSampler).apply_counts_(few) > 0


def test_a_bias_balances_without_moving_a_node(ablation):
    sampler = sampler_of(ablation.Balanced)
    before = sampler.keys.weight.clone()
    for _ in range(200):
        sampler.nearest = torch.tensor(1.0)  # the unit of a step
        assert sampler.apply_counts_(sampler.counts.tolist()) == 0
        assert not sampler.counts.any()
        sampler(torch.ones(20, 1), torch.zeros(20, 1))
    assert torch.equal(sampler.keys.weight, before)
    assert sampler.bias[0] > sampler.bias[1]  # the first seems farther off, so that others are chosen too
    sampler.eval()
    assert not sampler(torch.ones(20, 1), torch.zeros(20, 1)).codes.any()  # what is nearest, where it is used


def test_a_bias_beside_splits_knows_the_choices_of_the_last_step(ablation):
    sampler = sampler_of(ablation.BalancedAndSplit)
    sampler.nearest = torch.tensor(1.0)
    assert sampler.apply_counts_(sampler.counts.tolist()) > 0
    after = sampler.counts.clone()
    sampler.counts += torch.tensor([0, 0, 0, 0, 0, 0, 0, 8])
    bias = sampler.bias.clone()
    sampler.nearest = torch.tensor(1.0)
    sampler.apply_counts_(sampler.counts.tolist())
    assert (sampler.bias - bias).sign().tolist() == [-1.0] * 7 + [1.0]
    assert after.sum() == 20


def test_feedback_is_concatenated_where_asked(ablation):
    ddn = ablation.ddn(concatenate=True)()
    levels = [inner for inner in ddn.modules() if isinstance(inner, ablation.Level)]
    assert levels
    for level in levels:
        assert isinstance(level, ablation.Concatenating)
        assert level.feedback.in_channels == level.feedback.out_channels + 1
