"""`Recipe`: how `ddn train` trains the presets. It needs no PyTorch, so that `ddn --help` is quick."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Recipe:
    """Settings of an optimisation, which are the defaults of `ddn train`; its `--help` describes them."""

    batch_size: int | None = None
    grad_accum: int = 1
    learning_rate: float = 3e-3
    muon_learning_rate: float | None = 0.02
    weight_decay: float = 0.0
    warmup_steps: int = 50
    hold: float = 0.3
    max_grad_norm: float = 1.0
    split_every: int = 1
    split_until: float = 0.85
    second_stage: float | None = None
    ema: bool = True
    precision: Literal["auto", "no", "bf16", "fp16"] = "auto"
    seed: int = 0
