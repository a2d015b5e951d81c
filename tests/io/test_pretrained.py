"""What is saved comes back; what is damaged, foreign or unsafe is refused by name."""

import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import warnings
from collections import OrderedDict
from hashlib import sha256
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from discrete_distribution_network import DDN
from discrete_distribution_network.errors import InvalidInput, ModelFileError, OutputError
from discrete_distribution_network.io.plain_values import not_saved, to_plain
from discrete_distribution_network.io.pretrained import Pretrained
from discrete_distribution_network.io.safetensors_file import write_tensors

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


PLAIN = {"dim": 8, "dim_max": 8, "image_size": 8, "codebook_size": 5}


def made_with(**sampler):
    """A network whose samplers have these arguments, in evaluation mode, and an image's codes."""
    ddn = DDN(**PLAIN, guided_sampler_kwargs=sampler).eval()
    return ddn, ddn.encode(torch.rand(2, 3, 8, 8))


@pytest.mark.parametrize(
    "sampler",
    [
        {"norm_module": nn.GroupNorm(2, 8), "pre_network_activation": nn.SiLU()},
        {"norm_module": nn.GroupNorm(2, 8, affine=False)},
        {"norm_module": nn.BatchNorm2d(8, momentum=0.2)},
        {"pre_network_activation": nn.Sequential(OrderedDict(a=nn.LeakyReLU(0.2), b=nn.Sequential(nn.Identity())))},
        {"post_network_activation": nn.Tanh()},
        {"network": nn.Conv2d(8, 3, 3, padding=1, padding_mode="reflect")},
        {"network": nn.Conv2d(8, 3, 1), "post_network_activation": nn.Sigmoid()},
        {"network": nn.Linear(8, 3, bias=False)},
        {"network": nn.Sequential(nn.Conv2d(8, 6, (3, 1), padding="same"), act := nn.ReLU(), nn.Conv2d(6, 3, 1), act)},
    ],
    ids=lambda sampler: "-".join(sampler),
)
def test_modules_of_torch_are_saved_with_their_arguments(tmp_path, sampler):
    ddn, codes = made_with(**sampler)
    assert ddn.not_rebuildable == []
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ddn.save_pretrained(tmp_path / "model")
        loaded = DDN.from_pretrained(tmp_path / "model").eval()
    assert repr(loaded) == repr(ddn)
    assert torch.equal(loaded.decode(codes), ddn.decode(codes))
    loaded.save_pretrained(tmp_path / "again")
    assert (tmp_path / "again" / "config.json").read_text() == (tmp_path / "model" / "config.json").read_text()


def test_how_a_module_stands_in_the_config(tmp_path):
    made_with(norm_module=nn.GroupNorm(1, 8), pre_network_activation=nn.Sequential(nn.SiLU()))[0].save_pretrained(
        tmp_path
    )
    assert json.loads((tmp_path / "config.json").read_text())["guided_sampler_kwargs"] == {
        "norm_module": {"torch.nn": "GroupNorm", "num_groups": 1, "num_channels": 8},
        "pre_network_activation": {"torch.nn": "Sequential", "modules": [{"torch.nn": "SiLU"}]},
    }


class Scaled(nn.Module):
    """A module of one's own, with all that a module can hold."""

    def __init__(self):
        super().__init__()
        self.scale, self.plain = nn.Parameter(torch.ones(1)), torch.ones(1)
        self.register_buffer("passing", torch.ones(1), persistent=False)

    def forward(self, x):
        return x * self.scale * self.passing * self.plain


def furthest(query, candidates):
    return -torch.cdist(query, candidates)


class OwnTanh(nn.Tanh):
    pass


def hooked(module):
    module.register_forward_hook(lambda *_: None)
    return module


tied = nn.Sequential(nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 3, 1))
tied[1].weight = tied[0].weight


