"""`Optimisation`: gradients, clipping, AdamW, split-and-prune and the moving average of one network."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from discrete_distribution_network.conditioning import conditioning_inputs
from discrete_distribution_network.data.loader import Batch, in_unit_range
from discrete_distribution_network.ddn import DDN
from discrete_distribution_network.errors import DDNError, InvalidInput
from discrete_distribution_network.io.safetensors_file import load_strictly, read_tensors
from discrete_distribution_network.training.checkpoints import TRAINING, WEIGHTS, load_moments, moments_of
from discrete_distribution_network.training.config import TrainerConfig
from discrete_distribution_network.training.moving_average import MovingAverage
from discrete_distribution_network.training.processes import Processes

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

    Args:
        ddn: moved to the device of this process, and put in training mode.
        config: settings of the training.
        processes: that train together.

    Attributes:
        ddn: the network.
        optimizer: AdamW, as accelerate wraps it.
        ema: the moving average, or None.
    """

    def __init__(self, ddn: DDN, config: TrainerConfig, processes: Processes):
        self.config, self.processes, self.accelerator = config, processes, processes.accelerator
        self.ddn = ddn.to(processes.device).train()
        if config.channels_last:
            self.ddn.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        optimizer = self._adamw()
        model = LossByLevel(self.ddn)
        if config.compile:
            model.compile()
        with warnings.catch_warnings():
            # the name of the argument changes in newer PyTorch; accelerate knows the old one only
            warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated", FutureWarning)
            self.optimizer = processes.prepare(model, optimizer)
        self.ema = MovingAverage(self.ddn, **(config.ema_kwargs or {})) if config.use_ema else None
        # listed once, since walking through all modules at every step takes time
        discriminator = self.ddn.discriminator
        self._discriminator = [] if discriminator is None else list(discriminator.parameters())
        apart = {id(parameter) for parameter in self._discriminator}
        self._parameters = [parameter for parameter in self.ddn.parameters() if id(parameter) not in apart]
        self._shared_counts = self.counts()
        self._overflows = 0

    def _adamw(self) -> torch.optim.AdamW:
        settings: dict[str, Any] = {"lr": self.config.learning_rate, "weight_decay": self.config.weight_decay}
        settings |= {"fused": True, **(self.config.adam_kwargs or {})}
        try:
            return torch.optim.AdamW(self.ddn.parameters(), **settings)
        except (TypeError, ValueError, RuntimeError) as error:
            raise InvalidInput(f"expected adam_kwargs that torch.optim.AdamW takes, but it says: {error}") from error

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
            learning_rate: of this step.
            penalty: whether the discriminator's gradient is penalised.

        Returns:
            The losses of this process and the norm of the gradient before clipping, on the device.
        """
        model, parts = self.processes.model, self.config.grad_accum_every
        assert model is not None
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        self.optimizer.zero_grad()
        losses = torch.zeros(self.ddn.num_levels, device=self.processes.device)
        for part in range(parts):
            with nullcontext() if part == parts - 1 else self.accelerator.no_sync(model):
                batch = next(batches)
                images = self._to_device(batch)
                inputs = conditioning_inputs(self.ddn, images, batch.labels, self.config.cond_fn)
                by_level, adversarial = model(images, **inputs, penalty=penalty)
                self.accelerator.backward((by_level.mean() + adversarial) / parts)
            losses += by_level.detach().float() / parts
        return losses, self._clip().float()

    def _to_device(self, batch: Batch) -> Tensor:
        images = in_unit_range(batch.images.to(self.processes.device, non_blocking=True))
        return images.contiguous(memory_format=torch.channels_last) if self.config.channels_last else images

    def _clip(self) -> Tensor:
        most = self.config.max_grad_norm or math.inf
        norm = self.accelerator.clip_grad_norm_(self._parameters, most)
        if self._discriminator:  # by itself, since its gradient is many times as long; no scaler may unscale twice
            norm = norm + nn.utils.clip_grad_norm_(self._discriminator, most)
        return norm

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

    def update(self, step: int, split: bool) -> int:
        """Change the weights by the gradients, split and prune, average. Returns the number of nodes pruned.

        Args:
            step: the number of this step; the first is 1.
            split: whether split-and-prune is called.
        """
        self.optimizer.step()
        swaps = self.split_and_prune() if split else 0
        if self.ema is not None:
            self.ema.update(step)
        return swaps

    def split_and_prune(self) -> int:
        """Split and prune by the counts of all processes. Returns the number of nodes pruned."""
        self.share_counts()
        swaps = self.ddn.split_and_prune_(self.optimizer.optimizer, None if self.ema is None else self.ema.model)
        if self.processes.number > 1:
            self._shared_counts = self.counts()
        return swaps

    def share_counts(self) -> None:
        """Sum what every process has counted since the last call, so that all make the same splits."""
        if self.processes.number == 1:
            return
        self._shared_counts += self.processes.sum(self.counts() - self._shared_counts)
        samplers = self.ddn.samplers
        shares = self._shared_counts.split([sampler.codebook_size for sampler in samplers])
        for sampler, share in zip(samplers, shares, strict=True):
            sampler.counts.copy_(share)

    def counts(self) -> Int[Tensor, " nodes"]:
        """How often each node was chosen, one level after the other."""
        return torch.cat([sampler.counts for sampler in self.ddn.samplers])

    # checkpoints

    def tensors(self) -> dict[str, Tensor]:
        """The optimiser's state by parameter and, where the model file holds the moving average, the weights."""
        tensors = moments_of(self.ddn, self.optimizer.optimizer)
        if self.ema is not None:
            tensors |= {f"weights/{name}": value for name, value in self.ddn.state_dict().items()}
        return tensors

    def load(self, checkpoint: Path) -> None:
        """Take the weights, the optimiser's state and the moving average from the folder of a checkpoint.

        Raises:
            ModelFileError: they are of another network or optimiser.
        """
        tensors, model = read_tensors(checkpoint / TRAINING), read_tensors(checkpoint / WEIGHTS)
        own = {name.removeprefix("weights/"): value for name, value in tensors.items() if name.startswith("weights/")}
        load_strictly(self.ddn, own or model, checkpoint / (TRAINING if own else WEIGHTS))
        load_moments(self.ddn, self.optimizer.optimizer, tensors, checkpoint / TRAINING)
        if self.ema is not None:
            load_strictly(self.ema.model, model, checkpoint / WEIGHTS)
        self._shared_counts = self.counts()
