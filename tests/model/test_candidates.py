"""Both paths pick what brute force in float64 picks."""

import itertools
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F

from discrete_distribution_network.errors import InvalidInput
from discrete_distribution_network.model import candidates as lazy
from discrete_distribution_network.model.candidates import LinearCandidates, NetworkCandidates


def brute_force(candidates, target, mask=None, pixel_map=None, channel_map=None):
    """Every candidate drawn in float64 from the definition y_k = W_k f + b_k + r, mapped, compared."""
    features, weight = candidates.features.double(), candidates.weight.double()
    images = torch.einsum("kcd,bd...->bkc...", weight, features)
    if candidates.bias is not None:
        images = images + candidates.bias.double().reshape(1, *candidates.bias.shape, *(1,) * (images.ndim - 3))
    if candidates.residual is not None:
        images = images + candidates.residual.double().unsqueeze(1)
    flat = images.flatten(0, 1)
    flat = flat if pixel_map is None else pixel_map(flat)
    flat = flat if channel_map is None else torch.einsum("dc,bc...->bd...", channel_map.double(), flat)
    error = (flat.unflatten(0, images.shape[:2]) - target.double().unsqueeze(1)).square()
    error = error if mask is None else error * mask.double().unsqueeze(1)
    return error.flatten(2).sum(-1)


def make(batch=64, nodes=64, channels=3, dim=16, size=8, bias=False, residual=False):
    def images(x):
        return torch.randn(batch, x, size, size)

    return LinearCandidates(
        images(dim),
        torch.randn(nodes, channels, dim) * dim**-0.5,
        torch.randn(nodes, channels) if bias else None,
        images(channels) if residual else None,
    )


@pytest.fixture(params=["gram", "direct", "chosen"])
def path(request, monkeypatch):
    if request.param != "chosen":
        monkeypatch.setattr(lazy, "cheapest_path", lambda *_: request.param)
    return request.param


@pytest.mark.parametrize("nodes", [2, 10, 64, 512])
@pytest.mark.parametrize(("bias", "residual"), list(itertools.product([False, True], repeat=2)))
def test_picks_what_brute_force_picks(path, nodes, bias, residual):
    same = total = 0
    for batch, dim, size in ((1, 16, 16), (64, 16, 8), (32, 64, 4), (250, 8, 4)):
        candidates = make(batch, nodes, 3, dim, size, bias, residual)
        query = torch.randn(batch, 3, size, size)
        distances, exact = candidates.distances(query), brute_force(candidates, query)
        torch.testing.assert_close(distances.double(), exact, rtol=1e-5, atol=1e-5)
        picked, expected = distances.argmin(1), exact.argmin(1)
        at_picked = exact.gather(1, picked.unsqueeze(1)).squeeze(1)
        assert (at_picked <= exact.min(1).values * (1 + 1e-5)).all()
        same, total = same + int((picked == expected).sum()), total + batch
    assert same / total >= 0.999


def halve(images):
    return F.avg_pool2d(images, 2)


def test_maps_masks_and_bias_together(path):
    grey = torch.tensor([[0.3, 0.6, 0.1]])
    for mask, pixel_map, channel_map in itertools.product([False, True], [None, halve], [None, grey]):
        candidates = make(bias=True, residual=True)
        size = 8 if pixel_map is None else 4
        target = torch.randn(64, 3 if channel_map is None else 1, size, size)
        weights = torch.rand(64, 1, size, size) if mask else None
        kwargs = {"mask": weights, "pixel_map": pixel_map, "channel_map": channel_map}
        exact = brute_force(candidates, target, **kwargs)
        torch.testing.assert_close(candidates.distances(target, **kwargs).double(), exact, rtol=1e-4, atol=1e-4)


def test_network_candidates_answer_alike():
    linear = make(nodes=10, bias=True, residual=True)
    bare = LinearCandidates(linear.features, linear.weight, linear.bias)
    network = NetworkCandidates(bare.nodes, bare.at, 64, 10, linear.shape, linear.device, linear.residual)
    target, mask = torch.randn(64, 1, 4, 4), torch.rand(64, 1, 4, 4)
    kwargs = {"mask": mask, "pixel_map": halve, "channel_map": torch.tensor([[0.3, 0.6, 0.1]])}
    torch.testing.assert_close(
        network.distances(target, **kwargs), linear.distances(target, **kwargs), rtol=1e-4, atol=1e-4
    )
    codes = torch.randint(10, (64,))
    torch.testing.assert_close(network.at(codes), linear.at(codes))
    weights = torch.rand(64, 10).softmax(-1)
    torch.testing.assert_close(network.mix(weights), linear.mix(weights), rtol=1e-4, atol=1e-5)


