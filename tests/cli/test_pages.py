"""Many images: worked on in batches, shown in pages, written one by one."""

import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import refused, run
from PIL import Image
from small import digits, small_ddn

from discrete_distribution_network.cli import images
from discrete_distribution_network.cli.images import batch_size
from discrete_distribution_network.ddn import DDN
from discrete_distribution_network.viz import pictures
from discrete_distribution_network.viz.pictures import PAGE_SIDE, grid, page_layout, save_pages, to_pil


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A model, "model", and files with digits, "files"; no more than 8 images at once, and pages of 200 pixels."""
    monkeypatch.chdir(tmp_path)
    small_ddn().eval().save_pretrained("model")
    Path("files").mkdir()
    for index, image in enumerate(digits(30)):
        to_pil(image).save(f"files/{index:02d}.png")
    monkeypatch.setattr(images, "BATCH", 8)
    return tmp_path


@pytest.fixture
def batches(monkeypatch):
    """How many images the network walks with at once, each time."""
    seen, walk = [], DDN.walk

    def counted(self, select, batch, *args, **kwargs):
        seen.append(batch)
        return walk(self, select, batch, *args, **kwargs)

    monkeypatch.setattr(DDN, "walk", counted)
    return seen


@pytest.mark.parametrize(
    "command",
    [
        ["sample", "--num", "30"],
        ["reconstruct", "files"],
        ["guide", "inpaint", "files", "--num", "2"],
        ["guide", "superres+inpaint", "files/00.png", "--num", "30"],
        ["neighbours", "files/00.png", "files", "--num", "30"],
        ["cluster", "files"],
        ["interpolate", "files/00.png", "files/01.png", "--steps", "30", "--beams", "1"],
    ],
)
def test_no_more_than_a_batch_at_once(here, batches, command):
    run(*command, "--model", "model", "--out", "out.png")
    assert len(batches) > 3
    assert max(batches) <= 12  # clusters are decoded 12 at once


def test_a_batch_holds_so_many_pixels():
    sizes = {8: 64, 256: 64, 512: 16, 1024: 4, 4096: 1}
    for side, count in sizes.items():
        assert batch_size((side, side)) == count


def test_samples_do_not_change_with_their_number(here, capsys):
    run("sample", "--num", "16", "--seed", "3", "--model", "model", "--each", "few")
    run("sample", "--num", "20", "--seed", "3", "--model", "model", "--folder", "more", "--out", "more.png")
    assert "20 samples, drawn uniformly, in more.png" in capsys.readouterr().out
    assert [path.name for path in sorted(Path("more").iterdir())] == [f"{index:05d}.png" for index in range(20)]
    for path in Path("few").iterdir():
        assert path.read_bytes() == (Path("more") / path.name).read_bytes()


def test_pages(here, monkeypatch, capsys):
    monkeypatch.setattr(pictures, "PAGE_IMAGES", 9)
    run("sample", "--num", "20", "--seed", "3", "--model", "model", "--each", "each")
    assert "20 samples, drawn uniformly, in samples.png to samples-3.png, 3 pictures" in capsys.readouterr().out
    pages = [np.asarray(Image.open(name)) for name in ("samples.png", "samples-2.png", "samples-3.png")]
    assert pages[0].shape == pages[1].shape
    single = torch.stack(
        [torch.from_numpy(np.array(Image.open(path)))[None] for path in sorted(Path("each").iterdir())]
    )
    for page, part in zip(pages, single.split(9), strict=True):
        assert (page == np.asarray(grid(part, 3))).all()
    monkeypatch.setattr(pictures, "PAGE_SIDE", 900)
    run("reconstruct", "files", "--model", "model", "--each", "back")
    said = capsys.readouterr().out
    assert said.count(": error") == 30
    assert "reconstructions.png to reconstructions-" in said
    assert len(list(Path("back").iterdir())) == 30
    for path in Path().glob("reconstructions*.png"):
        assert Image.open(path).size[1] <= 900


@pytest.mark.parametrize(("total", "columns"), [(1, None), (64, None), (4000, None), (13_500, 9), (10**6, 10**6)])
@pytest.mark.parametrize("size", [(8, 8), (28, 28), (256, 256), (64, 1000), (9000, 20)])
def test_a_page_is_never_larger(size, total, columns):
    across, down = page_layout(*size, total, columns)
    side = [length * pictures._scale(across, *size) + pictures.MARGIN for length in size]
    assert side[0] * down + pictures.MARGIN <= PAGE_SIDE
    assert side[1] * across + pictures.MARGIN <= PAGE_SIDE
    assert across >= 1
    assert down >= 1


def test_a_few_images_are_one_picture_as_ever(tmp_path):
    images = torch.rand(7, 3, 6, 9)
    assert save_pages(iter(images.split(3)), tmp_path / "x.png", 7) == [tmp_path / "x.png"]
    assert (np.asarray(Image.open(tmp_path / "x.png")) == np.asarray(grid(images))).all()


def test_results_of_files_of_one_name_are_all_kept(here):
    for folder in ("one", "other"):
        Path(folder).mkdir()
        to_pil(digits(1)[0]).save(f"{folder}/a.png")
    run("guide", "inpaint", "one", "other", "--num", "2", "--model", "model", "--folder", "each")
    names = sorted(path.name for path in Path("each").iterdir())
    assert names == ["00000-a-0.png", "00000-a-1.png", "00001-a-0.png", "00001-a-1.png"]
    run("guide", "inpaint", "one", "--num", "1", "--model", "model", "--each", "single")
    assert [path.name for path in Path("single").iterdir()] == ["a-0.png"]


def test_two_images_are_named(here, capsys):
    for command in (["neighbours"], ["interpolate"], ["cluster"], ["neighbours", "files/00.png"]):
        assert "image" in refused(capsys, *command, "--model", "model")


def test_what_is_missing_by_its_names(here, capsys):
    run("guide", "inpaint", "files/00.png", "--missing", "center", "--seed", "1", "--model", "model", "--num", "1")
    first = Path("guided.png").read_bytes()
    run("guide", "inpaint", "files/00.png", "--missing", "centre", "--seed", "1", "--model", "model", "--num", "1")
    assert Path("guided.png").read_bytes() == first
    error = refused(capsys, "guide", "inpaint", "files/00.png", "--missing", "midle", "--model", "model")
    assert "left, right, top, bottom, centre" in error
    assert "midle" in error


def test_a_list_that_took_the_data_set_is_told(here, capsys):
    error = refused(capsys, "train", "--augment", "RandomHorizontalFlip", "files")
    assert "--augment took RandomHorizontalFlip files" in error
    assert "ddn train FOLDER --augment RandomHorizontalFlip" in error
    assert "--trackers took tensorboard files" in refused(capsys, "train", "--trackers", "tensorboard", "files")
    for option in ("--levels", "--patches"):
        with pytest.raises(SystemExit):
            run("train", option, "4", "2", "files")
        assert "a data set goes" in " ".join(capsys.readouterr().err.split())


MANY = """
import resource, sys
from discrete_distribution_network.cli import main as cli
cli.main(sys.argv[1:])
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=sys.stderr)
"""


@pytest.mark.slow
@pytest.mark.parametrize("command", [["sample", "--num", "4000"], ["reconstruct", "many"]])
def test_thousands_in_little_memory(tmp_path, command):
    (tmp_path / "many").mkdir()
    for index in range(1500 if command[0] == "reconstruct" else 0):
        Image.new("L", (28, 28), index % 256).save(tmp_path / "many" / f"{index}.png")
    limit = (2 << 30, 2 << 30)
    done = subprocess.run(
        [sys.executable, "-c", MANY, *command, "--model", "fashion-mnist", "--device", "cpu"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=900,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_DATA, limit),
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stderr.split()[-1]) < 1_000_000  # kB
