"""Every command under all that a user, a file, a disk or a signal can do: one line, an exit code, no traceback."""

import contextlib
import dataclasses
import io
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import typing
import warnings
from pathlib import Path

import pytest
import torch
from PIL import Image
from small import small_ddn

from discrete_distribution_network.cli import exits
from discrete_distribution_network.cli import main as cli
from discrete_distribution_network.cli.commands import COMMANDS as KINDS
from discrete_distribution_network.cli.config import TrainConfig
from discrete_distribution_network.cli.train import with_preset
from discrete_distribution_network.codec.image_codec import ImageCodec

TRAIN = ["--steps", "1", "--batch-size", "2", "--device", "cpu", "--size", "8", "8", "--dim", "4", "--dim-max", "4"]
TRAIN += ["--codebook-size", "2"]

COMMANDS = {
    "train": ["images", *TRAIN],
    "quickstart": ["images", *TRAIN],
    "prior": ["run", "--minutes", "0.001", "--dim", "8"],
    "sample": ["--num", "2"],
    "guide": ["inpaint", "images/a.png", "--num", "1"],
    "reconstruct": ["images/a.png"],
    "encode": ["images/a.png"],
    "decode": ["given.ddn"],
    "tree": ["--images", "4"],
    "interpolate": ["images/a.png", "images/b.png", "--steps", "3", "--beams", "1"],
    "neighbours": ["images/a.png", "images", "--num", "2"],
    "cluster": ["images"],
    "evaluate": ["run", "--features", "none"],
    "demo": ["--no-browser"],
    "info": ["run"],
}
"""Each with arguments that work in the folder that `place` makes; `demo` would open its page."""

