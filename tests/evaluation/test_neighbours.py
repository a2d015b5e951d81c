import pytest
import torch
from small import digits, small_ddn

from discrete_distribution_network.errors import InvalidInput
from discrete_distribution_network.evaluation.neighbours import clusters, common_levels, neighbours


def test_levels_are_shared_from_the_first_on():
    ddn = small_ddn(patch_size=[None, 4])
    assert ddn.codes_per_level == [1, 1, 4, 4]
    query = torch.tensor([1, 2, 3, 3, 3, 3, 4, 4, 4, 4])
    codes = query.repeat(5, 1)
    codes[1, 0] = 0
    codes[2, 1] = 0
    codes[3, 5] = 0
    codes[4, 9] = 0
    assert common_levels(ddn, query, codes).tolist() == [4, 0, 1, 2, 3]


def test_neighbours_by_common_levels_then_by_distance():
    ddn, images = small_ddn().eval(), digits(60) / 255
    codes = ddn.encode(images)
    found = neighbours(ddn, codes[7], codes, 60, batch_size=7)
    assert found.levels.tolist() == sorted(found.levels.tolist(), reverse=True)
    assert found.distances[0] < 1e-9
    assert 7 in found.places[found.distances < 1e-9]
    decoded = ddn.decode(codes)
    for level in found.levels.unique():
        own = found.distances[found.levels == level]
        assert own.tolist() == sorted(own.tolist())
    expected = (decoded[found.places] - decoded[7]).square().sum((1, 2, 3))
    torch.testing.assert_close(found.distances, expected)
    with pytest.raises(InvalidInput, match="1 to 60"):
        neighbours(ddn, codes[7], codes, 61)


def test_clusters_hold_every_image_once_the_largest_first():
    ddn, images = small_ddn().eval(), digits(60) / 255
    codes = ddn.encode(images)
    groups = clusters(ddn, codes, 2)
    assert sorted(torch.cat([places for _, places in groups]).tolist()) == list(range(60))
    sizes = [len(places) for _, places in groups]
    assert sizes == sorted(sizes, reverse=True)
    for kind, places in groups:
        assert (codes[places, :2] == torch.tensor(kind)).all()
    with pytest.raises(InvalidInput, match="levels from 1"):
        clusters(ddn, codes, 0)
