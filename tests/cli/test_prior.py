"""`ddn prior`: what a signal, a full disk or a slip leaves, and how it goes on."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from commands import refused, run
from PIL import Image
from small import digits, small_ddn

from discrete_distribution_network.cli import prior as prior_run
from discrete_distribution_network.ddn import DDN
from discrete_distribution_network.errors import DataError
from discrete_distribution_network.io import atomic_file
from discrete_distribution_network.io.pretrained import RELEASED
from discrete_distribution_network.prior.base import CONFIG, WEIGHTS
from discrete_distribution_network.prior.entropy_model import ENTROPY_MODEL, EntropyModel
from discrete_distribution_network.prior.heads import Prior
from discrete_distribution_network.prior.transformer import CodeTransformer
from discrete_distribution_network.training.fitting import fit, hold_out

OF = {"heads": Prior, "transformer": CodeTransformer, "codes": EntropyModel}
FAST = ["--dim", "8", "--dataset", "pictures", "--device", "cpu"]


@pytest.fixture(autouse=True)
def places(tmp_path, monkeypatch):
    """A model folder that no training wrote, and a folder of pictures without labels."""
    monkeypatch.chdir(tmp_path)
    small_ddn(patch_size=[None, 4]).save_pretrained("model")
    Path("pictures").mkdir()
    for index, image in enumerate(digits(30)):
        Image.fromarray(image[0].numpy()).save(f"pictures/{index:02d}.png")


@pytest.fixture(params=OF)
def kind(request):
    return request.param


def files(kind):
    return [Path("model", name) for name in ([ENTROPY_MODEL] if kind == "codes" else [WEIGHTS, CONFIG])]


def left():
    """What lies in the model's folder beside the model."""
    model = {"README.md", "config.json", "model.safetensors", "manifest.json"}
    return {path.name for path in Path("model").iterdir()} - model


def stopped(capsys, monkeypatch, *arguments, after, signum=signal.SIGTERM):
    """A `ddn prior` that gets a signal as the bits of so many batches were asked for; gives its line."""
    with monkeypatch.context() as patch:
        times = []
        for of in OF.values():

            def bits(self, *given, original=of.bits):
                times.append(1)
                if len(times) == after:
                    os.kill(os.getpid(), signum)
                return original(self, *given)

            patch.setattr(of, "bits", bits)
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            run("prior", "model", *arguments)
    assert stop.value.code == 128 + signum
    line = [line for line in capsys.readouterr().err.splitlines() if "done," not in line]
    assert len(line) == 1
    return line[0]


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_keeps_what_was_done_and_resume_goes_on_exactly(kind, signum, monkeypatch, capsys):
    run("prior", "model", "--kind", kind, "--steps", "9", *FAST)
    whole = [path.read_bytes() for path in files(kind)]
    assert left() == {path.name for path in files(kind)}
    for path in files(kind):
        path.unlink()
    said = stopped(capsys, monkeypatch, "--kind", kind, "--steps", "9", *FAST, after=4, signum=signum)
    assert f"{signum.name} after 4 steps; go on with: ddn prior model --kind {kind} --resume" in said
    assert left() == {f"fitting-{kind}"}
    assert "--resume" in refused(capsys, "prior", "model", "--kind", kind, *FAST)
    run("prior", "model", "--resume")
    told = capsys.readouterr().out
    assert "from step-00000004 on" in told
    assert "after 9 steps" in told
    assert [path.read_bytes() for path in files(kind)] == whole
    assert left() == {path.name for path in files(kind)}
    assert "found none" in refused(capsys, "prior", "model", "--resume")


def test_a_prior_that_was_measured_is_of_use_at_once(monkeypatch, capsys):
    monkeypatch.setattr(prior_run, "fit", lambda *given, **how: fit(*given, evaluate_every=2, **how))
    said = stopped(capsys, monkeypatch, "--steps", "9", *FAST, after=6)
    assert "the best so far is in model" in said
    assert left() == {WEIGHTS, CONFIG, "fitting-heads"}
    run("sample", "--model", "model", "--num", "2")
    # one that is there is not replaced by a worse one, and stays until the fit is finished
    before = Path("model", WEIGHTS).read_bytes()
    said = stopped(capsys, monkeypatch, "--steps", "9", "--overwrite", *FAST, after=6)
    assert "best so far" not in said
    assert Path("model", WEIGHTS).read_bytes() == before
    # of another model it is of no use
    small_ddn(seed=9, patch_size=[None, 4]).save_pretrained("model")
    assert "another model" in refused(capsys, "prior", "model", "--resume")
    assert "best so far" in stopped(capsys, monkeypatch, "--steps", "9", "--overwrite", *FAST, after=6)


