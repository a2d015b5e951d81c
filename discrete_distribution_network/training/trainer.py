"""`Trainer`: step, loop, checkpoint, resume; on one process or many, through accelerate.

A step is: a batch, forward, backward, clip, look whether everything is finite, optimiser, split-and-prune, moving
average. Whatever is random in it comes from the seed and the number of the step, so a checkpoint needs no random state,
and a resumed training repeats the uninterrupted one.
"""

from __future__ import annotations

import math
import re
import signal
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from huggingface_hub import constants
from PIL import Image
from torch import Tensor, nn

from discrete_distribution_network.conditioning import CondFn, conditioning_inputs
from discrete_distribution_network.data.datasets import ImageDataset, is_stream
from discrete_distribution_network.data.decoding import Augment
from discrete_distribution_network.data.fingerprint import fingerprint
from discrete_distribution_network.data.images import to_pixels
from discrete_distribution_network.data.loader import Batch, Loader, first_batch, in_unit_range
from discrete_distribution_network.ddn import DDN
from discrete_distribution_network.errors import DDNError, InvalidInput, ModelFileError, require
from discrete_distribution_network.evaluation.metrics import Evaluation, evaluate, usage
from discrete_distribution_network.io import atomic_folder
from discrete_distribution_network.io.atomic_file import atomic_file, output_errors, remove_unfinished
from discrete_distribution_network.io.pretrained import MODEL
from discrete_distribution_network.io.safetensors_file import load_strictly, read_tensors, write_tensors
from discrete_distribution_network.model.pixels import as_pixels
from discrete_distribution_network.random_state import mix_seed, own_random_state, seed_random_state
from discrete_distribution_network.signals import Interrupted, Signals
from discrete_distribution_network.training.checkpoints import STATE, Checkpoints, load_moments, moments_of, read_state
from discrete_distribution_network.training.moving_average import MovingAverage
from discrete_distribution_network.training.processes import (
    Precision,
    Processes,
    accelerator_for,
)
from discrete_distribution_network.training.report import Report
from discrete_distribution_network.training.schedule import learning_rate
from discrete_distribution_network.viz.pictures import grid, reconstructions

WEIGHTS, TRAINING = constants.SAFETENSORS_SINGLE_FILE, "training.safetensors"
"""Files of a checkpoint: the model to use, and what else it takes to continue."""

PICTURES = "pictures"
"""Folder, inside that of a training's results, of pictures along the way."""

MAX_OVERFLOWS = 30
"""Steps in a row whose float16 gradients may overflow while their scale is found."""


class Step(NamedTuple):
    """What a step of the optimiser was like; over all processes.

    Attributes:
        losses: of each level, (L,).
        norm: of the gradient, before clipping.
        swaps: how many nodes were pruned.
        seconds: it took, with loading.
    """

    losses: list[float]
    norm: float
    swaps: int
    seconds: float

    @property
    def loss(self) -> float:
        return sum(self.losses) / len(self.losses)


