"""What the page computes, without a browser."""

import pytest
import torch
from PIL import Image
from small import colour_ddn, small_ddn

pytest.importorskip("gradio")

from discrete_distribution_network.demo.handlers import COLOURING, Demo
from discrete_distribution_network.guidance import Colorize
from discrete_distribution_network.guidance.conditions import grey
from discrete_distribution_network.viz.pictures import to_pil


def test_a_grey_picture_is_coloured(monkeypatch):
    ddn = colour_ddn(channels=3).eval()
    demo = Demo(ddn)
    images = ddn.sample(1, generator=torch.Generator().manual_seed(3)).clamp(0, 1)
    editor = {"background": to_pil(images[0]).convert("RGBA"), "layers": []}
    seen = []
    guide = ddn.guide
    monkeypatch.setattr(
        ddn, "guide", lambda conditions, *rest, **more: seen.append(conditions) or guide(conditions, *rest, **more)
    )
    assert isinstance(demo.guided(editor, COLOURING, 0, None, 4, 0, 1), Image.Image)
    (condition,) = seen[0]
    assert isinstance(condition, Colorize)
    torch.testing.assert_close(condition.target.expand(1, -1, -1, -1), grey(images), atol=0.01, rtol=0)


def test_a_model_of_grey_images_has_nothing_to_colour():
    demo = Demo(small_ddn().eval())
    assert demo._painted_conditions({"background": Image.new("RGBA", (8, 8)), "layers": []}, COLOURING, 0) == []
