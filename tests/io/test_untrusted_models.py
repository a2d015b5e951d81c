"""Model files that say anything at all: one typed error, in little time and memory."""

import inspect
import json
import os
import shutil
import struct
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from discrete_distribution_network import DDN, GuidedSampler, Prior
from discrete_distribution_network.cli.runs import CLASSIFIER, classifier_of
from discrete_distribution_network.errors import ModelFileError
from discrete_distribution_network.evaluation.classifier import Classifier
from discrete_distribution_network.io.atomic_folder import sha256
from discrete_distribution_network.io.pretrained import RELEASED
from discrete_distribution_network.io.safetensors_file import load_strictly
from discrete_distribution_network.prior.entropy_model import EntropyModel
from discrete_distribution_network.prior.transformer import CodeTransformer

PLAIN = {"dim": 8, "dim_max": 8, "image_size": 8, "channels": 1, "codebook_size": 5}

VALUES = [
    *("0", "-1", "3", "300000", "60000000", "1000000000000", "9223372036854775807", "1" * 400, "1" * 10_000, "0.5"),
    *("1e308", "1e999", "NaN", "Infinity", "-Infinity", "true", "null", '"8"', '"\\ud800"', '"\\u0000"', "[]", "{}"),
    *("[8]", "[1000000000, 1000000000]", "[4000, 3, 4, 2]", "[null]", "[[1]]", '["x"]', '{"dim": 1}'),
    "[" * 100_000 + "]" * 100_000,
    '{"a":' * 600 + "1" + "}" * 600,
    "[" + "0," * 200_000 + "0]",
    '{"torch.nn": "Linear", "in_features": 16, "out_features": 10000000000}',
    '{"torch.nn": "Conv2d", "in_channels": 16, "out_channels": 1, "kernel_size": [30000, 30000]}',
    json.dumps({"torch.nn": "Sequential", "modules": [{"torch.nn": "Tanh"}] * 9_000}),
    '{"torch.nn": "Sequential", "modules": [1]}',
    '{"torch.nn": "Sequential", "modules": [{"torch.nn": "Tanh"}], "names": 5}',
    '{"torch.nn": "functional"}',
    '{"torch.nn": "LazyLinear", "out_features": 1}',
    '{"torch.nn": ["Tanh"]}',
    '{"torch.nn": "Tanh", "inplace": true}',
    '{"not saved": 1}',
]
"""As JSON, in the place of any value."""

ATTEMPTS = """
import json, resource, sys, time, warnings
from pathlib import Path
from discrete_distribution_network import DDN
from discrete_distribution_network.prior.transformer import CodeTransformer
from discrete_distribution_network.errors import DDNError
from discrete_distribution_network.prior.base import read_config
from discrete_distribution_network.prior.heads import Prior
warnings.simplefilter("ignore")
folder, (file, load, texts) = Path(sys.argv[1]), json.loads(Path(sys.argv[2]).read_text())
ddn = DDN.from_pretrained(folder)
kinds = {"ddn": lambda: DDN.from_pretrained(folder), "heads": lambda: Prior.load(folder, ddn),
    "transformer": lambda: CodeTransformer.load(folder, ddn)}
kinds[load]()
before, slowest, wrong = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, 0.0, []
for text in texts:
    (folder / file).write_text(text)
    began = time.process_time()
    try:
        kinds[load]()
    except DDNError as error:
        if chr(10) in str(error) or len(str(error)) > 5000 or str(folder) not in str(error):
            wrong.append([text[:200], str(error)[:500]])
    except Exception as error:
        wrong.append([text[:200], repr(error)[:500]])
    slowest = max(slowest, time.process_time() - began)
grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
print(json.dumps({"grown": grown / 1024, "slowest": slowest, "wrong": wrong, "tried": len(texts)}))
"""


