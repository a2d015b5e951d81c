"""Muon is that of PyTorch for a matrix, and does the same for many matrices and for convolutions."""

import pytest
import torch
from small import everything, small_ddn, train, trainer
from torch import nn

from discrete_distribution_network.errors import InvalidInput
from discrete_distribution_network.training.flat_parameters import FlatParameters
from discrete_distribution_network.training.muon import MOMENTUM_FIELD, Muon, matrix_names, orthogonalised


@pytest.mark.parametrize("shape", [(3, 64, 200), (2, 200, 64), (1, 32, 32)])
def test_singular_values_become_about_one(shape):
    torch.manual_seed(0)
    matrices = torch.randn(shape)
    values = torch.linalg.svdvals(orthogonalised(matrices))
    assert values.min() > 0.6
    assert values.max() < 1.25
    left, _, right = torch.linalg.svd(matrices, full_matrices=False)
    expected, found = (left @ right).flatten(1), orthogonalised(matrices).flatten(1)
    assert torch.cosine_similarity(expected, found).min() > 0.95


def test_a_matrix_of_zeros_stays_zero():
    assert torch.equal(orthogonalised(torch.zeros(2, 4, 6)), torch.zeros(2, 4, 6))


@pytest.mark.parametrize("shape", [(24, 40), (40, 24)])
def test_steps_are_those_of_pytorch(shape):
    torch.manual_seed(0)
    theirs = nn.Parameter(torch.randn(shape))
    other = nn.Parameter(torch.randn(2, 8, 16))
    ours = nn.Parameter(torch.cat([theirs.detach().flatten(), other.detach().flatten()]))
    reference = torch.optim.Muon([theirs], lr=0.1, weight_decay=0.1)
    muon = Muon(ours, [(1, *shape), (2, 8, 16)], lr=0.1, weight_decay=0.1)
    for _ in range(3):
        theirs.grad = torch.randn(shape)
        ours.grad = torch.cat([theirs.grad.flatten(), torch.zeros(256)])
        reference.step()
        muon.step()
    found = ours.detach()[: theirs.numel()].view(shape)
    torch.testing.assert_close(found, theirs.detach(), atol=0.02, rtol=0)  # PyTorch's products are in bfloat16
    torch.testing.assert_close(ours.detach()[theirs.numel() :], other.detach().flatten() * 0.99**3)


def test_matrices_lie_side_by_side_by_shape():
    torch.manual_seed(0)
    made = nn.Sequential(nn.Conv2d(3, 4, 3), nn.GroupNorm(1, 4), nn.Linear(5, 6), nn.Conv2d(3, 4, 3), nn.Linear(1, 9))
    made.to(memory_format=torch.channels_last)
    names = matrix_names(made, {"2.weight"})
    assert names == {"0.weight", "3.weight"}
    flat = FlatParameters(made.named_parameters(), names)
    assert flat.names[-2:] == ("0.weight", "3.weight")
    assert flat.matrix_shapes == [(2, 4, 27)]
    # a row is what an output channel is made of, in whatever order the memory format has it
    rows = flat.matrices.detach().view(2, 4, 27)[1]
    assert torch.equal(rows.sort(1).values, made[3].weight.flatten(1).sort(1).values)
    with torch.no_grad():
        flat.matrices.zero_()
    assert not made[0].weight.any()
    assert made[2].weight.any()


def test_nodes_are_trained_by_adamw_and_the_rest_by_muon(tmp_path):
    trained = train(tmp_path, muon_learning_rate=0.02)
    fields = {}
    for name in everything(trained):
        if name.startswith("optimizer/"):
            _, parameter, field = name.split("/")
            fields.setdefault(parameter, set()).add(field)
    nodes = trained.ddn.guided_sampler_codes_param_names()
    assert {field for name in nodes for field in fields[name]} == {"step", "exp_avg", "exp_avg_sq"}
    muon = {name for name, own in fields.items() if own == {MOMENTUM_FIELD}}
    assert muon == matrix_names(trained.ddn, nodes)
    assert trained.splits > 0


def test_the_rates_rise_and_fall_together(tmp_path):
    made = trainer(tmp_path, muon_learning_rate=0.02, num_train_steps=100, warmup_steps=9, decay="cosine")
    optimisation, rates = made.optimisation, []
    for made.state.progress.step in (0, 9, 50):
        optimisation.compute_gradients(made.loader.batches(), made.rate(), False)
        rates.append([one.param_groups[0]["lr"] for one in optimisation.optimizers])
    for adamw, muon in rates:
        assert muon == pytest.approx(adamw * 0.02 / 3e-3)
    assert rates[1][1] > rates[0][1]


@pytest.mark.parametrize("before", [None, 0.02])
def test_a_run_may_change_its_optimiser(tmp_path, before):
    after = 0.02 if before is None else None
    train(tmp_path, muon_learning_rate=before, num_train_steps=10)
    with pytest.warns(UserWarning, match="muon_learning_rate"):
        train(tmp_path, muon_learning_rate=after, num_train_steps=20, resume=True)


def test_a_rate_is_positive(tmp_path):
    with pytest.raises(InvalidInput, match="muon_learning_rate above 0, got -1"):
        trainer(tmp_path, ddn=small_ddn(), muon_learning_rate=-1)


def test_adam_kwargs_do_not_set_the_rate(tmp_path):
    made = trainer(tmp_path, muon_learning_rate=0.02, adam_kwargs={"lr": 1.0})
    made.optimisation.compute_gradients(made.loader.batches(), made.rate(), False)
    adamw, muon = (own.param_groups[0]["lr"] for own in made.optimisation.optimizers)
    assert adamw == 3e-3
    assert muon == pytest.approx(0.02)
