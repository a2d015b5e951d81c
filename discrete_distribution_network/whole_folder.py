"""Folders that are written whole or not at all, and read only if they are as they were written.

A folder is written beside its place, its files are flushed to the disk, a manifest of their checksums comes last, and
then it is renamed. So a kill at any moment leaves what was there before or the new folder, never a part of it.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from discrete_distribution_network.errors import ModelFileError
from discrete_distribution_network.whole_file import flush, naming

MANIFEST = "manifest.json"
"""Name and checksum of every file of a folder that matters, written last."""

STAGING = ".saving-"
"""What the name of a folder that is being written begins with."""


def seal(folder: Path, names: list[str] | None = None) -> None:
    """Write the manifest of these files (all that are there, if None) and flush everything to the disk."""
    files = sorted(path for path in folder.iterdir() if path.is_file() and path.name != MANIFEST)
    written = {path.name: sha256(path) for path in files if names is None or path.name in names}
    (folder / MANIFEST).write_text(json.dumps(written, indent=2) + "\n", encoding="utf-8")
    for path in (*files, folder / MANIFEST, folder):
        flush(path)


def check(folder: Path) -> None:
    """Raise `ModelFileError` unless the files of the manifest are there with the checksums it says."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ModelFileError(f"expected {folder / MANIFEST}, found none; the folder was not written whole") from error
    except ValueError as error:  # also text that is no UTF-8
        raise ModelFileError(f"expected checksums in {folder / MANIFEST}, got something else ({error})") from error
    if not (isinstance(manifest, dict) and manifest):
        raise ModelFileError(f"expected checksums in {folder / MANIFEST}, got none; copy it again or train anew")
    for name, wanted in manifest.items():
        if not (folder / name).is_file() or sha256(folder / name) != wanted:
            raise ModelFileError(
                f"expected {folder / name} as it was saved, got other bytes; copy it again or train anew"
            )


def write(target: Path, fill: Callable[[Path], None]) -> None:
    """Make the folder `target`, which must not be there yet, of the files that `fill` writes into the one it is given.

    Raises:
        OutputError: the disk is full, or cannot be written; nothing is left.
    """
    staging = target.parent / f"{STAGING}{target.name}-{os.getpid()}"
    try:
        with naming(target):
            staging.mkdir(parents=True)
            fill(staging)
            seal(staging)
            staging.rename(target)
            flush(target.parent)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

