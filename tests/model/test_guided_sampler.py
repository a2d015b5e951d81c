"""`GuidedSampler` with every argument, by itself and with each other one."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from discrete_distribution_network import GuidedSampler
from discrete_distribution_network.errors import InvalidInput

IMAGES = (6, 4, 8, 8), (6, 3, 8, 8)

OPTIONS = {
    "plain": {},
    "linear conv with bias": {"network": nn.Conv2d(4, 3, 1)},
    "network": {"network": nn.Conv2d(4, 3, 3, padding=1)},
    "deep network": {"network": nn.Sequential(nn.Conv2d(4, 5, 3, padding=1), nn.SiLU(), nn.Conv2d(5, 3, 1))},
    "distance_fn": {"distance_fn": lambda a, b: torch.cdist(a, b, p=1)},
    "prenorm": {"prenorm": True},
    "group norm": {"norm_module": nn.GroupNorm(2, 4)},
    "batch norm": {"norm_module": nn.BatchNorm2d(4)},
    "instance norm": {"norm_module": nn.InstanceNorm2d(4)},
    "pre activation": {"pre_network_activation": nn.SiLU()},
    "post activation": {"post_network_activation": nn.Tanh()},
    "network and post activation": {"network": nn.Conv2d(4, 3, 3, padding=1), "post_network_activation": nn.Tanh()},
    "chain dropout": {"chain_dropout_prob": 1.0},
    "crossover": {"crossover_top2_prob": 1.0},
    "straight-through": {"straight_through_distance_logits": True},
    "stochastic": {"stochastic": True, "gumbel_noise_scale": 5.0},
    "patches": {"patch_size": 4},
    "separate values": {"separate_values": True},
    "no dropout": {"chain_dropout_prob": 0.0},
}


class Constant(nn.Module):
    """A network that cannot draw its weights anew."""

    def __init__(self):
        super().__init__()
        self.image = nn.Parameter(torch.zeros(3, 1, 1))

    def forward(self, features):
        return self.image + features[:, :3]


def inputs(residual=False):
    features, query = (torch.randn(shape) for shape in IMAGES)
    return features, query, torch.randn(IMAGES[1]) if residual else None


@pytest.mark.parametrize(("first", "second"), list(itertools.combinations(OPTIONS, 2)))
def test_options_work_together(first, second):
    a, b = OPTIONS[first], OPTIONS[second]
    sampler = GuidedSampler(4, 3, 10, **{**a, **b})
    features, query, residual = inputs(residual=True)
    (output, codes, loss), distances = sampler(features, query, return_distances=True, residual=residual)
    patches = sampler.patch_size is not None
    assert output.shape == query.shape
    assert codes.shape == ((6, 2, 2) if patches else (6,))
    assert distances.shape == (*codes.shape, 10)
    assert loss.shape == ()
    loss.backward()
    assert torch.isfinite(output).all()
    assert sum(float(p.grad.abs().sum()) for p in sampler.keys.parameters()) > 0
    assert int(sampler.counts.sum()) == codes.numel()


@pytest.mark.parametrize("name", OPTIONS)
def test_output_is_what_its_codes_give(name):
    sampler = GuidedSampler(4, 3, 10, **OPTIONS[name]).eval()
    features, query, residual = inputs(residual=True)
    result = sampler(features, query, residual=residual)
    again = sampler.forward_for_codes(features, result.codes, residual)
    torch.testing.assert_close(again, result.output, rtol=1e-5, atol=1e-5)
    assert int(sampler.counts.sum()) == 0


@pytest.mark.parametrize("name", ["plain", "linear conv with bias", "network", "post activation", "prenorm", "patches"])
def test_the_nearest_of_all_candidates_is_chosen(name):
    sampler = GuidedSampler(4, 3, 10, **OPTIONS[name]).eval()
    features, query, residual = inputs(residual=True)
    (output, codes, loss), distances = sampler(features, query, return_distances=True, residual=residual)
    everything = torch.stack([sampler.forward_for_codes(features, k, residual) for k in range(10)], 1)
    error = everything - query.unsqueeze(1)
    if sampler.patch_size is not None:
        error = error.unflatten(-1, (2, 4)).unflatten(-3, (2, 4)).permute(0, 3, 5, 1, 2, 4, 6)
        exact = error.flatten(4).norm(dim=-1)
    else:
        exact = error.flatten(2).norm(dim=-1)
    torch.testing.assert_close(distances, exact, rtol=1e-4, atol=1e-4)
    assert torch.equal(codes, exact.argmin(-1))
    torch.testing.assert_close(loss, F.mse_loss(output, query))


def test_only_the_chosen_node_gets_a_gradient():
    sampler = GuidedSampler(4, 3, 10, chain_dropout_prob=0.0)
    features, query, _ = inputs()
    result = sampler(features, query)
    result.commit_loss.backward()
    touched = sampler.keys.weight.grad.abs().sum((1, 2)) > 0
    assert set(touched.nonzero().flatten().tolist()) == set(result.codes.tolist())


@pytest.mark.parametrize("name", ["plain", "network"])
def test_gradients_equal_those_of_drawing_everything(name):
    torch.manual_seed(1)
    sampler = GuidedSampler(4, 3, 10, chain_dropout_prob=0.0, **OPTIONS[name])
    features, query, residual = inputs(residual=True)
    features.requires_grad_()
    result = sampler(features, query, residual=residual)
    parameters = [features, *sampler.parameters()]
    ours = torch.autograd.grad(result.commit_loss, parameters)
    everything = torch.stack([sampler.forward_for_codes(features, k, residual) for k in range(10)], 1)
    chosen = everything[torch.arange(6), result.codes]
    plain = torch.autograd.grad(F.mse_loss(chosen, query), parameters)
    for a, b in zip(ours, plain, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["plain", "network"])
def test_straight_through_equals_mixing_every_candidate(name):
    sampler = GuidedSampler(4, 3, 10, chain_dropout_prob=0.0, straight_through_distance_logits=True, **OPTIONS[name])
    features, query, residual = inputs(residual=True)
    features.requires_grad_()
    result = sampler(features, query, residual=residual)
    everything = torch.stack([sampler.forward_for_codes(features, k, residual) for k in range(10)], 1)
    distances = (everything - query.unsqueeze(1)).flatten(2).norm(dim=-1)
    soft = (-distances).softmax(-1)
    hard = F.one_hot(distances.argmin(-1), 10).float()
    mixed = torch.einsum("bk,bkchw->bchw", hard + soft - soft.detach(), everything)
    torch.testing.assert_close(result.output, mixed, rtol=1e-4, atol=1e-5)
    parameters = [features, *sampler.parameters()]
    target = torch.randn_like(query)
    ours = torch.autograd.grad((result.output * target).sum(), parameters)
    plain = torch.autograd.grad((mixed * target).sum(), parameters)
    for a, b in zip(ours, plain, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3)
    assert (ours[1].flatten(1).abs().sum(1) > 0).all()  # every node learns


def test_chain_dropout_falls_on_samples_and_counts_the_nearest():
    sampler = GuidedSampler(4, 3, 64, chain_dropout_prob=0.5)
    features, query = torch.randn(4000, 4, 2, 2), torch.randn(4000, 3, 2, 2)
    nearest = sampler.eval()(features, query).codes
    codes = sampler.train()(features, query).codes
    assert 0.44 < (codes == nearest).float().mean() < 0.57  # half kept, and one in 64 redrawn the same
    assert torch.equal(sampler.counts, torch.bincount(nearest, minlength=64))


def test_chance_only_in_training():
    sampler = GuidedSampler(4, 3, 10, chain_dropout_prob=1.0, stochastic=True, crossover_top2_prob=1.0).eval()
    features, query, _ = inputs()
    assert torch.equal(sampler(features, query).output, sampler(features, query).output)


def test_gumbel_noise_spreads_the_choice():
    features, query = torch.randn(1, 4, 2, 2).expand(500, -1, -1, -1), torch.randn(1, 3, 2, 2).expand(500, -1, -1, -1)
    plain = GuidedSampler(4, 3, 10, chain_dropout_prob=0.0)
    noisy = GuidedSampler(4, 3, 10, chain_dropout_prob=0.0, stochastic=True)
    assert len(plain(features, query).codes.unique()) == 1
    assert len(noisy(features, query).codes.unique()) == 10


def test_crossover_blends_the_two_nearest():
    sampler = GuidedSampler(4, 3, 10, chain_dropout_prob=0.0, crossover_top2_prob=1.0)
    features, query, _ = inputs()
    (output, codes, _), distances = sampler(features, query, return_distances=True)
    first, second = distances.topk(2, largest=False).indices.T
    assert torch.equal(first, codes)
    a, b = sampler.forward_for_codes(features, first), sampler.forward_for_codes(features, second)
    share = ((output - a) * (b - a)).flatten(1).sum(1) / (b - a).square().flatten(1).sum(1)
    assert ((share > 0) & (share < 1)).all()
    torch.testing.assert_close(a.lerp(b, share.reshape(-1, 1, 1, 1)), output, rtol=1e-3, atol=1e-4)


def test_separate_values_of_another_width():
    sampler = GuidedSampler(4, 3, 10, separate_values=True, dim_values=7).eval()
    features, query, residual = inputs(residual=True)
    result = sampler(features, query, residual=residual)
    assert result.output.shape == (6, 7, 8, 8)
    torch.testing.assert_close(sampler.forward_for_codes(features, result.codes, residual), result.output)


def test_each_patch_is_a_sample_of_its_own():
    sampler = GuidedSampler(4, 3, 10, patch_size=4).eval()
    features, query = torch.randn(2, 4, 8, 12), torch.randn(2, 3, 8, 12)
    output, codes, _ = sampler(features, query)
    plain = GuidedSampler(4, 3, 10).eval()
    plain.load_state_dict(sampler.state_dict())
    for row in range(2):
        for column in range(3):
            there = (..., slice(4 * row, 4 * row + 4), slice(4 * column, 4 * column + 4))
            expected = plain(features[there], query[there])
            assert torch.equal(codes[:, row, column], expected.codes)
            torch.testing.assert_close(output[there], expected.output)


def test_vectors():
    for network in (None, nn.Linear(4, 3), nn.Sequential(nn.Linear(4, 8), nn.SiLU(), nn.Linear(8, 3))):
        sampler = GuidedSampler(4, 3, 10, network=network)
        output, codes, loss = sampler(torch.randn(6, 4), torch.randn(6, 3), residual=torch.randn(6, 3))
        loss.backward()
        assert (output.shape, codes.shape) == ((6, 3), (6,))


@pytest.mark.parametrize("patch_size", [None, 4])
def test_one_code_for_the_whole_batch(patch_size):
    sampler = GuidedSampler(4, 3, 10, patch_size=patch_size)
    features = inputs()[0]
    full = torch.full(sampler.codes_shape(features), 7)
    for code in (7, torch.tensor(7)):
        torch.testing.assert_close(sampler.forward_for_codes(features, code), sampler.forward_for_codes(features, full))


def test_one_node():
    sampler = GuidedSampler(4, 3, 1, crossover_top2_prob=1.0)
    codes = sampler(*inputs()[:2]).codes
    assert (codes == 0).all()
    assert sampler.split_and_prune_() == 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize(
    "name", ["plain", "linear conv with bias", "network", "straight-through", "crossover", "patches"]
)
def test_half_precision_stays_finite(dtype, name):
    sampler = GuidedSampler(4, 3, 10, **OPTIONS[name]).to(dtype)
    features, query = 50 * torch.randn(4, 4, 32, 32, dtype=dtype), 50 * torch.randn(4, 3, 32, 32, dtype=dtype)
    (output, _, loss), distances = sampler(features, query, return_distances=True)
    loss.backward()
    assert distances.dtype == torch.float32
    assert torch.isfinite(distances).all()
    assert torch.isfinite(output).all()
    assert torch.isfinite(loss)
    assert sampler.counts.dtype == torch.long


@pytest.mark.parametrize("name", OPTIONS)
def test_autocast(name):
    sampler = GuidedSampler(4, 3, 10, **OPTIONS[name])
    features, query, _ = inputs()
    with torch.autocast("cpu", torch.bfloat16):
        loss = sampler(features.bfloat16(), query).commit_loss
    loss.backward()
    assert torch.isfinite(loss)


def test_asking_for_distances_changes_no_choice():
    sampler = GuidedSampler(4, 3, 512).eval()
    features = torch.randn(64, 4, 8, 8)
    query = sampler.forward_for_codes(features, torch.arange(64))  # some candidates are met exactly
    (_, codes, _), _ = sampler(features, query, return_distances=True)
    assert torch.equal(codes, sampler(features, query).codes)
    assert torch.equal(codes, torch.arange(64))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32])
@pytest.mark.parametrize("name", ["plain", "network"])
def test_codes_of_any_integer_type(dtype, name):
    sampler = GuidedSampler(4, 3, 6, **OPTIONS[name])
    features, codes = inputs()[0], torch.tensor([5, 1, 0, 3, 2, 2])
    expected = sampler.forward_for_codes(features, codes)
    torch.testing.assert_close(sampler.forward_for_codes(features, codes.to(dtype)), expected)


@pytest.mark.parametrize(
    ("codes", "message"),
    [
        (torch.tensor([0, 10, 0, 0, 0, 0]), r"codes in \[0, 10\)"),
        (torch.tensor([0, -1, 0, 0, 0, 0]), r"codes in \[0, 10\)"),
        (torch.zeros(5, dtype=torch.long), r"codes of shape \(6,\)"),
        (torch.zeros(6), "integer codes"),
        (torch.zeros(6, dtype=torch.bool), "integer codes"),
    ],
)
def test_bad_codes_are_refused(codes, message):
    with pytest.raises(ValueError, match=message):
        GuidedSampler(4, 3, 10).forward_for_codes(inputs()[0], codes)


def test_bad_input_gets_one_sentence():
    sampler = GuidedSampler(4, 3, 10)
    features, query, _ = inputs()
    cases = [
        (lambda: sampler(torch.randn(6, 5, 8, 8), query), "features"),
        (lambda: sampler(features, torch.randn(6, 2, 8, 8)), "query"),
        (lambda: sampler(features, torch.randn(6, 3, 4, 4)), "query"),
        (lambda: sampler(features, query, residual=torch.randn(6, 3, 4, 4)), "residual"),
        (lambda: sampler(features[:0], query[:0]), "batch"),
        (lambda: GuidedSampler(4, 3, 0), "codebook_size"),
        (lambda: GuidedSampler(4, 3, 10, patch_size=3)(features, query), "patch_size"),
        (lambda: GuidedSampler(4, 3, 10, chain_dropout_prob=2.0), "chain_dropout_prob"),
        (lambda: GuidedSampler(4, 3, 10, dim_values=4), "separate_values"),
        (lambda: GuidedSampler(4, 3, 10, count_window=5), "count_window"),
        (lambda: GuidedSampler(4, 3, 10, network=Constant()), "reset_parameters"),
        (lambda: sampler(features, torch.zeros(6, 3, 8, 8, dtype=torch.uint8)), "divide by 255"),
        (lambda: GuidedSampler(4, 3, 10, network=nn.Conv2d(4, 3, 3))(features, query), "network"),
        (lambda: GuidedSampler(4, 3, 10, network=nn.ReLU()), "parameters"),
        (lambda: GuidedSampler(4, 3, 10, network=nn.Sequential(nn.BatchNorm2d(4), nn.Conv2d(4, 3, 1))), "buffers"),
        (lambda: GuidedSampler(4, 3, 10, distance_fn=lambda a, b: b.sum(-1))(features, query), "distance_fn"),
    ]
    for call, word in cases:
        with pytest.raises(InvalidInput, match=word) as error:
            call()
        assert "expected" in str(error.value)
        assert "\n" not in str(error.value)
    assert int(sampler.counts.sum()) == 0