QUICK = [name for name in COMMANDS if name != "demo"]
WITH_MODEL = [name for name in COMMANDS if name not in ("train", "quickstart")]
PICTURES = ["sample", "guide", "reconstruct", "tree", "interpolate", "neighbours", "cluster"]
OF_FILES = {
    "guide": ["inpaint", "FILE"],
    "reconstruct": ["FILE"],
    "encode": ["FILE"],
    "interpolate": ["FILE", "images/a.png"],
    "neighbours": ["FILE", "images"],
}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A run, images and codes."""
    folder = tmp_path_factory.mktemp("made")
    ddn = small_ddn(channels=3, codebook_size=2).eval()
    (folder / "images").mkdir()
    for name in "abcdef":
        Image.effect_noise((12, 10), 90).convert("RGB").save(folder / "images" / f"{name}.png")
    options = TrainConfig("images", size=(8, 8), dim=4, dim_max=8, codebook_size=2, steps=1, device="cpu")
    run = folder / "runs" / "run"
    ddn.save_pretrained(run / "model")
    with_preset(options).save(run / "config.json")
    (folder / "given.ddn").write_bytes(ImageCodec(ddn).compress_batch(torch.rand(2, 3, 8, 8)))
    (folder / "run").symlink_to("runs/run")
    return folder


@pytest.fixture
def place(made, tmp_path, monkeypatch):
    shutil.copytree(made, tmp_path / "place", symlinks=True)
    monkeypatch.chdir(tmp_path / "place")
    return tmp_path / "place"


@pytest.fixture(autouse=True)
def _no_page_and_no_hub(monkeypatch):
    """`ddn demo` ends once it would serve."""
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("discrete_distribution_network.cli.demo.load_demos", _page)


def _page(model, device):
    from discrete_distribution_network.cli.runs import load_model, model_folder

    load_model(model_folder(Path("fashion-mnist") if model is None else model), device)
    raise SystemExit(0)


@pytest.fixture
def ends(capsys):
    """How a command ends: its exit code and what it told."""

    def ended(*arguments):
        capsys.readouterr()
        code = 0
        try:
            cli.main([str(argument) for argument in arguments])
        except SystemExit as end:
            code = end.code or 0
        told = capsys.readouterr()
        assert "Traceback" not in told.out + told.err
        if code == 2 and arguments and "full helptext" not in told.err:
            assert told.err.splitlines()[-1].startswith("ddn: "), told.err
            assert len(told.err.splitlines()[-1]) < 1000
        else:
            assert code in (0, 2, 130, 141, 143), told.err
        return code, told.err + told.out

    return ended


@pytest.mark.parametrize("name", QUICK)
def test_as_it_should_be(place, ends, name):
    assert ends(name, *COMMANDS[name])[0] == 0


def with_model(name, model):
    """The arguments of a command with another model."""
    arguments = [argument for argument in COMMANDS[name] if argument != "run"]
    return [name, *arguments, *([model] if name in ("prior", "evaluate", "info") else ["--model", model])]


@pytest.mark.parametrize("name", WITH_MODEL)
def test_a_model_that_is_missing_or_damaged(place, ends, name):
    for model in ("nowhere", "images", "given.ddn", "images/a.png", "no\udcffwhere", "\0", "", "a/b"):
        if model or name not in ("demo",):
            code, told = ends(*with_model(name, model))
            assert (code, model == "" or "ddn: expected" in told) == (2, True), (model, told)
    weights, config, own = (
        place / "run" / "model" / part for part in ("model.safetensors", "config.json", "manifest.json")
    )
    whole = weights.read_bytes()
    for damage in (whole[:-7], whole[:9], b"", b"\xff" * 64, whole[:-1] + bytes([whole[-1] ^ 1])):
        weights.write_bytes(damage)
        assert ends(*with_model(name, "run"))[0] == 2
    weights.write_bytes(whole)
    own.unlink()
    for damage in (b"", b"{", b"[]", b"\xff", b'{"dim": 1e400}', b'{"dim": "\\u0000"}', b"[" * 100_000, b"9" * 10_000):
        config.write_bytes(damage)
        assert ends(*with_model(name, "run"))[0] == 2, damage[:20]
    config.unlink()
    config.mkdir()
    assert ends(*with_model(name, "run"))[0] == 2


@pytest.mark.parametrize("name", OF_FILES)
def test_files_that_are_no_images(place, ends, name):
    Path("text.png").write_text("no image")
    Path("empty.png").write_bytes(b"")
    Path("cut.png").write_bytes(Path("images/a.png").read_bytes()[:60])
    Path("nothing").mkdir()
    Path("loop.png").symlink_to("loop.png")
    for file in (
        "nowhere.png",
        "text.png",
        "empty.png",
        "cut.png",
        "nothing",
        "loop.png",
        "\0",
        "a" * 300,
        "/dev/null",
    ):
        code, told = ends(name, *[file if argument == "FILE" else argument for argument in OF_FILES[name]])
        assert code == 2, (file, told)


@pytest.mark.parametrize(
    "damage", [b"", b"no codes", b"{", b'{"images": 1}', b'{"images": [{"name": "a", "codes": 7}]}']
)
def test_codes_that_are_none(place, ends, damage):
    Path("given.ddn").write_bytes(damage)
    assert ends("decode", "given.ddn")[0] == 2


@pytest.mark.parametrize("name", ["\\u0000", "\\ud800", "a/../b", "\\n", "x" * 400])
def test_codes_of_odd_names(place, ends, name):
    assert ends("encode", "images/a.png", "-o", "codes.json")[0] == 0
    codes = Path("codes.json").read_text().replace('"a"', f'"{name}"')
    Path("codes.json").write_text(codes)
    assert f'"{name}"' in codes
    ends("decode", "codes.json")
    assert {path.parent for path in Path().rglob("*.png")} <= {Path("images"), Path("decoded")}


@pytest.mark.parametrize("name", QUICK)
def test_data_sets_that_are_none(place, ends, name):
    if (
        "--dataset" not in told_options(name)
        and "dataset" not in COMMANDS[name]
        and name not in ("train", "quickstart")
    ):
        return
    Path("nothing").mkdir()
    Path("one").mkdir()
    shutil.copy("images/a.png", "one")
    for dataset in ("nowhere", "nothing", "one", "given.ddn", "images/a.png", "\0", "torchvision:Nothing", "no\udcff"):
        rest = COMMANDS[name][1:] if name in ("train", "quickstart") else [*COMMANDS[name], "--dataset"]
        arguments = [dataset, *rest] if name in ("train", "quickstart") else [*rest, dataset]
        code, told = ends(name, *arguments)
        assert code == 2, (dataset, told)


def told_options(name):
    return [f"--{field.name.replace('_', '-')}" for field in dataclasses.fields(KINDS[name])]


@pytest.mark.parametrize("name", PICTURES)
def test_places_that_cannot_be_written(place, ends, name, monkeypatch):
    monkeypatch.setattr("discrete_distribution_network.cli.runs.load_model", None)  # told before any work
    monkeypatch.setattr("discrete_distribution_network.cli.guide.load_model", None)
    Path("folder.png").mkdir()
    for out in ("nowhere/x.png", "images", "folder.png", "picture", "picture.txt", "images/a.png/x.png", ".", "\0.png"):
        code, told = ends(name, *COMMANDS[name], "--out", out)
        assert (code, "--out" in told or out == "\0.png") == (2, True), (out, told)


@pytest.mark.parametrize("name", QUICK)
def test_a_full_disk(place, ends, name):
    """What was there stays, nothing half-written is left, and the path is told."""
    if name in ("info",):
        return
    outputs = {
        "train": "out",
        "quickstart": "out",
        "decode": "out",
        "encode": "codes.ddn",
        "prior": None,
        "evaluate": None,
    }
    out = outputs.get(name, "old.png")
    arguments = [name, *COMMANDS[name], *([] if out is None else ["--out", out])]
    old = None
    if out is not None and "." in out:
        assert ends(*arguments)[0] == 0
        old = Path(out).read_bytes()
    before = set(place.rglob("*"))
    with limited(20):
        code, told = ends(*arguments)
    assert code == 2, told
    assert "cannot write" in told
    if old is not None:
        assert Path(out).read_bytes() == old
        assert set(place.rglob("*")) == before


@contextlib.contextmanager
def limited(size):
    """No file may become larger than this, in bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def numbers():
    """Every option of every command that is a number, or several."""
    for name in COMMANDS:
        hints = typing.get_type_hints(KINDS[name])
        for field in dataclasses.fields(KINDS[name]):
            kinds = {int, float} & {hints[field.name], *typing.get_args(hints[field.name])}
            if kinds and name not in ("demo", "quickstart"):  # which has the options of train
                yield name, f"--{field.name.replace('_', '-')}", float in kinds


