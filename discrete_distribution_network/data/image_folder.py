"""Folders of images: which of their files are read, and a warning about those that are left out, by reason."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable
from contextlib import suppress
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from discrete_distribution_network.errors import DataError, printable

NOT_IMAGES = {"BUFR", "EPS", "GRIB", "HDF5", "IPTC", "MPEG", "PCD", "PDF", "WMF"}
"""Formats of Pillow whose files are documents, films, measurements or, with PCD, point clouds."""

PLUG_INS = {".avif": "pillow_avif", ".heic": "pillow_heif", ".jxl": "pillow_jxl"}
"""Packages that add a reader to Pillow for these extensions, if they are installed."""

IMAGE_EXTENSIONS = {
    *(".avif", ".avifs", ".heic", ".heif", ".hif", ".jxl", ".webp", ".jp2", ".jxr", ".wdp", ".exr", ".hdr", ".svg"),
    *(".xcf", ".raw", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".raf", ".orf", ".rw2", ".pef", ".srw"),
}
"""Extensions of images for which Pillow may have no reader."""

SYSTEM_FOLDERS = {"__MACOSX", "@eaDir", "#recycle", "$RECYCLE.BIN", "System Volume Information", "lost+found"}
"""Folders that archives, network disks and operating systems create; others like them begin with a dot."""

RUN_OUTPUT = {"checkpoints", "model", "pictures", "samples.png", "reconstructions.png", "tree.png", "loss.png"}
"""Files and folders of a run (see `io/run_folder.py`) that hold pictures or models."""

Identity = tuple[int, int] | str
"""Device and inode of a folder; its path where it cannot be read."""

NAMES_SHOWN = 3
"""File names in a warning for each reason."""


class Found(NamedTuple):
    """The image files of a folder.

    Attributes:
        images: their paths, sorted.
        files: number of files of any kind.
        left_out: paths that are not read, relative to the folder, by reason.
    """

    images: list[Path]
    files: int
    left_out: dict[str, list[str]]


def find_images(folder: str | Path) -> list[Path]:
    """The image files in a folder and its subfolders, sorted; a warning lists what is left out.

    Links are followed. Hidden and system files, the output of trainings, unreadable folders and images without a reader
    are left out.

    Raises:
        DataError: there is no such folder, it cannot be read, or there is no image in it.
    """
    found = search(folder)
    if not found.images:
        left = f"; left out: {counted(found.left_out)}" if found.left_out else ""
        raise DataError(
            f"expected images in {folder}, in a format that Pillow reads, found none among its {found.files} "
            f"files{left}; check the path"
        )
    warn_left_out(folder, found.left_out)
    return found.images


def search(folder: str | Path) -> Found:
    """The image files in a folder and its subfolders, and what is left out.

    Raises:
        DataError: there is no such folder, or it cannot be read.
    """
    folder = Path(folder)
    if not os.path.isdir(folder):
        raise DataError(f"expected a folder of images, found no folder {folder}; check the path")
    readable = readable_extensions()
    images: list[Path] = []
    left_out: dict[str, list[str]] = {}
    files = 0

    def leave_out(reason: str, path: str) -> None:
        left_out.setdefault(reason, []).append(os.path.relpath(path, folder))

    to_do: list[tuple[str, frozenset[Identity]]] = [(str(folder), _with_parents(folder))]
    while to_do:
        here, above = to_do.pop()
        try:
            with os.scandir(here) as listed:
                entries = list(listed)
        except OSError as error:
            if here == str(folder):
                raise DataError(
                    f"expected a folder of images, got {folder}, which cannot be read ({error.strerror}); check its "
                    "permissions"
                ) from error
            leave_out("folders that cannot be read", here)
            continue
        names = {entry.name for entry in entries}
        made_here = RUN_OUTPUT if _is_run(names) else set()
        if made_here and here != str(folder):
            leave_out("output of trainings", here)
            continue
        for entry in entries:
            hidden = entry.name.startswith(".") or entry.name in SYSTEM_FOLDERS
            extension = os.path.splitext(entry.name)[1].lower()
            kind = _kind(entry)
            files += kind == "file"
            if kind is None:
                if entry.is_symlink() and not hidden:
                    leave_out("links that lead nowhere", entry.path)
            elif kind == "file" and extension not in readable:
                if extension in IMAGE_EXTENSIONS and not hidden:
                    leave_out(_without_reader(extension), entry.path)
            elif hidden:
                leave_out(f"hidden {kind}s", entry.path)
            elif entry.name in made_here:
                leave_out("output of trainings", entry.path)
            elif kind == "file":
                images.append(Path(entry.path))
            elif (identity := _identity(entry.path)) in above:
                leave_out("links to a folder that they lie in", entry.path)
            else:
                to_do.append((entry.path, above | {identity}))
    return Found(sorted(images), files, left_out)


def readable_extensions() -> frozenset[str]:
    """Extensions of the image files that Pillow can read, with a dot and in lower case."""
    register_readers()
    return frozenset(
        extension
        for extension, format in Image.registered_extensions().items()
        if format in Image.OPEN and format not in NOT_IMAGES
    )


@cache
def register_readers() -> None:
    """Register the installed readers of `PLUG_INS` with Pillow."""
    known = Image.registered_extensions()
    for extension, package in PLUG_INS.items():
        if extension not in known:
            with suppress(Exception):  # not installed, or not for this Pillow
                getattr(import_module(package), "register_heif_opener", lambda: None)()


def counted(left_out: dict[str, list[str]]) -> str:
    """The number of files that are left out for each reason, with the first names."""
    return "; ".join(f"{reason}: {len(paths)} ({first_names(paths)})" for reason, paths in sorted(left_out.items()))


def first_names(paths: Iterable[object]) -> str:
    """The first `NAMES_SHOWN` of the paths."""
    shown = sorted(str(path) for path in paths)
    return printable(", ".join(shown[:NAMES_SHOWN]) + (", ..." if len(shown) > NAMES_SHOWN else ""))


def warn_left_out(folder: str | Path, left_out: dict[str, list[str]]) -> None:
    """Warn, in one sentence, of the files of a folder that are not read."""
    if left_out:
        warnings.warn(printable(f"left out of the images in {folder}: {counted(left_out)}"), stacklevel=2)


def _without_reader(extension: str) -> str:
    package = PLUG_INS.get({".heif": ".heic", ".hif": ".heic", ".avifs": ".avif"}.get(extension, extension))
    return "pictures without a reader" + (f", which {package.replace('_', '-')} is" if package else "")


def _kind(entry: os.DirEntry[str]) -> str | None:
    """ "folder" or "file", also of a link to one; None if it is neither or cannot be reached."""
    try:
        return "folder" if entry.is_dir() else "file" if entry.is_file() else None
    except OSError:
        return None


def _is_run(names: set[str]) -> bool:
    """Whether a folder with files of these names was written by a training, or holds a model."""
    return "metrics.jsonl" in names or (
        "config.json" in names and not names.isdisjoint({"checkpoints", "model", "model.safetensors"})
    )


def _identity(path: str | Path) -> Identity:
    """The same for all paths of one folder."""
    try:
        status = os.stat(path)
    except OSError:
        return str(path)
    return status.st_dev, status.st_ino


def _with_parents(folder: Path) -> frozenset[Identity]:
    real = Path(os.path.realpath(folder))
    return frozenset(_identity(path) for path in (real, *real.parents))
