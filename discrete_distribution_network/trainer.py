"""The training loop: forward, backward, optimiser, split-and-prune, on one page."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor, nn
from tqdm import tqdm

from discrete_distribution_network.data import Images, batch_of
from discrete_distribution_network.ddn import DDN
from discrete_distribution_network.errors import DataError, DDNError, require
from discrete_distribution_network.metrics import psnr, usage, usage_by_level


@dataclass(frozen=True)
class Recipe:
    """How a DDN is trained.

    Attributes:
        length: how long to train: seconds if `timed`, else optimiser steps.
        timed: see `length`.
        batch_size: images a step.
        learning_rate: the highest; linear warm-up, then constant, then a cosine down to nothing.
        warmup_steps: steps of the warm-up.
        hold: share of the training after which the learning rate falls.
        max_grad_norm: gradients are clipped to this norm.
        split_every: steps between two calls of split-and-prune.
        split_until: share of the training after which nodes stay where they are.
    """

    length: float = 180.0
    timed: bool = True
    batch_size: int = 32
    learning_rate: float = 2e-3
    warmup_steps: int = 50
    hold: float = 0.3
    max_grad_norm: float = 1.0
    split_every: int = 1
    split_until: float = 0.85

    def __post_init__(self) -> None:
        require(self.length > 0, "length above 0", self.length)
        require(self.batch_size >= 1, "batch_size of at least 1", self.batch_size)
        require(self.learning_rate > 0, "learning_rate above 0", self.learning_rate)
        require(self.warmup_steps >= 1, "warmup_steps of at least 1", self.warmup_steps)
        require(self.split_every >= 1, "split_every of at least 1", self.split_every)
        require(0 <= self.hold < 1, "hold in [0, 1)", self.hold)

    def rate_at(self, step: int, progress: float) -> float:
        """The learning rate at a step when this share of the training, in [0, 1], is done."""
        fall = max(0.0, (progress - self.hold) / (1 - self.hold))
        return self.learning_rate * min(1.0, (step + 1) / self.warmup_steps) * 0.5 * (1 + math.cos(math.pi * fall))


@dataclass
class History:
    """The loss of every step, and how many nodes were pruned in all."""

    losses: list[float] = field(default_factory=list)
    swaps: int = 0


class Evaluation(NamedTuple):
    """Figures on held-out images, pixels in [0, 1].

    Attributes:
        images: how many.
        error: mean squared error of the reconstructions.
        psnr: of that error, in dB.
        bits_per_image: length of the code.
        error_by_level: of the chosen candidate at each level's own size.
        usage_by_level: perplexity of the choices over K, in (0, 1].
    """

    images: int
    error: float
    psnr: float
    bits_per_image: float
    error_by_level: list[float]
    usage_by_level: list[float]


def fit(
    ddn: DDN,
    images: Images,
    recipe: Recipe,
    seed: int = 0,
    progress: bool = True,
    history: History | None = None,
) -> History:
    """Train in place on one device (the model's).

    Args:
        images: at least a batch of them.
        seed: order of the images; also seeds PyTorch's own generator, for chain dropout.
        history: filled as the training goes, so that it is there after an interrupt; a new one if None.
        progress: show a bar with loss, images a second, time left and the share of nodes in use.

    Raises:
        DataError: fewer images than a batch.
        DDNError: the loss or a gradient is not finite; no weight was changed by that step.
    """
    if len(images) < recipe.batch_size:
        raise DataError(
            f"expected at least one batch of {recipe.batch_size} images, got {len(images)}; add images or lower the "
            "batch size"
        )
    torch.manual_seed(seed)
    device = ddn.start.device
    ddn.train().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.AdamW(
        ddn.parameters(), lr=recipe.learning_rate, betas=(0.9, 0.99), weight_decay=0.0, fused=True
    )
    order = epochs(len(images), recipe.batch_size, seed)
    history, started = history or History(), time.monotonic()
    bar = tqdm(
        total=round(recipe.length),
        disable=not progress,
        bar_format="{percentage:3.0f}%|{bar}| {elapsed} gone, {remaining} left{postfix}",
    )
    with bar:
        while True:
            step, elapsed = len(history.losses), time.monotonic() - started
            done = min(1.0, (elapsed if recipe.timed else step) / recipe.length)
            if done >= 1:
                bar.update(bar.total - bar.n)
                return history
            rate = recipe.rate_at(step, done)
            for group in optimizer.param_groups:
                group["lr"] = rate
            loss = ddn(batch_of(images, next(order)).to(device))
            optimizer.zero_grad()
            loss.backward()
            norm = nn.utils.clip_grad_norm_(ddn.parameters(), recipe.max_grad_norm)
            loss_now, norm_now = torch.stack((loss.detach(), norm)).tolist()
            if not (math.isfinite(loss_now) and math.isfinite(norm_now)):
                raise DDNError(
                    f"expected a finite loss and gradient at step {step}, got {loss_now} and {norm_now}; lower the "
                    "learning rate"
                )
            history.losses.append(loss_now)
            optimizer.step()
            if (step + 1) % recipe.split_every == 0 and done < recipe.split_until:
                history.swaps += ddn.split_and_prune_(optimizer)
            if step % 20 == 0:
                bar.set_postfix_str(
                    f"loss {sum(history.losses[-20:]) / len(history.losses[-20:]):.4f}, "
                    f"{len(history.losses) * recipe.batch_size / (time.monotonic() - started):.0f} images/s, "
                    f"nodes in use {sum(usage(sampler.counts) for sampler in ddn.samplers) / len(ddn.samplers):.0%}",
                    refresh=False,
                )
            bar.update(int(elapsed) - bar.n if recipe.timed else 1)


def epochs(count: int, batch_size: int, seed: int) -> Iterator[Tensor]:
    """Batches of indices below `count` for ever, each epoch in a fresh order; what is left of an epoch is dropped."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        yield from torch.randperm(count, generator=generator).split(batch_size)[: count // batch_size]


@torch.no_grad()
def evaluate(ddn: DDN, images: Images, batch_size: int = 100) -> Evaluation:
    """Reconstruct every image once and measure."""
    codes, error, by_level = [], 0.0, torch.zeros(ddn.num_levels)
    for indices in torch.arange(len(images)).split(batch_size):
        batch = batch_of(images, indices).to(ddn.start.device)
        walk = ddn.encode_walk(batch)
        codes.append(walk.codes.cpu())
        error += float((walk.outputs[-1].float() - batch).square().mean()) * len(batch)
        assert walk.losses is not None
        by_level += walk.losses.float().cpu() * len(batch)
    error /= len(images)
    return Evaluation(
        images=len(images),
        error=error,
        psnr=psnr(error),
        bits_per_image=ddn.bits_per_image,
        error_by_level=(by_level / len(images)).tolist(),
        usage_by_level=usage_by_level(torch.cat(codes), ddn.codebook_sizes, ddn.codes_per_level),
    )
