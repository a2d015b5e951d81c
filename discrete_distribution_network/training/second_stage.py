"""`SecondStage`: the last part of a training, in which the network rests: its decoder learns, and its prior.

Both learn from the same walks of the model to use (the moving average): the decoder from the last level's features and
image, the prior from the features and codes of all levels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from discrete_distribution_network.conditioning import conditioning_inputs
from discrete_distribution_network.data.datasets import is_stream
from discrete_distribution_network.data.loader import Batch, in_order
from discrete_distribution_network.ddn import DDN
from discrete_distribution_network.errors import DataError
from discrete_distribution_network.io.safetensors_file import part_of, read_tensors
from discrete_distribution_network.model.network import evaluating
from discrete_distribution_network.model.walk import Walk
from discrete_distribution_network.prior.base import LearnedPrior, Levels, recorded_walk
from discrete_distribution_network.random_state import mix_seed, seed_random_state
from discrete_distribution_network.training.checkpoints import TRAINING
from discrete_distribution_network.training.config import TrainerConfig
from discrete_distribution_network.training.fitting import EVALUATION_BATCH, MAX_HELD_OUT, labels_of
from discrete_distribution_network.training.module_optimisation import (
    ModuleOptimisation,
    PriorOptimisation,
    prior_matrices,
)
from discrete_distribution_network.training.processes import Processes
from discrete_distribution_network.training.progress import Progress
from discrete_distribution_network.training.temperatures import LEARNT, choose_temperatures, first_images

EVALUATE_EVERY = 100
"""Steps between two evaluations of the prior on held-out images."""

CHOOSE_AT = 0.85
"""Share of the stage at which the sampling temperatures are chosen."""

SHARE_WITH_PRIOR, SHARE_OF_DECODER = 0.55, 0.2
"""Share of the training that is the second stage, with a prior and without."""

BATCHES = 2
"""Batches of the network that are one of the second stage."""

DECODER_RATE = 3e-3
"""The decoder's highest learning rate."""

PRIOR, DECODER = "prior/", "decoder/"
"""Prefixes of their tensors in a checkpoint."""


