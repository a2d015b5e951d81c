"""A model knows its prior and its entropy model: they are drawn by, saved, loaded and moved with it."""

import copy
import json
import warnings

import pytest
import torch
from small import small_ddn

from discrete_distribution_network.codec.image_codec import ImageCodec
from discrete_distribution_network.ddn import DDN
from discrete_distribution_network.errors import InvalidInput, ModelFileError
from discrete_distribution_network.guidance import Inpaint
from discrete_distribution_network.prior import CodeTransformer, Frequencies, Prior
from discrete_distribution_network.prior.entropy_model import EntropyModel


def seeded():
    return torch.Generator().manual_seed(0)


def with_prior(kind=Prior, **settings):
    ddn = small_ddn(patch_size=[None, 4]).eval()
    torch.manual_seed(1)
    ddn.prior = kind(ddn, dim=8, **settings).eval()
    return ddn


def certain(ddn):
    """Frequencies by which every code is 2."""
    counts = torch.zeros(max(ddn.codebook_sizes))
    counts[2] = 1e9
    return Frequencies([counts[:size] for size in ddn.codebook_sizes], ddn.code_shapes)


def test_without_one_sampling_is_uniform():
    ddn = small_ddn().eval()
    assert ddn.prior is None
    assert torch.equal(ddn.sample(4, generator=seeded()), ddn.sample(4, generator=seeded(), prior=None))


def test_samples_are_drawn_by_it():
    ddn = small_ddn(patch_size=[None, 4]).eval()
    ddn.prior = certain(ddn)
    assert (ddn.sample(3, return_codes=True)[1] == 2).all()
    assert not (ddn.sample(3, return_codes=True, prior=None)[1] == 2).all()


def test_samples_are_drawn_at_its_own_temperatures():
    ddn = with_prior()
    ddn.prior.temperatures = {"fidelity": [0.0] * ddn.num_levels, "diversity": [5.0] * ddn.num_levels}

    def codes(**settings):
        return ddn.sample(20, return_codes=True, generator=seeded(), **settings)[1]

    assert len(codes().unique(dim=0)) == 1
    assert torch.equal(codes(), codes(temperature="fidelity"))
    assert torch.equal(codes(temperature="diversity"), codes(temperature=5.0))
    assert len(codes(temperature="diversity").unique(dim=0)) > 1
    with pytest.raises(InvalidInput, match="fidelity or diversity, got 'speed'"):
        codes(temperature="speed")
    with pytest.raises(InvalidInput, match="give a prior"):
        codes(temperature="diversity", prior=None)


def test_guidance_asks_it():
    ddn = small_ddn(patch_size=[None, 4]).eval()
    ddn.prior = certain(ddn)
    known = torch.ones(1, 8, 8)
    known[:, :, 4:] = 0
    half, right = Inpaint(torch.zeros(1, 8, 8), known), [3, 5, 7, 9]  # the codes of patches where nothing is known
    assert (ddn.guide(half, 2).codes[:, right] == 2).all()
    assert not (ddn.guide(half, 2, prior=None).codes[:, right] == 2).all()


def test_a_prior_by_class_is_asked_for_no_class_where_none_is_given():
    ddn = with_prior(num_classes=3)
    none = torch.full((4,), -1)
    assert torch.equal(ddn.sample(4, generator=seeded()), ddn.sample(4, generator=seeded(), labels=none))
    assert ddn.guide(Inpaint(torch.zeros(1, 8, 8), torch.ones(1, 8, 8)), 2).images.shape[0] == 2


@pytest.mark.parametrize("kind", [Prior, CodeTransformer])
def test_it_is_saved_and_loaded(tmp_path, kind):
    ddn = with_prior(kind)
    ddn.prior.temperatures["diversity"] = [0.5] * ddn.num_levels
    ddn.entropy_model = EntropyModel.of(ddn, dim=8, hidden=8).exact()
    ddn.save_pretrained(tmp_path)
    loaded = DDN.from_pretrained(tmp_path).eval()
    assert type(loaded.prior) is kind
    assert loaded.prior.temperatures == ddn.prior.temperatures
    assert torch.equal(loaded.sample(4, generator=seeded()), ddn.sample(4, generator=seeded()))
    assert loaded.entropy_model.fingerprint == ddn.entropy_model.fingerprint
    images = ddn.sample(2, generator=seeded()).clamp(0, 1)
    files = ImageCodec(loaded).compress_batch(images)
    assert files == ImageCodec(ddn, ddn.entropy_model).compress_batch(images)
    assert files != ImageCodec(ddn, None).compress_batch(images)


