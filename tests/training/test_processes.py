"""Several processes train as one: real ones, over gloo on loopback."""

import atexit
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from small import (
    PROCESSES,
    assert_equal,
    before_splits,
    digits,
    everything,
    free_port,
    join,
    run_together,
    small_ddn,
    trainer,
)

from discrete_distribution_network import DDN, Prior
from discrete_distribution_network.errors import DDNError, InvalidInput
from discrete_distribution_network.evaluation.metrics import evaluate
from discrete_distribution_network.training.processes import fast_precision

QUIET = {"chain_dropout_prob": 0.0}


def train_part(folder, batch_size, steps, sampler, resume=False, split_every=1, network=None, by_prior=False):
    """One process's part of a training; what it ends with is written beside the run."""
    rank = int(os.environ.get("RANK", "0"))  # the first one's weights are those of all
    ddn = small_ddn(sampler=sampler, codebook_size=16, seed=3 + rank, **(network or {}))
    settings = {"batch_size": batch_size, "num_train_steps": steps, "resume": resume, "split_every": split_every}
    prior = Prior(ddn, dim=8) if by_prior else None
    made = trainer(folder, ddn, prior=prior, dataset=digits(200), **settings)
    seeds = []
    before_splits(made, lambda: seeds.append(torch.initial_seed()))()
    state = {name: value.contiguous() for name, value in everything(made).items()}
    save_file({**state, "seeds": torch.tensor(seeds)}, folder / f"rank-{made.processes.rank}")


def ended(folder, rank=0):
    state = load_file(folder / f"rank-{rank}")
    return state, state.pop("seeds").tolist()


def folders(tmp_path, *names):
    for name in names:
        (tmp_path / name).mkdir()
        yield tmp_path / name


@pytest.mark.parametrize(
    ("steps", "splits", "sampler", "split_every"),
    [
        (12, 20, QUIET, 1),
        (60, 200, QUIET, 1),
        (60, 60, QUIET, 4),
        (110, 50, {**QUIET, "max_swaps": 1}, 1),
    ],
)
def test_two_processes_are_one_with_the_whole_batch(tmp_path, steps, splits, sampler, split_every):
    one, two = folders(tmp_path, "one", "two")
    train_part(one, 16, steps, sampler, False, split_every)
    assert run_together(train_part, 2, two, 8, steps, sampler, False, split_every) == [0, 0]
    (whole, _), (parts, _), (second, _) = ended(one), ended(two), ended(two, rank=1)
    counts = [name for name in whole if name.endswith("counts")]
    # both processes are equal bit for bit; counts too, once they are summed
    assert_equal(parts, second)
    assert torch.equal(whole["numbers"], parts["numbers"])
    assert int(whole["numbers"][2]) >= splits
    for name, value in whole.items():
        if name in counts:
            assert torch.equal(value, parts[name]), name
        else:
            torch.testing.assert_close(value, parts[name], rtol=1e-3, atol=1e-4, msg=name)


def test_random_choices_differ_between_processes_but_weights_do_not(tmp_path):
    (folder,) = folders(tmp_path, "two")
    noisy = {"chain_dropout_prob": 0.5, "stochastic": True}
    assert run_together(train_part, 2, folder, 8, 30, noisy) == [0, 0]
    (first, seeds), (second, other_seeds) = ended(folder, 0), ended(folder, 1)
    assert_equal(first, second)
    assert first["numbers"][2] > 20
    assert len({*seeds, *other_seeds}) == 60


def test_two_processes_have_one_discriminator(tmp_path):
    (two,) = folders(tmp_path, "two")
    on = {"use_adversarial_loss": True, "discr_base_dim": 4}
    assert run_together(train_part, 2, two, 8, 12, QUIET, False, 1, on) == [0, 0]
    (first, _), (second, _) = ended(two), ended(two, rank=1)
    assert_equal(first, second)
    begun = small_ddn(codebook_size=16, seed=3, **on).discriminator.entry.weight
    assert not torch.equal(first["weights/discriminator.entry.weight"], begun)


def test_two_processes_resume_exactly(tmp_path):
    whole, parts = folders(tmp_path, "whole", "parts")
    noisy = {"chain_dropout_prob": 0.5}
    assert run_together(train_part, 2, whole, 8, 20, noisy) == [0, 0]
    assert run_together(train_part, 2, parts, 8, 10, noisy) == [0, 0]
    assert run_together(train_part, 2, parts, 8, 20, noisy, True) == [0, 0]
    for rank in (0, 1):
        assert_equal(ended(whole, rank)[0], ended(parts, rank)[0])


