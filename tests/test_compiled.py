"""What is compiled is one graph, made once: nothing in a step or a draw reads a value, or changes from call to call."""

from contextlib import nullcontext

import pytest
import torch
from small import small_ddn

from discrete_distribution_network.prior.heads import Prior
from discrete_distribution_network.training.optimisation import LossByLevel


def compiled(function):
    """One graph without a break; the backend computes it as it is, since only the graph matters here."""
    return torch.compile(function, fullgraph=True, backend="eager")


@pytest.fixture
def no_recompilation():
    torch.compiler.reset()
    return torch._dynamo.config.patch(error_on_recompile=True)


def test_a_step_is_one_graph_and_is_compiled_once(no_recompilation):
    ddn = small_ddn(patch_size=[None, 4], sampler={"chain_dropout_prob": 0.05}).train()
    step = compiled(LossByLevel(ddn))
    for number in range(3):
        with no_recompilation if number else nullcontext():
            losses, _ = step(torch.rand(6, 1, 8, 8))
        losses.mean().backward()
        ddn.samplers[0].counts.add_(number)
    assert losses.isfinite().all()


def test_a_draw_is_one_graph_and_is_compiled_once(no_recompilation):
    ddn = small_ddn(patch_size=[None, 4]).eval()
    ddn.prior = Prior(ddn, dim=8).eval()
    draw = compiled(ddn.sample)
    for number in range(3):
        with no_recompilation if number else nullcontext():
            assert draw(6).shape == (6, 1, 8, 8)


def test_a_planted_break_of_the_graph_is_found(monkeypatch):
    torch.compiler.reset()
    ddn = small_ddn().train()
    monkeypatch.setattr(
        "discrete_distribution_network.model.network.resize",
        lambda image, size: image.new_zeros((*image.shape[:2], *size)) if image.sum() > 0 else image,
    )
    with pytest.raises(torch._dynamo.exc.Unsupported):
        compiled(LossByLevel(ddn))(torch.rand(6, 1, 8, 8))
