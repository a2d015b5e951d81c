import pytest
import torch
from small import SIZE, colour_ddn, pictures

from discrete_distribution_network.guidance import Classifier, Edges, LowBit, Style, edges


def test_classifier_style_low_bit_and_edges_get_what_they_ask_for():
    ddn = colour_ddn()
    torch.manual_seed(2)
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * SIZE * SIZE, 4)).requires_grad_(False)
    plain = ddn.sample(4, generator=torch.Generator().manual_seed(0))
    target = torch.tensor([0, 1, 2, 3])
    classes = ddn.guide(Classifier(net, target))
    assert net(classes.images).argmax(1).tolist() == target.tolist()
    any_of = ddn.guide(Classifier(net, [1, 2]), 3)
    assert set(net(any_of.images).argmax(1).tolist()) <= {1, 2}
    image = pictures(4)
    features = torch.nn.Conv2d(3, 5, 3).requires_grad_(False)
    for condition in (LowBit(image, 2), Edges(edges(image)), Style(image[0], features)):
        condition.check(4, 3, (SIZE, SIZE))
        guided = ddn.guide(condition, 4)
        better = condition.scores(guided.images.unsqueeze(1)) > condition.scores(plain.unsqueeze(1))
        assert better.all(), str(condition)
        torch.testing.assert_close(guided.scores[:, -1, :], condition.scores(guided.images.unsqueeze(1)))


def test_edges_of_a_step_are_where_it_steps():
    image = torch.zeros(1, 1, 8, 8)
    image[..., 4:] = 1
    found = edges(image)
    assert found[0, 0, :, 3:5].min() == 1
    assert found[0, 0, :, [0, 1, 2, 5, 6, 7]].max() == 0


def test_the_target_of_a_classifier_may_have_its_old_name():
    with pytest.warns(DeprecationWarning, match="wanted is now target"):
        old = Classifier(torch.nn.Identity(), wanted=[1, 2])
    assert torch.equal(old.target, Classifier(torch.nn.Identity(), [1, 2]).target)
