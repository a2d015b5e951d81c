"""Guidance by a CLIP model; a small one with random weights, since those of the real ones are on no test machine."""

import pytest
import torch
from small import colour_ddn, pictures

from discrete_distribution_network.guidance import Clip


@pytest.fixture
def small_clip(torchvision, monkeypatch):
    open_clip = pytest.importorskip("open_clip")

    def create(name, pretrained):
        assert (name, pretrained) == ("ViT-B-32", None)
        torch.manual_seed(0)
        vision = {"image_size": 32, "layers": 1, "width": 32, "patch_size": 16, "head_width": 16}
        text = {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}
        return open_clip.CLIP(16, vision, text)

    monkeypatch.setattr(open_clip, "create_model", create)


def test_text_and_image_guide(small_clip):
    ddn = colour_ddn(patch_size=None)
    plain = ddn.sample(8, generator=torch.Generator().manual_seed(0))
    for target in ("a red coat", pictures(1)[0]):
        condition = Clip(target, pretrained=None)
        guided = ddn.guide(condition, 1)
        score = condition.scores(guided.images.unsqueeze(1))
        assert score.shape == (1, 1)
        assert score.max() > condition.scores(plain.unsqueeze(1)).max()
        torch.testing.assert_close(guided.scores[:, -1], score)
        assert -1.001 <= float(score) <= 1.001


def test_grey_images_are_shown_in_three_channels(small_clip):
    assert Clip("a coat", pretrained=None).scores(torch.rand(2, 3, 1, 16, 16)).shape == (2, 3)
