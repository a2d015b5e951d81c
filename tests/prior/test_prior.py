"""A prior says how likely codes are: laws of drawing, of counting, and of what is learnt."""

import copy
import errno
import json
import math
from pathlib import Path

import pytest
import torch
from small import digits, small_ddn, trainer
from torch.utils.data import Dataset

from discrete_distribution_network.cli.prior import codes_of
from discrete_distribution_network.data.datasets import Pixels
from discrete_distribution_network.ddn import DDN
from discrete_distribution_network.errors import DataError, DDNError, InvalidInput, ModelFileError, OutputError
from discrete_distribution_network.evaluation.classifier import Classifier
from discrete_distribution_network.evaluation.frechet import frechet_figures
from discrete_distribution_network.evaluation.metrics import evaluate
from discrete_distribution_network.guidance.conditions import Match, RatePenalty
from discrete_distribution_network.model.code_distribution import draw_codes
from discrete_distribution_network.model.selection import FixedCodes, PriorSampling
from discrete_distribution_network.prior import base
from discrete_distribution_network.prior.base import CONFIG, load_prior, projected_weights, temperatures
from discrete_distribution_network.prior.counts import Chain, Frequencies
from discrete_distribution_network.prior.heads import Prior
from discrete_distribution_network.prior.transformer import CodeTransformer
from discrete_distribution_network.training.fitting import fit, hold_out
from discrete_distribution_network.training.presets import preset


@pytest.fixture(params=[Prior, CodeTransformer])
def kind(request):
    return request.param


class Labelled(Dataset):
    """Dark pictures are of class 0, bright ones of class 1."""

    def __len__(self):
        return 60

    def __getitem__(self, index):
        image = digits()[index] // 4
        return (image + 180, 1) if index % 2 else (image, 0)


class Fixed:
    """The same scores (K,) at every level."""

    def __init__(self, scores):
        self.scores = torch.as_tensor(scores)

    def begin(self, batch_size, labels):
        return batch_size

    def logits(self, level, features, state):
        return self.scores.expand(state, -1)

    def follow(self, level, codes, state):
        return state


def drawn(scores, number=4000, **settings):
    select = PriorSampling(Fixed(scores), number, generator=torch.Generator().manual_seed(0), **settings)
    return torch.bincount(select.pick(select.prior.logits(0, None, number)), minlength=len(scores)) / number


def test_codes_are_drawn_by_their_chances():
    scores = torch.tensor([0.5, 0.3, 0.15, 0.05]).log()
    torch.testing.assert_close(drawn(scores), scores.exp(), atol=0.03, rtol=0)
    squared = scores.exp() ** 2 / (scores.exp() ** 2).sum()
    torch.testing.assert_close(drawn(scores, temperature=0.5), squared, atol=0.03, rtol=0)
    assert drawn(scores, temperature=0).tolist() == [1, 0, 0, 0]
    # 0.5 alone does not reach 0.7, with 0.3 it does
    torch.testing.assert_close(drawn(scores, top_p=0.7), torch.tensor([5 / 8, 3 / 8, 0, 0]), atol=0.03, rtol=0)
    assert drawn(scores, top_p=0.01).tolist() == [1, 0, 0, 0]
    for wrong in ({"temperature": -1}, {"top_p": 0}, {"top_p": 1.1}):
        with pytest.raises(InvalidInput):
            drawn(scores, **wrong)


def test_nodes_of_like_weights_begin_with_like_rows():
    sampler = small_ddn(codebook_size=16).samplers[0]
    weight = sampler.keys.weight
    with torch.no_grad():
        weight[5] = weight[3]
        weight[6] = weight[3] + 0.1 * weight[7]
    rows = projected_weights(sampler, 64)
    assert rows.shape == (16, 64)
    assert float(rows.square().mean()) == pytest.approx(1, rel=1e-4)
    assert torch.equal(rows[5], rows[3])
    apart = (rows - rows[3]).square().sum(1)
    assert apart[6] < 0.2 * apart[[0, 1, 2, 4, 7]].min()


def test_scores_begin_as_the_rows_of_their_nodes(ddn, kind):
    prior = kind(ddn, dim=8)
    scores = [head.score for head in prior.heads] if kind is Prior else prior.score
    for rows, score in zip(prior.nodes, scores, strict=True):
        assert torch.equal(score.weight, rows.weight / 8**0.5)
        assert rows.weight.requires_grad
        assert score.weight.is_leaf


