"""Data sets of Hugging Face: stored, streamed, and with rows that cannot be decoded."""

import io
import pickle
import struct
from itertools import islice

import datasets
import pytest
import torch
from PIL import Image

from discrete_distribution_network.data.datasets import is_stream
from discrete_distribution_network.data.items import as_item
from discrete_distribution_network.data.loader import Loader, in_order
from discrete_distribution_network.data.sources import open_data
from discrete_distribution_network.data.sources.hugging_face import HuggingFaceImages
from discrete_distribution_network.errors import DataError

SIZE = (16, 16)


def rows(photographs, count=30):
    columns = {"image": photographs[:count], "label": [index % 3 for index in range(count)]}
    names = datasets.ClassLabel(names=["a", "b", "c"])
    return datasets.Dataset.from_dict(columns, datasets.Features(image=datasets.Image(), label=names))


def test_hugging_face_folders(photographs, tmp_path):
    stored = rows(photographs)
    stored.save_to_disk(tmp_path / "saved")
    (tmp_path / "parquet").mkdir()
    stored.to_parquet(tmp_path / "parquet" / "train.parquet")
    datasets.DatasetDict(train=stored, test=stored.select(range(5))).save_to_disk(tmp_path / "parts")
    expected = as_item(stored[1], SIZE, 3, "")
    for name, train, test in (("saved", 27, 3), ("parquet", 27, 3), ("parts", 30, 5)):
        split = open_data(tmp_path / name, SIZE, 3)
        assert (len(split.train), len(split.test)) == (train, test), name
        item = split.train[1]
        assert torch.equal(item.image, expected.image), name
        assert item.label == expected.label == 1


def test_hugging_face_streams(photographs, tmp_path):
    stored = rows(photographs)
    datasets.DatasetDict(train=stored, test=stored.select(range(5))).save_to_disk(tmp_path / "parts")
    split = open_data(tmp_path / "parts", SIZE, 3, streaming=True)
    assert is_stream(split.train)
    assert len([as_item(row, SIZE, 3, "") for row in split.train]) == 30
    assert len(list(split.test)) == 5
    stored.save_to_disk(tmp_path / "whole")
    split = open_data(tmp_path / "whole", SIZE, 3, streaming=True)
    assert len(list(split.test)) == 30  # the first 1,000 are for testing


def with_broken_row(photographs, count, broken):
    """A data set of which one row's image is cut off."""
    undecoded = rows(photographs, count).cast_column("image", datasets.Image(decode=False))
    cut = undecoded.map(
        lambda row, index: {
            "image": {"bytes": row["image"]["bytes"][: 200 if index == broken else None], "path": None}
        },
        with_indices=True,
    )
    return cut.cast_column("image", datasets.Image())


def test_a_row_that_cannot_be_decoded_is_named(photographs):
    images = HuggingFaceImages(with_broken_row(photographs, 4, 2), SIZE, 3, "flowers")
    assert images[1].label == 1
    with pytest.raises(DataError, match="row 2 of flowers"):
        images[2]


class Photograph:
    image_size, channels = SIZE, 3


def test_a_broken_row_of_a_stream_is_named_or_left_out(photographs):
    stream = with_broken_row(photographs, 12, 5).to_iterable_dataset()
    with pytest.raises(DataError, match=r"item \d+ of the stream, which cannot be decoded"):
        list(islice(Loader(stream, Photograph, 4).batches(), 3))
    loader = Loader(stream, Photograph, 11, max_bad_images=1)
    assert len({tuple(image.flatten().tolist()) for image in next(loader.batches()).images}) == 11
    assert len(loader.faults) == 1
    with pytest.raises(DataError, match="image 5"):
        list(in_order(stream, Photograph, 4))
    assert sum(len(batch.images) for batch in in_order(stream, Photograph, 4, max_bad_images=1)) == 11


def test_the_images_of_a_stored_data_set_can_be_pickled(photographs):
    images = HuggingFaceImages(rows(photographs, 4), SIZE, 3, "flowers")
    assert torch.equal(pickle.loads(pickle.dumps(images))[3].image, images[3].image)


def test_rows_whose_exif_block_is_broken_are_read(photographs):
    block = b"Exif\0\0II*\0\x08\0\0\0\x02\0" + struct.pack("<HHIHH", 0x0112, 3, 1, 6, 0)
    block += struct.pack("<HHI4s", 296, 2, 4, b"cm\0\0") + bytes(4)  # ResolutionUnit as text
    encoded = []
    for image in photographs[:4]:
        file = io.BytesIO()
        image.save(file, "JPEG", exif=block)
        encoded.append({"bytes": file.getvalue(), "path": None})
    rows = datasets.Dataset.from_dict({"image": encoded}, datasets.Features(image=datasets.Image()))
    images = HuggingFaceImages(rows, SIZE, 3, "flowers")
    turned = as_item(photographs[1].transpose(Image.Transpose.ROTATE_270), SIZE, 3, "")
    assert (images[1].image.int() - turned.image.int()).abs().float().mean() < 8
    assert sum(len(batch.images) for batch in in_order(rows.to_iterable_dataset(), Photograph, 3)) == 4
    assert len(list(in_order(rows, Photograph, 4))) == 1
