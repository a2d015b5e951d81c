"""SIGTERM, Ctrl-C and a closed terminal (SIGHUP), recorded so that a training can save before it ends."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any

NOTED = (signal.SIGTERM, signal.SIGINT, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else []))


class Interrupted(SystemExit):
    """A training was stopped by a signal, and saved. The exit code is 128 + the signal's number.

    Attributes:
        signum: the signal's number.
    """

    def __init__(self, signum: int):
        super().__init__(128 + signum)
        self.signum = signum


class Signals:
    """A context that records the first signal of `NOTED` in `received`; a second one has its usual effect.

    A signal that this process ignores stays ignored, such as Ctrl-C in a script's background job, and SIGHUP under
    nohup. Outside the main thread, where Python allows no signal handlers, nothing is recorded.

    Attributes:
        received: the signal's number; None before there is one.

    Raises:
        Interrupted: at the end of the context, if a signal was recorded and no other error was raised.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Signals:
        if threading.current_thread() is threading.main_thread():
            for number in NOTED:
                # None: the handler was not set by Python, and cannot be restored
                if signal.getsignal(number) not in (signal.SIG_IGN, None):
                    self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._restore()
        if kind is None and self.received is not None:
            raise Interrupted(self.received)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.received = number
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}
