"""Files that are written whole or not at all, and errors of writing that name the path."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path

from discrete_distribution_network.errors import OutputError

_numbers = count()


@contextmanager
def naming(path: str | Path) -> Iterator[None]:
    """Whatever the system says of writing as an `OutputError` that names the path."""
    try:
        yield
    except OutputError:
        raise
    except OSError as error:
        raise OutputError(path, error) from error


@contextmanager
def whole_file(path: str | Path) -> Iterator[Path]:
    """A path beside `path`, of the same ending, to write to; it takes the place of `path` once it is on the disk.

    If the body raises, what was there before stays and the new file is removed. A link is followed, and a file that is
    replaced keeps its permissions; what is no regular file, such as /dev/stdout, is written directly.

    Raises:
        OutputError: the disk is full or cannot be written; it names `path`.
    """
    path = Path(path)
    with naming(path):
        target = Path(os.path.realpath(path))
        if target.exists() and not target.is_file():
            if target.is_dir():
                raise IsADirectoryError(21, "it is a folder")
            yield path
            return
        staging = target.parent / f".saving-{os.getpid()}-{next(_numbers)}{target.suffix}"
        try:
            yield staging
            if target.exists():
                staging.chmod(target.stat().st_mode & 0o7777)
            flush(staging)
            staging.replace(target)
        finally:
            with suppress(OSError):
                staging.unlink(missing_ok=True)
        flush(target.parent)


def write_bytes(path: str | Path, data: bytes) -> None:
    """Write a file whole or not at all; see `whole_file`."""
    with whole_file(path) as staging:
        staging.write_bytes(data)


def write_text(path: str | Path, text: str) -> None:
    """Write a file of UTF-8 text whole or not at all; see `whole_file`."""
    write_bytes(path, text.encode("utf-8", errors="surrogateescape"))


def flush(path: Path) -> None:
    """Let the disk have what was written of a file or a folder."""
    if os.name == "nt" and path.is_dir():  # Windows opens no folders
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def check_writable(folder: str | Path) -> None:
    """Make a hidden file in a folder and remove it, to find out before work is done that it can be written.

    Raises:
        OutputError: it cannot; it names the folder.
    """
    probe = Path(folder) / f".saving-{os.getpid()}-{next(_numbers)}"
    with naming(folder):
        probe.touch(exist_ok=False)
        probe.unlink()
