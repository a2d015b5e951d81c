"""Data sets of Hugging Face's package `datasets`: from the hub, or from a folder that it wrote."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from discrete_distribution_network.data.datasets import Decoded, Split, split_indices
from discrete_distribution_network.data.items import Item, as_item
from discrete_distribution_network.data.sources.request import DataRequest
from discrete_distribution_network.errors import DataError, one_line

FILES = ("dataset_info.json", "dataset_dict.json", "state.json", "*.parquet", "data/*.parquet", "*.arrow")
"""A folder with one of these holds a data set of `datasets`."""

STREAM_TEST_IMAGES = 1000
"""The first images of a stream without a test part are for testing."""


def open_source(request: DataRequest) -> Split | None:
    """Folders that `datasets` wrote, and names on the hub, `owner/name`."""
    if os.path.isdir(request.folder):
        known = any(next(request.folder.glob(pattern), None) for pattern in FILES)
    else:
        known = request.name.count("/") == 1 and not request.name.startswith((".", "/"))
    if not known:
        return None
    return hugging_face_split(request.name, request.size, request.channels, request.test_share, request.streaming)


def hugging_face_split(
    name: str, size: tuple[int, int], channels: int, test_share: float = 0.1, streaming: bool = False
) -> Split:
    """A data set of `datasets`, with its own test part, a share of it, or the first `STREAM_TEST_IMAGES` of a stream.

    Raises:
        DataError: the package or the data set is not there, or it has no column of images.
    """
    loaded = _load(name, streaming)
    parts = dict(loaded) if isinstance(loaded, dict) else {"train": loaded}
    train = parts.get("train", next(iter(parts.values())))
    test = next((parts[key] for key in ("test", "validation") if key in parts and parts[key] is not train), None)
    if test is None and streaming:
        test, train = train.take(STREAM_TEST_IMAGES), train.skip(STREAM_TEST_IMAGES)
    elif test is None:
        train, test = (train.select(part) for part in split_indices(len(train), test_share))
    if streaming:
        return Split(undecoded(train), undecoded(test))
    return Split(*(HuggingFaceImages(part, size, channels, name) for part in (train, test)))


def _load(name: str, streaming: bool) -> Any:
    """One data set, or a dictionary of its parts."""
    try:
        import datasets
    except ImportError as error:
        raise DataError(
            "expected Hugging Face's package datasets, found none; "
            "run: pip install 'discrete-distribution-network[huggingface]'"
        ) from error
    saved = any(Path(name, file).is_file() for file in ("state.json", "dataset_dict.json"))  # by save_to_disk
    try:
        if not saved:
            with _quiet("huggingface_hub"):  # which logs each of its attempts to reach the hub
                return datasets.load_dataset(name, streaming=streaming)
        loaded = datasets.load_from_disk(name)
        if not streaming:
            return loaded
        parts = loaded.items() if isinstance(loaded, dict) else [("train", loaded)]
        return {part: rows.to_iterable_dataset() for part, rows in parts}
    except Exception as error:  # the hub, the network and the files each raise their own
        where = "folder" if Path(name).exists() else "name on the Hugging Face hub"
        raise DataError(
            f"expected a data set under the {where} {name}, which cannot be loaded "
            f"({one_line(error)}); check the name, or give a folder of images"
        ) from error


def undecoded(rows: Any) -> Any:
    """A data set of `datasets` whose images come encoded, so that they are decoded, and errors caught, by us.

    Any other data set, and one that returns its rows in a format or through a transform of the user's, is unchanged.
    """
    if not hasattr(rows, "cast_column"):
        return rows
    if (rows.format["type"] if hasattr(rows, "format") else rows._formatting) is not None:
        return rows
    for column, kind in (rows.features or {}).items():
        if type(kind).__name__ == "Image":
            rows = rows.cast_column(column, type(kind)(decode=False))
    return rows


class HuggingFaceImages(Decoded):
    """The rows of a data set of `datasets` that is stored."""

    def __init__(self, rows: Any, size: tuple[int, int], channels: int, name: str):
        self.rows, self.size, self.channels, self.name = undecoded(rows), size, channels, name
        super().__init__(len(rows), self._load)

    def _load(self, index: int) -> Item:
        return as_item(self.rows[index], self.size, self.channels, f"row {index} of {self.name}")


@contextmanager
def _quiet(logger: str) -> Iterator[None]:
    """Only errors of this logger are shown."""
    log = logging.getLogger(logger)
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(level)
