"""The files of the page: what visitors upload and what they are shown, in a folder of its own."""

from __future__ import annotations

import os
import tempfile
import threading
from contextlib import suppress
from functools import cache
from pathlib import Path

MAX_KEPT, MAX_FILES = 256 << 20, 1000
"""Bytes and number of the files of all visitors; above, the oldest are deleted."""


@cache
def own_folder() -> tempfile.TemporaryDirectory[str]:
    """The private folder of this process's pages, deleted with it; gradio, which shares one, is set to use it."""
    above = os.path.realpath(tempfile.gettempdir())
    folder = tempfile.TemporaryDirectory(prefix="ddn-", dir=above, ignore_cleanup_errors=True)
    os.environ["GRADIO_TEMP_DIR"] = folder.name
    return folder


def is_own(path: str) -> bool:
    """Whether a path is in the private folder, whose files were uploaded, or made by the page."""
    return "\0" not in path and Path(os.path.realpath(path)).is_relative_to(own_folder().name)


class Files:
    """The files of a page: those that exist at first stay; of the others the oldest make room for new ones."""

    def __init__(self, folder: Path, most: int = MAX_KEPT, count: int = MAX_FILES):
        self.folder, self.most, self.count = folder, most, count
        self._lock = threading.Lock()
        self._first = {path for _, _, path in self._files()}

    def _files(self) -> list[tuple[float, int, Path]]:
        """Time, size and path of each file, the oldest first."""
        found = []
        for path in self.folder.rglob("*"):
            with suppress(OSError):
                stat = path.stat()
                if path.is_file():
                    found.append((stat.st_mtime, stat.st_size, path))
        return sorted(found)

    def make_room(self, size: int) -> None:
        """Delete the oldest files, so that `size` more bytes are within the limits."""
        with self._lock:
            files = [file for file in self._files() if file[2] not in self._first]
            total, count = sum(size for _, size, _ in files) + size, len(files) + 1
            for _, own, path in files:
                if total <= self.most and count <= self.count:
                    return
                with suppress(OSError):
                    path.unlink()
                    path.parent.rmdir()  # if it was the last one
                total, count = total - own, count - 1