def test_a_prior_without_temperatures_of_its_own_has_those_of_before(tmp_path):
    ddn = with_prior()
    ddn.prior.temperatures = {"fidelity": [0.3] * 4, "diversity": [0.4] * 4}
    ddn.save_pretrained(tmp_path)
    content = json.loads((tmp_path / "prior.json").read_text())
    del content["temperatures"]
    (tmp_path / "prior.json").write_text(json.dumps(content))
    assert DDN.from_pretrained(tmp_path).prior.temperatures["fidelity"] == [1.0, 1.0, 0.1, 0.1]


@pytest.mark.parametrize("found", [3, {}, {"fidelity": [1.0], "diversity": [1.0]}, {"fidelity": [-1.0] * 4}, "hot"])
def test_wrong_temperatures_are_an_error_that_names_the_file(tmp_path, found):
    with_prior().save_pretrained(tmp_path)
    content = json.loads((tmp_path / "prior.json").read_text()) | {"temperatures": found}
    (tmp_path / "prior.json").write_text(json.dumps(content))
    with pytest.raises(ModelFileError, match=r"prior\.json"):
        DDN.from_pretrained(tmp_path)


def test_a_prior_of_another_model_is_left_out_with_a_warning(tmp_path):
    with_prior().save_pretrained(tmp_path)
    small_ddn(patch_size=[None, 4], dim=32).save_pretrained(tmp_path)
    with pytest.warns(UserWarning, match="of another model"):
        assert DDN.from_pretrained(tmp_path).prior is None


def test_a_damaged_prior_is_an_error(tmp_path):
    with_prior().save_pretrained(tmp_path)
    (tmp_path / "prior.safetensors").write_bytes(b"nothing")
    with pytest.raises(ModelFileError, match=r"prior\.safetensors"):
        DDN.from_pretrained(tmp_path)


def test_one_that_cannot_be_saved_is_left_out_with_a_warning(tmp_path):
    ddn = small_ddn()
    ddn.prior = certain(ddn)
    with pytest.warns(UserWarning, match="a Frequencies is not saved"):
        ddn.save_pretrained(tmp_path)
    assert DDN.from_pretrained(tmp_path).prior is None


def test_a_prior_of_other_levels_is_refused():
    ddn = small_ddn()
    with pytest.raises(InvalidInput, match="of this network's levels"):
        ddn.prior = Prior(small_ddn(codebook_size=3), dim=8)
    for wrong in (3, "own", torch.nn.Linear(1, 1)):
        with pytest.raises(InvalidInput, match="a prior with methods"):
            ddn.prior = wrong
    with pytest.raises(InvalidInput, match="an EntropyModel"):
        ddn.entropy_model = Prior(ddn, dim=8)
    assert ddn.prior is None


def test_parameters_and_weights_stay_those_of_the_network():
    ddn = with_prior()
    ddn.entropy_model = EntropyModel.of(ddn, dim=8, hidden=8).exact()
    plain = small_ddn(patch_size=[None, 4])
    assert ddn.state_dict().keys() == plain.state_dict().keys()
    assert len(list(ddn.parameters())) == len(list(plain.parameters()))
    ddn.prior = None
    assert ddn.prior is None


def test_it_moves_with_the_network_and_the_entropy_model_stays_exact():
    ddn = with_prior()
    ddn.entropy_model = EntropyModel.of(ddn, dim=8, hidden=8).exact()
    before = ddn.entropy_model.fingerprint
    ddn.to(torch.bfloat16)
    assert {parameter.dtype for parameter in ddn.prior.parameters()} == {torch.bfloat16}
    assert ddn.entropy_model.fingerprint == before
    assert ddn.sample(2).isfinite().all()
    other = copy.deepcopy(ddn)
    assert other.prior is not ddn.prior
    assert torch.equal(other.sample(2, generator=seeded()), ddn.sample(2, generator=seeded()))


def test_a_prior_in_training_mode_draws_in_evaluation_mode():
    ddn = with_prior(dropout=0.9)
    still = ddn.sample(8, generator=seeded())
    ddn.prior.train()
    assert torch.equal(ddn.sample(8, generator=seeded()), still)
    assert ddn.prior.training


def test_nothing_is_said_where_all_is_well(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with_prior().save_pretrained(tmp_path)
        DDN.from_pretrained(tmp_path)
