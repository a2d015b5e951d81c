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
"""Prefix of the name of a file or folder that is being written."""

_numbers = count()
_UNFINISHED = re.compile(re.escape(STAGING) + r"(?P<process>\d+)-\d+(\.[^.]*)?")
_own_names: set[str] = set()
"""Names that this process is writing under."""
_cleaned: set[Path] = set()
"""Folders in which this process has removed unfinished files."""


@contextmanager
def output_errors(path: str | Path) -> Iterator[None]:
    """Convert any `OSError` of writing into an `OutputError` that names the path."""
    try:
        yield
    except OutputError:
        raise
    except OSError as error:
        raise OutputError(path, error) from error


@contextmanager
def atomic_file(path: str | Path) -> Iterator[Path]:
    """A path beside `path`, with the same extension, to write to; renamed to `path` once it is on the disk.

    If the body raises, the new file is removed and an old one stays. Links are followed, a replaced file keeps its
    permissions, and what is no regular file, such as /dev/stdout, is written directly.

    Raises:
        OutputError: the disk is full or cannot be written; it names `path`.
    """
    path = Path(path)
    with output_errors(path):
        try:
            target = Path(os.path.realpath(path))
        except ValueError as error:  # a null byte in the name
            raise OSError(str(error)) from error
        if target.exists() and not target.is_file():
            if target.is_dir():
                raise IsADirectoryError(21, "it is a folder")
            yield path
            return
        if target.parent not in _cleaned:  # once per process: a folder may hold many files
            _cleaned.add(target.parent)
            remove_unfinished(target.parent)
        with staging_in(target.parent, target.suffix) as staging:
            yield staging
            if target.exists():
                staging.chmod(target.stat().st_mode & 0o7777)
            fsync(staging)
            staging.replace(target)
        fsync(target.parent)


@contextmanager
def staging_in(folder: Path, suffix: str = "") -> Iterator[Path]:
    """An unused path inside `folder`, for a file or a folder, which is removed at the end if it is still there."""
    staging = folder / f"{STAGING}{os.getpid()}-{next(_numbers)}{suffix if len(suffix) < 32 else ''}"
    _own_names.add(staging.name)
    try:
        yield staging
    finally:
        _remove(staging)
        _own_names.discard(staging.name)


def remove_unfinished(folder: Path) -> None:
    """Remove the files and folders of `staging_in` that killed processes have left in `folder`."""
    for path in folder.glob(f"{STAGING}*"):
        found = _UNFINISHED.fullmatch(path.name)
        if found and path.name not in _own_names and not is_another_running(int(found["process"])):
            _remove(path)


def is_another_running(process: int) -> bool:
    """Whether a process of this number runs on this machine, other than this one."""
    if process == os.getpid():
        return False
    if os.name == "nt":  # where os.kill(process, 0) is no question but a signal
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
    """Create and remove a hidden file in a folder, to fail before any work is done.

    Raises:
        OutputError: the folder cannot be written; it names it.
    """
    with output_errors(folder), staging_in(Path(folder)) as probe:
        probe.touch(exist_ok=False)


def write_bytes(path: str | Path, data: bytes) -> None:
    """Write a file whole or not at all; see `atomic_file`."""
    with atomic_file(path) as staging:
        staging.write_bytes(data)


def write_text(path: str | Path, text: str) -> None:
    """Write a file of UTF-8 text whole or not at all; see `atomic_file`."""
    write_bytes(path, text.encode("utf-8", errors="surrogateescape"))


def fsync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    if os.name == "nt" and path.is_dir():  # Windows opens no folders
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
