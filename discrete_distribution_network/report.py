"""What a training tells: its progress, a line of figures every few steps (metrics.jsonl), trackers."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO

from tqdm import tqdm

METRICS = "metrics.jsonl"

EVERY = 30.0
"""Seconds between two lines of progress where the error output is no terminal."""


class Bar:
    """How far a long work is, on the error output: a bar on a terminal, a line every `every` seconds in a log.

    An error output that is closed, or fails, ends no work: nothing is shown.

    Args:
        total: what `advance` counts to.
        shown: whether anything is shown.
        every: seconds between two lines.
    """

    def __init__(self, total: float, shown: bool = True, every: float = EVERY):
        self.total, self.every, self.done, self.text = total, every, 0.0, ""
        self.output = sys.stderr if shown else None
        self.began = self.told = time.monotonic()
        self.bar: tqdm[Any] | None = None
        with suppress(OSError, ValueError):  # of an output that is closed
            if self.output is not None and self.output.isatty():
                form = "{percentage:3.0f}%|{bar}| {elapsed} gone, {remaining} left{postfix}"
                self.bar = tqdm(total=total, file=self.output, mininterval=0.5, bar_format=form)

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def advance(self, done: float, text: str | None = None) -> None:
        """So much of the total is done; `text`, such as the latest figures, stands beside it from now on."""
        self.text = self.text if text is None else text
        self.done = min(done, self.total)
        if self.bar is not None:
            with suppress(OSError, ValueError):
                if text is not None:
                    self.bar.set_postfix_str(text, refresh=False)
                self.bar.update(self.done - self.bar.n)
        elif time.monotonic() - self.told >= self.every:
            self._line()

    def say(self, text: str) -> None:
        """A line beside the bar."""
        if self.output is not None:
            with suppress(OSError, ValueError):
                tqdm.write(text, file=self.output)
                self.output.flush()

    def close(self) -> None:
        """Show where it ended."""
        if self.bar is not None:
            with suppress(OSError, ValueError):
                self.bar.close()
        elif self.done > 0:
            self._line()
        self.output = self.bar = None

    def _line(self) -> None:
        self.told = time.monotonic()
        gone, share = self.told - self.began, self.done / self.total if self.total else 1.0
        left = f", {_clock(gone / share - gone)} left" if 0 < share < 1 else ""
        self.say(f"{share:4.0%} done, {_clock(gone)} gone{left}" + (f", {self.text}" if self.text else ""))


def _clock(seconds: float) -> str:
    return tqdm.format_interval(min(seconds, 1e9))


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
        self.bar = Bar(self.total, self.progress)
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
            self.bar.advance(
                self.bar.done,
                f"loss {figures['loss']:.4f}, {figures['images_per_second']:.0f} images/s, "
                f"nodes in use {sum(used) / len(used):.0%}",
            )
        if self.file is not None:
            self.file.write(json.dumps({"step": step, **_plain(figures)}, allow_nan=False) + "\n")
            self.file.flush()
        for tracker in self.trackers:
            tracker.log(dict(_flat(figures)), step=step)

    def advance(self, done: float) -> None:
        """Move the bar to this much of its total."""
        self.bar.advance(done)

    def say(self, text: str) -> None:
        """A line beside the bar."""
        self.bar.say(text)


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