class SecondStage:
    """The training of a prior and a decoder, of either or of both, after that of the network.

    Args:
        ddn: the network that was trained; it gets the same prior and the same decoder in the end.
        model: whose codes are learnt, with its decoder: the moving average, or `ddn`.
        prior: fitted in place, from fresh weights; None for none.
        config: settings of the training.
        processes: that train together.
        dataset: of the training.
        held_out: images that select the prior's weights and its temperatures.

    Attributes:
        steps: steps done; None before `begin`.
        began: the progress of the training at `begin`.
    """

    def __init__(
        self,
        ddn: DDN,
        model: DDN,
        prior: LearnedPrior | None,
        config: TrainerConfig,
        processes: Processes,
        dataset: Any,
        held_out: Any,
    ):
        self.ddn, self.model, self.prior = ddn, model, prior
        self.config, self.processes, self.dataset, self.held_out = config, processes, dataset, held_out
        self.steps: int | None = None
        self.began = Progress()
        self._fit: PriorOptimisation | None = None
        self._decoder: ModuleOptimisation | None = None
        self._measured = self._chosen = False  # the prior at this step; its temperatures

    @property
    def share(self) -> float:
        """Share of the training that is the second stage."""
        default = SHARE_OF_DECODER if self.prior is None else SHARE_WITH_PRIOR
        return default if self.config.second_stage is None else self.config.second_stage

    @property
    def begun(self) -> bool:
        """Whether the network rests."""
        return self.steps is not None

    def begin(self, progress: Progress) -> None:
        """Let the network rest. The prior gets fresh weights, which depend on its nodes, the same in every process."""
        if self.prior is not None:
            seed_random_state(mix_seed(self.config.seed, len(PRIOR)), self.processes.device)
            fresh = type(self.prior)(self.model, **self.prior.arguments)
            self.prior.load_state_dict(fresh.state_dict())
        self.began = replace(progress)
        self._attach()

    def discard(self) -> None:
        """Be as before `begin`, since the network is trained further."""
        self.steps = self._fit = self._decoder = None
        self._measured = self._chosen = False
        self.model.prior = self.ddn.prior = None

    def _attach(self) -> None:
        self.steps = 0
        if self.prior is not None:
            self.prior.to(self.processes.device).train()
            self.model.prior = self.ddn.prior = self.prior
            self._fit = PriorOptimisation(self.prior, matrices=prior_matrices(self.prior))
        if self.model.decoder is not None:
            self.model.decoder.requires_grad_(True)
            self._decoder = ModuleOptimisation(self.model.decoder, DECODER_RATE, weight_decay=0.0, max_grad_norm=1.0)

    def rate(self, done: float) -> float:
        """The learning rate of the next step, at this share of the stage."""
        own = self._fit or self._decoder
        return 0.0 if own is None else own.rate(done)

    # a step

    def step(self, batches: Iterator[Batch], done: float) -> tuple[Float[Tensor, " losses"], Float[Tensor, ""]]:
        """One step, and what is due after it: an evaluation of the prior, the choice of temperatures.

        Args:
            done: share of the stage.

        Returns:
            The losses of this process, the decoder's error and the prior's bits by level, and the norm of the gradient.
        """
        assert self.steps is not None
        if self.prior is not None:
            self.prior.train()
        bits: list[Tensor] = []
        errors: list[float] = []
        for _ in range(self.config.grad_accum_every):
            batch = _joined(batches)
            images, walk, levels = self._walked(batch)
            if self.steps == 0 and not bits:
                self._measure_features(walk, levels)
            bits.append(self._bits(levels, batch))
            errors += self._train_decoder(images, walk, done)
        mean = torch.stack(bits).mean(0)
        norm = 0.0 if self._fit is None else self._fit.update(mean.sum(), done, self._average)[1]
        self.steps += 1
        self._measured = False
        if self.steps % EVALUATE_EVERY == 0:
            self.measure()
        if done >= CHOOSE_AT:
            self._choose()
        losses = torch.cat((mean.new_tensor([sum(errors) / max(1, len(errors))]), mean.detach()))
        return losses, losses.new_tensor(norm)

    def _measure_features(self, walk: Walk, levels: Levels) -> None:
        """Adapt the prior and the decoder to the network's features, in all processes to those of the first."""
        buffers: list[Tensor] = []
        if self.prior is not None:
            self.prior.measure(levels)
            buffers += self.prior.buffers()
        if self.model.decoder is not None:
            self.model.decoder.standardise.measure(walk.features)
            buffers += self.model.decoder.buffers()
        self.processes.broadcast(buffers)

    def figures(self, losses: Sequence[float]) -> dict[str, Any]:
        """The mean losses of recent steps, as `metrics.jsonl` has them."""
        figures: dict[str, Any] = {} if self._decoder is None else {"decoder_error": losses[0]}
        if self._fit is None:
            return figures
        return figures | {"bits": sum(losses[1:]), "bits_by_level": losses[1:], "held_out_bits": self.held_out_bits}

    def _walked(self, batch: Batch) -> tuple[Tensor, Walk, Levels]:
        """The images of a batch, and the walk of the resting network for them."""
        model = self.model
        images = batch.images_on(model.start.device, self.config.channels_last).to(model.start.dtype)
        inputs = conditioning_inputs(model, images, batch.labels, self.config.cond_fn)
        with evaluating(model), self._autocast():
            return images, *recorded_walk(model, images, **inputs)

    def _bits(self, levels: Levels, batch: Batch) -> Float[Tensor, " levels"]:
        """The prior's bits of a walk by level; none without a prior."""
        if self.prior is None:
            return torch.zeros(0, device=self.processes.device)
        with self._autocast():
            return self.prior.bits_of(levels, labels_of(self.prior, batch.labels)).float()

    def _train_decoder(self, images: Tensor, walk: Walk, done: float) -> list[float]:
        """A step of the decoder for each batch of the network; gives its errors."""
        if self._decoder is None:
            return []
        errors, last = [], walk.outputs[-1]
        parts = (own.chunk(BATCHES) for own in (images, walk.features, last))
        for own, features, output in zip(*parts, strict=True):
            with self._autocast():
                part = walk._replace(outputs=(*walk.outputs[:-1], output), features=features)
                error = self.model.decoder_loss(part, own)
            errors.append(self._decoder.update(error, done, self._average)[0])
        return errors

    @property
    def _average(self) -> Callable[[Tensor], Tensor] | None:
        """The mean of a tensor over the processes; None for one process."""
        number = self.processes.number
        return None if number == 1 else lambda own: self.processes.sum(own) / number

    def _autocast(self) -> AbstractContextManager[Any]:
        bf16 = self.processes.accelerator.mixed_precision == "bf16"
        return torch.autocast(self.processes.device.type, torch.bfloat16, enabled=bf16)

    # the prior on held-out images

    @torch.no_grad()
    def measure(self) -> None:
        """Bits of held-out images by the present weights of the prior, unless they are known; the best ones are kept.

        Raises:
            DataError: there are no held-out images.
        """
        if self.prior is None or self._fit is None or self._measured:
            return
        processes = self.processes
        totals = torch.zeros(2, dtype=torch.float64)
        share = in_order(
            self.held_out,
            self.model,
            EVALUATION_BATCH,
            rank=processes.rank,
            ranks=processes.number,
            limit=MAX_HELD_OUT,
            max_bad_images=self.config.max_bad_images,
        )
        with evaluating(self.prior):
            for batch in share:
                bits = float(self._bits(self._walked(batch)[2], batch).sum())
                totals += torch.tensor([bits * len(batch.images), len(batch.images)])
        bits, images = processes.sum(totals).tolist()
        if images == 0:
            raise DataError("expected held-out images to fit a prior with, got 0; give a data set that is not empty")
        self._measured = True
        self._fit.measured(bits / images)

    @property
    def held_out_bits(self) -> float | None:
        """The fewest bits of held-out images so far; None before the first evaluation, and without a prior."""
        return self._fit.best if self._fit is not None and math.isfinite(self._fit.best) else None

    def _choose(self) -> None:
        if self.prior is not None and not self._chosen:
            bad = self.config.max_bad_images
            held_out, images = (first_images(data, self.model, limit, bad) for data, limit in self._to_compare())
            with evaluating(self.prior), self._autocast():
                choose_temperatures(self.model, self.prior, images, held_out, self.config.seed)
            self._chosen = True

    def _to_compare(self) -> list[tuple[Any, int]]:
        """Held-out images, and those that features are learnt from: they too if the images are a stream."""
        learnt = self.held_out if is_stream(self.dataset) else self.dataset
        return [(self.held_out, MAX_HELD_OUT), (learnt, LEARNT)]

    def finish(self) -> None:
        """Give the prior its best weights, and the network the decoder."""
        self.measure()
        self._choose()
        if self._fit is not None:
            self._fit.finish()
        if self.model.decoder is not None and self.ddn.decoder is not None:
            self.ddn.decoder.load_state_dict(self.model.decoder.state_dict())

    # checkpoints

    def exact_settings(self) -> dict[str, Any]:
        """See `TrainingState.exact_settings`."""
        return {
            "prior": None if self.prior is None else self.prior.kind,
            "second stage": self.share,
        }

    def tensors(self) -> dict[str, Tensor]:
        """What a checkpoint holds of both; nothing before `begin`."""
        parts = {PRIOR: self._fit, DECODER: self._decoder}
        return {
            f"{prefix}{name}": value
            for prefix, own in parts.items()
            if own is not None
            for name, value in own.tensors().items()
        }

    def state(self) -> dict[str, Any] | None:
        """The rest of it, JSON serialisable; None before `begin`."""
        if self.steps is None:
            return None
        return {
            "steps": self.steps,
            "began": asdict(self.began),
            "prior": None if self._fit is None else self._fit.state(),
            "decoder": None if self._decoder is None else self._decoder.state(),
            "measured": self._measured,
            "temperatures": self.prior.temperatures if self.prior is not None and self._chosen else None,
        }

    def load(self, state: Mapping[str, Any] | None, checkpoint: Path) -> None:
        """Continue from a checkpoint.

        Args:
            state: what `state` gave.
            checkpoint: its folder.

        Raises:
            ModelFileError: its tensors are of another prior or decoder.
            KeyError, TypeError, ValueError: something is missing in the state.
        """
        self.discard()
        if state is None:
            return
        self.began = Progress(**state["began"])
        self._attach()
        file = checkpoint / TRAINING
        tensors = read_tensors(file)
        for prefix, own, name in ((PRIOR, self._fit, "prior"), (DECODER, self._decoder, "decoder")):
            if own is not None:
                own.load(state[name], part_of(tensors, prefix), file)
        self.steps, self._measured = int(state["steps"]), bool(state["measured"])
        self._chosen = state["temperatures"] is not None
        if self._chosen and self.prior is not None:
            self.prior.temperatures = {name: list(own) for name, own in dict(state["temperatures"]).items()}


def _joined(batches: Iterator[Batch]) -> Batch:
    """`BATCHES` batches in one."""
    parts = [next(batches) for _ in range(BATCHES)]
    labels = [part.labels for part in parts if part.labels is not None]
    together = torch.cat(labels) if len(labels) == len(parts) else None
    return Batch(torch.cat([part.images for part in parts]), together)