@pytest.mark.parametrize(
    "sampler",
    [
        {"distance_fn": furthest},
        {"distance_fn": lambda query, candidates: torch.cdist(query, candidates)},
        {"norm_module": Scaled()},
        {"post_network_activation": OwnTanh()},
        {"pre_network_activation": nn.Sequential(nn.SiLU(), OwnTanh())},
        {"pre_network_activation": hooked(nn.SiLU())},
        {"network": nn.utils.parametrizations.weight_norm(nn.Conv2d(8, 3, 1))},
        {"network": nn.LSTM(8, 3)},
        {"network": tied},
    ],
    ids=[
        "function", "lambda", "own module", "subclass", "nested subclass", "hook", "parametrized", "not listed", "tied"
    ],
)  # fmt: skip
def test_what_cannot_be_rebuilt_is_told_apart_and_named(sampler):
    left_out = []
    plain = to_plain({"kept": 1, **sampler}, "outer", left_out)
    assert left_out == [f"outer.{next(iter(sampler))}"]
    assert plain["kept"] == 1
    assert [name for name, _ in not_saved(json.loads(json.dumps(plain)))] == list(sampler)


def test_what_config_cannot_hold_is_given_when_loading(tmp_path):
    own = {"distance_fn": furthest, "norm_module": Scaled()}
    ddn, codes = made_with(**own, pre_network_activation=nn.SiLU(), chain_dropout_prob=0.2)
    assert sorted(ddn.not_rebuildable) == ["guided_sampler_kwargs.distance_fn", "guided_sampler_kwargs.norm_module"]
    with pytest.warns(UserWarning, match=r"config\.json cannot hold guided_sampler_kwargs\.distance_fn, guided"):
        ddn.save_pretrained(tmp_path)
    with pytest.raises(
        ModelFileError, match=r'distance_fn \(function furthest\).*\{"distance_fn": \.\.\., "norm_module"'
    ):
        DDN.from_pretrained(tmp_path)
    with pytest.raises(ModelFileError, match=r'\(Scaled\).*guided_sampler_kwargs=\{"norm_module": \.\.\.\}'):
        DDN.from_pretrained(tmp_path, guided_sampler_kwargs={"distance_fn": furthest})
    own["norm_module"] = Scaled()
    with torch.no_grad():
        own["norm_module"].scale.zero_()  # the file's weights count
    loaded = DDN.from_pretrained(tmp_path, guided_sampler_kwargs=own).eval()
    assert loaded.samplers[0].chain_dropout_prob == 0.2
    assert torch.equal(loaded.decode(codes), ddn.decode(codes))
    with pytest.raises(ModelFileError, match=r"norm\.weight is missing"):
        DDN.from_pretrained(tmp_path, guided_sampler_kwargs={**own, "norm_module": nn.Linear(8, 9)})


def test_arguments_kept_are_those_at_the_time(tmp_path):
    sampler = {"count_window": 50}
    ddn = DDN(**PLAIN, guided_sampler_kwargs=sampler)
    sampler["count_window"] = "later"
    ddn.save_pretrained(tmp_path)
    assert DDN.from_pretrained(tmp_path).samplers[0].count_window == 50


def test_the_config_of_a_plain_network_is_pinned(tmp_path):
    DDN(**ARGUMENTS).save_pretrained(tmp_path)
    written = (tmp_path / "config.json").read_bytes()
    assert sha256(written).hexdigest() == "7bea558d04c91aefc96a45608d06de7d918810676b9d576531e71edd9f9ac183"


def test_a_subclass_that_passes_arguments_on(tmp_path):
    class Named(DDN):
        def __init__(self, title, **kwargs):
            super().__init__(**kwargs)
            self.title = title

    Named("x", **PLAIN).save_pretrained(tmp_path)
    assert Named.from_pretrained(tmp_path).title == "x"
    assert Named.from_pretrained(tmp_path, title="y").codebook_sizes == [5] * 4


class Inner:
    def __init__(self, width: int = 1, fn: object = None):
        self.width, self.fn = width, fn