@pytest.mark.parametrize(("name", "option", "real"), list(numbers()))
def test_numbers_that_make_no_sense(place, ends, name, option, real):
    for value in ("-1", "0", str(2**63), "9" * 23, *(["nan", "inf", "-inf"] if real else [])):
        several = [value] * (2 if option == "--size" else 1)
        ends(name, *without(COMMANDS[name], option), option, *several)
    for value in ("x", "", "1.5.5"):
        assert ends(name, *without(COMMANDS[name], option), option, value)[0] == 2


def without(arguments, option):
    if option not in arguments:
        return arguments
    place = arguments.index(option)
    return arguments[:place] + arguments[place + (3 if option == "--size" else 2) :]


@pytest.mark.parametrize("name", [name for name in COMMANDS if name != "info"])
def test_seeds_and_devices(place, ends, name):
    if "--seed" in told_options(name):
        for seed in (-1, 2**64, 9 * 10**22):
            assert "--seed" in ends(name, *COMMANDS[name], "--seed", seed)[1]
        assert ends(name, *COMMANDS[name], "--seed", 2**64 - 1)[0] == 0
    for device in ("abacus", "", "cuda:99", "\0", "é") + (() if torch.cuda.is_available() else ("cuda",)):
        code, told = ends(name, *COMMANDS[name], "--device", device)
        assert code == 2, (device, told)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("name", COMMANDS)
def test_signals(place, ends, name, number, monkeypatch):
    """Of a training that has begun the tests of the trainer tell more."""
    whole = "discrete_distribution_network.cli.train.with_preset"
    loads = "discrete_distribution_network.ddn.DDN.from_pretrained"

    def interrupted(*_, **__):
        os.kill(os.getpid(), number)

    monkeypatch.setattr(whole if name in ("train", "quickstart") else loads, interrupted)
    before = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
    code, told = ends(name, *COMMANDS[name])
    assert code == 128 + number
    assert told.count("\n") <= 1
    assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)] == before


class Output(io.TextIOWrapper):
    """A standard output of this process over a descriptor."""

    def __init__(self, descriptor, encoding="utf-8", errors="strict"):
        super().__init__(io.BufferedWriter(io.FileIO(descriptor, "w")), encoding=encoding, errors=errors)


def unread():
    reading, writing = os.pipe()
    os.close(reading)
    return writing


OUTPUTS = {
    "closed": (lambda: None, 0),
    "unread": (lambda: Output(unread()), 141),
    "full": (lambda: Output(os.open("/dev/full", os.O_WRONLY)), 2),
    "ascii": (lambda: Output(os.open("/dev/null", os.O_WRONLY), "ascii"), 0),
    "latin-1": (lambda: Output(os.open("/dev/null", os.O_WRONLY), "latin-1"), 0),
}


@pytest.mark.parametrize("kind", OUTPUTS)
@pytest.mark.parametrize("name", QUICK)
def test_outputs(place, ends, name, kind, monkeypatch):
    opened, code = OUTPUTS[kind]
    odd = Path("images/\udcff \u4e2d.png")
    shutil.move("images/a.png", odd)
    output = opened()
    monkeypatch.setattr(sys, "stdout", output)
    monkeypatch.setattr(sys, "__stdout__", output)
    arguments = [str(odd) if argument == "images/a.png" else argument for argument in COMMANDS[name]]
    assert ends(name, *arguments)[0] == code
    if output is not None:
        output.close()  # raises if anything is left that cannot be written


