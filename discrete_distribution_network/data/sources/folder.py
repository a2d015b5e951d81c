"""Folders of image files, whose subfolders may be the parts of the data set and its classes."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

from discrete_distribution_network.data.datasets import ImageFiles, Split, split_indices
from discrete_distribution_network.data.image_folder import find_images, first_names, warn_left_out
from discrete_distribution_network.data.sources.request import DataRequest
from discrete_distribution_network.errors import DataError, printable

TRAIN_FOLDERS = ("train", "training")
TEST_FOLDERS = ("test", "testing", "val", "valid", "validation")
"""Folders that are the two parts of a data set, in lower case; of several for testing the first is taken."""


def open_source(request: DataRequest) -> Split | None:
    """Any folder."""
    if not os.path.isdir(request.folder):
        return None
    return folder_split(request.folder, request.size, request.channels, request.test_share)


def folder_split(folder: str | Path, size: tuple[int, int], channels: int, test_share: float = 0.1) -> Split:
    """The images of a folder, of which a share, by default every tenth, is held out for testing.

    Folders `train` and `test` (see `TEST_FOLDERS`) in it are the two parts. Subfolders are classes if there are at
    least two and all images lie in one.

    Raises:
        DataError: fewer than two images.
    """
    folder = Path(folder)
    files = find_images(folder)
    by_subfolder = _by_subfolder(folder, files)
    names = {name.lower(): name for name in by_subfolder if name is not None}
    train = next((names[name] for name in TRAIN_FOLDERS if name in names), None)
    tests = [names[name] for name in TEST_FOLDERS if name in names]
    if train is not None and tests:
        return _train_and_test(folder, by_subfolder, train, tests, size, channels)
    if train is not None and len(by_subfolder) == 1:
        folder = folder / train
    if len(files) < 2:
        raise DataError(f"expected at least 2 images in {folder}, one for training and one for testing, found 1")
    root, classes = _classes(folder, files)
    parts = split_indices(len(files), test_share)
    return Split(*(ImageFiles([files[i] for i in part], size, channels, root, classes) for part in parts))


def _train_and_test(
    folder: Path,
    by_subfolder: Mapping[str | None, list[Path]],
    train: str,
    tests: Sequence[str],
    size: tuple[int, int],
    channels: int,
) -> Split:
    """The images of the folder `train`, and those of the first of `tests` that has its classes, or of the first."""
    root, classes = _classes(folder / train, by_subfolder[train])
    labelled = {
        name: [path for path in by_subfolder[name] if path.relative_to(folder / name).parts[0] in classes]
        for name in tests
    }
    test = next((name for name in tests if labelled[name]), tests[0])
    test_files = labelled[test] or by_subfolder[test]  # without any of the classes, there are no labels to test with
    beside = [path for name, paths in by_subfolder.items() if name not in (train, test) for path in paths]
    without_class = sorted(set(by_subfolder[test]) - set(test_files))
    left_out = {f"not in {train} or {test}": beside, f"of no class of {train}": without_class}
    warn_left_out(
        folder, {why: [str(path.relative_to(folder)) for path in paths] for why, paths in left_out.items() if paths}
    )
    if classes and not labelled[test]:
        warnings.warn(
            printable(f"the images in {folder / test} have no labels: they are not in folders named as in {train}"),
            stacklevel=3,
        )
    return Split(
        ImageFiles(by_subfolder[train], size, channels, root, classes),
        ImageFiles(test_files, size, channels, folder / test if labelled[test] else None, classes),
    )


def _classes(folder: Path, files: Sequence[Path]) -> tuple[Path | None, list[str]]:
    """The folder whose subfolders are classes, and their names; (None, []) where they are none.

    They are if there are at least two and every image lies in one; if only some images do, a warning names the others.
    """
    by_subfolder = _by_subfolder(folder, files)
    beside = by_subfolder.pop(None, [])
    if len(by_subfolder) < 2:
        return None, []
    if beside:
        names = first_names(path.relative_to(folder) for path in beside)
        warnings.warn(
            printable(
                f"the {len(by_subfolder)} folders in {folder} are no classes, since images lie beside them: "
                f"{len(beside)} ({names}); move these if the folders are to be labels"
            ),
            stacklevel=3,
        )
        return None, []
    return folder, sorted(name for name in by_subfolder if name is not None)


def _by_subfolder(folder: Path, files: Sequence[Path]) -> dict[str | None, list[Path]]:
    """Files by their subfolder of `folder`; None for those directly in it."""
    found: dict[str | None, list[Path]] = {}
    for path in files:
        parts = path.relative_to(folder).parts
        found.setdefault(parts[0] if len(parts) > 1 else None, []).append(path)
    return found
