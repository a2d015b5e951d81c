"""Exit codes and error messages: expected errors and signals end a command with one line, without a traceback.

0     success
2     an error, explained in one sentence on the standard error
130   Ctrl-C
141   the reader of the standard output has closed it, as `| head -1` does
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
    """The body of a command, whose errors and signals become one line and an exit code (see the module).

    Printing never raises: characters that the output's encoding lacks are escaped, and an output that is closed, full
    or no longer read only changes the exit code.

    Args:
        program: start of the line.
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
        if not code and received:  # the body handled the signal itself, as a server does
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
    """Prints each warning as one line, without the line of code that raised it."""
    before = warnings.formatwarning
    warnings.formatwarning = lambda message, *_, **__: f"{program}: {' '.join(str(message).split())}\n"
    try:
        yield
    finally:
        warnings.formatwarning = before


def _sentence(error: BaseException) -> str | None:
    """The message for an error that a user, a file or a machine can cause; None for a fault of the program."""
    message = str(error)
    if isinstance(error, DDNError | OSError):
        return message
    if isinstance(error, MemoryError):
        return "expected enough memory, got none; ask for less at once, or use a larger machine"
    if isinstance(error, RuntimeError) and any(word in message for word in _OF_MEMORY):
        return f"expected enough memory, but {message.splitlines()[0]}; ask for less at once, or use a larger machine"
    if isinstance(error, UnicodeError):
        return f"expected a name that this system can write, but {message}; rename it"
    return None


_OF_MEMORY = ("allocate memory", "out of memory", "calculation overflowed", "multiplication overflow")
"""Parts of PyTorch's messages about too little memory."""


class _Lasting(io.RawIOBase):
    """A raw stream whose writes never raise: after the first failure the rest is dropped.

    Attributes:
        fault: the first failure.
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
                while (written := self.raw.write(data)) is None:  # non-blocking, and full
                    select.select((), (self.raw,), ())
                return written
            except OSError as error:
                self.fault = error
        return len(data)


@contextmanager
def _lasting(name: str) -> Iterator[_Lasting]:
    """Replaces the standard output or error by a `_Lasting` stream; one that Python code has replaced only escapes."""
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
        if stream is None:  # closed: the next file to be opened would get its descriptor, and the output
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
    """Replaces a closed standard input by an empty one."""
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
    """Lets the first Ctrl-C or SIGTERM unwind the body, so that it can clean up; a second one ends it at once.

    Yields the list that the signal is noted in. Handlers that others have set are left alone.
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
        for other in own:
            signal.signal(other, signal.SIG_DFL)
        raise KeyboardInterrupt if number == signal.SIGINT else SystemExit(128 + number)

    for number in own:
        signal.signal(number, note)
    try:
        yield received
    finally:
        for number in own:
            signal.signal(number, before[number])
