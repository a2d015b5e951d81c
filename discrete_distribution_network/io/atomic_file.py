"""Files that are written whole or not at all, and errors of writing that name the path."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path

from discrete_distribution_network.errors import OutputError

STAGING = ".saving-"
"""What the name of a file or folder that is being written begins with."""

_numbers = count()
_UNFINISHED = re.compile(re.escape(STAGING) + r"(?P<process>\d+)-\d+(\.[^.]*)?")
_own: set[str] = set()
_searched: set[Path] = set()


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
def atomic_file(path: str | Path) -> Iterator[Path]:
    """A path beside `path`, of the same ending, to write to; it takes the place of `path` once it is on the disk.

    If the body raises, what was there before stays and the new file is removed. A link is followed, and a file that is
    replaced keeps its permissions; what is no regular file, such as /dev/stdout, is written directly.

    Raises:
        OutputError: the disk is full or cannot be written; it names `path`.
    """
    path = Path(path)
    with naming(path):
        try:
            target = Path(os.path.realpath(path))
        except ValueError as error:  # no name that a file can have
            raise OSError(str(error)) from error
        if target.exists() and not target.is_file():
            if target.is_dir():
                raise IsADirectoryError(21, "it is a folder")
            yield path
            return
        if target.parent not in _searched:  # once in a process: a folder may hold many files
            _searched.add(target.parent)
            remove_unfinished(target.parent)
        with staging_in(target.parent, target.suffix) as staging:
            yield staging
            if target.exists():
                staging.chmod(target.stat().st_mode & 0o7777)
            flush(staging)
            staging.replace(target)
        flush(target.parent)


@contextmanager
def staging_in(folder: Path, suffix: str = "") -> Iterator[Path]:
    """A path inside `folder` where nothing is yet, for a file or a folder; what is left there in the end is removed."""
    staging = folder / f"{STAGING}{os.getpid()}-{next(_numbers)}{suffix if len(suffix) < 32 else ''}"
    _own.add(staging.name)
    try:
        yield staging
    finally:
        _remove(staging)
        _own.discard(staging.name)


def remove_unfinished(folder: Path) -> None:
    """Remove what writers in `folder` that were killed have left of `staging_in`."""
    for left in folder.glob(f"{STAGING}*"):
        found = _UNFINISHED.fullmatch(left.name)
        if found and left.name not in _own and not is_another_running(int(found["process"])):
            _remove(left)


def is_another_running(process: int) -> bool:
    """Whether a process of this number runs here, other than this one."""
    if process == os.getpid():
        return False
    if os.name == "nt":  # where there is no asking without a signal
        return True
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink(missing_ok=True)


def check_writable(folder: str | Path) -> None:
    """Make a hidden file in a folder and remove it, to find out before work is done that it can be written.

    Raises:
        OutputError: it cannot; it names the folder.
    """
    with naming(folder), staging_in(Path(folder)) as probe:
        probe.touch(exist_ok=False)


def write_bytes(path: str | Path, data: bytes) -> None:
    """Write a file whole or not at all; see `atomic_file`."""
    with atomic_file(path) as staging:
        staging.write_bytes(data)


def write_text(path: str | Path, text: str) -> None:
    """Write a file of UTF-8 text whole or not at all; see `atomic_file`."""
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
