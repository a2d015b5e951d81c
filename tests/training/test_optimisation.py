"""A step of the optimiser: equal to the bare loop, in every precision, and the moving average."""

import time

import pytest
import torch
from small import assert_equal, digits, everything, small_ddn, train, trainer

from discrete_distribution_network import DDN
from discrete_distribution_network.training.moving_average import MovingAverage


def test_a_step_is_a_step_of_the_bare_loop(tmp_path):
    settings = {"sampler": {"chain_dropout_prob": 0.0}}
    trained = train(tmp_path, ddn=small_ddn(**settings), num_train_steps=12, channels_last=False)
    bare = small_ddn(**settings).train()
    optimizer = torch.optim.AdamW(bare.parameters(), lr=3e-3, weight_decay=1e-3, fused=True)
    batches = trainer(tmp_path / "other").loader.batches()
    splits = 0
    for _ in range(12):
        loss = bare(next(batches).images / 255)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(bare.parameters(), 0.5)
        optimizer.step()
        splits += bare.split_and_prune_(optimizer)
    for (name, one), other in zip(bare.state_dict().items(), trained.ddn.state_dict().values(), strict=True):
        torch.testing.assert_close(one, other, msg=name)  # the norm of all gradients is summed in another order
    assert splits == trained.splits > 0


def test_accumulated_gradients_are_those_of_the_whole_batch(tmp_path):
    settings = {"sampler": {"chain_dropout_prob": 0.0}}
    whole = train(tmp_path / "a", ddn=small_ddn(**settings), batch_size=8, num_train_steps=6)
    parts = train(tmp_path / "b", ddn=small_ddn(**settings), batch_size=2, grad_accum_every=4, num_train_steps=6)
    assert parts.images == whole.images == 48
    assert parts.splits == whole.splits > 0
    for (name, one), other in zip(whole.ddn.named_parameters(), parts.ddn.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5, msg=name)


def test_accelerate_does_not_divide_a_second_time(tmp_path, monkeypatch):
    plain = train(tmp_path / "a", num_train_steps=4)
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4")
    assert_equal(everything(train(tmp_path / "b", num_train_steps=4)), everything(plain))


def test_random_numbers_of_the_caller_go_on_as_if_nothing_was(tmp_path):
    made = trainer(tmp_path)
    torch.manual_seed(9)
    expected = torch.rand(3)
    torch.manual_seed(9)
    made()
    assert torch.equal(torch.rand(3), expected)


def test_random_numbers_of_other_devices_are_not_touched(tmp_path, monkeypatch):
    def seed(*_):
        raise AssertionError("a device that does not train was seeded")

    made = trainer(tmp_path, num_train_steps=2, save_results_every=1, test_dataset=digits(8))
    for device in (torch.cuda, torch.xpu):
        monkeypatch.setattr(device, "manual_seed_all", seed)
    made()


def test_handlers_of_ones_own(tmp_path):
    from accelerate.utils import DistributedDataParallelKwargs

    handlers = [DistributedDataParallelKwargs(broadcast_buffers=False, bucket_cap_mb=1)]
    train(tmp_path, num_train_steps=2, accelerate_kwargs={"kwargs_handlers": handlers})


def test_learning_rate(tmp_path):
    made = trainer(tmp_path, num_train_steps=100, learning_rate=1.0, warmup_steps=9, decay="cosine", hold=0.5)
    rates = []
    for made.state.progress.step in (0, 4, 9, 50, 75, 100):
        rates.append(made.rate())
    assert rates == pytest.approx([0.1, 0.5, 1.0, 1.0, 0.5, 0.0])
    made = trainer(tmp_path, num_train_steps=100, learning_rate=1.0)
    for made.state.progress.step in (0, 50, 99):
        assert made.rate() == 1.0


def test_splits_end_where_asked(tmp_path):
    assert train(tmp_path / "a", split_every=100).splits == 0
    assert train(tmp_path / "b", split_until=0.0).splits == 0
    assert 0 < train(tmp_path / "c", split_until=0.2).splits < train(tmp_path / "d").splits


