"""SIGTERM and Ctrl-C noted, so that a training can save before it ends."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any

NOTED = (signal.SIGTERM, signal.SIGINT)


class Interrupted(SystemExit):
    """A training was asked to end by a signal, and saved. The exit code is 128 + the signal's number.

    Attributes:
        signum: the signal's number.
    """

    def __init__(self, signum: int):
        super().__init__(128 + signum)
        self.signum = signum


class Signals:
    """While this context lasts, the first SIGTERM or Ctrl-C is noted in `received`; a second one acts as ever.

    Outside of the main thread, where Python allows no signal handlers, nothing is noted.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Signals:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in NOTED}
        return self

    def __exit__(self, *_: object) -> None:
        self._restore()

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.received = number
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}