class Outer(nn.Module, Pretrained):
    nested_arguments = {"inner": Inner}  # noqa: RUF012

    def __init__(self, inner: dict | None = None):
        super().__init__()
        self.inner, self.weight = Inner(**(inner or {})), nn.Parameter(torch.ones(1))


def test_any_module_may_have_nested_arguments(tmp_path):
    with pytest.warns(UserWarning, match=r"cannot hold inner\.fn"):
        Outer(inner={"width": 3, "fn": furthest}).save_pretrained(tmp_path)
    with pytest.raises(ModelFileError, match=r'give from_pretrained also inner=\{"fn": \.\.\.\}'):
        Outer.from_pretrained(tmp_path)
    loaded = Outer.from_pretrained(tmp_path, inner={"fn": furthest})
    assert (loaded.inner.width, loaded.inner.fn) == (3, furthest)
    with pytest.raises(InvalidInput, match="inner as a dictionary, got a list; see Inner"):
        Outer.from_pretrained(tmp_path, inner=[1])
    config = json.loads((tmp_path / "config.json").read_text())
    for value, message in (({"width": "3"}, "width is '3'"), ({"depth": 3}, "inner has no 'depth'")):
        (tmp_path / "config.json").write_text(json.dumps({**config, "inner": value}))
        with pytest.raises(ModelFileError, match=message):
            Outer.from_pretrained(tmp_path)


# arguments of from_pretrained


@pytest.mark.parametrize("dtype", [torch.float16, "bfloat16", "torch.float64", torch.float32])
def test_the_type_of_the_weights_can_be_chosen(saved, dtype):
    ddn, folder = saved
    expected = getattr(torch, str(dtype).removeprefix("torch."))
    for name in ("dtype", "torch_dtype"):
        loaded = DDN.from_pretrained(folder, **{name: dtype})
        assert loaded.start.dtype == expected
        assert loaded.samplers[0].counts.dtype == torch.long
        assert torch.equal(loaded.start, ddn.start.to(expected))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"dtype": torch.int8}, "float16, bfloat16.*torch.int8"),
        ({"torch_dtype": "auto"}, "auto"),
        ({"dtype": "nn"}, "'nn'"),
        ({"dtype": 16}, "16"),
        ({"device": "cpu"}, r"device; move .*\.to\(device\)"),
        ({"device_map": "auto"}, r"device_map; move .*\.to\(device\)"),
        ({"low_cpu_mem_usage": True}, "low_cpu_mem_usage; leave it out"),
        ({"trust_remote_code": True}, "trust_remote_code; leave it out"),
        ({"colour": 1}, "colour; a DDN takes dim, "),
        ({"map_location": "gpu"}, "map_location, got 'gpu'"),
        ({"guided_sampler_kwargs": [1]}, "dictionary, got a list"),
    ],
)
def test_what_it_does_not_take_is_named(saved, given, message):
    with pytest.raises(InvalidInput, match=message):
        DDN.from_pretrained(saved[1], **given)


@pytest.mark.parametrize(
    "name",
    ["", "a/../b", "a b/c", "\0", "a/\0", "x" * 5000, "x/" + "y" * 5000, "~", "~/x", "https://host/a/b", "/", "..",
     "/nowhere", "\ud800", "a//b/c", "no/such", " ", "config.json", "nul\nline/x", Path("no", "such")],
    ids=lambda name: repr(name)[:12],
)  # fmt: skip
def test_names_that_lead_nowhere_are_one_sentence(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ModelFileError) as raised:
        DDN.from_pretrained(name, local_files_only=True)
    assert "\n" not in str(raised.value)
    assert len(str(raised.value)) < 1000


@pytest.mark.parametrize("name", [None, 5, b"model", ["model"]])
def test_what_is_no_name_is_refused(name):
    with pytest.raises(InvalidInput, match="expected the folder or the name"):
        DDN.from_pretrained(name)