ODD = "\udcff"
"""What Python makes of a byte that is no UTF-8."""


def test_names_that_are_no_utf_8(place, ends):
    images = f"im{ODD}ages"
    shutil.move("images", images)
    assert ends("train", images, *TRAIN)[0] == 0
    assert json.loads(Path("runs/train/config.json").read_text())["dataset"] == images
    assert ends("train", f"{images}/", "--resume", "--steps", "2")[0] == 0
    assert ends("prior", "runs/train", "--minutes", "0.001", "--dim", "8")[0] == 0
    assert ends("evaluate", "runs/train", "--features", "none")[0] == 0
    assert ends("sample", "--num", "2", "--out", f"{ODD}.png", "--each", f"each{ODD}")[0] == 0
    assert ends("reconstruct", images, "--each", f"each{ODD}")[0] == 0
    assert ends("encode", images, "-o", f"{ODD}.ddn")[0] == 0
    assert ends("encode", images, "-o", f"{ODD}.json")[0] == 0
    for codes in (f"{ODD}.ddn", f"{ODD}.json"):
        assert ends("decode", codes, "-o", f"{ODD}{codes}d")[0] == 0


def test_a_run_whose_name_is_no_utf_8(place, ends):
    out = f"o{ODD}ut"
    assert ends("train", "images", *TRAIN, "--out", out)[0] == 0
    assert ends("train", "images", "--resume", "--out", out, "--steps", "2")[0] == 0
    assert ends("info", out)[0] == 0
    assert ends("sample", "--model", out, "--num", "2")[0] == 0
    assert ends("prior", out, "--minutes", "0.001", "--dim", "8")[0] == 0
    assert ends("prior", out, "--minutes", "0.001", "--dim", "8", "--kind", "codes")[0] == 0


def test_no_arguments_unknown_ones_and_the_version(ends):
    code, told = ends()
    assert code == 2
    assert all(name in told for name in COMMANDS)
    assert ends("smaple")[0] == ends("sample", "--nmu", "3")[0] == ends("sample", "\udcff")[0] == 2
    code, told = ends("--version")
    assert code == 0
    assert told.startswith("ddn ")
    assert "\0" not in told
    assert told.strip().split()[1][0].isdigit()


def ddn(*arguments, folder, closed="", **options):
    """`ddn` in a process of its own."""
    command = [sys.executable, "-m", "discrete_distribution_network", *map(str, arguments)]
    if closed:
        command = ["sh", "-c", f'"$@" {closed}', "sh", *command]
    return subprocess.Popen(
        command, cwd=folder, stderr=subprocess.PIPE, stdout=options.pop("stdout", subprocess.PIPE), text=True, **options
    )


@pytest.mark.parametrize(
    ("closed", "code"), [(">&-", 0), ("<&-", 0), ("2>&-", 0), (">&- <&- 2>&-", 0), (">/dev/full", 2), ("| true", 0)]
)
def test_a_process_whose_streams_are_closed(place, closed, code):
    done = ddn("info", "run", folder=place, closed=closed)
    assert "Traceback" not in done.communicate(timeout=60)[1]
    assert done.returncode == code


def test_help_and_version_are_quick_and_may_be_cut(place):
    for arguments in (["--help"], ["train", "--help"], ["--version"], []):
        done = ddn(*arguments, folder=place, stdout=subprocess.PIPE, env={**os.environ, "PYTHONIOENCODING": "ascii"})
        done.stdout.close()
        said = done.stderr.read()
        assert "Traceback" not in said
        assert "Exception ignored" not in said
        assert done.wait(60) in (0, 2, 141)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("after", [1.0, 2.5])
def test_a_process_that_is_interrupted(place, number, after):
    running = ddn("sample", "--num", 100_000, folder=place)
    with contextlib.suppress(subprocess.TimeoutExpired):
        running.wait(after)
    running.send_signal(number)
    _out, said = running.communicate(timeout=60)
    assert running.returncode in (128 + number, -number), said
    assert len(said.splitlines()) <= 1, said
    assert not list(place.glob(".saving-*"))


def test_a_warning_is_one_line_of_the_command():
    before = warnings.formatwarning
    with exits.command("ddn"):
        assert warnings.formatwarning("two\nlines", UserWarning, "file.py", 3) == "ddn: two lines\n"
    assert warnings.formatwarning is before
