"""`Optimisation`: gradients, clipping, optimisers, split-and-prune and the moving average of one network."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.func import functional_call

from discrete_distribution_network.conditioning import conditioning_inputs
from discrete_distribution_network.data.loader import Batch
from discrete_distribution_network.ddn import DDN
from discrete_distribution_network.errors import DDNError, InvalidInput
from discrete_distribution_network.io.safetensors_file import load_strictly, part_of, read_tensors
from discrete_distribution_network.training.checkpoints import TRAINING, WEIGHTS
from discrete_distribution_network.training.config import TrainerConfig
from discrete_distribution_network.training.flat_parameters import (
    FlatParameters,
    LowPrecisionCopies,
    flatten_counts,
    load_moments,
)
from discrete_distribution_network.training.moving_average import MovingAverage
from discrete_distribution_network.training.muon import Muon, matrix_names, set_rates
from discrete_distribution_network.training.processes import Processes

DISCRIMINATOR, APART = "discriminator.", ("discriminator.", "decoder.")
"""Names of parameters begin so that are not trained with the network: the decoder learns in the second stage."""

MAX_OVERFLOWS = 30
"""Steps in a row whose float16 gradients may overflow while their scale is found."""


class LossByLevel(nn.Module):
    """The loss of each level (levels,), and the adversarial term that is added to their mean.

    Mixed precision and several processes wrap this module, so that the DDN itself stays unwrapped.
    """

    def __init__(self, ddn: DDN):
        super().__init__()
        self.ddn = ddn

    def forward(
        self, images: Tensor, labels: Tensor | None = None, cond: Tensor | None = None, penalty: bool = True
    ) -> tuple[Tensor, Tensor | float]:
        losses, (_, outputs) = self.ddn(images, True, labels=labels, cond=cond, reduction="none")
        adversarial = 0.0 if self.ddn.discriminator is None else self.ddn.adversarial(images, outputs[-1], penalty)
        return losses, adversarial


class Optimisation:
    """A network in training: what changes its weights, and what a checkpoint holds of that.

    Its parameters, but for those of the decoder, are views of one tensor (see `flat_parameters.py`), and so are the
    counts of its samplers.

    Args:
        ddn: moved to the device of this process, and put in training mode.
        config: settings of the training.
        processes: that train together.

    Attributes:
        ddn: the network.
        optimizer: AdamW, of all parameters that `muon` does not train.
        muon: of the network's matrices, but for its nodes; None without `muon_learning_rate`.
        ema: the moving average, or None.
    """

    def __init__(self, ddn: DDN, config: TrainerConfig, processes: Processes):
        self.config, self.processes, self.accelerator = config, processes, processes.accelerator
        self.ddn = ddn.to(processes.device).train()
        if config.channels_last:
            self.ddn.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        named = [(name, own) for name, own in self.ddn.named_parameters() if own.requires_grad]
        # clipped by itself, since the gradient of a discriminator is many times as long
        network = self._network_parameters([pair for pair in named if not pair[0].startswith(APART)])
        apart = [pair for pair in named if pair[0].startswith(DISCRIMINATOR)]
        self.flats = [network, FlatParameters(apart)] if apart else [network]
        self.counts = flatten_counts(self.ddn.samplers)
        self.model = LossByLevel(self.ddn)
        self.copies: LowPrecisionCopies | None = None
        if config.compile:
            self.model.compile()
        elif self.accelerator.mixed_precision == "bf16":  # in float16 a CPU computes some convolutions in float32
            self.copies = LowPrecisionCopies(network, self.ddn, torch.bfloat16)
        self._leaves = [*(network.parameters if self.copies is None else self.copies.leaves())]
        self._leaves += [parameter for flat in self.flats[1:] for parameter in flat.parameters]
        rest = [] if self.ddn.decoder is None else [*self.ddn.decoder.parameters()]
        processes.broadcast([*(flat.values for flat in self.flats), *rest])
        self.optimizer, self.muon = self._adamw(), self._muon(network)
        self.ema = None
        if config.use_ema:
            self.ema = MovingAverage(self.ddn, **(config.ema_kwargs or {}), flats=self.flats, counts=self.counts)
        # of all processes, as they were when they were last shared
        self._known_counts, self._shared = self.counts.clone(), self.counts.tolist()
        self._overflows = 0

    def _adamw(self) -> torch.optim.AdamW:
        settings: dict[str, Any] = {"lr": self.config.learning_rate, "weight_decay": self.config.weight_decay}
        settings |= {"fused": True, **(self.config.adam_kwargs or {})}
        try:
            return torch.optim.AdamW(
                [flat.elementwise for flat in self.flats if flat.elementwise is not None], **settings
            )
        except (TypeError, ValueError, RuntimeError) as error:
            raise InvalidInput(f"expected adam_kwargs that torch.optim.AdamW takes, but it says: {error}") from error

    def _network_parameters(self, named: Sequence[tuple[str, nn.Parameter]]) -> FlatParameters:
        if self.config.muon_learning_rate is None:
            return FlatParameters(named)
        # split-and-prune copies rows of nodes, and a row of a matrix is not independent of the others for Muon
        return FlatParameters(named, matrix_names(self.ddn, self.ddn.guided_sampler_codes_param_names()))

    def _muon(self, network: FlatParameters) -> Muon | None:
        rate = self.config.muon_learning_rate
        if rate is None or network.matrices is None:
            return None
        return Muon(network.matrices, network.matrix_shapes, rate, self.config.weight_decay)

    @property
    def optimizers(self) -> list[torch.optim.Optimizer]:
        """Both, or the one."""
        return [self.optimizer] if self.muon is None else [self.optimizer, self.muon]

    @property
    def result(self) -> DDN:
        """The model to use: the moving average, or the network."""
        return self.ddn if self.ema is None else self.ema.model

    # the parts of a step, in their order

    def compute_gradients(
        self, batches: Iterator[Batch], learning_rate: float, penalty: bool
    ) -> tuple[Float[Tensor, " levels"], Float[Tensor, ""]]:
        """The gradients of `grad_accum_every` batches, clipped.

        Args:
            learning_rate: of this step, for AdamW; that of Muon rises and falls with it.
            penalty: whether the discriminator's gradient is penalised.

        Returns:
            The losses of this process and the norm of the gradient before clipping, on the device.
        """
        parts = self.config.grad_accum_every
        set_rates(self.optimizers, learning_rate, self.config.learning_rate)
        losses = torch.zeros(self.ddn.num_levels, device=self.processes.device)
        for part in range(parts):
            batch = next(batches)
            images = batch.images_on(self.processes.device, self.config.channels_last)
            inputs = conditioning_inputs(self.ddn, images, batch.labels, self.config.cond_fn)
            by_level, adversarial = self._losses(images, {**inputs, "penalty": penalty})
            loss = (by_level.mean() + adversarial) / parts
            scaler = self.accelerator.scaler
            loss = loss if scaler is None else scaler.scale(loss)
            self._set_gradients(torch.autograd.grad(loss, self._leaves, allow_unused=True), part > 0)
            losses += by_level.detach().float() / parts
        self.processes.average([flat.gradient for flat in self.flats])
        return losses, self._clip().float()

    def _losses(self, images: Tensor, inputs: dict[str, Any]) -> tuple[Tensor, Tensor | float]:
        with self.accelerator.autocast():
            if self.copies is None:
                return self.model(images, **inputs)
            self.copies.refresh()
            copies = {f"ddn.{name}": copy for name, copy in self.copies.by_name.items()}
            return functional_call(self.model, copies, (images,), inputs)

    def _set_gradients(self, gradients: Sequence[Tensor | None], add: bool) -> None:
        for flat in self.flats:
            own, gradients = gradients[: len(flat.parameters)], gradients[len(flat.parameters) :]
            flat.set_gradients(own, add)

    def _clip(self) -> Tensor:
        """Clip the gradients of the network and of the discriminator, each to the same norm; the sum of their norms."""
        if self.accelerator.scaler is not None:
            for optimizer in self.optimizers:
                self.accelerator.scaler.unscale_(optimizer)
        norms = torch.stack([torch.linalg.vector_norm(flat.gradient) for flat in self.flats])
        if self.config.max_grad_norm is not None:
            shares = (self.config.max_grad_norm / (norms + 1e-6)).clamp_max(1)
            for flat, share in zip(self.flats, shares, strict=True):
                flat.gradient.mul_(share)
        return norms.sum()

    def require_finite(self, losses: list[float], norm: float, step: int) -> None:
        """Raise `DDNError` where a loss or the norm of the gradient is not finite; call it before `update`."""
        scaler = self.accelerator.scaler
        if math.isfinite(sum(losses)) and scaler is not None and not math.isfinite(norm):
            self._overflows += 1  # float16 finds its scale by overflowing: the scaler skips such a step
            norm = 0.0 if self._overflows < MAX_OVERFLOWS else norm
        else:
            self._overflows = 0
        if not math.isfinite(sum(losses) + norm):
            levels = [level for level, loss in enumerate(losses) if not math.isfinite(loss)]
            place = f"the loss of level {levels[0]}" if levels else "the norm of the gradient"
            raise DDNError(
                f"expected a finite loss and gradient at step {step}, got {losses[levels[0]] if levels else norm} "
                f"as {place}; lower the learning rate and resume from the last checkpoint"
            )

    def update(self, step: int, split: bool, counts: Sequence[int]) -> int:
        """Change the weights by the gradients, split and prune, average. Returns the number of nodes pruned.

        Args:
            step: the number of this step; the first is 1.
            split: whether split-and-prune is called.
            counts: of all processes, see `share_counts`.
        """
        scaler = self.accelerator.scaler
        for optimizer in self.optimizers:
            optimizer.step() if scaler is None else scaler.step(optimizer)
        if scaler is not None:
            scaler.update()
        swaps = self.split_and_prune(counts) if split else 0
        if self.ema is not None:
            self.ema.update(step)
        return swaps

    @torch.no_grad()
    def split_and_prune(self, counts: Sequence[int] | None = None) -> int:
        """Split and prune all levels. Returns the number of nodes pruned.

        Args:
            counts: of all processes and levels; None to read them.
        """
        left, after, swaps = list(self.counts.tolist() if counts is None else counts), [], 0
        pruned: list[np.ndarray] = []
        copied: list[np.ndarray] = []
        for sampler in self.ddn.samplers:
            own, left = left[: sampler.codebook_size], left[sampler.codebook_size :]
            plan = sampler.plan_splits(own)
            after += plan.counts
            swaps += plan.swaps
            if not plan.swaps:
                continue
            moved = [node for node, origin in enumerate(plan.origin) if node != origin]
            for parameter in sampler.node_parameters():
                pruned.append(self.flats[0].rows(parameter, moved).flatten())
                copied.append(self.flats[0].rows(parameter, [plan.origin[node] for node in moved]).flatten())
        if swaps:
            self._move(*(torch.from_numpy(np.concatenate(own)) for own in (pruned, copied)))
        if counts is None or after != list(counts):
            self._set_counts(after)
        return swaps

    def _move(self, into: Tensor, out_of: Tensor) -> None:
        """Copy values, moments and averages from these places of the network's parameters into others."""
        values = self.flats[0].values
        into, out_of = into.to(values.device), out_of.to(values.device)
        nodes = self.flats[0].elementwise
        assert nodes is not None
        state = self.optimizer.state.get(nodes, {}).values()
        rows = [values, *(own for own in state if isinstance(own, Tensor) and own.ndim)]
        if self.ema is not None:
            rows.append(self.ema.flats[0].values)
        for own in rows:
            own.index_copy_(0, into, own.index_select(0, out_of))

    # counts of several processes

    def new_counts(self) -> Int[Tensor, " nodes"]:
        """How often this process has chosen each node since `share_counts`."""
        return self.counts - self._known_counts

    def share_counts(self, new: Sequence[float]) -> list[int]:
        """Add what all processes together have counted since the last call; gives the counts."""
        self._shared = [before + round(more) for before, more in zip(self._shared, new, strict=True)]
        if self.processes.number > 1:
            self._set_counts(self._shared)
        else:
            self._known_counts.copy_(self.counts)
        return self._shared

    def _set_counts(self, counts: list[int]) -> None:
        self._shared = counts
        self.counts.copy_(torch.tensor(counts))
        self._known_counts.copy_(self.counts)

    # checkpoints

    def tensors(self) -> dict[str, Tensor]:
        """The optimiser's state by parameter and, where the model file holds the moving average, the weights."""
        tensors: dict[str, Tensor] = {}
        for flat in self.flats:
            for optimizer in self.optimizers:
                tensors |= flat.moments(optimizer)
        if self.ema is not None:
            tensors |= {f"weights/{name}": value for name, value in self.ddn.state_dict().items()}
        return tensors

    def load(self, checkpoint: Path) -> None:
        """Take the weights, the optimiser's state and the moving average from the folder of a checkpoint.

        Raises:
            ModelFileError: they are of another network or optimiser.
        """
        tensors, model = read_tensors(checkpoint / TRAINING), read_tensors(checkpoint / WEIGHTS)
        own = part_of(tensors, "weights/")
        load_strictly(self.ddn, own or model, checkpoint / (TRAINING if own else WEIGHTS))
        load_moments(self.optimizers, self.flats, tensors, checkpoint / TRAINING)
        if self.ema is not None:
            load_strictly(self.ema.model, model, checkpoint / WEIGHTS)
        self._set_counts(self.counts.tolist())
