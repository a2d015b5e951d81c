"""Worker processes of a `DataLoader`: their signals, their end, and the errors that they raise."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from typing import Any

from torch.utils.data import DataLoader

from discrete_distribution_network.errors import DDNError
from discrete_distribution_network.signals import NOTED


def ignore_signals(worker: int = 0) -> None:
    """Let a worker continue when its process group receives SIGINT or SIGTERM, until the main process ends it.

    So the main process still gets the batches that it needs to save and end. Where the system does not say who sent a
    signal, as on macOS, SIGTERM ends workers.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
        pass
    os._exit(0)


def iterate(loader: DataLoader[Any]) -> Iterator[Any]:
    """A loader's batches; signals are held back until its workers ignore them, and its workers end with the iterator.

    Raises:
        DDNError: as a worker raised it, with its own type and message.
    """
    mask = getattr(signal, "pthread_sigmask", None)  # not on Windows
    before = mask(signal.SIG_BLOCK, NOTED) if mask else None
    try:
        batches = iter(loader)
    finally:
        if mask:
            mask(signal.SIG_SETMASK, before)
    try:
        yield from batches
    except DDNError as error:
        if "\n" not in str(error):
            raise
        # of a worker PyTorch gives the traceback as text, whose last line is "module.DataError: message"
        raise type(error)(str(error).strip().rsplit("\n", 1)[-1].partition(": ")[2]) from None
    finally:
        getattr(batches, "_shutdown_workers", lambda: None)()  # else only when it is collected, after five seconds
