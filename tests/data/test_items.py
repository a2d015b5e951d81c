"""Every kind of item comes as an image of one form, with a label where there is one."""

import numpy as np
import pytest
import torch
from PIL import Image

from discrete_distribution_network.data.items import Item, as_item
from discrete_distribution_network.errors import DataError

SIZE = (16, 16)


def one(value, size=SIZE, channels=3):
    return as_item(value, size, channels, "image 7")


def test_what_an_item_may_be():
    pixels = torch.randint(0, 256, (3, 16, 16), dtype=torch.uint8)
    picture = Image.fromarray(pixels.permute(1, 2, 0).numpy())
    for value, label in (
        (pixels, None),
        (Item(pixels, 4), 4),
        ((pixels, torch.tensor(4)), 4),
        ([picture, 4], 4),
        ({"image": picture, "label": 4}, 4),
        ({"img": picture, "fine_label": 4, "other": "x"}, 4),
        ({"photograph": picture}, None),
    ):
        item = one(value)
        assert torch.equal(item.image, pixels)
        assert item.label == label
    assert one(pixels / 255).image.dtype == torch.float32
    # a data set of one column gives tuples of one; what is no integer is no label
    for value in ((pixels,), (pixels, "cat"), (pixels, torch.zeros(4)), {"image": picture, "label": None}):
        assert torch.equal(one(value).image, pixels)
        assert one(value).label is None


def test_what_is_no_item_is_named():
    for value, message in (
        ("text", "a str"),
        (torch.zeros(3, 16, 17), "(3, 16, 17)"),
        (torch.zeros(1, 16, 16), "(1, 16, 16)"),
        (torch.zeros(3, 16, 16, dtype=torch.int64), "int64"),
        ({"words": "x"}, "words"),
    ):
        with pytest.raises(DataError, match="image 7") as error:
            one(value)
        assert message in str(error.value)


def test_arrays_that_are_no_images_are_named():
    for value, message in (
        (np.zeros((16, 16, 3), np.uint8), "put its channels first"),
        (np.zeros((3, 16, 16), np.int64), "int64"),
        (np.zeros((3, 16, 16), np.uint16), "uint16"),
        (np.zeros((3, 16, 16), bool), "ndarray"),
        (np.array(["text"]), "ndarray"),
        (np.zeros(()), "shape ()"),
        ({"image": {"bytes": "text", "path": None}}, "cannot be decoded"),
        ({"image": {"bytes": None, "path": None}}, "cannot be decoded"),
        ({"image": {"bytes": b"torn", "path": None}}, "cannot be decoded"),
        ({"image": {"bytes": None, "path": "/no/where.png"}}, "found no file"),
        (None, "NoneType"),
        ((), "tuple"),
        (torch.zeros(0, 0, 0), "(0, 0, 0)"),
    ):
        with pytest.raises(DataError, match="image 7") as error:
            one(value)
        assert message in str(error.value), message
        assert "\n" not in str(error.value)