def test_a_code_prior_is_replaced_by_a_finished_one_alone(monkeypatch, capsys):
    stopped(capsys, monkeypatch, "--kind", "codes", "--steps", "900", *FAST, after=510)
    assert left() == {"fitting-codes"}


def test_a_signal_while_images_are_encoded_ends_in_one_line(monkeypatch, capsys):
    original = DDN.encode

    def encode(self, images):
        os.kill(os.getpid(), signal.SIGTERM)
        return original(self, images)

    with monkeypatch.context() as patch:
        patch.setattr(DDN, "encode", encode)
        with pytest.raises(SystemExit) as stop:
            run("prior", "model", "--kind", "codes", *FAST)
    assert stop.value.code == 143
    assert "SIGTERM before the first step" in capsys.readouterr().err
    assert left() == set()


def test_the_fits_own_options_hold_and_others_are_refused(monkeypatch, capsys):
    stopped(capsys, monkeypatch, "--kind", "transformer", "--steps", "9", "--seed", "3", *FAST, after=4)
    for option, value in (("--dim", "16"), ("--seed", "0"), ("--dataset", "other")):
        assert f"expected {option} as the fit began" in refused(capsys, "prior", "model", "--resume", option, value)
    assert "of heads" in refused(capsys, "prior", "model", "--resume", "--kind", "heads")
    assert "got both" in refused(capsys, "prior", "model", "--resume", "--overwrite")
    stopped(capsys, monkeypatch, "--steps", "9", *FAST, after=4)
    assert "--kind heads or transformer" in refused(capsys, "prior", "model", "--resume")
    run("prior", "model", "--resume", "--kind", "transformer", "--steps", "5", "--dataset", "./pictures")
    assert "after 5 steps" in capsys.readouterr().out
    monkeypatch.chdir("pictures")  # the data set is found from anywhere
    run("prior", "../model", "--resume", "--minutes", "0.0001")
    assert "steps; it is in ../model" in capsys.readouterr().out


def test_a_process_that_is_ended_from_outside():
    command = [sys.executable, "-m", "discrete_distribution_network", "prior", "model", *FAST]
    process = subprocess.Popen([*command, "--minutes", "9"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert "fitting" in process.stdout.readline()
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 143
    assert "go on with" in said
    assert "Traceback" not in said
    done = subprocess.run(
        [*command, "--resume", "--minutes", "0.001"], capture_output=True, text=True, timeout=60, check=True
    )
    assert "it is in model" in done.stdout


def test_what_cannot_be_is_said_before_the_data_is_read(monkeypatch, capsys):
    monkeypatch.setattr(prior_run, "open_dataset", None)
    for option, value in (
        ("--minutes", "0"),
        ("--minutes", "-1"),
        ("--minutes", "nan"),
        ("--minutes", "inf"),
        ("--steps", "0"),
        ("--dim", "0"),
        ("--dim", "-3"),
        ("--dim", "1000000000"),
        ("--device", "abacus"),
    ):
        assert option.removeprefix("--") in refused(capsys, "prior", "model", "--dataset", "pictures", option, value)
    assert "by-class" in refused(capsys, "prior", "model", "--kind", "codes", "--by-class")
    with monkeypatch.context() as patch:
        patch.setattr(atomic_file.Path, "touch", no_space)
        assert "cannot write model" in refused(capsys, "prior", "model", *FAST)
    assert "expected a run or a model folder" in refused(capsys, "prior", "nowhere")


def no_space(*_, **__):
    raise OSError(errno.EROFS, "Read-only file system")


def test_a_released_model_is_copied_first(capsys):
    for name in ("fashion-mnist", RELEASED / "fashion-mnist-by-class"):
        said = refused(capsys, "prior", name, "--dataset", "pictures")
        assert f"cp -r {RELEASED / Path(name).name} my-{Path(name).name}" in said
    shutil.copytree(RELEASED / "fashion-mnist", "my-fashion-mnist")
    run("prior", "my-fashion-mnist", "--steps", "1", *FAST)
    assert json.loads(Path("my-fashion-mnist", CONFIG).read_text())["dim"] == 8


def test_images_without_labels_and_too_few(capsys):
    assert "label with every image" in refused(capsys, "prior", "model", "--by-class", *FAST)
    for count in (0, 1):
        with pytest.raises(DataError, match=f"at least 2 images.*got {count}"):
            hold_out(digits(count))
    for path in sorted(Path("pictures").iterdir())[2:]:
        path.unlink()
    assert "at least 2 images" in refused(capsys, "prior", "model", *FAST)
