"""ONNX graphs and torch.export programs of a small model compute what the model does, and refuse what they cannot."""

import json
import sys

import numpy as np
import pytest
import torch
from small import prefer, small_ddn

from discrete_distribution_network.cli import main as cli
from discrete_distribution_network.errors import InvalidInput
from discrete_distribution_network.export import PROGRAMS, export, export_programs, exported_programs, files
from discrete_distribution_network.export.files import MODEL_FILE, WEIGHTS_FILE, ExportError
from discrete_distribution_network.io import atomic_folder

onnxruntime = pytest.importorskip("onnxruntime")


def model(num_classes=None, prior=True):
    """Two levels of one code and two of four; candidates that differ, and a prior that prefers some."""
    ddn = small_ddn(channels=3, levels_per_resolution=2, patch_size=[None, 4], num_classes=num_classes)
    prefer(ddn, num_classes=num_classes)
    if not prior:
        ddn.prior = None
    return ddn.half().float().eval()


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    torch.manual_seed(0)
    ddn, folder = model(), tmp_path_factory.mktemp("exported") / "here"
    return ddn, folder, export(ddn, folder)


@pytest.fixture(scope="module")
def run(exported):
    _, folder, _ = exported
    sessions = {name: onnxruntime.InferenceSession(folder / f"{name}.onnx") for name in PROGRAMS}

    def run(name, **inputs):
        outputs = [output.name for output in sessions[name].get_outputs()]
        found = sessions[name].run(outputs, {key: np.asarray(value) for key, value in inputs.items()})
        return dict(zip(outputs, map(torch.from_numpy, found), strict=True))

    return run


def test_what_is_written(exported):
    ddn, folder, deviations = exported
    assert {path.name for path in folder.iterdir()} == {
        *(f"{name}.onnx" for name in PROGRAMS), WEIGHTS_FILE, MODEL_FILE, "manifest.json",
    }  # fmt: skip
    assert set(deviations) == set(PROGRAMS)
    assert all(deviation.equal == 1 and deviation.difference < 1e-5 for deviation in deviations.values())
    about = json.loads((folder / MODEL_FILE).read_text())
    assert about["code_shapes"] == [list(shape) for shape in ddn.code_shapes]
    assert about["graphs"]["sample"] == {"inputs": ["noise", "known", "temperatures"], "outputs": ["codes", "image"]}
    # all graphs share weights, which float16 holds exactly: the numbers of one model, two bytes each
    numbers = sum(parameter.numel() for part in (ddn, ddn.prior) for parameter in part.parameters())
    assert (folder / WEIGHTS_FILE).stat().st_size < 2.2 * numbers


@pytest.mark.parametrize("batch", [1, 5])
def test_encode_and_decode(exported, run, batch):
    ddn, images = exported[0], torch.rand(batch, 3, 8, 8)
    codes = run("encode", images=images)["codes"]
    assert torch.equal(codes, ddn.encode(images))
    found = run("decode", codes=codes)
    assert torch.allclose(found["image"], ddn.decode(codes), atol=1e-5)
    first = sum(ddn.codes_per_level[:3])
    other = torch.cat((codes[:, :first], torch.zeros_like(codes[:, first:])), 1)
    assert torch.allclose(run("decode", codes=other)["level_2"], ddn.decode(codes[:, :first]), atol=1e-5)


def test_sample(exported, run):
    ddn = exported[0]
    number = sum(ddn.codes_per_level)
    noise, none = torch.rand(400, number), torch.full((400, number), -1)
    ones = torch.ones(ddn.num_levels)
    found = run("sample", noise=noise, known=none, temperatures=ones)
    assert torch.allclose(found["image"], ddn.decode(found["codes"]), atol=1e-5)
    kept = none.clone()
    kept[:, :5] = 3
    again = run("sample", noise=noise, known=kept, temperatures=ones)["codes"]
    assert (again[:, :5] == 3).all()
    assert len(again[:, 5:].unique()) > 2
    # drawn as `DDN.sample` draws them: the frequencies of the first codes, and of the last
    expected = ddn.sample(400, temperature=1.0, return_codes=True)[1]
    for place in (0, 1, number - 1):
        own, other = (torch.bincount(codes[:, place], minlength=8) / 400 for codes in (found["codes"], expected))
        assert (own - other).abs().max() < 0.12
    cold = run("sample", noise=noise, known=none, temperatures=0 * ones)["codes"]
    assert torch.equal(cold, ddn.sample(400, temperature=0.0, return_codes=True)[1])


def test_inpaint(exported, run):
    ddn, images = exported[0], torch.rand(6, 3, 8, 8)
    noise, ones = torch.rand(6, sum(ddn.codes_per_level)), torch.ones(ddn.num_levels)
    everywhere = run("inpaint", images=images, mask=torch.ones(6, 1, 8, 8), noise=noise, temperatures=ones)
    assert torch.equal(everywhere["codes"], ddn.encode(images))  # with K of 8 all nodes are among the proposals
    mask = torch.zeros(6, 1, 8, 8)
    mask[..., :4] = 1
    found = run("inpaint", images=images, mask=mask, noise=noise, temperatures=ones)
    others = run(
        "inpaint", images=1 - images * (1 - mask) - (1 - images) * mask, mask=mask, noise=noise, temperatures=ones
    )
    assert torch.equal(found["codes"], others["codes"])  # what is unknown is not looked at
    left, right = (((found["image"] - images) ** 2)[..., half].mean() for half in (slice(4), slice(4, 8)))
    assert left < right


