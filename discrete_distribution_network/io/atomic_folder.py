"""Folders that are written whole or not at all, and read only if they are as they were written.

A folder is written under another name: its files, then a manifest of their checksums, all flushed to the disk; then it
is renamed. So a kill at any moment leaves the old folder or the new one, never a part of it.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from discrete_distribution_network.errors import ModelFileError
from discrete_distribution_network.io.atomic_file import STAGING, fsync, output_errors, remove_unfinished, staging_in
from discrete_distribution_network.io.json_file import read_object

__all__ = ["MANIFEST", "STAGING", "sha256", "update", "verify", "write_atomically", "write_manifest"]

MANIFEST = "manifest.json"
"""File of the names and SHA-256 checksums of a folder's files, written last."""


def write_manifest(folder: Path, names: list[str] | None = None) -> None:
    """Write the manifest of these files (None: all in the folder) and flush everything to the disk."""
    files = sorted(path for path in folder.iterdir() if path.is_file() and path.name != MANIFEST)
    checksums = {path.name: sha256(path) for path in files if names is None or path.name in names}
    (folder / MANIFEST).write_text(json.dumps(checksums, indent=2) + "\n", encoding="utf-8")
    for path in (*files, folder / MANIFEST, folder):
        fsync(path)


def verify(folder: Path, names: Sequence[str] = ()) -> None:
    """Raise `ModelFileError` unless the manifest lists `names` and all files in it have its checksums."""
    path = folder / MANIFEST
    manifest = read_object(path, "checksums")
    if not manifest:
        raise ModelFileError(f"expected checksums in {path}, got {{}}; copy it again or train anew")
    if missing := [name for name in names if name not in manifest]:
        raise ModelFileError(
            f"expected a checksum of {missing[0]} in {path}, got those of {', '.join(manifest)!r:.80}; copy it again "
            "or train anew"
        )
    for name, expected in manifest.items():
        if name != Path(name).name or "\0" in name:
            raise ModelFileError(f"expected the names of files in {folder} in {path}, got {name!r:.80}; copy it again")
        if not (folder / name).is_file() or sha256(folder / name) != expected:
            raise ModelFileError(
                f"expected {folder / name} as it was saved, got other bytes; copy it again, train anew, or remove "
                f"{path} if the file was changed on purpose"
            )


def update(folder: Path, fill: Callable[[Path], None], names: list[str] | None = None) -> None:
    """Replace files of a folder, or add them, with a manifest of `names` (None: all of them); other files stay.

    A kill leaves the old files or, while the new ones are being renamed, a folder that `verify` refuses.

    Args:
        fill: writes the files into the folder that it is given.

    Raises:
        OutputError: the disk is full, or cannot be written; the old files stay.
    """
    with output_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        remove_unfinished(folder)
        with staging_in(folder) as staging:
            staging.mkdir()
            fill(staging)
            write_manifest(staging, names)
            for file in sorted(staging.iterdir(), key=lambda file: file.name == MANIFEST):
                file.replace(folder / file.name)
        fsync(folder)


def write_atomically(target: Path, fill: Callable[[Path], None]) -> None:
    """Create the folder `target`, which must not exist yet, with a manifest.

    Args:
        fill: writes the files into the folder that it is given.

    Raises:
        OutputError: the disk is full, or cannot be written; the new files are removed.
    """
    staging = target.parent / f"{STAGING}{target.name}-{os.getpid()}"
    try:
        with output_errors(target):
            staging.mkdir(parents=True)
            fill(staging)
            write_manifest(staging)
            staging.rename(target)
            fsync(target.parent)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise


def sha256(path: Path) -> str:
    """The SHA-256 checksum of a file, in hexadecimal.

    Raises:
        ModelFileError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ModelFileError(f"expected to read {path}, but {error}; check its permissions") from error