def test_two_processes_have_one_prior_and_one_decoder(tmp_path):
    whole, parts = folders(tmp_path, "whole", "parts")
    network = {"patch_size": [None, 4], "decoder_dim": 4}
    assert run_together(train_part, 2, whole, 8, 20, {}, False, 1, network, True) == [0, 0]
    (first, _), (second, _) = ended(whole), ended(whole, rank=1)
    assert_equal(first, second)
    assert {name.split("/")[0] for name in first} >= {"prior", "decoder"}
    assert run_together(train_part, 2, parts, 8, 15, {}, False, 1, network, True) == [0, 0]
    assert DDN.from_pretrained(parts / "results").prior is not None


def test_another_number_of_processes_resumes_and_says_so(tmp_path):
    (folder,) = folders(tmp_path, "run")
    assert run_together(train_part, 2, folder, 8, 10, QUIET) == [0, 0]
    with pytest.warns(UserWarning, match=r"not exactly.*processes 2 -> 1"):
        train_part(folder, 8, 14, QUIET, True)
    assert ended(folder)[0]["numbers"].tolist()[:2] == [14, 10 * 16 + 4 * 8]


def evaluate_part(folder):
    made = trainer(folder, dataset=digits(64), test_dataset=digits(29), num_train_steps=3)
    figures = made()
    alone = evaluate(made.result, digits(29))
    torch.testing.assert_close(torch.tensor(figures.error_by_level), torch.tensor(alone.error_by_level))
    torch.testing.assert_close(torch.tensor(figures.usage_by_level), torch.tensor(alone.usage_by_level))
    assert figures.images == alone.images == 29


def test_evaluation_counts_every_image_once(tmp_path):
    assert run_together(evaluate_part, 2, tmp_path) == [0, 0]


def fail_part(folder, failure):
    rank = int(os.environ["RANK"])
    made = trainer(folder, num_train_steps=20, batch_size=4)
    if failure == "not finite" and rank == 1:
        made.loader.dataset = torch.full((60, 1, 8, 8), torch.nan)
    if failure == "signal" and rank == 1:
        before_splits(made, lambda: made.step == 6 and os.kill(os.getpid(), signal.SIGTERM))
    if failure == "full disk" and rank == 0:

        def full(*_):
            raise OSError(28, "No space left on device", "checkpoints")

        made.checkpoints.save = full
    messages = {"not finite": "finite", "full disk": "No space" if rank == 0 else "first process"}
    if failure != "signal":
        with pytest.raises((DDNError, OSError), match=messages[failure]):
            made()
        sys.exit(10 + made.step)
    made()


@pytest.mark.parametrize(
    ("failure", "codes"), [("not finite", [10, 10]), ("signal", [128 + 15, 128 + 15]), ("full disk", [15, 15])]
)
def test_what_one_process_meets_ends_all(tmp_path, failure, codes):
    assert run_together(fail_part, 2, tmp_path, failure) == codes
    if failure == "signal":
        with pytest.warns(UserWarning, match="not exactly"):
            assert trainer(tmp_path, resume=True, batch_size=8).step == 8


def die_part(rank, port, folder):
    join(rank, 2, port)
    made = trainer(folder, num_train_steps=10**6, batch_size=4, timeout=8.0)
    if rank == 1:
        before_splits(made, lambda: made.step == 6 and os.kill(os.getpid(), signal.SIGKILL))
    made()


def hang_part(rank, port, folder):
    join(rank, 2, port)
    made = trainer(folder, num_train_steps=10**6, batch_size=4, timeout=8.0)
    if rank == 1:
        before_splits(made, lambda: time.sleep(100))
    made()


@pytest.mark.parametrize("part", [die_part, hang_part])
def test_one_process_dies_or_hangs_and_the_other_ends(tmp_path, part):
    port = free_port()
    first, second = (PROCESSES.Process(target=part, args=(rank, port, tmp_path)) for rank in (0, 1))
    first.start()
    second.start()
    first.join(60)
    assert first.exitcode not in (0, None)
    second.kill()