def test_candidates(exported, run):
    ddn, codes = exported[0], exported[0].encode(torch.rand(2, 3, 8, 8))
    found = run("candidates", codes=codes)
    drawn = run("decode", codes=codes)
    done = 0
    for level, (number, size) in enumerate(zip(ddn.codes_per_level, ddn.level_sizes, strict=True)):
        features, residual, weight, logits = (
            found[f"{part}_{level}"] for part in ("features", "residual", "weight", "logits")
        )
        all_of_them = torch.einsum("kcd,pdhw->pkchw", weight, features) + residual.unsqueeze(1)
        assert all_of_them.shape[:2] == (2 * number, 8)
        assert logits.shape == (2, number, 8)
        own = codes[:, done : done + number].flatten()
        chosen = all_of_them[torch.arange(len(own)), own]
        patches = drawn[f"level_{level}" if level + 1 < ddn.num_levels else "image"]
        if number > 1:
            patches = patches.unfold(2, 4, 4).unfold(3, 4, 4).permute(0, 2, 3, 1, 4, 5).flatten(0, 2)
        assert torch.allclose(chosen, patches, atol=1e-5), size
        done += number
    assert torch.allclose(found["logits_0"][0], found["logits_0"][1], atol=1e-5)  # before any choice
    assert not torch.allclose(found["logits_3"][0], found["logits_3"][1], atol=1e-2)


def test_a_model_by_class_takes_labels(tmp_path):
    ddn = model(num_classes=3)
    deviations = export(ddn, tmp_path, ["decode", "sample"], classes=["a", "b", "c"])
    assert all(deviation.equal == 1 for deviation in deviations.values())
    about = json.loads((tmp_path / MODEL_FILE).read_text())
    assert about["classes"] == ["a", "b", "c"]
    assert about["graphs"]["decode"]["inputs"] == ["codes", "labels"]


def test_without_a_prior_codes_are_uniform(tmp_path):
    ddn = model(prior=False)
    export(ddn, tmp_path, ["sample"])
    noise = torch.rand(3, sum(ddn.codes_per_level))
    session = onnxruntime.InferenceSession(tmp_path / "sample.onnx")
    inputs = {"noise": noise, "known": torch.full(noise.shape, -1), "temperatures": torch.ones(ddn.num_levels)}
    codes = session.run(["codes"], {name: value.numpy() for name, value in inputs.items()})[0]
    assert np.array_equal(codes, (noise * 8).long().numpy())


def test_torch_programs(tmp_path):
    ddn = model()
    export_programs(ddn, tmp_path, ["decode"])
    codes = ddn.sample(4, return_codes=True)[1]
    image, *levels = torch.export.load(tmp_path / "decode.pt2").module()(codes)
    assert torch.allclose(image, ddn.decode(codes), atol=1e-5)
    assert len(levels) == ddn.num_levels - 1
    assert list(exported_programs(ddn, ["encode"])) == ["encode"]


def test_what_cannot_be_exported_says_so(tmp_path, monkeypatch):
    ddn = model(prior=False)
    with pytest.raises(InvalidInput, match=r"programs of encode, decode, .* got decoder"):
        export(ddn, tmp_path, ["decoder"])
    with pytest.raises(InvalidInput, match=r"in float32 to export, got torch.float16"):
        export(model(prior=False).half(), tmp_path)
    with pytest.raises(InvalidInput, match="not conditioned on images"):
        export(small_ddn(cond_channels=1), tmp_path)
    with pytest.raises(InvalidInput, match="separate values"):
        export(small_ddn({"separate_values": True}).eval(), tmp_path, ["candidates"])
    monkeypatch.setattr(files, "MOST_DIFFERENCE", -1.0)
    with pytest.raises(ExportError, match=r"expected a graph decode that gives 99.9%"):
        export(ddn, tmp_path / "none", ["decode"])
    assert not (tmp_path / "none" / "decode.onnx").exists()
    monkeypatch.setitem(sys.modules, "onnx_ir", None)
    with pytest.raises(InvalidInput, match=r"pip install 'discrete-distribution-network\[onnx\]'"):
        export(ddn, tmp_path)


def test_the_command(tmp_path, capsys):
    ddn = model()
    ddn.save_pretrained(tmp_path / "model")
    cli.main(["export", str(tmp_path / "model"), "-o", str(tmp_path / "out"), "--only", "encode", "--torch-programs"])
    told = capsys.readouterr().out
    assert "encode: 100.00% of codes equal" in told
    assert "1 graphs" in told
    atomic_folder.verify(tmp_path / "out", ["encode.onnx", "encode.pt2", WEIGHTS_FILE, MODEL_FILE])
    with pytest.raises(SystemExit):
        cli.main(["export", str(tmp_path / "model"), "-o", str(tmp_path / "out"), "--only", "nothing"])
