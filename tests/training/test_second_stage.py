"""The second stage: the network rests, its decoder and its prior learn, within the same training."""

import math
import warnings

import pytest
import torch
from small import assert_equal, digits, everything, small_ddn, train, trainer

from discrete_distribution_network import DDN, Prior
from discrete_distribution_network.errors import DataError, InvalidInput
from discrete_distribution_network.prior import CodeTransformer, Frequencies
from discrete_distribution_network.training.report import read_metrics

SETTINGS = {"num_train_steps": 30, "log_every": 5, "checkpoint_every": 5, "second_stage": 0.5}


def new(kind=Prior, decoder_dim=4, num_classes=None, **settings):
    """A network with a decoder, and a prior of it."""
    ddn = small_ddn(patch_size=[None, 4], decoder_dim=decoder_dim, **settings)
    return {"ddn": ddn, "prior": None if kind is None else kind(ddn, dim=8, num_classes=num_classes)}


@pytest.mark.parametrize("kind", [Prior, CodeTransformer])
def test_a_model_knows_the_prior_that_was_trained_with_it(tmp_path, kind):
    made = train(tmp_path, **new(kind), **SETTINGS)
    assert made.result.prior is made.ddn.prior
    assert isinstance(made.result.prior, kind)
    assert not made.result.prior.training
    loaded = DDN.from_pretrained(tmp_path / "results").eval()
    drawn, again = (ddn.sample(4, generator=torch.Generator().manual_seed(0)) for ddn in (loaded, made.result))
    torch.testing.assert_close(drawn, again)


def test_the_network_rests_in_the_second_stage(tmp_path):
    made = trainer(tmp_path, **new(), **SETTINGS | {"second_stage": 0.4})
    weights = []
    original = made.loop.second.begin

    def begin(progress):
        weights.append(made.step)
        weights.append({name: own.clone() for name, own in made.result.named_parameters()})
        original(progress)

    made.loop.second.begin = begin
    made()
    step, before = weights
    assert step == 18
    changed = {name for name, own in made.result.named_parameters() if not torch.equal(own, before[name])}
    assert changed
    assert all(name.startswith("decoder.") for name in changed)
    assert_equal(made.ddn.decoder.state_dict(), made.result.decoder.state_dict())


def test_figures(tmp_path):
    made = train(tmp_path, **new(), **SETTINGS)
    lines = read_metrics(tmp_path / "results")
    assert [line["step"] for line in lines if "loss" in line] == [5, 10, 15]
    second = [line for line in lines if "bits" in line]
    assert [line["step"] for line in second] == [20, 25, 30]
    for line in second:
        assert line["bits"] == pytest.approx(sum(line["bits_by_level"]))
        assert 0 < line["decoder_error"] < 1
    assert second[-1]["held_out_bits"] < made.ddn.bits_per_image + 3
    assert second[0]["learning_rate"] < 2e-3  # it rises first


def test_schedules_of_the_network_end_with_its_part(tmp_path):
    made = trainer(tmp_path, **new(), **SETTINGS, decay="cosine", split_until=0.5)
    rates = []
    original = made.optimisation.compute_gradients

    def compute_gradients(batches, rate, penalty):
        rates.append(rate)
        return original(batches, rate, penalty)

    made.optimisation.compute_gradients = compute_gradients
    made()
    assert len(rates) == 15
    assert rates[0] == pytest.approx(3e-3)
    assert rates[-1] < 3e-3 * 0.02


def test_the_prior_is_fitted_to_the_network_as_it_is_in_the_end(tmp_path):
    given = new()
    with torch.no_grad():
        for parameter in given["prior"].parameters():
            parameter.fill_(torch.nan)
    made = train(tmp_path, **given, **SETTINGS)
    assert all(parameter.isfinite().all() for parameter in made.result.prior.parameters())


