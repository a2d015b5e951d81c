"""`Loop`: the steps of a training, and what happens between them.

A step is: a batch, forward, backward, clipping, a check that everything is finite, the optimiser, split-and-prune, the
moving average. In the second stage the network rests, and the steps are those of `SecondStage`. Whatever is
random in a step comes from the seed and the number of the step, so a checkpoint needs no random state, and a resumed
training repeats the uninterrupted one.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from discrete_distribution_network.data.loader import Batch
from discrete_distribution_network.evaluation.metrics import Evaluation, evaluate, usage
from discrete_distribution_network.io.atomic_file import output_errors, remove_unfinished
from discrete_distribution_network.io.pretrained import MODEL
from discrete_distribution_network.random_state import mix_seed, own_random_state, seed_random_state
from discrete_distribution_network.signals import Interrupted, Signals
from discrete_distribution_network.training.config import TrainerConfig
from discrete_distribution_network.training.folders import require_writable
from discrete_distribution_network.training.pictures import TrainingPictures
from discrete_distribution_network.training.progress import Progress, Step
from discrete_distribution_network.training.report import Report
from discrete_distribution_network.training.schedule import learning_rate
from discrete_distribution_network.training.second_stage import BATCHES, SecondStage
from discrete_distribution_network.training.state import TrainingState


class Loop:
    """Training from where it is to its end, with figures, checkpoints, pictures and evaluations on the way.

    Args:
        config: settings of the training.
        state: what is trained.
        pictures: that are drawn on the way.
        report: where figures go.
        test_dataset: held-out images, or None.
    """

    def __init__(
        self, config: TrainerConfig, state: TrainingState, pictures: TrainingPictures, report: Report, test_dataset: Any
    ):
        self.config, self.state, self.pictures, self.report = config, state, pictures, report
        self.loader, self.optimisation, self.test_dataset = state.loader, state.optimisation, test_dataset
        self.second = state.second
        self.processes, self.accelerator = self.optimisation.processes, self.optimisation.accelerator
        self.results_folder = Path(config.results_folder)
        self.signals, self.started = Signals(), time.monotonic()

    def run(self) -> Evaluation | None:
        """Train to the end; see `Trainer.__call__`."""
        config, report = self.config, self.report
        report.total = config.num_train_steps if config.max_minutes is None else 60 * config.max_minutes
        report.done = self._done
        report.progress = config.progress and self.accelerator.is_local_main_process
        answering, random_state = self.processes.answering(), own_random_state(self.processes.device)
        with answering, Signals() as self.signals, report, random_state:
            self._begin()
            return self._train()

    @property
    def progress(self) -> Progress:
        return self.state.progress

    def _begin(self) -> None:
        self.processes.require_equal(
            "step to continue from", self.progress.step, "resume from a folder that all can read"
        )
        self.processes.on_main(self._require_room)
        if self.config.trackers:
            with output_errors(self.results_folder):
                self.accelerator.init_trackers("ddn")
            self.report.trackers = self.accelerator.trackers
        if self.second is not None and self.second.begun:
            self._discard_if_early(self.second)
        if self.progress.step:
            self._write({"resumed": True})  # later lines of a step are the true ones
        elif any(one[0] for one in self.processes.gather(self.state.checkpoints.any())):
            # else a kill before the first save would let the overwritten training be resumed
            self.state.save()
        self.started = time.monotonic() - self.progress.seconds
        if self.pictures.drawable:
            self.pictures.batch()  # before the training takes its first batch: a stream may be its own iterator

    def _train(self) -> Evaluation | None:
        config, batches = self.config, self.loader.batches(self.progress.images // self._images_per_batch)
        figures: Evaluation | None = None
        recent: list[Step] = []
        while self.progress_made < 1:
            if self.second is not None and not self.second.begun and self.network_progress == 1:
                self._write_recent(recent)
                self.second.begin(self.progress)
            step, stop = self.step(batches)
            ended = self.progress_made == 1
            recent.append(step)
            if ended and self.second is not None:
                self._finish(self.second)
            self.report.advance(self._done)
            if self.progress.step % config.log_every == 0 or ended or stop:
                self._write_recent(recent)
            # saved first, then evaluated, which may fail
            if self.progress.step % config.checkpoint_every == 0 or ended or stop:
                self.state.save()
            self._interrupt(stop)
            if self.pictures.drawable and (self.progress.step % config.save_results_every == 0 or ended):
                self.processes.on_main(lambda: self.pictures.draw(self.progress.step))
            due = self.progress.step % config.evaluate_every == 0 and not self.resting
            if self.test_dataset is not None and (due or ended):
                figures = self._evaluate()
        self.state.save()  # unless it is: a training that was resumed at its end makes no step
        self._save_result()
        if self.test_dataset is not None and figures is None:
            figures = self._evaluate()
        self._interrupt(self._stop())
        return figures

    def step(self, batches: Iterator[Batch]) -> tuple[Step, int]:
        """One step of the optimiser, and the signal that any process has received (0: none)."""
        config, progress, optimisation = self.config, self.progress, self.optimisation
        began, step = time.monotonic(), progress.step
        seed_random_state(mix_seed(config.seed, step, self.processes.rank), self.processes.device)
        if self.second is not None and self.second.begun:
            own, own_norm = self.second.step(batches, self.second_progress)
            losses, norm, seconds, stop, _ = self._over_processes(own, own_norm, own[:0])
            return self._stepped(losses, norm, 0, seconds, began), stop
        split = (step + 1) % config.split_every == 0 and self.network_progress < config.split_until
        penalty = step % config.apply_grad_penalty_every == 0
        own_losses, own_norm = optimisation.compute_gradients(batches, self.rate(), penalty)
        losses, norm, seconds, stop, new = self._over_processes(own_losses, own_norm, optimisation.new_counts())
        optimisation.require_finite(losses, norm, step)
        swaps = optimisation.update(step + 1, split, optimisation.share_counts(new))
        progress.splits += swaps
        return self._stepped(losses, norm, swaps, seconds, began), stop

    def _stepped(self, losses: list[float], norm: float, swaps: int, seconds: float, began: float) -> Step:
        self.progress.step += 1
        self.progress.seconds = seconds
        self.progress.images += self._images_per_step
        return Step(losses, norm, swaps, time.monotonic() - began)

    def _discard_if_early(self, second: SecondStage) -> None:
        """Discard the second stage of a training that was resumed with a longer part for the network."""
        if self._network_progress(second.began) == 1:
            return
        self.progress.discarded_steps += self.progress.step - second.began.step
        self.progress.discarded_seconds += self.progress.seconds - second.began.seconds
        second.discard()

    def _finish(self, second: SecondStage) -> None:
        if not second.begun:  # the time was over with the network's last step
            second.begin(self.progress)
        second.finish()

    def _over_processes(
        self, losses: Tensor, norm: Tensor, counts: Tensor
    ) -> tuple[list[float], float, float, int, list[float]]:
        """The mean losses, norm and seconds of all processes, a signal that any has received (0: none), summed counts.

        It is the one wait for the device in a step.
        """
        noted = torch.tensor([self.signals.received or 0, time.monotonic() - self.started])
        noted = noted.to(losses, non_blocking=True)
        everyone = self.processes.gather_tensor(torch.cat((losses, norm[None], noted, counts.float())))
        sums = [sum(column) for column in zip(*everyone, strict=True)]
        *means, mean_norm, _, seconds = (own / self.processes.number for own in sums[: len(losses) + 3])
        received = max(one[len(losses) + 1] for one in everyone)
        return means, mean_norm, seconds, round(received), sums[len(losses) + 3 :]

    def _require_room(self) -> None:
        """Raise unless the folders can be written; remove what a kill has left in them."""
        require_writable((self.state.checkpoints.folder, self.results_folder))
        self.report.begin()
        self.state.checkpoints.remove_unfinished()
        for folder in (self.results_folder, self.pictures.folder):
            remove_unfinished(folder)

    def _save_result(self) -> None:
        self.processes.on_main(lambda: self.state.save_model(self.results_folder / MODEL))

    def _write_recent(self, recent: list[Step]) -> None:
        """Write the figures of recent steps, and forget these."""
        if recent:
            self._write(self.figures(recent))
        recent.clear()

    def _write(self, figures: dict[str, Any]) -> None:
        self.processes.on_main(lambda: self.report.write(self.progress.step, figures))

    def _stop(self) -> int:
        """The signal that any process has received, 0 if none has."""
        return round(max(one[0] for one in self.processes.gather(self.signals.received or 0)))

    def _interrupt(self, signum: int) -> None:
        """Save and end, if there is a signal."""
        if not signum:
            return
        path = self.state.save()  # unless this step is saved
        self._save_result()
        name = signal.Signals(signum).name
        self.report.say(
            f"stopped by {name} after {self.progress.step} steps; saved {path}, from which the training can be resumed"
        )
        raise Interrupted(signum)

    @property
    def _images_per_batch(self) -> int:
        return self.loader.batch_size * self.processes.number

    @property
    def _images_per_step(self) -> int:
        together = BATCHES if self.resting else 1
        return self._images_per_batch * self.config.grad_accum_every * together

    @property
    def _done(self) -> float:
        """What the bar shows: steps or, with `max_minutes`, seconds."""
        progress = self.progress
        if self.config.max_minutes is None:
            return progress.step - progress.discarded_steps
        return progress.seconds - progress.discarded_seconds

    @property
    def progress_made(self) -> float:
        """The share of the training that is done, in [0, 1], by steps or, with `max_minutes`, by the clock."""
        return self._share(self.progress)

    def _share(self, progress: Progress) -> float:
        minutes = self.config.max_minutes
        return progress.share(self.config.num_train_steps, None if minutes is None else 60 * minutes)

    @property
    def _network_share(self) -> float:
        """The share of the training in which the network is trained."""
        return 1.0 if self.second is None else 1 - self.second.share

    @property
    def resting(self) -> bool:
        """Whether the network rests."""
        return self.second is not None and self.second.begun

    @property
    def network_progress(self) -> float:
        """The share of the network's part of the training that is done, in [0, 1]."""
        return self._network_progress(self.progress)

    def _network_progress(self, progress: Progress) -> float:
        done = self._share(progress) / self._network_share
        return done if done < 1 - 1e-9 else 1.0  # a share such as 1 - 2/3 is rounded

    @property
    def second_progress(self) -> float:
        """The share of the second stage that is done, in [0, 1]."""
        return max(0.0, 1 - (1 - self.progress_made) / (1 - self._network_share))

    def rate(self) -> float:
        """The learning rate of the next step (see `schedule.py`)."""
        config = self.config
        if self.second is not None and self.second.begun:
            return self.second.rate(self.second_progress)
        progress = 0.0 if config.decay == "none" else self.network_progress
        return learning_rate(config.learning_rate, self.progress.step, config.warmup_steps, progress, config.hold)

    def figures(self, steps: list[Step]) -> dict[str, Any]:
        """The figures of recent steps, as `metrics.jsonl` has them."""
        progress, loader, count = self.progress, self.loader, len(steps)
        mean = [sum(losses) / count for losses in zip(*(step.losses for step in steps), strict=True)]
        common = {
            "epoch": None
            if loader.per_epoch is None
            else progress.images / (loader.per_epoch * self._images_per_batch),
            "seconds": progress.seconds,
            "gradient_norm": sum(step.norm for step in steps) / count,
            "learning_rate": self.rate(),
            "images_per_second": self._images_per_step * count / sum(step.seconds for step in steps),
            "splits": progress.splits,
            "bad_images": len(loader.faults),
        }
        if self.second is not None and self.second.begun:
            return common | self.second.figures(mean)
        sizes = [sampler.codebook_size for sampler in self.optimisation.ddn.samplers]
        return common | {
            "loss": sum(mean) / len(mean),
            "loss_by_level": mean,
            "usage_by_level": [usage(counts) for counts in self.optimisation.counts.cpu().split(sizes)],
        }

    def _evaluate(self) -> Evaluation:
        """The figures on held-out images; ends the training if a process has received a signal meanwhile."""
        figures = evaluate(
            self.optimisation.result,
            self.test_dataset,
            limit=self.config.evaluate_images,
            rank=self.processes.rank,
            ranks=self.processes.number,
            total=self.processes.sum,
            stopped=lambda: bool(self.signals.received),
            max_bad_images=self.config.max_bad_images,
            cond_fn=self.config.cond_fn,
        )
        self._interrupt(self._stop())
        self._write({"test": figures._asdict()})
        return figures