def test_at_chunks_and_mix_agree():
    candidates = make(batch=3, nodes=7, bias=True, residual=True)
    everything = torch.cat([images for _, images in candidates.chunks(2)], dim=1)
    assert everything.shape == (3, 7, 3, 8, 8)
    assert [start for start, _ in candidates.chunks(2)] == [0, 2, 4, 6]
    codes = torch.tensor([0, 6, 3])
    torch.testing.assert_close(candidates.at(codes), everything[torch.arange(3), codes], rtol=1e-4, atol=1e-5)
    hot = F.one_hot(codes, 7).float()
    torch.testing.assert_close(candidates.mix(hot), candidates.at(codes), rtol=1e-4, atol=1e-5)


def test_vectors():
    candidates = LinearCandidates(torch.randn(50, 8), torch.randn(20, 2, 8), residual=torch.randn(50, 2))
    query = torch.randn(50, 2)
    assert (candidates.distances(query).argmin(1) == brute_force(candidates, query).argmin(1)).all()
    assert candidates.at(torch.zeros(50, dtype=torch.long)).shape == (50, 2)


def test_both_paths_are_taken():
    assert lazy.cheapest_path(8, 512, 3, 64, 64 * 64) == "gram"
    assert lazy.cheapest_path(8, 10, 3, 256, 8 * 8) == "direct"


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_features_are_compared_in_float32(path, dtype):
    candidates = make(batch=8)
    half = LinearCandidates(candidates.features.to(dtype), candidates.weight)
    full = LinearCandidates(half.features.float(), candidates.weight)
    query = torch.randn(8, 3, 8, 8)
    with torch.autocast("cpu", torch.bfloat16):
        distances = half.distances(query)
    assert distances.dtype == torch.float32
    torch.testing.assert_close(distances, full.distances(query))


def test_float32_precision_setting_is_left_alone_and_not_obeyed():
    candidates, query = make(), torch.randn(64, 3, 8, 8)
    exact = candidates.distances(query)
    torch.set_float32_matmul_precision("medium")
    try:
        assert torch.equal(candidates.distances(query), exact)
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")


def test_precision_set_by_backend_is_left_alone_too():
    code = """
import torch
from discrete_distribution_network import GuidedSampler
torch.backends.mkldnn.matmul.fp32_precision = "bf16"
torch.backends.cuda.matmul.fp32_precision = "tf32"
GuidedSampler(4, 3, 5)(torch.randn(2, 4, 8, 8), torch.randn(2, 3, 8, 8))
assert torch.backends.mkldnn.matmul.fp32_precision == "bf16"
"""
    subprocess.run([sys.executable, "-c", code], check=True)  # the settings hold for a whole process


def test_a_target_of_the_wrong_shape_is_refused():
    candidates = make(batch=4, residual=True)
    network = NetworkCandidates(candidates.nodes, candidates.at, 4, 64, candidates.shape, candidates.device)
    for one in (candidates, network):
        for target, mask, word in (
            (torch.rand(4, 1, 8, 8), None, "a target of shape"),
            (torch.rand(3, 3, 8, 8), None, "a target of shape"),
            (torch.zeros(4, 3, 8, 8, dtype=torch.uint8), None, "divide by 255"),
            (torch.rand(4, 3, 8, 8), torch.ones(4, 3, 8, 8), "a mask"),
            (torch.rand(4, 3, 8, 8), torch.ones(8, 8), "a mask"),
        ):
            with pytest.raises(InvalidInput, match=word):
                one.distances(target, mask=mask)


def test_second_derivatives_are_refused_rather_than_wrong():
    tensors = (torch.randn(2, 3, 5), torch.randn(4, 2, 3), torch.randn(2, 2, 5))
    for tensor in tensors:
        tensor.requires_grad_()
    (first,) = torch.autograd.grad(lazy.gram_distances(*tensors).square().sum(), tensors[0], create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first.sum().backward()


def test_ties_go_to_the_lowest_index(path):
    candidates = make(nodes=4)
    candidates.weight[2:] = candidates.weight[:2]
    assert (candidates.distances(torch.randn(64, 3, 8, 8)).argmin(1) < 2).all()


@pytest.mark.parametrize("path_name", ["gram", "direct"])
def test_distances_carry_gradients_when_asked(path_name):
    function = lazy.gram_distances if path_name == "gram" else lazy.direct_distances
    features, weight, error = (
        torch.randn(2, 3, 5, dtype=torch.double, requires_grad=True),
        torch.randn(4, 2, 3, dtype=torch.double, requires_grad=True),
        torch.randn(2, 2, 5, dtype=torch.double, requires_grad=True),
    )
    assert torch.autograd.gradcheck(function, (features, weight, error))
