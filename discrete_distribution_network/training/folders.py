"""The folders that a training writes into: that they are new, and that they can be written."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from pathlib import Path

from discrete_distribution_network.errors import InvalidInput, require
from discrete_distribution_network.io.atomic_file import output_errors
from discrete_distribution_network.training.processes import Processes


def require_new(folders: Iterable[Path], processes: Processes) -> None:
    """Raise `InvalidInput` where a folder holds files."""
    held = [folder for folder in folders if _holds_files(folder)]
    processes.wait()  # every process looks before one writes
    if held:
        raise InvalidInput(
            f"expected a new folder, got {held[0]}, which holds files; continue that training with resume, use "
            "another folder, or overwrite"
        )


def _holds_files(folder: Path) -> bool:
    require(not folder.exists() or folder.is_dir(), "a folder to write into", f"the file {folder}")
    return folder.is_dir() and any(folder.iterdir())


def require_writable(folders: Iterable[Path]) -> None:
    """Make the folders, so that a refusal is an `OutputError` before the first step."""
    for folder in folders:
        with output_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                pass
