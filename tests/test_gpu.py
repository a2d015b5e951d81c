"""A GPU computes what a CPU computes. Where there is no GPU, the CPU takes its part, which shows that the tests run."""

import warnings

import pytest
import torch
from accelerate.state import AcceleratorState
from small import assert_equal, colour_ddn, digits, everything, pictures, prefer, small_ddn, train, trainer

from discrete_distribution_network import DDN, ImageCodec
from discrete_distribution_network.prior.heads import Prior

pytestmark = pytest.mark.gpu

GPU = torch.cuda.is_available()
DEVICE = "cuda" if GPU else "cpu"
HERE, ON_CPU = {"accelerate_kwargs": {"cpu": not GPU}}, {"accelerate_kwargs": {"cpu": True}}


@pytest.fixture(autouse=True)
def as_exact_as_a_cpu(monkeypatch):
    """Products in float32, sums in one order, and a training on its own device, whatever was trained on before."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    AcceleratorState._reset_state(reset_partial_state=True)


def test_codes_and_images_are_those_of_a_cpu():
    ddn = colour_ddn()
    images = pictures(64)
    codes = ddn.encode(images)
    decoded = ddn.decode(codes)
    ddn.to(DEVICE)
    found = ddn.encode(images.to(DEVICE))
    assert (found.cpu() == codes).float().mean() > 0.999
    torch.testing.assert_close(ddn.decode(codes.to(DEVICE)).cpu(), decoded, atol=1e-4, rtol=1e-4)


def test_a_few_steps_are_those_of_a_cpu(tmp_path):
    """Without splits, which follow from single choices."""
    losses = []
    for name, where in (("cpu", ON_CPU), ("gpu", HERE)):
        AcceleratorState._reset_state(reset_partial_state=True)
        made = trainer(tmp_path / name, small_ddn(), split_until=0.0, mixed_precision="no", **where)
        assert made.processes.device.type == ("cpu" if name == "cpu" else DEVICE)
        batches = made.loader.batches()
        losses.append(torch.tensor([made.loop.step(batches)[0].losses for _ in range(5)]))
    torch.testing.assert_close(*losses, atol=2e-3, rtol=2e-3)


@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_a_resumed_training_ends_as_one_without_a_break(tmp_path, precision):
    settings = {"mixed_precision": precision, **HERE}
    whole = train(tmp_path / "whole", **settings)
    train(tmp_path / "parts", **{**settings, "num_train_steps": 10})
    again = train(tmp_path / "parts", resume=True, **settings)
    if precision == "no" or not GPU:
        assert_equal(everything(whole), everything(again))
    assert whole.step == again.step == 20


def test_a_network_with_decoder_and_prior_trains(tmp_path):
    ddn = small_ddn(patch_size=[None, 4], decoder_dim=4)
    made = train(tmp_path, ddn=ddn, prior=Prior(ddn, dim=8), dataset=digits(200), mixed_precision="auto", **HERE)
    assert made.result.start.device.type == DEVICE
    loaded = DDN.from_pretrained(tmp_path / "results" / "model")
    assert loaded.sample(3).shape == (3, 1, 8, 8)


def test_samples_follow_a_generator_on_the_device():
    ddn = prefer(colour_ddn()).to(DEVICE)
    draws = [ddn.sample(4, generator=torch.Generator(DEVICE).manual_seed(seed)) for seed in (1, 1, 2)]
    assert draws[0].device.type == DEVICE
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


def test_files_are_those_of_a_cpu():
    ddn = colour_ddn()
    codes = ddn.encode(pictures(6))
    expected = ImageCodec(ddn).write(codes, ddn.image_size)
    ddn.to(DEVICE)
    codec = ImageCodec(ddn)
    assert codec.write(codes.to(DEVICE), ddn.image_size) == expected
    images = codec.decompress_batch(expected)
    assert len(images) == 6


def test_a_step_waits_once(tmp_path):
    """PyTorch counts every wait for the device; a step has one, for its figures."""
    if not GPU:
        pytest.skip("no CUDA device, whose waits could be counted; test_operations counts what reads values")
    made = trainer(tmp_path, mixed_precision="auto", **HERE)
    batches = made.loader.batches()
    ready = [next(batches) for _ in range(6)]
    for batch in ready[:3]:
        made.loop.step(iter([batch]))
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            for batch in ready[3:]:
                made.loop.step(iter([batch]))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    waits = [one for one in caught if "synchroniz" in str(one.message)]
    assert len(waits) <= len(ready[3:])
