"""What is saved comes back; what is damaged, foreign or unsafe is refused by name."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from discrete_distribution_network import DDN
from discrete_distribution_network.errors import InvalidInput, ModelFileError

ARGUMENTS = {
    "dim": 8,
    "dim_max": 16,
    "image_size": (8, 12),
    "codebook_size": [3, 4, 5, 6, 7, 8],
    "patch_size": [None, None, 4],
    "guided_sampler_kwargs": {"count_window": 50},
}


@pytest.fixture
def saved(tmp_path):
    ddn = DDN(**ARGUMENTS)
    ddn(torch.rand(4, 3, 8, 12))
    ddn.save_pretrained(tmp_path / "model")
    return ddn, tmp_path / "model"


def test_round_trip(saved):
    ddn, folder = saved
    assert sorted(path.name for path in folder.iterdir() if path.suffix != ".md") == [
        "config.json",
        "manifest.json",
        "model.safetensors",
    ]
    loaded = DDN.from_pretrained(folder)
    assert loaded.codebook_sizes == ddn.codebook_sizes
    assert loaded.samplers[0].count_window == 50
    state = loaded.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in ddn.state_dict().items())
    codes = ddn.eval().encode(images := torch.rand(2, 3, 8, 12))
    assert torch.equal(loaded.encode(images), codes)


def rewrite(folder, change):
    state = load_file(folder / "model.safetensors")
    change(state)
    save_file(state, folder / "model.safetensors")
    (folder / "manifest.json").unlink()


def test_missing_extra_and_misshapen_parameters_are_listed(saved):
    _, folder = saved

    def change(state):
        state["surplus"] = torch.zeros(1)
        del state["start"]
        name = next(name for name in state if name.endswith("counts"))
        state[name] = torch.zeros(99, dtype=torch.long)

    rewrite(folder, change)
    with pytest.raises(ModelFileError, match=r"start is missing; surplus is extra; .*counts has shape \(99,\), not"):
        DDN.from_pretrained(folder)


def test_another_codebook_size_is_refused(saved):
    _, folder = saved
    config = json.loads((folder / "config.json").read_text())
    config["codebook_size"] = [9] * 6
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelFileError, match="has shape"):
        DDN.from_pretrained(folder)


def test_truncated_and_flipped_files_are_named(saved):
    _, folder = saved
    assert not list(folder.glob(".saving-*"))
    path = folder / "model.safetensors"
    whole = path.read_bytes()
    for damaged in (whole[: len(whole) // 2], b"", whole[:8] + b"\xff" + whole[9:], whole[:-9] + b"\xff" + whole[-8:]):
        path.write_bytes(damaged)
        with pytest.raises(ModelFileError, match=r"model\.safetensors"):
            DDN.from_pretrained(folder)


def test_a_pickle_is_never_opened(saved):
    _, folder = saved

    class Bomb:
        def __reduce__(self):
            return (open, (str(folder / "exploded"), "w"))

    torch.save(Bomb(), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelFileError, match=r"pytorch_model\.bin may hold a pickle"):
        DDN.from_pretrained(folder)
    assert not (folder / "exploded").exists()


def test_missing_folder_and_bad_config(saved, tmp_path):
    _, folder = saved
    with pytest.raises(ModelFileError, match="nowhere"):
        DDN.from_pretrained(tmp_path / "nowhere")
    for text, word in (
        ("{", "JSON"),
        ("[]", "object"),
        ("{}", "describe a DDN"),
        ('{"dim": 0}', "describe a DDN"),
        ('{"dim": 8, "colour": 1}', "colour"),
    ):
        (folder / "config.json").write_text(text)
        with pytest.raises(ModelFileError, match=word):
            DDN.from_pretrained(folder)
    (folder / "config.json").unlink()
    with pytest.raises(ModelFileError, match=r"config\.json"):
        DDN.from_pretrained(folder)


def test_saving_again_replaces_what_was_there(saved):
    _, folder = saved
    other = DDN(**{**ARGUMENTS, "codebook_size": 2})
    other.save_pretrained(folder)
    assert DDN.from_pretrained(folder).codebook_sizes == [2] * 6


def test_a_module_among_the_arguments_cannot_be_saved(tmp_path):
    ddn = DDN(dim=8, dim_max=8, image_size=4, guided_sampler_kwargs={"pre_network_activation": nn.SiLU()})
    with pytest.raises(InvalidInput, match="state_dict"):
        ddn.save_pretrained(tmp_path / "model")
    assert not (tmp_path / "model").exists()
