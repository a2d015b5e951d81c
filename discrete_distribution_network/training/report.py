"""Progress and figures of a training: a progress bar, `metrics.jsonl`, accelerate's trackers."""

from __future__ import annotations

import json
import math
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from discrete_distribution_network.io.atomic_file import output_errors

METRICS = "metrics.jsonl"

EVERY = 30.0
"""Seconds between two lines of progress where standard error is no terminal."""


class Bar:
    """Progress on standard error: a bar on a terminal, a line every `every` seconds in a log.

    A closed or broken standard error is no failure: nothing is shown.

    Args:
        total: value of `advance` at the end.
        shown: whether anything is shown.
        every: seconds between two lines.
        done: value at the start, of work that is continued.
    """

    def __init__(self, total: float, shown: bool = True, every: float = EVERY, done: float = 0.0):
        self.total, self.every, self.before, self.done, self.text = total, every, done, done, ""
        self.output = sys.stderr if shown else None
        self.began = self.last_line = time.monotonic()
        self.bar: tqdm[Any] | None = None
        with suppress(OSError, ValueError):  # of an output that is closed
            if self.output is not None and self.output.isatty():
                form = "{percentage:3.0f}%|{bar}| {elapsed} gone, {remaining} left{postfix}"
                self.bar = tqdm(total=total, initial=done, file=self.output, mininterval=0.5, bar_format=form)

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def advance(self, done: float, text: str | None = None) -> None:
        """Show the progress.

        Args:
            done: of the total.
            text: shown beside it from now on, such as the latest figures.
        """
        self.text = self.text if text is None else text
        self.done = min(done, self.total)
        if self.bar is not None:
            with suppress(OSError, ValueError):
                if text is not None:
                    self.bar.set_postfix_str(text, refresh=False)
                self.bar.update(self.done - self.bar.n)
        elif time.monotonic() - self.last_line >= self.every:
            self._line()

    def say(self, text: str) -> None:
        """A line beside the bar."""
        if self.output is not None:
            with suppress(OSError, ValueError):
                tqdm.write(text, file=self.output)
                self.output.flush()

    def close(self) -> None:
        """Show the final progress."""
        if self.bar is not None:
            with suppress(OSError, ValueError):
                self.bar.close()
        elif self.done > self.before:
            self._line()
        self.output = self.bar = None

    def _line(self) -> None:
        self.last_line = time.monotonic()
        gone, share = self.last_line - self.began, self.done / self.total if self.total else 1.0
        more, now = self.total - self.done, self.done - self.before
        left = f", {_clock(gone * more / now)} left" if more > 0 and now > 0 else ""
        self.say(f"{share:4.0%} done, {_clock(gone)} gone{left}" + (f", {self.text}" if self.text else ""))


def _clock(seconds: float) -> str:
    return tqdm.format_interval(min(seconds, 1e9))


class Report:
    """Figures for `metrics.jsonl` and, inside this context, for a progress bar and accelerate's trackers.

    Args:
        folder: of `metrics.jsonl`, which is appended to; None writes no file.
        total: length of the bar.
        progress: whether it is shown.
        trackers: of accelerate; each gets the figures under flat names, and is finished with this context.
        replace: replace an existing file.

    Attributes:
        done: progress before this context.
    """

    def __init__(
        self,
        folder: Path | None,
        total: float = 0,
        progress: bool = False,
        trackers: Sequence[Any] = (),
        replace: bool = False,
    ):
        self.folder, self.total, self.progress, self.replace = folder, total, progress, replace
        self.trackers, self.done = trackers, 0.0
        self.bar = Bar(total, shown=False)

    def __enter__(self) -> Report:
        self.bar = Bar(self.total, self.progress, done=self.done)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.bar.close()
        trackers, self.trackers = self.trackers, ()
        for tracker in trackers:
            # an error that is being raised matters more
            with nullcontext() if kind is None else suppress(OSError), self._naming():
                tracker.finish()

    def begin(self) -> None:
        """Delete the file that is to be replaced."""
        if self.folder is not None and self.replace:
            with output_errors(self.folder / METRICS):
                (self.folder / METRICS).unlink(missing_ok=True)
        self.replace = False

    def write(self, step: int, figures: dict[str, Any]) -> None:
        """Write one line, the step and its figures; NaN and infinity become null.

        Raises:
            OutputError: it cannot be written; earlier lines stay.
        """
        if "usage_by_level" in figures and "loss" in figures:
            used = figures["usage_by_level"]
            self.bar.advance(
                self.bar.done,
                f"loss {figures['loss']:.4f}, {figures['images_per_second']:.0f} images/s, "
                f"nodes in use {sum(used) / len(used):.0%}",
            )
        elif "bits" in figures:
            held_out = figures["held_out_bits"]
            self.bar.advance(
                self.bar.done,
                f"prior: {figures['bits']:.1f} bits an image"
                + (f", held out {held_out:.1f}" if held_out is not None else "")
                + f", {figures['images_per_second']:.0f} images/s",
            )
        plain = _plain(figures)
        if self.folder is not None:
            self._append(
                self.folder / METRICS, json.dumps({"step": step, **plain}, allow_nan=False, default=str) + "\n"
            )
        for tracker in self.trackers:
            with self._naming():
                tracker.log(dict(_flat(plain)), step=step)

    def write_pictures(self, step: int, pictures: dict[str, Image.Image]) -> None:
        """Send pictures, by their names, to the trackers that accept images."""
        arrays = {name: np.asarray(picture.convert("RGB"))[None] for name, picture in pictures.items()}
        for tracker in self.trackers:
            if hasattr(tracker, "log_images"):
                options = {"dataformats": "NHWC"} if tracker.name == "tensorboard" else {}
                with self._naming():
                    tracker.log_images(arrays, step=step, **options)

    def advance(self, done: float) -> None:
        """Move the bar to `done` of its total."""
        self.bar.advance(done)

    def say(self, text: str) -> None:
        """A line beside the bar."""
        self.bar.say(text)

    def _append(self, path: Path, line: str) -> None:
        self.begin()
        with output_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            new = not path.exists()
            with path.open("ab", buffering=0) as file:
                size = file.seek(0, os.SEEK_END)
                try:
                    data = (b"" if _ends_a_line(path) else b"\n") + line.encode("utf-8", errors="surrogateescape")
                    while data:
                        data = data[file.write(data) :]
                except BaseException:
                    file.truncate(size)
                    if new:
                        path.unlink()
                    raise

    def _naming(self) -> AbstractContextManager[None]:
        return nullcontext() if self.folder is None else output_errors(self.folder)


def _ends_a_line(path: Path) -> bool:
    """Whether a file is empty or ends with a complete line; a kill may have cut the last one off."""
    with path.open("rb") as file:
        if file.seek(0, os.SEEK_END) == 0:
            return True
        file.seek(-1, os.SEEK_END)
        return file.read() == b"\n"


def read_metrics(folder: str | Path) -> list[dict[str, Any]]:
    """The lines of a run's `metrics.jsonl`, except one that a kill cut off; empty if there is no file yet."""
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
    """A value as JSON has it: tensors and arrays as lists of numbers, NaN and infinity as None."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, Mapping):
        return {str(name): _plain(inner) for name, inner in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _flat(figures: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    """The numbers alone, under names such as test/error_by_level/03."""
    for name, value in figures.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}/")
        elif isinstance(value, list):
            yield from _flat({f"{index:02d}": inner for index, inner in enumerate(value)}, f"{prefix}{name}/")
        elif isinstance(value, int | float):
            yield f"{prefix}{name}", value