def test_it_learns(tmp_path):
    made = train(tmp_path, **new(), num_train_steps=300, second_stage=0.7, learning_rate=1e-2)
    lines = [line for line in read_metrics(tmp_path / "results") if "bits" in line]
    assert lines[-1]["bits"] < lines[0]["bits"] - 1
    walk = made.result.encode_walk(made.loader.dataset.dataset / 255)
    images = made.loader.dataset.dataset / 255
    by_decoder, before = ((one - images).square().mean() for one in (made.result.finish(walk), walk.outputs[-1]))
    assert by_decoder < before


@pytest.mark.parametrize("ema", [True, False])
@pytest.mark.parametrize("stop", [10, 20, 25])
@pytest.mark.parametrize("kind", [Prior, None])
def test_resumed_it_ends_the_same(tmp_path, kind, stop, ema):
    settings = {**SETTINGS, "use_ema": ema, "decay": "cosine"}
    whole = train(tmp_path / "whole", **new(kind), **settings)
    first = trainer(tmp_path / "parts", **new(kind), **settings)
    first.loop.signals.received = None
    original = first.loop.step

    def step(batches):
        if first.step == stop:
            raise KeyboardInterrupt
        return original(batches)

    first.loop.step = step
    with pytest.raises(KeyboardInterrupt):
        first()
    torch.manual_seed(99)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        resumed = trainer(tmp_path / "parts", **new(kind), **settings, resume=True)
    assert resumed.step == stop
    resumed()
    assert_equal(everything(whole), everything(resumed))
    if kind is not None:
        assert whole.result.prior.temperatures == resumed.result.prior.temperatures


def test_resumed_at_its_end(tmp_path):
    whole = train(tmp_path, **new(), **SETTINGS)
    again = train(tmp_path, **new(), **SETTINGS, resume=True)
    assert_equal(everything(whole), everything(again))


def test_the_best_weights_on_held_out_images_are_kept(tmp_path, monkeypatch):
    monkeypatch.setattr("discrete_distribution_network.training.second_stage.EVALUATE_EVERY", 3)
    made = trainer(tmp_path, **new(), **SETTINGS)
    fits, worse = [], iter([20.0, 10.0, 30.0, 40.0, 50.0, 60.0])

    def measured(self, bits):
        fits.append({name: own.clone() for name, own in self.module.state_dict().items()})
        original(self, next(worse))

    kind = "discrete_distribution_network.training.module_optimisation.PriorOptimisation.measured"
    from discrete_distribution_network.training.module_optimisation import PriorOptimisation

    original = PriorOptimisation.measured
    monkeypatch.setattr(kind, measured)
    made()
    assert len(fits) == 5
    assert_equal(made.result.prior.state_dict(), fits[1])


def test_held_out_images_are_not_learnt(tmp_path):
    made = trainer(tmp_path, **new(), **SETTINGS)
    assert (len(made.loader.dataset), len(made.loop.second.held_out)) == (54, 6)
    assert len(trainer(tmp_path / "without", small_ddn()).loader.dataset) == 60


def test_a_decoder_alone(tmp_path):
    made = train(tmp_path, **new(None), **SETTINGS)
    assert made.result.prior is None
    assert "bits" not in read_metrics(tmp_path / "results")[-1]
    assert made.result.decoder.exit.weight.abs().sum() > 0
    assert len(made.loader.dataset) == 60


def test_neither(tmp_path):
    made = train(tmp_path, **new(None, decoder_dim=0), **SETTINGS)
    assert made.loop.second is None
    assert made.rate() == 3e-3
    lines = read_metrics(tmp_path / "results")
    assert all("loss" in line for line in lines if "gradient_norm" in line)


def test_by_class_and_conditioned_on_images(tmp_path):
    labelled = [(image, index % 3) for index, image in enumerate(digits())]
    given = new(num_classes=3)
    train(tmp_path / "prior", **given, **SETTINGS, dataset=labelled)
    assert given["ddn"].sample(labels=torch.tensor([0, 2])).shape == (2, 1, 8, 8)
    ddn = small_ddn(num_classes=3, cond_channels=1, decoder_dim=4)
    settings = {**SETTINGS, "dataset": labelled, "cond_fn": lambda images: images}
    train(tmp_path / "both", ddn=ddn, prior=Prior(ddn, dim=8, num_classes=3), **settings)
    assert ddn.sample(labels=torch.tensor([0, 2]), cond=digits(2) / 255).shape == (2, 1, 8, 8)


