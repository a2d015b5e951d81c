"""`TrainerConfig`: the settings of a `Trainer`, validated once and then fixed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from discrete_distribution_network.conditioning import CondFn
from discrete_distribution_network.data.decoding import Augment
from discrete_distribution_network.errors import require, require_integer, require_positive
from discrete_distribution_network.training.processes import Precision

COUNTS = (
    "num_train_steps",
    "grad_accum_every",
    "save_results_every",
    "checkpoint_every",
    "num_samples",
    "evaluate_every",
    "split_every",
    "log_every",
    "apply_grad_penalty_every",
)
"""Settings that are integers of at least 1."""

EMA_SETTINGS = ("beta", "update_every", "update_after_step")


@dataclass(frozen=True, kw_only=True)
class TrainerConfig:
    """Settings of a `Trainer`, whose docstring describes them; the defaults are in its signature.

    Raises:
        InvalidInput: a setting is out of range.
    """

    num_train_steps: int
    learning_rate: float
    muon_learning_rate: float | None
    weight_decay: float
    batch_size: int
    grad_accum_every: int
    checkpoints_folder: str | Path
    results_folder: str | Path
    save_results_every: int
    checkpoint_every: int
    num_samples: int
    adam_kwargs: Mapping[str, Any] | None
    accelerate_kwargs: Mapping[str, Any] | None
    ema_kwargs: Mapping[str, Any] | None
    use_ema: bool
    max_grad_norm: float | None
    apply_grad_penalty_every: int
    evaluate_every: int
    evaluate_images: int | None
    max_minutes: float | None
    warmup_steps: int
    decay: Literal["none", "cosine"]
    hold: float
    split_every: int
    split_until: float
    second_stage: float | None
    augment: Augment | None
    cond_fn: CondFn | None
    max_bad_images: int
    num_workers: int | None
    mixed_precision: Precision | None
    compile: bool
    channels_last: bool
    seed: int
    resume: bool | str | Path
    overwrite: bool
    max_checkpoints: int | None
    trackers: Sequence[Any]
    log_every: int
    timeout: float
    progress: bool

    def __post_init__(self) -> None:
        for name in COUNTS:
            require_integer(getattr(self, name), name)
        require_positive(self.learning_rate, "learning_rate")
        if self.muon_learning_rate is not None:
            require_positive(self.muon_learning_rate, "muon_learning_rate")
        norm, images, minutes = self.max_grad_norm, self.evaluate_images, self.max_minutes
        require(norm is None or norm > 0, "max_grad_norm above 0, or None", norm)
        require(images is None or images >= 1, "evaluate_images of at least 1, or None", images)
        require(minutes is None or minutes > 0, "max_minutes above 0, or None", minutes)
        require(self.warmup_steps >= 0, "warmup_steps of at least 0", self.warmup_steps)
        require(self.decay in ("none", "cosine"), 'decay "none" or "cosine"', repr(self.decay))
        require(0 <= self.hold < 1, "hold in [0, 1)", self.hold)
        share = self.second_stage
        require(share is None or 0 < share < 1, "second_stage in (0, 1), or None", share)
        precision = self.mixed_precision
        require(
            precision is None or precision in get_args(Precision),
            'mixed_precision "auto", "no", "bf16", "fp16" or None',
            repr(precision),
        )
        unknown = sorted(set(self.ema_kwargs or {}).difference(EMA_SETTINGS))
        require(not unknown, "ema_kwargs beta, update_every and update_after_step", ", ".join(unknown))
