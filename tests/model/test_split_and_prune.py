"""The plan equals a slow, literal Algorithm 1; applying it reaches heads, moments and counts."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from discrete_distribution_network import DDN, GuidedSampler, split_and_prune_
from discrete_distribution_network.errors import InvalidInput
from discrete_distribution_network.model.split_and_prune import plan_split_and_prune


def literal(counts, split_thres, prune_thres, max_swaps):
    """Algorithm 1 with lists and loops: nodes are labels that are copied."""
    counts, labels = list(counts), list(range(len(counts)))
    for _ in range(max_swaps):
        total, size = sum(counts), len(counts)
        top, bottom = counts.index(max(counts)), counts.index(min(counts))
        uneven = counts[top] > split_thres * total / size or counts[bottom] < prune_thres * total / size
        if size == 1 or not uneven or counts[top] // 2 <= counts[bottom]:
            break
        labels[bottom] = labels[top]
        half = counts[top] // 2
        counts[top], counts[bottom] = counts[top] - half, half
    return labels, counts


@given(
    st.lists(st.integers(0, 60), min_size=1, max_size=30),
    st.sampled_from([1.5, 2.0, 3.0]),
    st.sampled_from([0.25, 0.5]),
    st.integers(0, 40),
)
def test_plan_equals_the_literal_algorithm(counts, split_thres, prune_thres, max_swaps):
    plan = plan_split_and_prune(counts, split_thres, prune_thres, max_swaps)
    assert (plan.origin, plan.counts) == literal(counts, split_thres, prune_thres, max_swaps)


def test_published_rule_by_hand():
    assert plan_split_and_prune([8, 1, 1, 0])[:] == (1, [0, 1, 2, 0], [4, 1, 1, 4])
    assert plan_split_and_prune([8, 1, 1, 0], max_swaps=None)[:] == (3, [0, 0, 0, 0], [2, 2, 2, 2])
    assert plan_split_and_prune([3, 3, 3, 3]).swaps == 0
    assert plan_split_and_prune([7]).swaps == 0


def test_plan_leaves_its_input_alone():
    counts = [8, 1, 1, 0]
    plan_split_and_prune(counts, max_swaps=None)
    assert counts == [8, 1, 1, 0]


@pytest.mark.parametrize("optimizer_class", [torch.optim.Adam, torch.optim.AdamW, torch.optim.SGD])
def test_rows_moments_and_counts_move_together(optimizer_class):
    sampler = GuidedSampler(4, 3, 5, network=nn.Conv2d(4, 3, 1), separate_values=True, chain_dropout_prob=0.0)
    optimizer = optimizer_class(sampler.parameters(), lr=0.1)
    sampler(torch.randn(64, 4, 8, 8), torch.randn(64, 3, 8, 8)).commit_loss.backward()
    sum(p.square().sum() for p in sampler.parameters()).backward()
    optimizer.step()
    sampler.counts.copy_(torch.tensor([100, 30, 30, 30, 0]))
    names = {id(p): name for name, p in sampler.named_parameters()}
    assert split_and_prune_(sampler, optimizer) == 1
    assert sampler.counts.tolist() == [50, 30, 30, 30, 50]
    for parameter in sampler.parameters():
        assert id(parameter) in names
        assert torch.equal(parameter[4], parameter[0])
        assert not torch.equal(parameter[1], parameter[0])
        for moment in optimizer.state[parameter].values():
            if isinstance(moment, torch.Tensor) and moment.shape == parameter.shape:
                assert torch.equal(moment[4], moment[0])
                assert not torch.equal(moment[1], moment[0])


def used_unevenly(sampler):
    sampler.counts.copy_(torch.tensor([100, 30, 30, 30, 0]))
    return sampler


def test_the_same_rows_move_in_a_moving_average():
    sampler, average = used_unevenly(GuidedSampler(4, 3, 5)), GuidedSampler(4, 3, 5)
    assert split_and_prune_(sampler, ema_model=average) == 1
    assert torch.equal(average.keys.weight[4], average.keys.weight[0])
    assert not torch.equal(average.keys.weight[4], sampler.keys.weight[4])


def test_mirror_is_the_old_name_of_ema_model():
    def network():
        return DDN(dim=4, dim_max=4, image_size=4, channels=1, codebook_size=5, levels_per_resolution=1)

    for split in (
        lambda made, average: split_and_prune_(made, mirror=average),
        lambda made, average: made.split_and_prune_(mirror=average),
        lambda made, average: made.samplers[0].apply_counts_([100, 30, 30, 30, 0], mirror=average.samplers[0]),
    ):
        made, average = network(), network()
        used_unevenly(made.samplers[0])
        with pytest.warns(DeprecationWarning, match="mirror is now ema_model"):
            assert split(made, average) == 1
        weight = average.samplers[0].keys.weight
        assert torch.equal(weight[4], weight[0])


def test_network_heads_are_split_too():
    sampler = GuidedSampler(4, 3, 5, network=nn.Conv2d(4, 3, 3, padding=1))
    sampler.counts.copy_(torch.tensor([100, 30, 30, 30, 0]))
    assert sampler.split_and_prune_() == 1
    assert all(torch.equal(p[4], p[0]) for p in sampler.keys.stacked)


def test_nothing_happens_before_enough_choices():
    sampler = GuidedSampler(4, 3, 2, min_total_count_before_split_prune=100)
    sampler.counts.copy_(torch.tensor([99, 0]))
    assert sampler.split_and_prune_() == 0
    sampler.counts.copy_(torch.tensor([100, 0]))
    assert sampler.split_and_prune_() == 1


def test_window_lets_old_counts_fade():
    sampler = GuidedSampler(4, 3, 2, count_window=100)
    sampler.counts.copy_(torch.tensor([400, 600]))
    sampler.split_and_prune_()
    assert sampler.counts.tolist() == [40, 60]


def test_a_module_without_samplers_is_refused():
    with pytest.raises(InvalidInput, match="GuidedSampler"):
        split_and_prune_(nn.Linear(2, 2))


def test_counts_survive_state_dict_and_training_uses_all_nodes():
    ddn = DDN(dim=8, dim_max=16, image_size=8, channels=1, codebook_size=16)
    optimizer = torch.optim.Adam(ddn.parameters(), lr=1e-2)
    images = torch.rand(64, 1, 8, 8)
    for _ in range(60):
        loss = ddn(images)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        ddn.split_and_prune_(optimizer)
    counts = [sampler.counts.clone() for sampler in ddn.samplers]
    assert all(int((count == 0).sum()) == 0 for count in counts)
    other = DDN(dim=8, dim_max=16, image_size=8, channels=1, codebook_size=16)
    other.load_state_dict(ddn.state_dict())
    assert all(torch.equal(s.counts, c) for s, c in zip(other.samplers, counts, strict=True))
