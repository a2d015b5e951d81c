"""Grids and reconstructions."""

import torch
from small import digits, small_ddn

from discrete_distribution_network.viz.pictures import grid, growing_levels, reconstruction_rows
from discrete_distribution_network.viz.tree import animation


def test_grid_places_images():
    images = torch.stack([torch.full((1, 4, 4), value) for value in (0.0, 0.5, 1.0)])
    sheet = grid(images, columns=3)
    width = sheet.size[0] // 3
    assert [sheet.getpixel((width // 2 + column * width, sheet.size[1] // 2)) for column in range(3)] == [0, 128, 255]


def test_growing_levels_end_with_all():
    assert growing_levels(1) == [1]
    for levels in (2, 5, 16, 100):
        chosen = growing_levels(levels)
        assert chosen[0] == 1
        assert chosen[-1] == levels
        assert chosen == sorted(set(chosen))


def test_originals_of_uint8_and_float_look_the_same():
    ddn, images = small_ddn().eval(), digits(3)
    walk = ddn.encode_walk(images)
    assert torch.equal(reconstruction_rows(ddn, walk, images), reconstruction_rows(ddn, walk, images / 255))
    assert animation(ddn, images)[-1].tobytes() == animation(ddn, images / 255)[-1].tobytes()
