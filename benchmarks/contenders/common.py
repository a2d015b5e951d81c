"""What every contender of `quality.py` and `colour.py` shares: data, clock, and the files that it leaves.

A contender is a script of its own, run in an environment of its own: it knows this file and its library, nothing else.
"""

from __future__ import annotations

import argparse
import json
import math
import resource
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

BATCH = 250
"""Images that are reconstructed, and samples that are drawn, at once."""


class Clock:
    """How much of the budget is spent."""

    def __init__(self, minutes: float):
        self.seconds, self.started = 60 * minutes, time.monotonic()

    def spent(self) -> float:
        """The share of the budget that is spent; 1 and more: stop."""
        return (time.monotonic() - self.started) / self.seconds

    def minutes_until(self, share: float) -> float:
        return (share - self.spent()) * self.seconds / 60


class Data:
    """Images, bytes (N, C, side, side), and the order in which they are seen: the same for everyone."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.train, self.test = (np.load(folder / f"{part}.npy") for part in ("train", "test"))
        self.channels, self.side = self.train.shape[1:3]
        self.order = np.load(folder / "order.npy", mmap_mode="r")

    def batches(self, size: int, start: int = 0) -> Iterator[Tensor]:
        """Batches for ever; `start` images have been seen already."""
        per_epoch = self.order.shape[1]
        for place in range(start, np.iinfo(np.int64).max, size):
            places = np.arange(place, place + size)
            which = self.order[places // per_epoch % len(self.order), places % per_epoch]
            yield to_unit(self.train[which])


def to_unit(images: np.ndarray) -> Tensor:
    """Bytes (N, C, H, W) -> numbers in [0, 1]."""
    return torch.from_numpy(images).float() / 255


class Contender(ABC):
    """A model: trained until the clock has run out, then asked for reconstructions and samples.

    Attributes:
        bits: of the latent of an image, if there is one.
        seen: images it was trained on, repeats counted, in its main part.
        training_seconds: that took.
    """

    bits: float | None = None
    seen = 0
    training_seconds = 0.0

    @abstractmethod
    def train(self, data: Data, clock: Clock) -> None: ...

    @abstractmethod
    def sample(self, count: int) -> Tensor:
        """Images (count, C, side, side) in [0, 1]."""

    @abstractmethod
    def parameters(self) -> int:
        """How many numbers the model is."""

    def reconstruct(self, images: Tensor) -> tuple[Tensor, Tensor | None] | None:
        """Images (B, C, side, side) from their latents, and the codes (B, number of codes); None if it cannot."""
        return None

    def levels(self) -> list[tuple[int, int]] | None:
        """Of each level K and how many codes it has."""
        return None

    def more(self, folder: Path, drawn: int) -> dict[str, float]:
        """Other figures of this contender alone; images that it saves in the folder are compared too."""
        return {}


def use_by_level(codes: Tensor, levels: list[tuple[int, int]]) -> tuple[list[float], list[float]]:
    """Of each level: the share of nodes chosen at least once, and the perplexity of the choices over K."""
    parts = codes.split([number for _, number in levels], dim=1)
    counts = [torch.bincount(part.flatten(), minlength=size) for part, (size, _) in zip(parts, levels, strict=True)]
    entropies = [torch.special.entr(own / own.sum()).sum() for own in counts]
    return (
        [float((own > 0).float().mean()) for own in counts],
        [float(entropy.exp()) / len(own) for own, entropy in zip(counts, entropies, strict=True)],
    )


def draw(sample: Callable[[int], Tensor], count: int) -> Tensor:
    """So many samples, drawn in batches."""
    return torch.cat([sample(min(BATCH, count - done)).float() for done in range(0, count, BATCH)])


def save(folder: Path, name: str, images: Tensor) -> None:
    np.save(folder / f"{name}.npy", (images.clamp(0, 1) * 255).round().to(torch.uint8).numpy())


def main(contender: Contender) -> None:
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--data", type=Path, required=True)
    arguments.add_argument("--out", type=Path, required=True)
    arguments.add_argument("--minutes", type=float, required=True)
    arguments.add_argument("--seed", type=int, default=0)
    arguments.add_argument("--drawn", type=int, required=True)
    given = arguments.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(2)
    torch.manual_seed(given.seed)
    data, clock = Data(given.data), Clock(given.minutes)
    contender.train(data, clock)
    figures = {
        "minutes": clock.spent() * given.minutes,
        "peak_memory_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "parameters": contender.parameters(),
        "bits": contender.bits,
        "torch": torch.__version__,
        "images_seen": contender.seen,
        "training_images_per_second": contender.seen / max(contender.training_seconds, 1e-9),
    }
    with torch.no_grad():
        parts, codes, errors = [], [], []
        for batch in to_unit(data.test).split(BATCH):
            answer = contender.reconstruct(batch)
            if answer is None:
                break
            images, found = answer[0].float().clamp(0, 1), answer[1]
            errors.append((images - batch).square().flatten(1).mean(1))
            parts.append(images)
            if found is not None:
                codes.append(found)
        if parts:
            save(given.out, "reconstructions", torch.cat(parts))
            figures["error"] = float(torch.cat(errors).mean())
            figures["psnr"] = -10 * math.log10(figures["error"])
        levels = contender.levels()
        if codes and levels is not None:
            figures["used_by_level"], figures["perplexity_by_level"] = use_by_level(torch.cat(codes), levels)
        torch.manual_seed(given.seed + 1)
        contender.sample(BATCH)  # the first call makes what later ones reuse
        started = time.monotonic()
        samples = draw(contender.sample, given.drawn)
        figures["sampling_images_per_second"] = given.drawn / (time.monotonic() - started)
        save(given.out, "samples", samples)
    figures |= contender.more(given.out, given.drawn)
    (given.out / "figures.json").write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


def autocast() -> torch.autocast:
    """Autocast to bfloat16 where the processor multiplies it faster than float32, as our training does."""
    fast: bool = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)()
    return torch.autocast("cpu", torch.bfloat16, enabled=fast)


class Average:
    """The exponential moving average of a module's parameters, for contenders whose library brings none."""

    def __init__(self, model: torch.nn.Module, beta: float = 0.999):
        self.beta, self.updates = beta, 0
        self.current = list(model.parameters())
        self.kept = [parameter.detach().clone() for parameter in self.current]

    @torch.no_grad()
    def update(self) -> None:
        self.updates += 1
        beta = min(self.beta, (1 + self.updates) / (10 + self.updates))
        torch._foreach_lerp_(self.kept, self.current, 1 - beta)

    @torch.no_grad()
    def use(self) -> None:
        torch._foreach_copy_(self.current, self.kept)


def rate(peak: float, step: int, share: float) -> float:
    """Learning rate: a short linear rise, then half a cosine over the budget."""
    return peak * min(1.0, (step + 1) / 100) * 0.5 * (1 + np.cos(np.pi * min(1.0, share)))
