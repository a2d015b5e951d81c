"""PyTorch's global generators of the CPU and of one device, seeded inside a context and restored after it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch


def mix_seed(*numbers: int) -> int:
    """A seed below 2^63, the hash of several numbers by splitmix64."""
    state = 0
    for number in numbers:
        state = (state ^ number) + 0x9E3779B97F4A7C15 & (1 << 64) - 1
        state = (state ^ state >> 30) * 0xBF58476D1CE4E5B9 & (1 << 64) - 1
        state = (state ^ state >> 27) * 0x94D049BB133111EB & (1 << 64) - 1
        state ^= state >> 31
    return state & (1 << 63) - 1


def random_generator(seed: int | None) -> torch.Generator:
    """A random number generator with a seed; with a new one each time if None."""
    generator = torch.Generator()
    generator.seed() if seed is None else generator.manual_seed(seed)
    return generator


@contextmanager
def own_random_state(device: str | torch.device = "cpu") -> Iterator[Callable[[int], None]]:
    """A context inside which the generators of the CPU and of one device may be seeded; afterwards both are restored.

    Other devices' generators are not touched; `torch.manual_seed` would seed them all.

    Yields:
        A function that seeds both generators.
    """
    device = torch.device(device)
    with torch.random.fork_rng(devices=[]):
        module, arguments = _module_of(device)
        before = None if module is None else module.get_rng_state(*arguments)
        try:
            yield partial(seed_random_state, device=device)
        finally:
            if module is not None:
                module.set_rng_state(before, *arguments)


def seed_random_state(value: int, device: torch.device) -> None:
    """Seed the generators of the CPU and of this device, and no others."""
    torch.default_generator.manual_seed(value)
    module, arguments = _module_of(device)
    if module is not None:
        module.set_rng_state(torch.Generator(device).manual_seed(value).get_state(), *arguments)


def _module_of(device: torch.device) -> tuple[Any, tuple[torch.device, ...]]:
    """PyTorch's module for a device, None for the CPU, and the arguments that name the device: none for MPS."""
    if device.type == "cpu":
        return None, ()
    return torch.get_device_module(device), () if device.type == "mps" else (device,)
