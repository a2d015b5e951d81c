from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from discrete_distribution_network import DDN, Trainer
from discrete_distribution_network.cli.config import TrainConfig
from discrete_distribution_network.cli.train import network, trainer_for, with_preset
from discrete_distribution_network.data.datasets import Pixels, Split
from discrete_distribution_network.model.network_config import resolutions
from discrete_distribution_network.training.presets import images_per_step, patches_for, preset, recipe
from discrete_distribution_network.training.recipes import Recipe


def test_whole_images_come_first_so_that_the_tree_can_be_drawn() -> None:
    with torch.device("meta"):
        assert DDN(**preset(32, channels=1)).codes_per_level[:4] == [1, 1, 1, 1]


@pytest.mark.parametrize("size", [4, 7, 28, 30, 37, 62, 64, 100, 128, 256, (24, 40), (64, 48), (1, 9)])
def test_every_size_has_a_network_that_begins_with_the_whole_image(size: int | tuple[int, int]) -> None:
    with torch.device("meta"):
        ddn = DDN(**preset(size))
    height, width = (size, size) if isinstance(size, int) else size
    assert ddn.image_size == (height, width)
    assert ddn.code_shapes[0] == ()


@pytest.mark.parametrize(
    ("size", "least"), [(16, 32), (28, 24), (48, 64), (64, 128), (100, 64), (128, 192), (256, 256)]
)
def test_larger_images_get_more_bytes(size: int, least: int) -> None:
    with torch.device("meta"):
        assert DDN(**preset(size)).bits_per_image >= 8 * least


def test_a_preset_network_encodes_and_decodes() -> None:
    ddn = DDN(**preset((20, 28), channels=1) | {"codebook_size": 4, "dim": 4}).eval()
    images = torch.rand(2, 1, 20, 28)
    torch.testing.assert_close(ddn.decode(ddn.encode(images)), ddn.reconstruct(images))


@pytest.mark.parametrize(
    ("arguments", "count"),
    [((32, 1), 64), ((32, 3), 192), ((64, 1), 128), ((64, 3), 256), ((64, 3, "hours"), 704), ((64, 1, "hours"), 128)],
)
def test_bytes_of_an_image(arguments: Any, count: int) -> None:
    with torch.device("meta"):
        assert DDN(**preset(*arguments)).bits_per_image == 8 * count


def test_patches() -> None:
    per_side = (1, 2, 2, 4, 8)
    assert patches_for(resolutions((32, 32)), per_side) == [None, 4, 8, 8]
    assert patches_for(resolutions((256, 256)), per_side) == [None, 4, 8, 8, 8, 16, 32]
    assert patches_for(resolutions((28, 28)), per_side) == [None, None, 7, 7]
    assert patches_for(resolutions((37, 37)), per_side) == [None, None, 5, None, None]  # 37 is prime


def test_a_run_keeps_what_its_preset_was() -> None:
    kept = with_preset(TrainConfig(size=(32, 32), channels=1, dim=8))
    assert (kept.dim, kept.codebook_size, kept.levels, kept.patches) == (8, 256, (4, 3, 4, 2), (0, 4, 8, 8))
    assert None not in (kept.dim_max, kept.res_blocks)
    assert with_preset(kept) == kept


@pytest.mark.parametrize(("size", "count"), [(8, 64), (32, 64), (48, 28), (64, 16), ((64, 128), 8), (128, 8), (256, 8)])
def test_on_a_cpu_a_step_takes_fewer_images_where_they_are_large(size: int | tuple[int, int], count: int) -> None:
    assert images_per_step(size) == count
    assert images_per_step(size, "cuda") == 64
    assert recipe(image_size=size)["batch_size"] == count
    assert recipe(Recipe(batch_size=5), size)["batch_size"] == 5


def test_a_run_trains_by_the_batches_of_its_size_and_keeps_them(tmp_path: Path) -> None:
    config = TrainConfig(size=(64, 64), channels=1, steps=9, device="cpu", prior=False, dim=4, codebook_size=4)
    assert with_preset(config).batch_size == 16
    images = torch.zeros(64, 1, 64, 64, dtype=torch.uint8)
    made = trainer_for(config, network(config), Split(Pixels(images), None), tmp_path)
    assert made.loader.batch_size == 16
    assert with_preset(replace(config, batch_size=3)).batch_size == 3


def test_options_go_before_the_preset() -> None:
    ddn = network(TrainConfig(size=(16, 16), channels=1, levels=(1, 0, 2), patches=(0, 0, 8), codebook_size=5, dim=4))
    assert ddn.codebook_sizes == [5, 5, 5]
    assert ddn.codes_per_level == [1, 4, 4]
    assert ddn.sizes == [(4, 4), (8, 8), (16, 16)]


def test_the_preset_is_the_network_of_ddn_train() -> None:
    with torch.device("meta"):
        made, same = DDN(**preset(32, channels=1)), network(TrainConfig(size=(32, 32), channels=1))
        noisy = network(TrainConfig(size=(32, 32), channels=1, chain_dropout=0.1))
    shapes = [{name: value.shape for name, value in ddn.state_dict().items()} for ddn in (made, same)]
    assert shapes[0] == shapes[1]
    assert {sampler.chain_dropout_prob for sampler in made.samplers} == {0.05}
    assert {sampler.chain_dropout_prob for sampler in same.samplers} == {0.05}
    assert {sampler.chain_dropout_prob for sampler in noisy.samplers} == {0.1}


def test_the_recipe_is_that_of_ddn_train(tmp_path: Path) -> None:
    images = torch.zeros(64, 1, 8, 8, dtype=torch.uint8)
    arguments = preset(8, channels=1) | {"dim": 4, "codebook_size": 4}
    folders = {"checkpoints_folder": tmp_path / "checkpoints", "results_folder": tmp_path / "results"}
    made = Trainer(DDN(**arguments), dataset=images, num_train_steps=9, **recipe(), **folders)
    config = TrainConfig(size=(8, 8), channels=1, steps=9, device="cpu", prior=False)
    same = trainer_for(config, DDN(**arguments), Split(Pixels(images), None), tmp_path / "other")
    for name in (
        "learning_rate",
        "warmup_steps",
        "decay",
        "hold",
        "max_grad_norm",
        "split_every",
        "split_until",
        "seed",
    ):
        assert getattr(made.config, name) == getattr(same.config, name)
    assert made.loader.batch_size == same.loader.batch_size == 64
    assert made.precision == same.precision
    assert str(made.optimizer) == str(same.optimizer)
    assert recipe() == recipe(Recipe()) == recipe(TrainConfig())
    for name in ("batch_size", "learning_rate", "weight_decay", "warmup_steps", "hold", "max_grad_norm", "split_until"):
        assert recipe(TrainConfig(**{name: 0.625}))[name] == 0.625
