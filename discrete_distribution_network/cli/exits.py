"""How a command ends: whatever a user, a file, a disk or a signal does is one line and an exit code, no traceback.

0     done
2     an error that was expected; one sentence on the standard error says which
130   Ctrl-C
141   the reader of the standard output went away, as after `| head -1`
143   SIGTERM
"""

from __future__ import annotations

import errno
import io
import os
import select
import signal
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from types import FrameType
from typing import Any

from discrete_distribution_network.errors import DDNError, OutputError

FAILED = 2
READER_GONE = 141
"""128 + SIGPIPE, as the system ends other programs."""


@contextmanager
def command(program: str, failed: int = FAILED) -> Iterator[None]:
    """What is done while this lasts is a command: it ends with one line at most, and the exit code says how.

    What is printed cannot stop it: characters that the output's encoding lacks are escaped, and of an output that is
    closed, full or no longer read only the exit code tells.

    Args:
        program: what the line begins with.
        failed: exit code of an error.
    """
    with ExitStack() as stack:
        output = stack.enter_context(_lasting("stdout"))
        stack.enter_context(_lasting("stderr"))
        stack.enter_context(_plain_warnings(program))
        stack.enter_context(_standard_input())
        received = stack.enter_context(_ended_by_signals())
        sentence = code = None
        try:
            yield
        except SystemExit as end:
            code = end.code
        except BaseException as error:
            sentence, code = _sentence(error), failed
            if isinstance(error, KeyboardInterrupt) or received:  # an import that is interrupted raises others
                sentence, code = None, 128 + (received or [signal.SIGINT])[0]
            elif sentence is None:
                raise  # a fault of this program
        if not code and received:  # what ran took it for its own end, as a server does
            code = 128 + received[0]
        sys.stdout.flush()
        if not code and output.fault is not None:
            code = READER_GONE if output.fault.errno == errno.EPIPE else failed
            sentence = None if code == READER_GONE else str(OutputError("the standard output", output.fault))
        if sentence is not None:
            print(f"{program}: {' '.join(sentence.split())}", file=sys.stderr)
    if code:
        raise SystemExit(code)


@contextmanager
def _plain_warnings(program: str) -> Iterator[None]:
    """Warnings as one line each, without the line of code that raised them."""
    before = warnings.formatwarning
    warnings.formatwarning = lambda message, *_, **__: f"{program}: {' '.join(str(message).split())}\n"
    try:
        yield
    finally:
        warnings.formatwarning = before


def _sentence(error: BaseException) -> str | None:
    """What to tell of an error that a user, a file or a machine can cause; None of any other."""
    said = str(error)
    if isinstance(error, DDNError | OSError):
        return said
    if isinstance(error, MemoryError):
        return "expected enough memory, got none; ask for less at once, or use a larger machine"
    if isinstance(error, RuntimeError) and any(word in said for word in _OF_MEMORY):
        return f"expected enough memory, but {said.splitlines()[0]}; ask for less at once, or use a larger machine"
    if isinstance(error, UnicodeError):
        return f"expected a name that this system can write, but {said}; rename it"
    return None


_OF_MEMORY = ("allocate memory", "out of memory", "calculation overflowed", "multiplication overflow")
"""Parts of what PyTorch says where there is too little memory."""


class _Lasting(io.RawIOBase):
    """A raw stream of which no write raises: after the first that failed, what is written is dropped.

    Attributes:
        fault: what that write met.
    """

    def __init__(self, raw: Any):
        self.raw = raw
        self.fault: OSError | None = None

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self.raw.fileno()

    def isatty(self) -> bool:
        return self.raw.isatty()

    def write(self, data: Any) -> int:
        if self.fault is None:
            try:
                while (written := self.raw.write(data)) is None:  # one that does not block, and is full
                    select.select((), (self.raw,), ())
                return written
            except OSError as error:
                self.fault = error
        return len(data)


@contextmanager
def _lasting(name: str) -> Iterator[_Lasting]:
    """The standard output or error as one that lasts, for a while; one that is not this process's only escapes."""
    before = getattr(sys, name)
    if before is not None and before is not getattr(sys, f"__{name}__"):  # a test's, a notebook's
        errors = getattr(before, "errors", None)
        with suppress(AttributeError):
            before.reconfigure(errors="backslashreplace")
        try:
            yield _Lasting(None)
        finally:
            with suppress(AttributeError):
                before.reconfigure(errors=errors)
        return
    with ExitStack() as opened:
        stream = before
        if stream is None:  # closed: the next file that is opened would get its number, and what is printed
            stream = opened.enter_context(open(os.devnull, "w", encoding="utf-8"))
        with suppress(OSError):
            stream.flush()
        raw = _Lasting(getattr(stream.buffer, "raw", stream.buffer))
        lasting = io.TextIOWrapper(
            io.BufferedWriter(raw),
            encoding=stream.encoding,
            errors="backslashreplace",
            line_buffering=stream.line_buffering or stream.write_through or name == "stderr",
        )
        setattr(sys, name, lasting)
        try:
            yield raw
        finally:
            lasting.flush()
            setattr(sys, name, before)
            lasting.detach()


@contextmanager
def _standard_input() -> Iterator[None]:
    """An empty standard input where it is closed."""
    if sys.stdin is not None:
        yield
        return
    with open(os.devnull, encoding="utf-8") as sys.stdin:
        try:
            yield
        finally:
            sys.stdin = None


@contextmanager
def _ended_by_signals() -> Iterator[list[int]]:
    """While this lasts, the first Ctrl-C or SIGTERM unwinds what runs, so that it can clean up; a second ends at once.

    Gives the list in which the signal is noted. A handler of another's is left alone.
    """
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield received
        return
    usual = {signal.SIGINT: (signal.SIG_DFL, signal.default_int_handler), signal.SIGTERM: (signal.SIG_DFL,)}
    before = {number: signal.getsignal(number) for number in usual}
    own = [number for number, handlers in usual.items() if before[number] in handlers]

    def note(number: int, frame: FrameType | None) -> None:
        received.append(number)
        for each in own:
            signal.signal(each, signal.SIG_DFL)
        raise KeyboardInterrupt if number == signal.SIGINT else SystemExit(128 + number)

    for number in own:
        signal.signal(number, note)
    try:
        yield received
    finally:
        for number in own:
            signal.signal(number, before[number])