def test_gradient_accumulation(tmp_path):
    one = train(tmp_path / "one", **new(), **SETTINGS, batch_size=16, use_ema=False)
    other = train(tmp_path / "other", **new(), **SETTINGS, batch_size=8, grad_accum_every=2, use_ema=False)
    assert one.images == other.images == 15 * 16 + 15 * 2 * 16


def test_a_picture_while_it_trains_is_drawn_by_the_prior(tmp_path):
    drawn = []
    made = trainer(tmp_path, **new(), **SETTINGS, save_results_every=10)
    original = made.result.sample

    def sample(*arguments, **settings):
        drawn.append((made.step, made.result.prior is not None))
        return original(*arguments, **settings)

    object.__setattr__(made.result, "sample", sample)
    made()
    assert [by for step, by in drawn if step == 10] == [False]
    assert [by for step, by in drawn if step == 20] == [True]


def test_what_is_refused(tmp_path):
    ddn = small_ddn()
    for wrong in (Frequencies.of(ddn, ddn.encode(digits() / 255)), "heads", 3):
        with pytest.raises(InvalidInput, match="a prior that is learnt"):
            trainer(tmp_path, ddn, prior=wrong)
    with pytest.raises(InvalidInput, match="of this network's levels"):
        trainer(tmp_path, ddn, prior=Prior(small_ddn(codebook_size=4), dim=8))
    for share in (0, 1, -1, math.nan):
        with pytest.raises(InvalidInput, match="second_stage"):
            trainer(tmp_path, ddn, second_stage=share)
    with pytest.raises(DataError, match="at least 2 images"):
        trainer(tmp_path, ddn, prior=Prior(ddn, dim=8), dataset=digits(1), batch_size=1)
    with pytest.raises(DataError, match="stream"):
        trainer(tmp_path, ddn, prior=Prior(ddn, dim=8), dataset=iter(digits()))


def test_a_training_that_is_made_longer_goes_on_with_its_network(tmp_path):
    first = train(tmp_path, **new(), **SETTINGS)
    assert first.step == 30
    start = first.result.start.clone()
    with pytest.warns(UserWarning, match="num_train_steps 30 -> 60"):
        longer = trainer(tmp_path, **new(), **{**SETTINGS, "num_train_steps": 60}, resume=True)
    longer()
    assert not torch.equal(longer.result.start, start)
    # the network has had 15 of its 30 steps, the prior has all of its own again
    assert longer.step == 30 + 15 + 30
    assert longer.loop.second.steps == 30
    assert trainer(tmp_path, **new(), **{**SETTINGS, "num_train_steps": 60}, resume=True).progress_made == 1


def test_a_second_stage_that_is_made_longer_goes_on(tmp_path):
    first = train(tmp_path, **new(), **SETTINGS)
    settings = {**SETTINGS, "num_train_steps": 45, "second_stage": 2 / 3}
    with pytest.warns(UserWarning, match="second stage 0.5 -> 0.6"):
        longer = trainer(tmp_path, **new(), **settings, resume=True)
    longer()
    assert torch.equal(longer.result.start, first.result.start)
    assert (longer.step, longer.loop.second.steps) == (45, 30)


def test_temperatures_are_chosen_without_dropout(tmp_path, monkeypatch):
    modes = []

    def choose(ddn, prior, *others):
        modes.append(prior.training)

    monkeypatch.setattr("discrete_distribution_network.training.second_stage.choose_temperatures", choose)
    made = train(tmp_path, **new(), **SETTINGS)
    assert modes == [False]
    assert not made.result.prior.training