def test_sampling_by_a_prior(ddn, kind):
    prior = kind(ddn, dim=8).eval()
    images, codes = ddn.sample(6, return_codes=True, prior=prior, generator=torch.Generator().manual_seed(1))
    again = ddn.sample(6, prior=prior, generator=torch.Generator().manual_seed(1))
    assert torch.equal(images, again)
    torch.testing.assert_close(ddn.decode(codes), images)
    assert len({*map(tuple, ddn.sample(6, return_codes=True, prior=prior, temperature=0)[1].tolist())}) == 1


def test_bits_are_those_of_the_chances_it_draws_by(ddn, kind, perturbed):
    prior, images = perturbed(kind(ddn, dim=8)).eval(), digits(5) / 255
    with torch.no_grad():
        bits = prior.bits(ddn, images)
        state, costs = prior.begin(5), []
        given = FixedCodes(ddn.split_codes(ddn.encode(images)))

        def watched(level, sampler, features, residual):
            nonlocal state
            step = given(level, sampler, features, residual)
            left, cost = step.codes.reshape(5, -1), 0

            def pick(scores):  # what the images have, at as many places as are asked for
                nonlocal left, cost
                asked = scores[0, ..., 0].numel()
                own, left = left[:, :asked].reshape(scores.shape[:-1]), left[:, asked:]
                cost = cost - scores.log_softmax(-1).gather(-1, own.unsqueeze(-1)).sum() / 5 / math.log(2)
                return own

            assert torch.equal(draw_codes(prior, level, features, state, pick), step.codes)
            costs.append(cost)
            state = prior.follow(level, step.codes, state)
            return step

        ddn.walk(watched, 5)
    torch.testing.assert_close(bits, torch.stack(costs), rtol=1e-4, atol=1e-4)
    assert len(bits) == ddn.num_levels


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Networks trained on digits without and with labels; tests copy them."""
    runs = [
        trainer(tmp_path_factory.mktemp("trained"), dataset=data, num_train_steps=300)
        for data in (digits(), Labelled())
    ]
    for run in runs:
        run()
    return [run.ddn for run in runs]


def test_fitting_learns_which_codes_are_likely(trained, kind):
    ddn = copy.deepcopy(trained[0])
    before = {name: value.clone() for name, value in ddn.state_dict().items()}
    prior = kind(ddn, dim=32)
    fitted = fit(prior, ddn, digits(), digits(), steps=300, minutes=None, batch_size=30, progress=False)
    assert fitted.steps == 300
    assert fitted.test_bits < 0.75 * fitted.uniform_bits == 0.75 * ddn.bits_per_image
    with torch.no_grad():
        assert float(prior.bits(ddn.eval(), digits() / 255).sum()) == pytest.approx(fitted.test_bits, rel=1e-3)
    assert all(torch.equal(value, before[name]) for name, value in ddn.state_dict().items())
    # its samples are nearer to the pictures than uniform ones
    distances = []
    for how in (None, prior):
        samples = ddn.sample(100, prior=how, generator=torch.Generator().manual_seed(0)).flatten(1)
        distances.append(float(torch.cdist(samples, (digits() / 255).flatten(1)).min(1).values.mean()))
    assert distances[1] < distances[0]


def test_what_costs_held_out_images_least_is_kept():
    ddn = small_ddn()
    prior, few, held_out = Prior(ddn, dim=32, dropout=0.0), digits(8), digits(60)[20:]
    settings = {"minutes": None, "batch_size": 8, "evaluate_every": 10, "learning_rate": 0.02, "progress": False}
    fitted = fit(prior, ddn, few, held_out, steps=200, **settings)
    assert ddn.training
    with torch.no_grad():
        learnt, other = (float(prior.bits(ddn.eval(), images / 255).sum()) for images in (few, held_out))
    assert other == pytest.approx(fitted.test_bits, rel=1e-3)
    assert fitted.train_bits < learnt  # it went on learning them by heart, and that was not kept


def test_test_images_choose_nothing_of_a_prior():
    parts = hold_out(Pixels(torch.arange(40.0).reshape(40, 1, 1, 1)), Pixels(torch.full((9, 1, 1, 1), 99.0)))
    learnt, kept_by = ({float(item.image) for item in part} for part in parts)
    assert (len(learnt), len(kept_by)) == (36, 4)
    assert learnt | kept_by == set(map(float, range(40)))


def test_fitting_is_repeated_by_its_seed():
    def weights(seed, burn):
        torch.manual_seed(0)
        ddn = small_ddn()
        prior = Prior(ddn, dim=8)
        torch.rand(burn)
        before = torch.get_rng_state()
        fit(prior, ddn, digits(), digits(20), steps=10, minutes=None, batch_size=16, seed=seed, progress=False)
        assert torch.equal(torch.get_rng_state(), before)
        return prior.state_dict()

    first, second, other = weights(1, burn=1), weights(1, burn=5), weights(2, burn=1)
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    assert not all(torch.equal(value, other[name]) for name, value in first.items())


def test_a_fit_that_goes_wrong_changes_nothing():
    ddn = small_ddn()
    prior = Prior(ddn, dim=8)
    before = {name: value.clone() for name, value in prior.state_dict().items()}
    settings = {"steps": 3, "minutes": None, "batch_size": 8, "progress": False}
    with pytest.raises(DDNError, match="finite"):
        fit(prior, ddn, digits(), digits(20), learning_rate=1e30, **settings)
    by_class = Prior(ddn, dim=8, num_classes=1)
    with pytest.raises(InvalidInput, match="labels in"):
        fit(by_class, ddn, Labelled(), Labelled(), **settings)
    assert ddn.training
    assert all(torch.equal(value, before[name]) for name, value in prior.state_dict().items())
    assert fit(prior, ddn, digits(), digits(20), minutes=1e-9, progress=False).steps == 1


def test_a_prior_by_class(trained, kind):
    ddn = copy.deepcopy(trained[1])
    prior = kind(ddn, dim=16, num_classes=2)
    fit(prior, ddn, Labelled(), Labelled(), steps=300, minutes=None, batch_size=16, progress=False)
    generator = torch.Generator().manual_seed(0)
    dark, bright = (
        ddn.sample(prior=prior, labels=torch.full((20,), label), generator=generator).mean((1, 2, 3))
        for label in (0, 1)
    )
    assert len(dark) == 20
    assert float((bright > 0.5).float().mean()) > 0.9
    assert float((dark < 0.5).float().mean()) > 0.9
    figures = frechet_figures(ddn, lambda images: images.flatten(1), digits(), digits(), count=9, prior=prior)
    assert figures.drawn == 9
    for labels, said in (
        (torch.tensor([2]), r"in \[0, 2\)"),
        (torch.zeros(1, 1), "shape"),
        (torch.zeros(1), "integer"),
    ):
        with pytest.raises(InvalidInput, match=said):
            ddn.sample(1, prior=prior, labels=labels)
    of_no_class = torch.full((3,), -1)
    unlabelled, labelled = (
        ddn.sample(3, prior=prior, labels=labels, generator=torch.Generator().manual_seed(0))
        for labels in (None, of_no_class)
    )
    assert torch.equal(unlabelled, labelled)
    with pytest.raises(InvalidInput, match="prior by class"):
        ddn.sample(1, prior=Prior(ddn), labels=torch.tensor([0]))
    with pytest.raises(DataError, match="by class"):
        fit(prior, ddn, digits(), digits(), steps=1, progress=False, batch_size=8)


def test_saved_beside_its_model(tmp_path, ddn, kind):
    prior = kind(ddn, dim=8, num_classes=3)
    with pytest.raises(ModelFileError, match="beside its model"):
        prior.save(tmp_path)
    ddn.save_pretrained(tmp_path)
    with pytest.raises(ModelFileError, match="found none"):
        kind.load(tmp_path, ddn)
    prior.save(tmp_path)
    loaded = kind.load(tmp_path, ddn)
    assert loaded.num_classes == 3
    assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in prior.state_dict().items())
    torch.nn.init.ones_(ddn.start)
    ddn.save_pretrained(tmp_path)
    with pytest.raises(ModelFileError, match="another model"):
        kind.load(tmp_path, ddn)
    prior.save(tmp_path)
    assert type(load_prior(ddn, tmp_path)) is kind
    with pytest.raises(ModelFileError, match=r"shape|missing"):
        kind.load(tmp_path, small_ddn(codebook_size=7, levels_per_resolution=[2, 2]))
    (tmp_path / CONFIG).write_text(json.dumps({"kind": "tea leaves"}))
    for load in (kind.load, lambda folder, ddn: load_prior(ddn, folder)):
        with pytest.raises(ModelFileError, match="tea leaves"):
            load(tmp_path, ddn)
    for text in ("[", "[1]", json.dumps({"kind": kind.kind, "dim": 0}), json.dumps({"kind": kind.kind, "colour": 1})):
        (tmp_path / CONFIG).write_text(text)
        with pytest.raises(ModelFileError, match=CONFIG):
            kind.load(tmp_path, ddn)


def test_its_two_files_are_never_of_two_priors(tmp_path, monkeypatch, kind):
    ddn = small_ddn(patch_size=[None, 4])
    ddn.save_pretrained(tmp_path)
    old, new = kind(ddn, dim=8), kind(ddn, dim=16)
    old.save(tmp_path)

    def weights():
        return {name: value.clone() for name, value in kind.load(tmp_path, ddn).state_dict().items()}

    before, original = weights(), Path.replace
    for ending in ("weights", "config"):  # a full disk at any write leaves the old one

        def flush(path, ending=ending):
            if path.suffix == {"weights": ".safetensors", "config": ".json"}[ending]:
                raise OSError(errno.ENOSPC, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(base, "fsync", flush)
            with pytest.raises(OutputError, match=r"cannot write .*prior\.(json|safetensors)"):
                new.save(tmp_path)
        assert all(torch.equal(value, before[name]) for name, value in weights().items())
    for moves in (1, 2):  # a kill before the first, and between the two
        old.save(tmp_path)
        moved = []

        def replace(self, target, moves=moves, moved=moved):
            moved.append(target)
            if len(moved) == moves:
                raise KeyboardInterrupt
            return original(self, target)

        with monkeypatch.context() as patch:
            patch.setattr(Path, "replace", replace)
            with pytest.raises(KeyboardInterrupt):
                new.save(tmp_path)
        with pytest.raises(ModelFileError, match="found none"):
            kind.load(tmp_path, ddn)
    new.save(tmp_path)
    assert kind.load(tmp_path, ddn).dim == 16
    assert not list(tmp_path.glob(".saving-*"))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("classes", [None, 3])
def test_a_prior_beside_a_network_of_another_type(dtype, classes, kind):
    ddn = small_ddn(patch_size=[None, 4], num_classes=classes).eval().to(dtype)
    labels = None if classes is None else torch.arange(4) % 3
    images = (digits(4) / 255).to(dtype)
    likely = kind(ddn, dim=8, num_classes=classes).eval()
    own = kind(ddn, dim=8, num_classes=classes).eval().to(dtype)
    data = [(image, 0) for image in digits(20)]
    for chosen in (likely, own):
        assert ddn.sample(4, prior=chosen, labels=labels).dtype == dtype
        assert ddn.guide(Match(images), prior=chosen, labels=labels, beams=2).images.isfinite().all()
        with torch.no_grad():
            assert chosen.bits(ddn, images, labels).isfinite().all()
    assert small_ddn(patch_size=[None, 4], num_classes=classes).sample(4, prior=own, labels=labels).shape[0] == 4
    assert fit(likely, ddn, data, data, steps=2, minutes=None, progress=False).steps == 2
    if classes is None:
        codes = codes_of(ddn, digits(8))
        for chosen in (likely, own, Frequencies.of(ddn, codes.long()), Chain.of(ddn, codes.long())):
            walk = ddn.encode_walk(images, also=[RatePenalty(chosen, weight=1e-3)])
            assert walk.outputs[-1].isfinite().all()
        assert evaluate(ddn, digits(8)).images == 8
        assert frechet_figures(ddn, Classifier(1, 3).eval().features, digits(9), digits(9), 4, prior=likely).drawn == 4


def test_each_level_has_its_temperature():
    ddn = small_ddn()
    prior = Frequencies([torch.arange(size) + 1 for size in ddn.codebook_sizes], ddn.code_shapes)

    def codes(temperature):
        return ddn.sample(40, None, True, torch.Generator().manual_seed(0), prior, temperature)[1]

    count = ddn.num_levels
    assert torch.equal(codes(0.7), codes([0.7] * count))
    for cold in range(count):
        drawn = codes([0.0 if level == cold else 1.0 for level in range(count)]).split(ddn.codes_per_level, 1)
        for level, own in enumerate(drawn):
            likeliest = own == ddn.codebook_sizes[level] - 1
            assert bool(likeliest.all()) == (level == cold)
    with pytest.raises(InvalidInput, match=f"{count}, one for each level"):
        codes([1.0] * (count + 1))
    with pytest.raises(InvalidInput, match="temperature of at least 0"):
        codes([1.0] * (count - 1) + [-1.0])


def test_patches_are_drawn_colder_than_the_image():
    assert temperatures(DDN(**preset(32, channels=1))) == [1.0] * 4 + [0.1] * 3 + [0.6] * 6
    assert temperatures(DDN(**preset(64, channels=3))) == [1.0] * 4 + [0.1] * 3 + [0.01] * 6
    assert temperatures(small_ddn()) == [1.0] * small_ddn().num_levels
    again = small_ddn(recurrence=3, levels_per_resolution=[0, 2], patch_size=[None, 4])
    assert len(temperatures(again)) == again.num_levels == 6


def test_bad_input_is_one_sentence():
    ddn = small_ddn()
    for settings, said in (
        ({"temperature": 0.5}, "a prior where"),
        ({"labels": torch.zeros(1)}, "a prior by class"),
        ({"top_p": 0.5}, "a prior where"),
    ):
        with pytest.raises(InvalidInput, match=said):
            ddn.sample(1, **settings)
    with pytest.raises(InvalidInput, match="steps or minutes"):
        fit(Prior(ddn), ddn, digits(), digits(), steps=None, minutes=None)
    with pytest.raises(InvalidInput, match="dim"):
        Prior(ddn, dim=0)


class ByClass(Fixed):
    """Scores (classes + 1, K): the last for no class."""

    num_classes = 2

    def begin(self, batch_size, labels):
        return labels

    def logits(self, level, features, state):
        return self.scores[state]


def test_a_guidance_scale_counts_what_the_class_adds_so_many_times():
    ddn, labels = small_ddn(codebook_size=3), torch.arange(2).repeat_interleave(3000)
    scores = torch.tensor([[0.5, 0.3, 0.2], [0.1, 0.8, 0.1], [0.4, 0.4, 0.2]]).log()
    for scale in (0.5, 2.0):
        generator = torch.Generator().manual_seed(0)
        how = dict(prior=ByClass(scores), labels=labels, guidance_scale=scale, return_codes=True, generator=generator)
        images, codes = ddn.sample(**how)
        torch.testing.assert_close(ddn.decode(codes), images)
        expected = (scores[2] + scale * (scores[:2] - scores[2])).softmax(1)
        for label in (0, 1):
            share = torch.bincount(codes[labels == label].flatten(), minlength=3) / codes[labels == label].numel()
            torch.testing.assert_close(share, expected[label], atol=0.02, rtol=0)


def test_a_guidance_scale_with_a_network_by_class():
    ddn, labels = small_ddn(num_classes=3).eval(), torch.tensor([0, 2, 1])
    with torch.no_grad():
        for stage in ddn.stages:
            stage.conditioning.classes.weight.normal_()
    prior = Prior(ddn, dim=8, num_classes=3).eval()
    images, codes = ddn.sample(labels=labels, prior=prior, guidance_scale=2.0, return_codes=True)
    assert images.shape == (3, 1, 8, 8)
    torch.testing.assert_close(ddn.decode(codes, labels), images)
    for wrong in (dict(labels=labels), dict(batch_size=2, prior=Prior(small_ddn(), dim=8))):
        with pytest.raises(InvalidInput, match="where guidance_scale"):
            (ddn if "labels" in wrong else small_ddn()).sample(guidance_scale=2.0, **wrong)


def test_a_prior_by_class_can_do_without():
    prior = Prior(small_ddn(), dim=8, num_classes=3)
    none, some = prior.begin(2, torch.tensor([-1, 1]))
    torch.testing.assert_close(none[:, 0, 0], prior.start[0])
    assert not torch.allclose(some[:, 0, 0], prior.start[0])
    with pytest.raises(InvalidInput, match="or -1 for none"):
        prior.begin(1, torch.tensor([-2]))


def test_some_images_are_shown_without_their_label(monkeypatch):
    ddn = small_ddn()
    prior, seen = Prior(ddn, dim=4, num_classes=2), []
    original = Prior.bits

    def bits(self, ddn, images, labels=None):
        if self.training:
            seen.append(labels)
        return original(self, ddn, images, labels)

    monkeypatch.setattr(Prior, "bits", bits)
    fit(prior, ddn, Labelled(), Labelled(), steps=40, minutes=None, batch_size=30, progress=False)
    assert float((torch.cat(seen) == -1).float().mean()) == pytest.approx(0.1, abs=0.03)