class Trainer:
    """Trains a `DDN`: `Trainer(ddn, dataset=dataset)()`.

    Start it with `accelerate launch` or `torchrun` to train in several processes: each takes `batch_size` images of
    every batch, gradients are averaged, counts summed, and every process makes the same splits.

    Args:
        ddn: trained in place; or a dictionary, the arguments of a new one.
        dataset: a `Dataset`, a tensor (N, C, H, W) or an iterable, of images or (image, label), see `data.py`; or a
            dictionary, the arguments of an `ImageDataset`.
        num_train_steps: steps of the optimiser.
        learning_rate: the highest.
        weight_decay: of AdamW.
        batch_size: images a step, in each process.
        grad_accum_every: batches whose gradients are summed for one step.
        checkpoints_folder: where checkpoints are written; a new or empty folder, unless `resume` or `overwrite`.
        results_folder: where `metrics.jsonl`, pictures and, at the end, `model` are written; likewise.
        save_results_every: steps between two grids of samples and reconstructions.
        checkpoint_every: steps between two checkpoints.
        num_samples: images in a grid.
        adam_kwargs: further arguments of `torch.optim.AdamW`.
        accelerate_kwargs: further arguments of `accelerate.Accelerator`.
        ema_kwargs: of the moving average: `beta` (0.9999), `update_every` (1) and `update_after_step` (0). Early on
            it averages over fewer steps: beta is at most (1 + t) / (10 + t).
        use_ema: keep a moving average of the weights; it is what is evaluated, drawn and given out.
        max_grad_norm: gradients are clipped to this norm; None for no clipping.
        apply_grad_penalty_every: steps between two gradient penalties of the discriminator, where there is one.
        test_dataset: held-out images, evaluated every `evaluate_every` steps and at the end.
        evaluate_every: see there.
        evaluate_images: how many of them; all if None.
        max_minutes: end after so many minutes of wall-clock time, if that comes before `num_train_steps`; schedules
            then follow the clock, so a resumed training is no exact repetition.
        warmup_steps: steps over which the learning rate rises from nothing.
        decay: "cosine" lets the learning rate fall to nothing after the share `hold` of the training.
        hold: see there.
        split_every: steps between two calls of split-and-prune.
        split_until: share of the training after which nodes stay where they are.
        augment: of one image (C, H, W); see `Loader`.
        cond_fn: images -> what a network with `cond_channels` is shown with them; see `conditioning.py`. One with
            `num_classes` is shown the labels of the data set.
        max_bad_images: how many images that cannot be decoded are replaced by others (left out, when evaluating)
            before it is an error; in each process.
        num_workers: processes that load images; None for none on a CPU, two on a GPU.
        mixed_precision: "no" (float32), "bf16", "fp16", or "auto": what `accelerate launch --mixed_precision` asks for
            if that is bf16 or fp16, else bf16 where the processor has instructions for it. None is what the launcher
            asks for, else float32. The launcher's number of batches to accumulate is not looked at.
        compile: `torch.compile` the network.
        channels_last: keep weights and images in that memory format.
        seed: of the order of the images and of all that is random in training.
        resume: True for the newest whole checkpoint, if there is one; or the folder of a checkpoint.
        overwrite: write into folders that hold files; files of the same names are replaced, none else, but older
            checkpoints count among those of which only the newest are kept.
        max_checkpoints: the newest so many are kept; None for all.
        trackers: names of accelerate's trackers (tensorboard, wandb, trackio), or trackers.
        log_every: steps between two lines of figures.
        timeout: seconds after which a process gives up waiting for the others.
        progress: show a bar.

    Attributes:
        step: steps done.
        seconds: wall-clock time of them, also before a resume.
        splits: nodes pruned so far.
        result: the model to use: the moving average, or the `ddn`.
        unwrapped_model: the `ddn`, which trains.
        is_main: whether this is the process that writes.

    Raises:
        DDNError: from the call: the loss or the gradient is not finite; no weight was changed by that step.
        OutputError: from the call: a file cannot be written; it names the file, and older checkpoints stay.
        Interrupted: from the call: SIGTERM or Ctrl-C; a checkpoint is saved. It is a SystemExit, code 128 + signal.
    """

    def __init__(
        self,
        ddn: DDN | dict[str, Any],
        *,
        dataset: Any,
        num_train_steps: int = 70_000,
        learning_rate: float = 3e-4,
        weight_decay: float = 1e-3,
        batch_size: int = 32,
        grad_accum_every: int = 1,
        checkpoints_folder: str | Path = "./checkpoints",
        results_folder: str | Path = "./results",
        save_results_every: int = 100,
        checkpoint_every: int = 1000,
        num_samples: int = 16,
        adam_kwargs: dict[str, Any] | None = None,
        accelerate_kwargs: dict[str, Any] | None = None,
        ema_kwargs: dict[str, Any] | None = None,
        use_ema: bool = True,
        max_grad_norm: float | None = 0.5,
        apply_grad_penalty_every: int = 4,
        test_dataset: Any = None,
        evaluate_every: int = 1000,
        evaluate_images: int | None = 1000,
        max_minutes: float | None = None,
        warmup_steps: int = 0,
        decay: Literal["none", "cosine"] = "none",
        hold: float = 0.0,
        split_every: int = 1,
        split_until: float = 1.0,
        augment: Augment | None = None,
        cond_fn: CondFn | None = None,
        max_bad_images: int = 0,
        num_workers: int | None = None,
        mixed_precision: Precision | None = None,
        compile: bool = False,
        channels_last: bool = True,
        seed: int = 0,
        resume: bool | str | Path = False,
        overwrite: bool = False,
        max_checkpoints: int | None = 3,
        trackers: Sequence[Any] = (),
        log_every: int = 20,
        timeout: float = 600.0,
        progress: bool = True,
    ):
        for name, number in (
            ("num_train_steps", num_train_steps),
            ("grad_accum_every", grad_accum_every),
            ("save_results_every", save_results_every),
            ("checkpoint_every", checkpoint_every),
            ("num_samples", num_samples),
            ("evaluate_every", evaluate_every),
            ("split_every", split_every),
            ("log_every", log_every),
            ("apply_grad_penalty_every", apply_grad_penalty_every),
        ):
            require(isinstance(number, int) and number >= 1, f"{name} to be an integer of at least 1", repr(number))
        require(learning_rate > 0, "learning_rate above 0", learning_rate)
        require(max_grad_norm is None or max_grad_norm > 0, "max_grad_norm above 0, or None", max_grad_norm)
        require(
            evaluate_images is None or evaluate_images >= 1, "evaluate_images of at least 1, or None", evaluate_images
        )
        require(max_minutes is None or max_minutes > 0, "max_minutes above 0, or None", max_minutes)
        require(warmup_steps >= 0, "warmup_steps of at least 0", warmup_steps)
        require(decay in ("none", "cosine"), 'decay "none" or "cosine"', repr(decay))
        require(0 <= hold < 1, "hold in [0, 1)", hold)
        require(
            mixed_precision in (None, "auto", "no", "bf16", "fp16"),
            'mixed_precision "auto", "no", "bf16", "fp16" or None',
            repr(mixed_precision),
        )
        if isinstance(ddn, dict):
            ddn = _made_of(DDN, ddn)
        if not isinstance(ddn, DDN):
            raise InvalidInput(f"expected a DDN, or a dictionary of its arguments, got a {type(ddn).__name__}")
        if isinstance(dataset, dict):
            dataset = _made_of(ImageDataset, dataset)
        self.num_train_steps, self.max_minutes = num_train_steps, max_minutes
        self.learning_rate, self.warmup_steps, self.decay, self.hold = learning_rate, warmup_steps, decay, hold
        self.grad_accum_every, self.max_grad_norm = grad_accum_every, max_grad_norm
        self.split_every, self.split_until = split_every, split_until
        self.apply_grad_penalty_every = apply_grad_penalty_every
        self.save_results_every, self.checkpoint_every, self.num_samples = (
            save_results_every,
            checkpoint_every,
            num_samples,
        )
        self.test_dataset, self.evaluate_every, self.evaluate_images = test_dataset, evaluate_every, evaluate_images
        self.seed, self.log_every, self.progress, self.trackers = seed, log_every, progress, list(trackers)
        self.results_folder, self.overwrite = Path(results_folder), overwrite
        self.checkpoints = Checkpoints(checkpoints_folder, max_checkpoints)
        self.step, self.images, self.seconds, self.splits = 0, 0, 0.0, 0
        self._saved: tuple[int, Path] | None = None
        self.cond_fn = cond_fn
        self._shown: Batch | None = None
        self._overflows = 0

        self.accelerator = accelerator_for(
            mixed_precision, timeout, self.trackers, self.results_folder, accelerate_kwargs or {}
        )
        self.processes, self.precision = Processes(self.accelerator), self.accelerator.mixed_precision
        if not (resume or overwrite):
            held = [folder for folder in (self.checkpoints.folder, self.results_folder) if _holds_files(folder)]
            self.processes.wait()  # every process looks before one writes
            if held:
                raise InvalidInput(
                    f"expected a new folder, got {held[0]}, which holds files; continue that training with resume, use "
                    "another folder, or overwrite"
                )
        self.report = Report(self.results_folder if self.is_main else None, replace=overwrite)
        if num_workers is None:
            num_workers = 0 if self.processes.device.type == "cpu" else 1 if is_stream(dataset) else 2
        self.loader = Loader(
            dataset,
            ddn,
            batch_size,
            augment=augment,
            seed=seed,
            rank=self.processes.rank,
            ranks=self.processes.number,
            workers=num_workers,
            pin_memory=self.processes.device.type == "cuda",
            max_bad_images=max_bad_images,
        )
        if self.is_main and (lacking := ddn.not_rebuildable):
            warnings.warn(
                f"config.json cannot hold {', '.join(lacking)}; whoever loads what this training saves has to give the "
                "same to DDN.from_pretrained",
                stacklevel=2,
            )
        self.ddn, self.channels_last = ddn.to(self.processes.device).train(), channels_last
        if channels_last:
            self.ddn.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        adam = {"lr": learning_rate, "weight_decay": weight_decay, "fused": True, **(adam_kwargs or {})}
        try:
            optimizer = torch.optim.AdamW(self.ddn.parameters(), **adam)
        except (TypeError, ValueError, RuntimeError) as error:
            raise InvalidInput(f"expected adam_kwargs that torch.optim.AdamW takes, but it says: {error}") from error
        unknown = sorted(set(ema_kwargs or {}) - {"beta", "update_every", "update_after_step"})
        require(not unknown, "ema_kwargs beta, update_every and update_after_step", ", ".join(unknown))
        model = LossByLevel(self.ddn)
        if compile:
            model.compile()
        with warnings.catch_warnings():
            # the name of the argument changes in newer PyTorch; accelerate knows the old one only
            warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated", FutureWarning)
            self.optimizer = self.processes.prepare(model, optimizer)
        self.ema = MovingAverage(self.ddn, **(ema_kwargs or {})) if use_ema else None
        # to look through all modules at every step takes its time
        judge = self.ddn.discriminator
        self._judging = [] if judge is None else list(judge.parameters())
        judging = {id(parameter) for parameter in self._judging}
        self._parameters = [parameter for parameter in self.ddn.parameters() if id(parameter) not in judging]
        self._counted = self._counts()
        if resume and (found := self.checkpoints.newest_whole() if resume is True else Path(resume)):
            self.load(found)

    @property
    def result(self) -> DDN:
        return self.ddn if self.ema is None else self.ema.model

    @property
    def unwrapped_model(self) -> DDN:
        return self.ddn

    @property
    def is_main(self) -> bool:
        return self.processes.is_main

    # the loop

    def __call__(self) -> Evaluation | None:
        """Train to the end; gives the figures on `test_dataset` then, if there is one."""
        report = self.report
        report.total = self.num_train_steps if self.max_minutes is None else 60 * self.max_minutes
        report.done = self._done
        report.progress = self.progress and self.accelerator.is_local_main_process
        with Signals() as signals, report, own_random_state(self.processes.device):
            return self._train(signals, report)

    def _train(self, signals: Signals, report: Report) -> Evaluation | None:
        self.processes.require_equal("step to continue from", self.step, "resume from a folder that all can read")
        self.processes.on_main(self._require_room)
        if self.trackers:
            with output_errors(self.results_folder):
                self.accelerator.init_trackers("ddn")
            report.trackers = self.accelerator.trackers
        if self.step:
            self._tell({"resumed": True})  # later lines of a step are the true ones
        elif any(one[0] for one in self.processes.gather(self.checkpoints.any())):
            self.save()  # else what was overwritten would be resumed, were this training killed before its first save
        self._started = time.monotonic() - self.seconds
        if self.ddn.channels in (1, 3):
            self._images_shown()  # before the training takes its first batch: a stream may be its own iterator
        batches = self.loader.batches(self.images // self._images_a_batch)
        figures: Evaluation | None = None
        recent: list[Step] = []
        while self.progress_made < 1:
            step, stop = self._train_step(batches, signals)
            done = self.progress_made
            recent.append(step)
            report.advance(self._done)
            if self.step % self.log_every == 0 or done == 1 or stop:
                self._tell(self._figures(recent))
                recent = []
            # first what was learnt is kept, then looked at
            if self.step % self.checkpoint_every == 0 or done == 1 or stop:
                self.save()
            if stop:
                self._interrupt(stop, report)
            if self.step % self.save_results_every == 0 or done == 1:
                self._draw()
            if self.test_dataset is not None and (self.step % self.evaluate_every == 0 or done == 1):
                figures, stop = self._evaluate(report, signals)
                if stop:
                    self._interrupt(stop, report)
        self.save()  # unless it is: a training that was resumed at its end makes no step
        self._save_result()
        if self.test_dataset is not None and figures is None:
            figures, _ = self._evaluate(report, signals)
        if stop := self._stop(signals):
            self._interrupt(stop, report)
        return figures

    def _require_room(self) -> None:
        """Make the folders to write into, so that a refusal is told now; remove what a kill has left in them."""
        for folder in (self.checkpoints.folder, self.results_folder):
            with output_errors(folder):
                folder.mkdir(parents=True, exist_ok=True)
                with tempfile.TemporaryFile(dir=folder):
                    pass
        self.report.begin()
        self.checkpoints.remove_unfinished()
        for folder in (self.results_folder, self.results_folder / PICTURES):
            remove_unfinished(folder)

    def _tell(self, figures: dict[str, Any]) -> None:
        self.processes.on_main(lambda: self.report.write(self.step, figures))

    def _stop(self, signals: Signals) -> int:
        """The signal that any process has received, 0 if none has."""
        return round(max(one[0] for one in self.processes.gather(signals.received or 0)))

    @property
    def _images_a_batch(self) -> int:
        return self.loader.batch_size * self.processes.number

    @property
    def _images_a_step(self) -> int:
        return self._images_a_batch * self.grad_accum_every

    @property
    def _done(self) -> float:
        """What the bar shows: steps or, with `max_minutes`, seconds."""
        return self.step if self.max_minutes is None else self.seconds

    @property
    def progress_made(self) -> float:
        """The share of the training that is done, in [0, 1], by steps or, with `max_minutes`, by the clock."""
        by_clock = 0.0 if self.max_minutes is None else self.seconds / (60 * self.max_minutes)
        return min(1.0, max(self.step / self.num_train_steps, by_clock))

    def rate(self) -> float:
        """The learning rate of the next step (see `schedule.py`)."""
        progress = 0.0 if self.decay == "none" else self.progress_made
        return learning_rate(self.learning_rate, self.step, self.warmup_steps, progress, self.hold)

    def _train_step(self, batches: Iterator[Batch], signals: Signals) -> tuple[Step, int]:
        """One step of the optimiser, and the signal that any process has received (0: none)."""
        began, progress, model = time.monotonic(), self.progress_made, self.processes.model
        assert model is not None
        seed_random_state(mix_seed(self.seed, self.step, self.processes.rank), self.processes.device)
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate()
        self.optimizer.zero_grad()
        losses = torch.zeros(self.ddn.num_levels, device=self.processes.device)
        for part in range(self.grad_accum_every):
            last = part == self.grad_accum_every - 1
            with nullcontext() if last else self.accelerator.no_sync(model):
                batch = next(batches)
                images = self._to_device(batch)
                shown = conditioning_inputs(self.ddn, images, batch.labels, self.cond_fn)
                by_level, more = model(images, **shown, penalty=self.step % self.apply_grad_penalty_every == 0)
                self.accelerator.backward((by_level.mean() + more) / self.grad_accum_every)
            losses += by_level.detach().float() / self.grad_accum_every
        most = self.max_grad_norm or math.inf
        norm = self.accelerator.clip_grad_norm_(self._parameters, most)
        if self._judging:  # by itself, since its gradient is many times as long; no scaler may unscale twice
            norm = norm + nn.utils.clip_grad_norm_(self._judging, most)

        # the one wait for the device before the optimiser changes a weight; splits look at the counts after it
        told = torch.cat((losses, norm.float()[None], losses.new_tensor([signals.received or 0, 0])))
        told[-1] = time.monotonic() - self._started
        everyone = self.processes.gather_tensor(told)
        *by_level, norm_now, _, seconds = (
            sum(column) / self.processes.number for column in zip(*everyone, strict=True)
        )
        stop = round(max(one[-2] for one in everyone))
        self._require_finite(by_level, norm_now)
        self.optimizer.step()
        swaps = 0
        if (self.step + 1) % self.split_every == 0 and progress < self.split_until:
            swaps = self._split_and_prune()
        self.step, self.seconds, self.splits = self.step + 1, seconds, self.splits + swaps
        self.images += self._images_a_step
        if self.ema is not None:
            self.ema.update(self.step)
        return Step(by_level, norm_now, swaps, time.monotonic() - began), stop

    def _to_device(self, batch: Batch) -> Tensor:
        images = in_unit_range(batch.images.to(self.processes.device, non_blocking=True))
        return images.contiguous(memory_format=torch.channels_last) if self.channels_last else images

    def _require_finite(self, losses: list[float], norm: float) -> None:
        scaler = self.accelerator.scaler
        if math.isfinite(sum(losses)) and scaler is not None and not math.isfinite(norm):
            self._overflows += 1  # float16 finds its scale by overflowing: the scaler passes such a step over
            norm = 0.0 if self._overflows < MAX_OVERFLOWS else norm
        else:
            self._overflows = 0
        if not math.isfinite(sum(losses) + norm):
            levels = [level for level, loss in enumerate(losses) if not math.isfinite(loss)]
            where = f"the loss of level {levels[0]}" if levels else "the norm of the gradient"
            raise DDNError(
                f"expected a finite loss and gradient at step {self.step}, got {losses[levels[0]] if levels else norm} "
                f"as {where}; lower the learning rate and resume from the last checkpoint"
            )

    def _split_and_prune(self) -> int:
        self._share_counts()
        swaps = self.ddn.split_and_prune_(self.optimizer.optimizer, None if self.ema is None else self.ema.model)
        if self.processes.number > 1:
            self._counted = self._counts()
        return swaps

    def _share_counts(self) -> None:
        """Add up what every process has counted since the last time; all then hold the same, and split alike."""
        if self.processes.number == 1:
            return
        self._counted += self.processes.sum(self._counts() - self._counted)
        samplers = self.ddn.samplers
        for sampler, own in zip(samplers, self._counted.split([one.codebook_size for one in samplers]), strict=True):
            sampler.counts.copy_(own)

    def _counts(self) -> Tensor:
        return torch.cat([sampler.counts for sampler in self.ddn.samplers])

    # between the steps

    def _figures(self, steps: list[Step]) -> dict[str, Any]:
        loader, count = self.loader, len(steps)
        sizes = [sampler.codebook_size for sampler in self.ddn.samplers]
        return {
            "epoch": None if loader.per_epoch is None else self.images / (loader.per_epoch * self._images_a_batch),
            "seconds": self.seconds,
            "loss": sum(step.loss for step in steps) / count,
            "loss_by_level": [sum(losses) / count for losses in zip(*(step.losses for step in steps), strict=True)],
            "gradient_norm": sum(step.norm for step in steps) / count,
            "learning_rate": self.rate(),
            "images_per_second": self._images_a_step * count / sum(step.seconds for step in steps),
            "usage_by_level": [usage(counts) for counts in self._counts().cpu().split(sizes)],
            "splits": self.splits,
            "bad_images": len(loader.faults),
        }

    def _evaluate(self, report: Report, signals: Signals) -> tuple[Evaluation | None, int]:
        """The figures on held-out images, and the signal that any process has received meanwhile."""
        figures = evaluate(
            self.result,
            self.test_dataset,
            limit=self.evaluate_images,
            rank=self.processes.rank,
            ranks=self.processes.number,
            total=self.processes.sum,
            stopped=lambda: bool(signals.received),
            max_bad_images=self.loader.max_bad_images,
            cond_fn=self.cond_fn,
        )
        if stop := self._stop(signals):
            return None, stop
        self._tell({"test": figures._asdict()})
        return figures, 0

    def _images_shown(self) -> Batch:
        """The images that pictures are of, the same each time; read once."""
        if self._shown is None:
            shown = self.loader.dataset if self.test_dataset is None else self.test_dataset
            self._shown = first_batch(shown, self.ddn, self.num_samples, self.loader.max_bad_images)
        return self._shown

    def _samples(self, generator: torch.Generator | None = None) -> Tensor:
        """Images (num_samples, C, H, W) of the result; of a conditional network as many as there are images to show."""
        given: dict[str, Any] = {}
        if self.ddn.num_classes is not None or self.ddn.cond_channels:
            shown = self._images_shown()
            images = shown.images.to(self.processes.device)
            given = {**conditioning_inputs(self.result, images, shown.labels, self.cond_fn)}
        return self.result.sample(len(images) if given else self.num_samples, generator=generator, **given)

    def _draw(self) -> None:
        """Grids of samples and of reconstructions, by the same codes and of the same images each time."""
        if self.ddn.channels not in (1, 3):
            return
        shown = self._images_shown()
        images = shown.images.to(self.processes.device)

        def draw() -> None:
            samples = grid(self._samples(torch.Generator().manual_seed(self.seed)))
            self._save_picture(samples, f"samples-{self.step:08d}.png")
            walk = self.result.encode_walk(
                images, **conditioning_inputs(self.result, images, shown.labels, self.cond_fn)
            )
            picture = reconstructions(self.result, walk, images)
            self._save_picture(picture, f"reconstructions-{self.step:08d}.png")

        self.processes.on_main(draw)

    def _save_picture(self, picture: Image.Image, name: str) -> None:
        _save(picture, self.results_folder / PICTURES / name)

    def _save_result(self) -> None:
        self.processes.on_main(lambda: self._write_model(self.results_folder / MODEL))

    def _write_model(self, folder: Path) -> None:
        with output_errors(folder), warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".* cannot hold ")  # it was said when the training began
            self.result.save_pretrained(folder)

    def _interrupt(self, signum: int, report: Report) -> None:
        path = self.save()  # unless this step is saved
        self._save_result()
        name = signal.Signals(signum).name
        report.say(f"stopped by {name} after {self.step} steps; saved {path}, from which the training can be resumed")
        raise Interrupted(signum)

    # for scripts, between the steps or after them

    def sample(self, fname: str | Path) -> Tensor:
        """Draw `num_samples` images with the result and write them as one picture.

        Args:
            fname: of the picture; a bare name is one in the results folder. Only the main process writes.

        Returns:
            The images (num_samples, C, H, W) in [0, 1].
        """
        images = self._samples().clamp(0, 1)
        if self.is_main:
            path = Path(fname)
            _save(grid(images), self.results_folder / path if len(path.parts) == 1 else path)
        return images

    def log(
        self, values: Mapping[str, Any] | float | Tensor | None = None, step: int | None = None, **more: Any
    ) -> None:
        """Add figures to `metrics.jsonl` and, while it trains, to the trackers: `log({"name": 1.0})`, `log(name=1.0)`.

        Args:
            values: by their names; a single number is called "value".
            step: of the training; the present one if None.
        """
        if self.is_main:
            named = values if isinstance(values, Mapping) else {} if values is None else {"value": values}
            self.report.write(self.step if step is None else step, {**named, **more})

    def log_images(self, *images: Any, step: int | None = None, **more: Any) -> None:
        """Write images into the results folder's `pictures` and, while it trains, to the trackers that take some.

        Args:
            images: `log_images(images)`, `log_images("name", images)`, `log_images({"name": images})` or
                `log_images(name=images)`; a tensor (C, H, W) or (B, C, H, W) of 1 or 3 channels in [0, 1] or uint8, a
                Pillow image, or a list of these.
            step: of the training; the present one if None.
        """
        if not self.is_main:
            return
        step = self.step if step is None else step
        require(len(images) <= 2, "log_images(images) or log_images(name, images)", f"{len(images)} arguments")
        named: dict[Any, Any] = {**more}
        if len(images) == 2:
            named[images[0]] = images[1]
        elif images:
            named |= images[0] if isinstance(images[0], Mapping) else {"images": images[0]}
        pictures = {str(name): _as_picture(value) for name, value in named.items()}
        for name, picture in pictures.items():
            file = re.sub(r"[^\w.-]+", "-", name)
            self._save_picture(picture, f"{file}-{step:08d}.png")
        self.report.write_pictures(step, pictures)

    # checkpoints

    def save(self, name: str | Path | None = None) -> Path:
        """Write a checkpoint of this step, which is a model folder too; gives its folder.

        Args:
            name: of the folder, in `checkpoints_folder`; it must not be there yet, and is never deleted. None for one
                that is called after the step, the newest `max_checkpoints` of which are kept.

        Raises:
            OutputError: it could not be written; those that were there still are.
        """
        if name is None and self._saved is not None and self._saved[0] == self.step:
            return self._saved[1]
        self._share_counts()
        scaler = self.accelerator.scaler
        state = {
            "step": self.step,
            "images": self.images,
            "seconds": self.seconds,
            "splits": self.splits,
            "faults": list(self.loader.faults),
            "scaler": None if scaler is None else scaler.state_dict(),
            "exact": self._what_makes_it_exact(),
        }

        def fill(folder: Path) -> None:
            self._write_model(folder)
            write_tensors(folder / TRAINING, self._training_state())

        path = self.processes.on_main(lambda: self.checkpoints.save(self.step, state, fill, name))
        if path is None:
            path = self.checkpoints.folder / (f"step-{self.step:08d}" if name is None else name)
        if name is None:
            self._saved = (self.step, path)
        return path

    def load(self, checkpoint: str | Path | None = None) -> None:
        """Continue from a checkpoint.

        Args:
            checkpoint: its folder, or its name in `checkpoints_folder`; None for the newest whole one there.

        Raises:
            ModelFileError: it is not whole, or of another network or optimiser.
        """
        found = self.checkpoints.newest_whole() if checkpoint is None else Path(checkpoint)
        if found is None:
            raise ModelFileError(f"expected a whole checkpoint in {self.checkpoints.folder}, found none; train anew")
        if not found.exists() and (self.checkpoints.folder / found).exists():
            found = self.checkpoints.folder / found
        atomic_folder.verify(found)
        state, training, given = read_state(found), read_tensors(found / TRAINING), read_tensors(found / WEIGHTS)
        own = {name.removeprefix("weights/"): value for name, value in training.items() if name.startswith("weights/")}
        load_strictly(self.ddn, own or given, found / (TRAINING if own else WEIGHTS))
        load_moments(self.ddn, self.optimizer.optimizer, training, found / TRAINING)
        try:
            self.step, self.images = int(state["step"]), int(state["images"])
            self.seconds, self.splits = float(state["seconds"]), int(state["splits"])
            self.loader.faults = dict.fromkeys(state["faults"])
            if self.accelerator.scaler is not None and state["scaler"] is not None:
                self.accelerator.scaler.load_state_dict(state["scaler"])
            before = dict(state["exact"])
        except (KeyError, TypeError, ValueError) as error:
            raise ModelFileError(f"expected the state of a training in {found / STATE}, but {error!r}") from error
        if self.ema is not None:
            load_strictly(self.ema.model, given, found / WEIGHTS)
        self._counted = self._counts()
        self._saved = (self.step, found) if found.parent.resolve() == self.checkpoints.folder.resolve() else None
        self.report.replace = False
        now = self._what_makes_it_exact()
        # what an older checkpoint does not tell is not known to differ
        if changed := [
            f"{name} {before[name]} -> {now[name]}" for name in now if before.get(name, now[name]) != now[name]
        ]:
            warnings.warn(f"resumed, but not exactly as if never ended: {', '.join(changed)}", stacklevel=2)

    @cached_property
    def _fingerprint(self) -> str | None:
        return fingerprint(self.loader.dataset)

    def _what_makes_it_exact(self) -> dict[str, Any]:
        return {
            "seed": self.seed,
            "batch_size": self.loader.batch_size,
            "grad_accum_every": self.grad_accum_every,
            "processes": self.processes.number,
            "images": None if self.loader.streamed else len(self.loader.dataset),
            "learning_rate": self.learning_rate,
            "warmup_steps": self.warmup_steps,
            "decay": self.decay,
            "split_every": self.split_every,
            "max_grad_norm": self.max_grad_norm,
            "adam": {name: str(value) for name, value in self.optimizer.defaults.items() if name != "lr"},
            **({} if self.ema is None else {"beta": self.ema.beta, "update_every": self.ema.update_every}),
            # only where the schedules ask how far the training is does its length matter
            **({"num_train_steps": self.num_train_steps, "hold": self.hold} if self.decay != "none" else {}),
            **({"split_until": self.split_until} if 0 < self.split_until < 1 else {}),
            "precision": self.precision,
            "moving average": self.ema is not None,
            **({} if self._fingerprint is None else {"images' fingerprint": self._fingerprint}),
        }

    def _training_state(self) -> dict[str, Tensor]:
        """The optimiser's state by parameter and, where the model file holds the moving average, the weights."""
        tensors = moments_of(self.ddn, self.optimizer.optimizer)
        if self.ema is not None:
            tensors |= {f"weights/{name}": value for name, value in self.ddn.state_dict().items()}
        return tensors