def test_torchrun_trains_one_model(photograph_folder, tmp_path):
    options = ["--size", "8", "8", "--dim", "4", "--steps", "7", "--batch-size", "4", "--out", str(tmp_path / "run")]
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", str(free_port())]
    command = [*launch, "-m", "discrete_distribution_network", "train", str(photograph_folder), *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("images to learn from") == 1
    state = json.loads((tmp_path / "run/checkpoints/step-00000007/training.json").read_text())
    assert (state["images"], state["exact"]["processes"]) == (4 * 2 * 4 + 3 * 2 * 2 * 4, 2)
    without = subprocess.run(command[:-2], capture_output=True, text=True, timeout=120)
    assert "expected --out with 2 processes" in without.stderr


def leave_part(folder, ending):
    if ending == "own group":
        torch.distributed.init_process_group("gloo")
    made = trainer(folder, num_train_steps=4, batch_size=4)
    if ending == "signal":
        before_splits(made, lambda: made.step == 1 and os.kill(os.getpid(), signal.SIGTERM))
    elif ending == "error":
        made.ddn.start.register_hook(lambda gradient: gradient * torch.nan)
    try:
        made()
    except (SystemExit, DDNError):
        assert ending in ("signal", "error")
    # until the interpreter ends, everything can be used
    made.save("again")
    if ending == "finished":
        made.loop.config = replace(made.config, num_train_steps=6)
        made()
        other = trainer(folder / "other", num_train_steps=2, batch_size=4)
        other()
    if ending == "ended before":
        made.accelerator.end_training()
    atexit._run_exitfuncs()
    assert torch.distributed.is_initialized() == (ending == "own group")


@pytest.mark.parametrize("ending", ["finished", "signal", "error", "ended before", "own group"])
def test_the_group_is_left_in_order_when_the_interpreter_ends(tmp_path, ending):
    assert run_together(leave_part, 2, tmp_path, ending) == [0, 0]


def say_part(folder):
    made = trainer(folder, batch_size=4)
    made.is_main and made.log(mine=1)
    assert made.sample("samples.png").shape == (4, 1, 8, 8)
    made.log_images("mine", torch.rand(2, 1, 8, 8))


def test_one_of_two_processes_writes_what_is_logged(tmp_path):
    assert run_together(say_part, 2, tmp_path) == [0, 0]
    assert (tmp_path / "results" / "metrics.jsonl").read_text() == '{"step": 0, "mine": 1}\n'
    assert (tmp_path / "results" / "pictures" / "mine-00000000.png").exists()


LAUNCHED = "ACCELERATE_MIXED_PRECISION"


def test_the_launcher_wins_over_the_default_and_an_argument_over_the_launcher(tmp_path, monkeypatch):
    def precision(**kwargs):
        return trainer(tmp_path, **kwargs).precision

    assert precision() == "no"
    for launched in ("bf16", "fp16", "BF16"):
        monkeypatch.setenv(LAUNCHED, launched)
        assert precision() == precision(mixed_precision="auto") == launched.lower()
        assert precision(mixed_precision="no") == "no"
        assert precision(accelerate_kwargs={"mixed_precision": "no"}) == "no"
    assert precision(mixed_precision="fp16") == "fp16"
    for launched in ("no", ""):  # what a launcher says that was asked for nothing
        monkeypatch.setenv(LAUNCHED, launched)
        assert precision() == "no"
        assert precision(mixed_precision="auto") == fast_precision(cpu=True)
    monkeypatch.setenv(LAUNCHED, "fp8")
    with pytest.raises(InvalidInput, match=f"no, bf16 or fp16 in {LAUNCHED}.*'fp8'"):
        precision()
    assert precision(mixed_precision="no") == "no"


def test_a_launcher_that_says_cpu_is_asked_which_precision_is_fast_there(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(
        "discrete_distribution_network.training.processes.fast_precision", lambda cpu: asked.append(cpu) or "no"
    )
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    trainer(tmp_path, mixed_precision="auto", accelerate_kwargs={"cpu": False})
    assert asked == [True]


def test_accelerate_launch_trains_in_its_precision(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import sys\nfrom pathlib import Path\n"
        f"sys.path[:0] = {[str(folder) for folder in Path(__file__).parents[1:3]]}\nfrom small import trainer\n"
        f"made = trainer(Path({str(tmp_path)!r}), num_train_steps=2)\nmade()\nprint(made.precision)\n"
    )
    launch = [
        sys.executable,
        "-m",
        "accelerate.commands.launch",
        "--cpu",
        "--num_processes",
        "1",
        "--num_machines",
        "1",
    ]
    command = [*launch, "--mixed_precision", "bf16", "--dynamo_backend", "no", script]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "bf16"


def test_fast_precision_is_one_of_them():
    assert fast_precision(cpu=True) in ("no", "bf16")
