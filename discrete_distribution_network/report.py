"""What a training tells: a bar, a line of figures every few steps (metrics.jsonl), trackers, pictures."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

from tqdm import tqdm

METRICS = "metrics.jsonl"


class Report:
    """Figures to a file, to a progress bar and to accelerate's trackers, while this context lasts.

    Args:
        folder: where `metrics.jsonl` is written, line by line; one that is there is continued. None: nowhere.
        total: length of the bar.
        progress: whether it is shown.
        trackers: of accelerate; each gets the figures under flat names, and is ended with this context.
        replace: begin the file anew.
    """

    def __init__(
        self,
        folder: Path | None,
        total: int,
        progress: bool,
        trackers: Sequence[Any] = (),
        replace: bool = False,
    ):
        self.folder, self.total, self.progress, self.replace = folder, total, progress, replace
        self.trackers = trackers
        self.file: TextIO | None = None

    def __enter__(self) -> Report:
        self.bar = tqdm(
            total=self.total,
            disable=not self.progress,
            mininterval=0.5,
            bar_format="{percentage:3.0f}%|{bar}| {elapsed} gone, {remaining} left{postfix}",
        )
        if self.folder is not None:
            self.folder.mkdir(parents=True, exist_ok=True)
            path = self.folder / METRICS
            torn = path.exists() and path.read_bytes()[-1:] not in (b"", b"\n")  # a line that a kill cut off
            self.file = path.open("w" if self.replace else "a", encoding="utf-8")
            self.file.write("\n" if torn and not self.replace else "")
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.close()
        if self.file is not None:
            self.file.close()
        for tracker in self.trackers:
            tracker.finish()

    def write(self, step: int, figures: dict[str, Any]) -> None:
        """One line, the step and its figures; NaN and infinity become null."""
        if "loss" in figures:
            used = figures["usage_by_level"]
            self.bar.set_postfix_str(
                f"loss {figures['loss']:.4f}, {figures['images_per_second']:.0f} images/s, "
                f"nodes in use {sum(used) / len(used):.0%}",
                refresh=False,
            )
        if self.file is not None:
            self.file.write(json.dumps({"step": step, **_plain(figures)}, allow_nan=False) + "\n")
            self.file.flush()
        for tracker in self.trackers:
            tracker.log(dict(_flat(figures)), step=step)

    def advance(self, done: float) -> None:
        """Move the bar to this much of its total."""
        self.bar.update(min(round(done), self.total) - self.bar.n)

    def say(self, text: str) -> None:
        """A line beside the bar."""
        if self.progress:
            self.bar.write(text, file=sys.stderr)


def read_metrics(folder: str | Path) -> list[dict[str, Any]]:
    """The lines of a run's `metrics.jsonl`, without one that a kill cut off; empty if there are none yet."""
    path, lines = Path(folder) / METRICS, []
    if not path.is_file():
        return []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            lines.append(json.loads(line))
        except ValueError:
            continue
    return [line for line in lines if isinstance(line, dict)]


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(inner) for name, inner in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _flat(figures: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    """Numbers only, under names such as test/error_by_level/03."""
    for name, value in figures.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}/")
        elif isinstance(value, Sequence) and not isinstance(value, str):
            yield from _flat({f"{index:02d}": inner for index, inner in enumerate(value)}, f"{prefix}{name}/")
        elif isinstance(value, int | float):
            yield f"{prefix}{name}", value