def attempted(folder, file, load, texts):
    """What came of loading with these texts in the place of a JSON file: memory in MiB, time in s, wrong errors."""
    (folder / "texts").write_text(json.dumps([file, load, texts]))
    command = [sys.executable, "-c", ATTEMPTS, folder, folder / "texts"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def mutated(config):
    """The texts of a JSON object with each value replaced by a third of `VALUES`, another third for the next."""
    for number, name in enumerate(config):
        for value in VALUES[number % 3 :: 3]:
            yield json.dumps({**config, name: "@"}).replace('"@"', value)


def require_harmless(found):
    assert not found["wrong"], found["wrong"][:3]
    assert found["grown"] < 100
    assert found["slowest"] < 5


def test_any_value_in_config_json_is_one_error_that_costs_nothing(tmp_path):
    folder = shutil.copytree(RELEASED / "fashion-mnist", tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    texts = list(mutated(config))
    for name in [*inspect.signature(GuidedSampler).parameters, "colour"]:
        for value in VALUES[::9] if name != "norm_module" else VALUES:
            texts.append(json.dumps({**config, "guided_sampler_kwargs": {name: "@"}}).replace('"@"', value))
    texts += ["", "{", "null", "5", '"x"', "[]", "\ufeff{}", '{"dim": 8, "dim": 9}', "x" * 2**21]
    texts += [json.dumps({**config, "colour": 1}), *VALUES]
    require_harmless(attempted(folder, "config.json", "ddn", texts))


@pytest.mark.parametrize("kind", [Prior, CodeTransformer])
def test_any_value_in_prior_json_too(tmp_path, kind):
    ddn = DDN(**PLAIN, levels_per_resolution=1)
    ddn.save_pretrained(tmp_path)
    kind(ddn, 8, 3).save(tmp_path)
    config = json.loads((tmp_path / "prior.json").read_text())
    texts = [*mutated({**config, "dropout": 0, "alone": 0, "ddn": 0}), "", "[]", "{}", *VALUES]
    require_harmless(attempted(tmp_path, "prior.json", kind.kind, texts))


def test_a_large_network_that_no_file_holds_is_refused_before_it_is_made(tmp_path):
    DDN(**PLAIN).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    huge = [
        {"codebook_size": 6 * 10**7},
        {"num_resnet_blocks": 300_000},
        {"levels_per_resolution": 1000},
        {"levels_per_resolution": 10**9},
        {"recurrence": 10**9, "levels_per_resolution": None},
        {"image_size": 10**9},
        {"dim": 10**6, "dim_max": 10**6},
        {"num_classes": 10**9},
        {"channels": 10**9},
        {"use_adversarial_loss": True, "discr_base_dim": 10**5},
        {"codebook_size": 10**8, "guided_sampler_kwargs": {"network": {"torch.nn": "Linear", "in_features": 8,
            "out_features": 1}, "post_network_activation": {"torch.nn": "Tanh"}}},
    ]  # fmt: skip
    found = attempted(tmp_path, "config.json", "ddn", [json.dumps({**config, **one}) for one in huge])
    require_harmless(found)
    assert found["tried"] == len(huge)


def altered(path, change):
    """Rewrite a safetensors file with its tensors changed in place, by name."""
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


@pytest.fixture
def everything(tmp_path):
    """A model with all that may lie beside it, and what loads each file of weights."""
    ddn = DDN(**PLAIN)
    ddn.save_pretrained(tmp_path)
    Prior(ddn, 8).save(tmp_path)
    EntropyModel.of(ddn, 8, 8).exact().save(tmp_path)
    save_file(Classifier(1, 4).state_dict(), tmp_path / CLASSIFIER)
    (tmp_path / "manifest.json").unlink()
    loads = {
        "model.safetensors": lambda: DDN.from_pretrained(tmp_path),
        "prior.safetensors": lambda: Prior.load(tmp_path, ddn),
        "code_prior.safetensors": lambda: EntropyModel.load(tmp_path, ddn),
        CLASSIFIER: lambda: classifier_of(ddn, tmp_path),
    }
    for load in loads.values():
        load()
    return tmp_path, loads


FILES = ["model.safetensors", "prior.safetensors", "code_prior.safetensors", CLASSIFIER]


@pytest.mark.filterwarnings("ignore:.*has no manifest")
@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("kind", [torch.int8, torch.int64, torch.bool, torch.complex64, torch.float8_e4m3fn])
def test_weights_of_another_kind_of_number_are_refused(everything, file, kind):
    folder, loads = everything

    def change(tensors):
        name = next(name for name in tensors if name.endswith("weight"))
        tensors[name] = tensors[name].to(kind)

    altered(folder / file, change)
    with pytest.raises(ModelFileError, match=rf"{file}.*weight holds numbers of type"):
        loads[file]()


@pytest.mark.filterwarnings("ignore:.*has no manifest")
@pytest.mark.parametrize("file", [file for file in FILES if "code" not in file])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 1e300])
def test_weights_that_are_not_finite_are_refused(everything, file, value):
    folder, loads = everything

    def change(tensors):
        name = next(name for name in tensors if name.endswith("weight"))
        tensors[name] = tensors[name].double() if value == 1e300 else tensors[name]
        tensors[name].flatten()[-1] = value

    altered(folder / file, change)
    with pytest.raises(ModelFileError, match=rf"finite weights in .*{file}, got infinity or NaN in .*weight"):
        loads[file]()


