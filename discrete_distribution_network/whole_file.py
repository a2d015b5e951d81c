"""Files that are written whole or not at all, and errors of writing that name the path."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path

from safetensors import SafetensorError

from discrete_distribution_network.errors import OutputError

_numbers = count()
_UNFINISHED = re.compile(r"\.saving-(\d+)-\d+(\.|$)")


@contextmanager
def naming(path: str | Path) -> Iterator[None]:
    """Whatever the system says of writing as an `OutputError` that names the path."""
    try:
        yield
    except OutputError:
        raise
    except OSError as error:
        raise OutputError(path, error) from error
    except SafetensorError as error:
        raise OutputError(path, OSError(str(error))) from error


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


def remove_unfinished(folder: Path) -> None:
    """Delete the files that writers which were killed have left in a folder."""
    for left in folder.glob(".saving-*"):
        found = _UNFINISHED.match(left.name)
        if found and left.is_file() and not is_another_running(int(found[1])):
            with suppress(OSError):
                left.unlink()


def is_another_running(process: int) -> bool:
    """Whether a process of this number runs here, other than this one."""
    if process == os.getpid():
        return False
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


def flush(path: Path) -> None:
    """Let the disk have what was written of a file or a folder."""
    if os.name == "nt" and path.is_dir():  # Windows opens no folders
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
