"""A small training, and processes to run it in, for the tests of the trainer."""

import multiprocessing
import os
import socket

import torch
from torch.utils.data import Dataset

from discrete_distribution_network import DDN, Prior, Trainer
from discrete_distribution_network.errors import DataError

PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["discrete_distribution_network.training.trainer"])


def digits(count=60, size=8):
    """Pictures with something to learn: bright bars at changing places, uint8."""
    generator = torch.Generator().manual_seed(7)
    places = torch.randint(0, size - 2, (count, 2), generator=generator)
    images = torch.randint(0, 40, (count, 1, size, size), generator=generator, dtype=torch.uint8)
    for image, (top, left) in zip(images, places.tolist(), strict=True):
        image[0, top : top + 3, left] = 250
        image[0, top, left : left + 3] = 200
    return images


class Faulty(Dataset):
    """Every twentieth image is broken."""

    def __len__(self):
        return 60

    def __getitem__(self, index):
        if index % 20 == 3:
            raise DataError(f"expected an image, got file {index}")
        return digits()[index], index % 10


def prefer(ddn, **arguments):
    """Candidates that differ, and a prior that prefers some; `arguments` are those of the prior."""
    with torch.no_grad():
        for sampler in ddn.samplers:
            sampler.keys.weight.normal_(0, 0.3)
        ddn.prior = Prior(ddn, dim=8, **arguments).eval()
        for parameter in ddn.prior.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return ddn


SIZE = 16
"""Side of the images of `colour_ddn`."""


def small_ddn(sampler=(), seed=3, **kwargs):
    """A DDN that splits early, so that a few steps have many splits."""
    torch.manual_seed(seed)
    arguments = dict(dim=4, dim_max=8, image_size=8, channels=1, codebook_size=8, levels_per_resolution=2)
    sampler = {"min_total_count_before_split_prune": 16, **dict(sampler)}
    return DDN(**{**arguments, **kwargs}, guided_sampler_kwargs=sampler)


def colour_ddn(**kwargs):
    arguments = dict(channels=3, image_size=SIZE, codebook_size=32, patch_size=[None, 4, 8])
    ddn = small_ddn(**{**arguments, **kwargs}).eval()
    with torch.no_grad():  # so that candidates differ, and levels see what was chosen
        for sampler in ddn.samplers:
            sampler.keys.weight.normal_(0, 0.15)
    return ddn


def pictures(batch=4, channels=3):
    return torch.rand(batch, channels, SIZE, SIZE, generator=torch.Generator().manual_seed(5))


def trainer(folder, ddn=None, **kwargs):
    """A `Trainer` that writes into this folder alone."""
    arguments = dict(
        dataset=digits(),
        num_train_steps=20,
        learning_rate=3e-3,
        batch_size=8,
        checkpoint_every=5,
        save_results_every=10_000,
        log_every=5,
        num_samples=4,
        progress=False,
        checkpoints_folder=folder / "checkpoints",
        results_folder=folder / "results",
    )
    return Trainer(ddn or small_ddn(), **{**arguments, **kwargs})


def train(folder, **kwargs):
    """A training by `trainer` that has come to its end."""
    trained = trainer(folder, **kwargs)
    trained()
    return trained


def before_splits(made, action):
    """Let a trainer do this in every step, before it splits."""
    original = made.optimisation.split_and_prune

    def split(*counts):
        action()
        return original(*counts)

    made.optimisation.split_and_prune = split
    return made


def everything(trained):
    """All that a training is: weights and counts, moments, moving average, second stage, place."""
    state = {f"weights/{name}": value for name, value in trained.ddn.state_dict().items()}
    state |= {name: value for name, value in trained.optimisation.tensors().items() if name.startswith("optimizer/")}
    if trained.ema is not None:
        state |= {f"ema/{name}": value for name, value in trained.ema.model.state_dict().items()}
    if trained.loop.second is not None:
        state |= trained.loop.second.tensors()
    numbers = torch.tensor([trained.step, trained.images, trained.splits])
    return {name: value.clone() for name, value in {**state, "numbers": numbers}.items()}


def assert_equal(first, second):
    assert first.keys() == second.keys()
    differing = [name for name, value in first.items() if not torch.equal(value, second[name])]
    assert not differing


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def join(rank, ranks, port):
    """Make this process one of several, as torchrun would."""
    torch.set_num_threads(1)
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(ranks),
        "LOCAL_WORLD_SIZE": str(ranks),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }


def start(target, *arguments):
    process = PROCESSES.Process(target=target, args=arguments)
    process.start()
    return process


def run_together(target, ranks, *arguments, timeout=120):
    """Run `target(*arguments)` in several processes that train together; gives their exit codes."""
    port = free_port()
    running = [start(_joined, target, rank, ranks, port, *arguments) for rank in range(ranks)]
    for process in running:
        process.join(timeout)
    codes = [process.exitcode for process in running]
    for process in running:
        process.kill()
    return codes


def _joined(target, rank, ranks, port, *arguments):
    join(rank, ranks, port)
    target(*arguments)