class LossByLevel(nn.Module):
    """The loss of each level, (L,), and what an adversarial network adds to their mean.

    It is what is wrapped for mixed precision and several processes, so that no DDN is.
    """

    def __init__(self, ddn: DDN):
        super().__init__()
        self.ddn = ddn

    def forward(
        self, images: Tensor, labels: Tensor | None = None, cond: Tensor | None = None, penalty: bool = True
    ) -> tuple[Tensor, Tensor | float]:
        losses, (_, outputs) = self.ddn(images, True, labels=labels, cond=cond, reduction="none")
        more = 0.0 if self.ddn.discriminator is None else self.ddn.adversarial(images, outputs[-1], penalty)
        return losses, more


def _made_of(kind: Callable[..., Any], arguments: dict[str, Any]) -> Any:
    try:
        return kind(**arguments)
    except TypeError as error:
        name = getattr(kind, "__name__", kind)
        raise InvalidInput(f"expected the arguments of {name} in a dictionary, but {error}") from error


def _as_picture(images: Any) -> Image.Image:
    """One picture of a tensor (C, H, W) or (B, C, H, W), of a Pillow image, or of a list of these."""
    if isinstance(images, Image.Image):
        return images
    if isinstance(images, list | tuple):
        pixels = [
            as_pixels(to_pixels(one, (one.height, one.width), 3) if isinstance(one, Image.Image) else one, (None,) * 3)
            for one in images
        ]
        shapes = {tuple(one.shape) for one in pixels}
        require(len(shapes) == 1, "images of one shape", sorted(shapes))
        images = torch.stack(pixels)
    elif isinstance(images, Tensor) and images.ndim == 3:
        images = images[None]
    return grid(as_pixels(images, (None,) * 4))


def _save(picture: Image.Image, path: Path) -> None:
    """Write a picture whole or not at all; its folder is made if needed."""
    with output_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as staging:
        picture.save(staging)


def _holds_files(folder: Path) -> bool:
    require(not folder.exists() or folder.is_dir(), "a folder to write into", f"the file {folder}")
    return folder.is_dir() and any(folder.iterdir())
