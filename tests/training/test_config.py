"""The settings of a `Trainer`: by the published names, validated, fixed."""

import inspect
from dataclasses import FrozenInstanceError, fields, replace

import pytest
import torch
from small import assert_equal, everything, small_ddn, trainer

from discrete_distribution_network import Trainer
from discrete_distribution_network.errors import InvalidInput
from discrete_distribution_network.training.config import TrainerConfig


def test_it_holds_every_argument_that_is_no_model_and_no_data():
    arguments = inspect.signature(Trainer).parameters.keys() - {"ddn", "prior", "dataset", "test_dataset", "make_cond"}
    assert {field.name for field in fields(TrainerConfig)} == arguments


def test_it_is_fixed_and_validated_again_where_it_is_replaced(tmp_path):
    config = trainer(tmp_path, warmup_steps=7).config
    assert (config.warmup_steps, config.learning_rate, config.results_folder) == (7, 3e-3, tmp_path / "results")
    with pytest.raises(FrozenInstanceError):
        config.warmup_steps = 8
    assert replace(config, warmup_steps=8).warmup_steps == 8
    for wrong in ({"log_every": 2.0}, {"learning_rate": float("nan")}, {"max_minutes": 0}, {"warmup_steps": -1}):
        with pytest.raises(InvalidInput, match=next(iter(wrong))):
            replace(config, **wrong)


def test_the_former_name_of_cond_fn(tmp_path):
    settings = {"num_train_steps": 2, "num_samples": 2}
    made = trainer(tmp_path / "a", small_ddn(cond_channels=1), cond_fn=torch.zeros_like, **settings)
    with pytest.warns(DeprecationWarning, match="make_cond is now cond_fn") as warned:
        same = Trainer(
            small_ddn(cond_channels=1),
            dataset=made.loader.dataset,
            make_cond=torch.zeros_like,
            checkpoints_folder=tmp_path / "b" / "checkpoints",
            results_folder=tmp_path / "b" / "results",
            batch_size=8,
            learning_rate=3e-3,
            progress=False,
            **settings,
        )
    assert warned[0].filename == __file__
    made(), same()
    assert_equal(everything(made), everything(same))
