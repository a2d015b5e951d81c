"""Random numbers of one's own for a while: seeded on the CPU and on one device, and put back."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch


@contextmanager
def own_random_state(device: str | torch.device = "cpu") -> Iterator[Callable[[int], None]]:
    """PyTorch's own generators of the CPU and of `device` may be seeded, by the function that this gives.

    Afterwards both are as they were. No other device's is touched; `torch.manual_seed` would seed them all.
    """
    device = torch.device(device)
    module = None if device.type == "cpu" else torch.get_device_module(device)

    def seed(value: int) -> None:
        torch.default_generator.manual_seed(value)
        if module is not None:
            module.set_rng_state(torch.Generator(device).manual_seed(value).get_state(), device)

    with torch.random.fork_rng(devices=[]):
        before = None if module is None else module.get_rng_state(device)
        try:
            yield seed
        finally:
            if module is not None:
                module.set_rng_state(before, device)
