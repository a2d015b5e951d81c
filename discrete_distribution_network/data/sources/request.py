"""`DataRequest`: the name of a data set, and the size and channels of its images."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class DataRequest:
    """The arguments of `open_data`; a source that knows the name opens it, any other returns None.

    Attributes:
        name: of the data set, or its folder.
        size: (height, width) of the images.
        channels: 1 for grey, 3 for RGB.
        test_share: share held out for testing where the data set has no test part.
        streaming: read a Hugging Face data set without storing it.
        root: folder of torchvision's data sets.
    """

    name: str
    size: tuple[int, int]
    channels: int
    test_share: float
    streaming: bool
    root: str | Path

    @property
    def folder(self) -> Path:
        return Path(self.name)
