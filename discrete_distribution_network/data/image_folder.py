"""Folders of images: which of their files are read, and what is left out, counted by reason and said in a warning."""

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

NO_PICTURES = {"BUFR", "EPS", "GRIB", "HDF5", "IPTC", "MPEG", "PCD", "PDF", "WMF"}
"""Formats that Pillow has readers for whose files are documents, films, measurements or, with PCD, point clouds."""

PLUG_INS = {".avif": "pillow_avif", ".heic": "pillow_heif", ".jxl": "pillow_jxl"}
"""Packages that teach Pillow to read these, if they are installed."""

PICTURES = {
    *(".avif", ".avifs", ".heic", ".heif", ".hif", ".jxl", ".webp", ".jp2", ".jxr", ".wdp", ".exr", ".hdr", ".svg"),
    *(".xcf", ".raw", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".raf", ".orf", ".rw2", ".pef", ".srw"),
}
"""Endings of pictures for which there may be no reader."""

SYSTEM_FOLDERS = {"__MACOSX", "@eaDir", "#recycle", "$RECYCLE.BIN", "System Volume Information", "lost+found"}
"""What archives, network disks and systems put among people's files; other such names begin with a dot."""

RUN_OUTPUT = {"checkpoints", "model", "pictures", "samples.png", "reconstructions.png", "tree.png", "loss.png"}
"""What a training writes into its folder, beside metrics.jsonl and config.json."""

Identity = tuple[int, int] | str

NAMED = 3
"""Names in a warning for each reason."""


class Found(NamedTuple):
    """What a search of a folder found.

    Attributes:
        images: the image files, sorted.
        files: how many files there are in all.
        left_out: by reason, the paths of what was not read, relative to the folder.
    """

    images: list[Path]
    files: int
    left_out: dict[str, list[str]]


def find_images(folder: str | Path) -> list[Path]:
    """The image files in a folder and the folders below it, sorted; a warning says what was left out.

    Links are followed. Hidden and system files, the output of trainings, folders that may not be read and pictures
    without a reader are left out.

    Raises:
        DataError: there is no such folder, it may not be read, or there is no image in it.
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
    """The image files in a folder and the folders below it, and what is left out of them.

    Raises:
        DataError: there is no such folder, or it may not be read.
    """
    folder = Path(folder)
    if not os.path.isdir(folder):
        raise DataError(f"expected a folder of images, found no folder {folder}; check the path")
    readable = endings()
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
            ending = os.path.splitext(entry.name)[1].lower()
            kind = _kind(entry)
            files += kind == "file"
            if kind is None:
                if entry.is_symlink() and not hidden:
                    leave_out("links that lead nowhere", entry.path)
            elif kind == "file" and ending not in readable:
                if ending in PICTURES and not hidden:
                    leave_out(_without_reader(ending), entry.path)
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


def endings() -> frozenset[str]:
    """Endings of files that hold pictures and for which Pillow has a reader, with a dot and in small letters."""
    plug_in()
    return frozenset(
        ending
        for ending, format in Image.registered_extensions().items()
        if format in Image.OPEN and format not in NO_PICTURES
    )


@cache
def plug_in() -> None:
    """Let Pillow know of the readers that are installed for formats that it does not read by itself."""
    known = Image.registered_extensions()
    for ending, package in PLUG_INS.items():
        if ending not in known:
            with suppress(Exception):  # not installed, or not for this Pillow
                getattr(import_module(package), "register_heif_opener", lambda: None)()


def counted(left_out: dict[str, list[str]]) -> str:
    """How much was left out for each reason, with the first names."""
    return "; ".join(f"{reason}: {len(paths)} ({some(paths)})" for reason, paths in sorted(left_out.items()))


def some(paths: Iterable[object]) -> str:
    """The first few of some paths."""
    shown = sorted(str(path) for path in paths)
    return printable(", ".join(shown[:NAMED]) + (", ..." if len(shown) > NAMED else ""))


def warn_left_out(folder: str | Path, left_out: dict[str, list[str]]) -> None:
    """Warn, in one sentence, of what is not read of a folder."""
    if left_out:
        warnings.warn(printable(f"left out of the images in {folder}: {counted(left_out)}"), stacklevel=2)


def _without_reader(ending: str) -> str:
    package = PLUG_INS.get({".heif": ".heic", ".hif": ".heic", ".avifs": ".avif"}.get(ending, ending))
    return "pictures without a reader" + (f", which {package.replace('_', '-')} is" if package else "")


def _kind(entry: os.DirEntry[str]) -> str | None:
    """Whether this is a folder or a file, or a link to one; None if it is neither or cannot be reached."""
    try:
        return "folder" if entry.is_dir() else "file" if entry.is_file() else None
    except OSError:
        return None


def _is_run(names: set[str]) -> bool:
    """Whether a folder with files of these names is one that a training wrote, or a model's."""
    return "metrics.jsonl" in names or (
        "config.json" in names and not names.isdisjoint({"checkpoints", "model", "model.safetensors"})
    )


def _identity(path: str | Path) -> Identity:
    """What is the same for all paths of one folder; of one that cannot be reached, its path."""
    try:
        there = os.stat(path)
    except OSError:
        return str(path)
    return there.st_dev, there.st_ino


def _with_parents(folder: Path) -> frozenset[Identity]:
    real = Path(os.path.realpath(folder))
    return frozenset(_identity(path) for path in (real, *real.parents))