@pytest.mark.filterwarnings("ignore:.*has no manifest")
@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_any_floating_type_are_read(everything, kind):
    folder, loads = everything
    for file in FILES:
        if "code" not in file:
            altered(
                folder / file,
                lambda tensors: tensors.update({n: t.to(kind) for n, t in tensors.items() if t.is_floating_point()}),
            )
    prior = json.loads((folder / "prior.json").read_text())
    (folder / "prior.json").write_text(json.dumps({**prior, "model": sha256(folder / "model.safetensors")}))
    for load in loads.values():
        kinds = {tensor.dtype for tensor in load().state_dict().values()}
        assert kinds <= {torch.float32, torch.float64, torch.long}


def test_counts_below_zero_are_refused(tmp_path):
    ddn = DDN(**PLAIN)
    ddn.samplers[2].counts[3] = -1
    with pytest.raises(ModelFileError, match=r"negative counts in .*sampler\.counts"):
        load_strictly(DDN(**PLAIN), ddn.state_dict(), "somewhere")


@pytest.mark.filterwarnings("ignore:.*has no manifest")
@pytest.mark.parametrize("file", FILES)
def test_tensors_without_bytes_cost_nothing(everything, file):
    folder, loads = everything
    names = list(load_file(folder / file))
    kind = torch.int16 if "code" in file else torch.float32
    for shape in ((10**12, 0), (10**6, 10**6, 0), (0, 10**12), (0,)):
        save_file({name: torch.empty(shape, dtype=kind) for name in names}, folder / file)
        with pytest.raises(ModelFileError, match=file):
            loads[file]()


def written(header, data=b"\0" * 64):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def entry(start=0, end=64, shape=(16,), dtype="F32"):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [start, end]}


@pytest.mark.filterwarnings("ignore:.*has no manifest")
@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\0" * 7,
        struct.pack("<Q", 2**63) + b"{}",
        struct.pack("<Q", 90_000_000) + b"{}",
        written(b"{"),
        written(b"[" * 100_000),
        written(b'{"a":' * 50_000),
        written({"head.bias": entry(), "start": entry()}),  # overlapping
        written({"head.bias": entry(0, 2**62, (2**60,))}),
        written({"head.bias": entry(shape=(10**9, 10**9))}),
        written({"head.bias": entry(shape=(-1,))}),
        written({"head.bias": entry(shape=[True])}),
        written({"head.bias": entry(dtype="F1")}),
        written({"head.bias": entry(64, 0)}),
        written(b'{"head.bias": %s, "head.bias": %s}' % ((json.dumps(entry()).encode(),) * 2)),
        written({"head.bias": entry()}, b""),
        written({"\0": entry()}),
        written({"__metadata__": {"a": 5}, "head.bias": entry()}),
        written({f"levels.{place}.first.weight": entry(0, 0, (0, 9)) for place in range(5_000)}, b""),
    ],
    ids=lambda content: f"{content[8:40]!r}",
)
def test_headers_that_lie_are_refused(everything, file, content):
    folder, loads = everything
    (folder / file).write_bytes(content)
    with pytest.raises(ModelFileError, match=file):
        loads[file]()


@pytest.mark.filterwarnings("ignore:.*has no manifest")
@pytest.mark.parametrize("file", [*FILES, "config.json", "prior.json"])
def test_what_is_no_file_is_refused(everything, file):
    folder, loads = everything
    load = loads[{"config.json": "model.safetensors", "prior.json": "prior.safetensors"}.get(file, file)]
    if file == CLASSIFIER:  # where there is none it is trained
        load = lambda: classifier_of(DDN(**PLAIN), folder, folder / CLASSIFIER)  # noqa: E731
    (folder / file).unlink()
    os.mkfifo(folder / file)
    with pytest.raises(ModelFileError, match="found no"):
        load()
    (folder / file).unlink()
    (folder / file).mkdir()
    with pytest.raises(ModelFileError, match="found no"):
        load()


def test_a_network_of_heads_comes_back_as_one_stack(tmp_path):
    ddn = DDN(**{**PLAIN, "codebook_size": 3}, guided_sampler_kwargs={"network": nn.Conv2d(8, 1, 3, padding=1)})
    ddn.save_pretrained(tmp_path)
    loaded = DDN.from_pretrained(tmp_path)
    assert loaded.samplers[0].keys.stacked[0].shape == (3, 1, 8, 3, 3)
    assert loaded.samplers[0].keys.stacked[0].is_contiguous()