def test_the_clock_can_end_it(tmp_path):
    started = time.monotonic()
    trained = train(tmp_path, num_train_steps=10**9, max_minutes=0.02, decay="cosine")
    assert 1.2 <= trained.seconds < time.monotonic() - started < 20
    assert trained.rate() == 0


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_is_finite_and_chooses_in_float32(tmp_path, monkeypatch, precision):
    from discrete_distribution_network.model.candidates import LinearCandidates

    dtypes = set()
    original = LinearCandidates.distances

    def watched(self, *args, **kwargs):
        distances = original(self, *args, **kwargs)
        dtypes.add(distances.dtype)
        return distances

    monkeypatch.setattr(LinearCandidates, "distances", watched)
    trained = train(tmp_path, mixed_precision=precision)
    assert dtypes == {torch.float32}
    assert all(value.isfinite().all() for value in everything(trained).values())
    assert all(parameter.dtype == torch.float32 for parameter in trained.ddn.parameters())
    # the model itself is not wrapped: afterwards it is as ever, and can be trained again
    assert "forward" not in vars(trained.ddn)
    assert trained.ddn(torch.rand(2, 1, 8, 8), return_intermediates=True)[1][1][-1].dtype == torch.float32
    train(tmp_path / "again", ddn=trained.ddn)


@pytest.mark.parametrize("settings", [{"codebook_size": 1}, {"codebook_size": 2}, {"image_size": (7, 5)}])
def test_one_node_two_nodes_odd_sizes_and_batches_of_one(tmp_path, settings):
    height, width = settings.get("image_size", (8, 8))
    images = digits()[:, :, :height, :width]
    trained = train(tmp_path, ddn=small_ddn(**settings), dataset=images, batch_size=1, num_train_steps=130)
    assert all(value.isfinite().all() for value in everything(trained).values())
    assert (trained.splits == 0) == (settings.get("codebook_size") == 1)


def test_images_of_any_number_of_channels(tmp_path):
    train(tmp_path, ddn=small_ddn(channels=5), dataset=torch.rand(20, 5, 8, 8), save_results_every=5)
    assert not (tmp_path / "results" / "pictures").exists()


@pytest.mark.slow
def test_compiled(tmp_path):
    # chance is drawn in another order there, so none is
    settings = {"sampler": {"chain_dropout_prob": 0.0}}
    plain, compiled = (
        train(tmp_path / name, ddn=small_ddn(**settings), num_train_steps=8, compile=name == "compiled")
        for name in ("plain", "compiled")
    )
    assert plain.splits == compiled.splits > 0
    assert compiled.ddn.state_dict().keys() == plain.ddn.state_dict().keys()
    for (name, one), other in zip(plain.ddn.named_parameters(), compiled.ddn.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-2, atol=1e-4, msg=name)


def test_the_moving_average_by_hand():
    ddn = small_ddn()
    average = MovingAverage(ddn, beta=0.5, update_every=2)
    expected = None
    for step in range(1, 9):
        with torch.no_grad():
            for parameter in ddn.parameters():
                parameter.add_(torch.randn_like(parameter))
        average.update(step)
        if step % 2 == 0:
            updates = step // 2
            beta = min(0.5, (1 + updates) / (10 + updates))
            now = ddn.start.detach().clone()
            expected = average_of(expected, now, beta, ddn)
            torch.testing.assert_close(average.model.start, expected)


def average_of(before, now, beta, ddn):
    # the average begins as the model it was made of
    first = small_ddn().start.detach() if before is None else before
    return beta * first + (1 - beta) * now


def test_splits_reach_the_moving_average(tmp_path):
    made = trainer(tmp_path)
    sampler, mirrored = made.ddn.samplers[0], made.ema.model.samplers[0]
    sampler.counts.copy_(torch.tensor([500, 100, 100, 100, 100, 100, 100, 0]))
    with torch.no_grad():
        mirrored.keys.weight.normal_()
    made.optimisation.split_and_prune()
    assert torch.equal(sampler.keys.weight[7], sampler.keys.weight[0])
    assert torch.equal(mirrored.keys.weight[7], mirrored.keys.weight[0])
    assert not torch.equal(mirrored.keys.weight[7], sampler.keys.weight[7])


def test_without_a_moving_average_the_model_is_the_result(tmp_path):
    trained = train(tmp_path, use_ema=False)
    assert trained.result is trained.ddn
    assert_equal(DDN.from_pretrained(tmp_path / "results" / "model").state_dict(), trained.ddn.state_dict())