def test_a_model_in_the_cache_of_the_hub(saved, tmp_path):
    _, folder = saved
    kept = tmp_path / "cache" / "models--someone--something"
    (kept / "refs").mkdir(parents=True)
    (kept / "refs" / "main").write_text("0" * 40)
    (kept / "snapshots").mkdir()
    shutil.copytree(folder, kept / "snapshots" / ("0" * 40))
    given = {"cache_dir": tmp_path / "cache", "local_files_only": True}
    assert DDN.from_pretrained("someone/something", **given).codebook_sizes == [3, 4, 5, 6, 7, 8]
    (kept / "snapshots" / ("0" * 40) / "model.safetensors").unlink()
    (kept / "snapshots" / ("0" * 40) / "pytorch_model.bin").write_bytes(b"pickle")
    with pytest.raises(ModelFileError, match=r"pytorch_model\.bin may hold a pickle"):
        DDN.from_pretrained("someone/something", **given)


# the manifest


def test_without_a_manifest_it_warns(saved):
    _, folder = saved
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        DDN.from_pretrained(folder)
    (folder / "manifest.json").unlink()
    with pytest.warns(UserWarning, match=r"has no manifest\.json"):
        DDN.from_pretrained(folder)


@pytest.mark.parametrize(
    "manifest",
    ["folder", "pipe", "dangling", b"", b"{", b"[]", b"{}", b"\xff", b"null", b'{"config.json": "0"}', b"[" * 10**5,
     b'{"model.safetensors": 0}', b'{"model.safetensors": null}', b'{"model.safetensors": "@", "../model/x": "0"}',
     b'{"model.safetensors": "@", "/etc/hostname": "0"}', b'{"model.safetensors": "@", "": "0"}',
     b'{"model.safetensors": "@", "..": "0"}', b'{"model.safetensors": "@", "a\\u0000": "0"}',
     b'{"model.safetensors": "@", "lost": "0"}', b" " * 2**21, b'{"model.safetensors": "0", "model.safetensors": "@"}'],
    ids=lambda manifest: str(manifest)[:40],
)  # fmt: skip
def test_a_manifest_that_is_none_is_refused(saved, manifest):
    _, folder = saved
    path = folder / "manifest.json"
    path.unlink()
    if manifest == "folder":
        path.mkdir()
    elif manifest == "pipe":
        os.mkfifo(path)
    elif manifest == "dangling":
        path.symlink_to(folder / "nowhere")
    else:
        path.write_bytes(
            manifest.replace(b"@", sha256((folder / "model.safetensors").read_bytes()).hexdigest().encode())
        )
    with pytest.raises(ModelFileError, match=r"manifest\.json|as it was saved"):
        DDN.from_pretrained(folder)


def test_weights_and_config_of_two_saves_are_told_apart(saved, tmp_path):
    _, folder = saved
    DDN(**{**ARGUMENTS, "cond_dropout": 0.5}).save_pretrained(tmp_path / "other")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    names = ("config.json", "model.safetensors", "manifest.json")
    for new in (*itertools.combinations(names, 1), *itertools.combinations(names, 2)):
        for name in names:
            (folder / name).write_bytes((tmp_path / "other" / name).read_bytes() if name in new else before[name])
        with pytest.raises(ModelFileError, match="as it was saved"):
            DDN.from_pretrained(folder)


# writing


def test_a_folder_that_cannot_be_written_is_named_and_stays(saved, tmp_path, monkeypatch):
    ddn, folder = saved
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    (tmp_path / "file").write_text("theirs")
    for target in (tmp_path / "file", tmp_path / "file" / "below", "/proc/nothing", tmp_path / ("x" * 300)):
        with pytest.raises(OutputError, match="cannot write") as raised:
            ddn.save_pretrained(target)
        assert str(target) in str(raised.value)
    assert (tmp_path / "file").read_text() == "theirs"

    def full(*_, **__):
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    def read_only(*_, **__):
        raise PermissionError(13, "Permission denied")

    for name, fail, number in (
        ("discrete_distribution_network.io.safetensors_file.save_file", full, 28),
        ("discrete_distribution_network.io.atomic_folder.fsync", read_only, 13),
        ("pathlib.Path.mkdir", read_only, 13),
        ("pathlib.Path.write_text", read_only, 13),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(name, fail)
            with pytest.raises(OutputError, match=re.escape(str(folder))) as raised:
                DDN(**PLAIN).save_pretrained(folder)
        assert raised.value.errno == number
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    DDN.from_pretrained(folder)


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 256 KiB."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", place], capture_output=True)
    if mounted.returncode:
        pytest.skip("no disk may be mounted here")
    yield place
    subprocess.run(["umount", place], check=True)


