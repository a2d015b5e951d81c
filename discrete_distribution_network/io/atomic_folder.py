"""Folders that are written whole or not at all, and read only if they are as they were written.

A folder is written beside its place, its files are flushed to the disk, a manifest of their checksums comes last, and
then it is renamed. So a kill at any moment leaves what was there before or the new folder, never a part of it.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from discrete_distribution_network.errors import ModelFileError
from discrete_distribution_network.io.atomic_file import STAGING, flush, naming, remove_unfinished, staging_in
from discrete_distribution_network.io.json_file import read_object

__all__ = ["MANIFEST", "STAGING", "sha256", "update", "verify", "write_atomically", "write_manifest"]

MANIFEST = "manifest.json"
"""Name and checksum of every file of a folder that matters, written last."""


def write_manifest(folder: Path, names: list[str] | None = None) -> None:
    """Write the manifest of these files (all that are there, if None) and flush everything to the disk."""
    files = sorted(path for path in folder.iterdir() if path.is_file() and path.name != MANIFEST)
    written = {path.name: sha256(path) for path in files if names is None or path.name in names}
    (folder / MANIFEST).write_text(json.dumps(written, indent=2) + "\n", encoding="utf-8")
    for path in (*files, folder / MANIFEST, folder):
        flush(path)


def verify(folder: Path, names: Sequence[str] = ()) -> None:
    """Raise `ModelFileError` unless the files of the manifest, `names` among them, are there with its checksums."""
    path = folder / MANIFEST
    manifest = read_object(path, "checksums")
    if not manifest:
        raise ModelFileError(f"expected checksums in {path}, got none; copy it again or train anew")
    if missing := [name for name in names if name not in manifest]:
        raise ModelFileError(f"expected a checksum of {missing[0]} in {path}, got none; copy it again or train anew")
    for name, wanted in manifest.items():
        if name != Path(name).name or "\0" in name:
            raise ModelFileError(f"expected the names of files in {folder} in {path}, got {name!r:.80}; copy it again")
        if not (folder / name).is_file() or sha256(folder / name) != wanted:
            raise ModelFileError(
                f"expected {folder / name} as it was saved, got other bytes; copy it again, train anew, or remove "
                f"{path} if the file was changed on purpose"
            )


def update(folder: Path, fill: Callable[[Path], None], names: list[str]) -> None:
    """Write files into a folder, in place of those of the same names, with a manifest of `names`; the rest stays.

    `fill` writes them into the folder that it is given. A kill leaves the files that were there, or, for the moment in
    which the new ones take their places, a folder that `check` refuses.

    Raises:
        OutputError: the disk is full, or cannot be written; what was there stays.
    """
    with naming(folder):
        folder.mkdir(parents=True, exist_ok=True)
        remove_unfinished(folder)
        with staging_in(folder) as staging:
            staging.mkdir()
            fill(staging)
            write_manifest(staging, names)
            for file in sorted(staging.iterdir(), key=lambda file: file.name == MANIFEST):
                file.replace(folder / file.name)
        flush(folder)


def write_atomically(target: Path, fill: Callable[[Path], None]) -> None:
    """Make the folder `target`, which must not be there yet, of the files that `fill` writes into the one it is given.

    Raises:
        OutputError: the disk is full, or cannot be written; nothing is left.
    """
    staging = target.parent / f"{STAGING}{target.name}-{os.getpid()}"
    try:
        with naming(target):
            staging.mkdir(parents=True)
            fill(staging)
            write_manifest(staging)
            staging.rename(target)
            flush(target.parent)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise


def sha256(path: Path) -> str:
    """The checksum of a file.

    Raises:
        ModelFileError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ModelFileError(f"expected to read {path}, but {error}; check its permissions") from error