def test_a_full_disk_is_named_and_the_old_model_stays(small_disk):
    DDN(**PLAIN).save_pretrained(small_disk / "model")
    before = DDN.from_pretrained(small_disk / "model").start
    large = DDN(**{**PLAIN, "dim": 64, "dim_max": 64})
    for save in (large.save_pretrained, lambda path: write_tensors(path / "model.safetensors", large.state_dict())):
        with pytest.raises(OutputError, match=r"disk/model.*No space left") as raised:
            save(small_disk / "model")
        assert raised.value.errno == 28
        assert torch.equal(DDN.from_pretrained(small_disk / "model").start, before)
        assert not list((small_disk / "model").glob(".*"))


def test_others_may_read_what_is_saved_and_a_card_of_their_own_stays(tmp_path):
    (tmp_path / "new.txt").touch()
    expected = (tmp_path / "new.txt").stat().st_mode
    ddn = DDN(**PLAIN)
    ddn.save_pretrained(tmp_path)
    write_tensors(tmp_path / "more.safetensors", ddn.state_dict())
    names = ("config.json", "model.safetensors", "manifest.json", "README.md", "more.safetensors")
    assert {(tmp_path / name).stat().st_mode for name in names} == {expected}
    (tmp_path / "README.md").write_text("mine")
    (tmp_path / "config.json.mine").write_text("mine")
    ddn.save_pretrained(tmp_path)
    assert (tmp_path / "README.md").read_text() == (tmp_path / "config.json.mine").read_text() == "mine"


def test_weights_that_could_not_be_loaded_are_not_saved(saved):
    ddn, folder = saved
    before = (folder / "model.safetensors").read_bytes()
    with torch.no_grad():
        ddn.start[0, 0] = float("nan")
    with pytest.raises(InvalidInput, match="infinity or NaN in start"):
        ddn.save_pretrained(folder)
    assert (folder / "model.safetensors").read_bytes() == before


KILLED = """
import os, sys
from discrete_distribution_network import DDN
from discrete_distribution_network.io import atomic_folder
replace, left = os.replace, int(sys.argv[2])
def end(*_):
    global left
    left -= 1
    if left < 0:
        os.kill(os.getpid(), 9)
    return True
sys.addaudithook(lambda event, details: event == "os.rename" and ".saving-" in str(details) and end())
DDN(dim=8, dim_max=8, image_size=8, codebook_size=5, cond_dropout=0.7).save_pretrained(sys.argv[1])
"""


@pytest.mark.parametrize("renamed", [0, 1, 2])
def test_what_a_killed_save_leaves_is_ignored_and_then_removed(tmp_path, renamed):
    folder = tmp_path / "model"
    DDN(**PLAIN).save_pretrained(folder)
    mine = folder / ".saving-mine"
    mine.mkdir()
    killed = subprocess.run([sys.executable, "-c", KILLED, folder, str(renamed)], timeout=120)
    assert killed.returncode == -9
    assert len(list(folder.glob(".saving-*"))) == 2
    if renamed == 0:
        assert DDN.from_pretrained(folder).cond_dropout == 0.1
    else:
        with pytest.raises(ModelFileError, match="as it was saved"):
            DDN.from_pretrained(folder)
    DDN(**PLAIN).save_pretrained(folder)
    assert list(folder.glob(".saving-*")) == [mine]
    DDN.from_pretrained(folder)
