"""The command line, `ddn`: train, sample, reconstruct.

Each command is a dataclass whose fields are its options. PyTorch is imported when a command runs, not for `--help`.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from discrete_distribution_network.errors import DDNError, InvalidInput, ModelFileError

if TYPE_CHECKING:
    from PIL.Image import Image

    from discrete_distribution_network.data import Split
    from discrete_distribution_network.ddn import DDN

RUNS = Path("runs")


@dataclass
class _Training:
    """What both training commands share."""

    out: Path
    """Folder for the model and the pictures. One that exists is never emptied."""
    overwrite: bool = False
    """Write into OUT although it exists; files of the same names are replaced, others stay."""
    minutes: float = 3.0
    """Training time."""
    dim: int = 16
    """Channels at full resolution; they double with every halving of the image."""
    dim_max: int = 128
    """Most channels at any resolution."""
    codebook_size: int = 64
    """K, the candidates of each level."""
    batch_size: int = 32
    """Images a step."""
    learning_rate: float = 2e-3
    """Highest learning rate."""
    device: str = "cpu"
    """Where to train, such as cpu, cuda or mps."""
    seed: int = 0
    """Of the weights and of the order of the images."""

    def check(self) -> None:
        if self.out.exists() and any(self.out.iterdir()) and not self.overwrite:
            raise InvalidInput(
                f"expected a new folder, got {self.out}, which holds files; use another --out or --overwrite"
            )
        if self.minutes <= 0:
            raise InvalidInput(f"expected --minutes above 0, got {self.minutes}")
        check_device(self.device)


@dataclass
class Quickstart(_Training):
    """Train on 4,000 MNIST digits for three minutes and see what was learnt."""

    out: Path = RUNS / "quickstart"

    def run(self) -> None:
        self.check()
        from discrete_distribution_network.data import mnist_digits

        train(self, mnist_digits(), size=(32, 32), channels=1)


@dataclass
class Train(_Training):
    """Train on a folder of images."""

    folder: tyro.conf.Positional[Path] = dataclasses.field(kw_only=True)
    """Folder of images, searched with the folders below it."""
    out: Path = RUNS / "train"
    minutes: float = 30.0
    size: tuple[int, int] = (64, 64)
    """Height and width; images are resized to cover it and cropped at the centre."""
    channels: int = 3
    """3 for colour, 1 for grey."""

    def run(self) -> None:
        self.check()
        if self.channels not in (1, 3):
            raise InvalidInput(f"expected --channels 1 (grey) or 3 (colour), got {self.channels}")
        from discrete_distribution_network.data import folder_split

        train(self, folder_split(self.folder, self.size, self.channels), self.size, self.channels)


def levels_for(count: int) -> list[int]:
    """Levels at each of `count` resolutions, smallest first: few where the image is tiny, most in the middle."""
    return [*[2, 4, *[6] * count][: count - 1], 4]


def train(options: _Training, split: Split, size: tuple[int, int], channels: int) -> None:
    """Train, save, evaluate, draw. Ctrl-C ends the training early and saves what was learnt."""
    import torch

    from discrete_distribution_network.data import batch_of
    from discrete_distribution_network.ddn import DDN, resolutions
    from discrete_distribution_network.pictures import grid, loss_curve, reconstructions
    from discrete_distribution_network.trainer import History, Recipe, evaluate, fit
    from discrete_distribution_network.tree import tree_picture

    torch.manual_seed(options.seed)
    ddn = DDN(
        dim=options.dim,
        dim_max=options.dim_max,
        image_size=list(size),
        channels=channels,
        codebook_size=options.codebook_size,
        num_resnet_blocks=1,
        levels_per_resolution=levels_for(len(resolutions(size))),
    ).to(options.device)
    print(
        f"{len(split.train)} images to learn from, {len(split.test)} to test with; {ddn.num_levels} levels of "
        f"{options.codebook_size} candidates, {ddn.bits_per_image:g} bits an image"
    )
    recipe = Recipe(length=60 * options.minutes, batch_size=options.batch_size, learning_rate=options.learning_rate)
    for images in split:  # a broken file or a folder that cannot be written is told before the training
        for index in range(len(images)):
            images[index]
    options.out.mkdir(parents=True, exist_ok=True)
    history = History()
    try:
        fit(ddn, split.train, recipe, options.seed, history=history)
    except KeyboardInterrupt:
        print(f"stopped after {len(history.losses)} steps", file=sys.stderr)
    ddn.save_pretrained(options.out)

    figures = evaluate(ddn, split.test)
    some = batch_of(split.test, range(min(10, len(split.test)))).to(options.device)
    many = torch.arange(min(2000, len(split.train))).split(100)
    codes = torch.cat([ddn.encode(batch_of(split.train, part).to(options.device)) for part in many])
    grid(ddn.sample(64, generator=torch.Generator().manual_seed(options.seed))).save(options.out / "samples.png")
    reconstructions(ddn, ddn.encode_walk(some), some).save(options.out / "reconstructions.png")
    tree_picture(ddn, codes, options.out / "tree.png")
    loss_curve(history.losses, options.out / "loss.png")
    written = {"options": dataclasses.asdict(options), "steps": len(history.losses), "pruned_nodes": history.swaps}
    written["test"] = figures._asdict()
    (options.out / "run.json").write_text(json.dumps(written, indent=2, default=str) + "\n", encoding="utf-8")
    print(
        f"on {figures.images} test images: reconstruction error {figures.error:.5f} ({figures.psnr:.1f} dB), "
        f"{min(figures.usage_by_level):.0%} of the nodes in use at the least used level; model and pictures in "
        f"{options.out}"
    )


@dataclass
class Sample:
    """Draw images from a trained model."""

    model: Path | None = None
    """Model folder; the one trained last under ./runs if not given."""
    num: int = 64
    """How many images."""
    out: Path = Path("samples.png")
    """Picture to write."""
    seed: int | None = None
    """Of the random choices; new ones each time if not given."""
    device: str = "cpu"
    """Where to compute."""

    def run(self) -> None:
        import torch

        from discrete_distribution_network.pictures import grid

        ddn = load(self.model, self.device)
        generator = torch.Generator()
        generator.seed() if self.seed is None else generator.manual_seed(self.seed)
        save_picture(grid(ddn.sample(self.num, generator=generator)), self.out)
        print(f"{self.num} samples in {self.out}")


@dataclass
class Reconstruct:
    """Encode image files and draw what each number of levels gives back."""

    files: tyro.conf.Positional[list[Path]]
    """Image files; each is resized to cover the model's size and cropped at the centre."""
    model: Path | None = None
    """Model folder; the one trained last under ./runs if not given."""
    out: Path = Path("reconstructions.png")
    """Picture to write: a row for each file, at growing numbers of levels, the original last."""
    device: str = "cpu"
    """Where to compute."""

    def run(self) -> None:
        if not self.files:
            raise InvalidInput("expected at least one image file, got none; name the files to reconstruct")
        ddn = load(self.model, self.device)
        from discrete_distribution_network.data import ImageFiles, batch_of
        from discrete_distribution_network.pictures import reconstructions

        files = ImageFiles(self.files, ddn.image_size, ddn.channels)
        images = batch_of(files, range(len(files))).to(self.device)
        walk = ddn.encode_walk(images)
        save_picture(reconstructions(ddn, walk, images), self.out)
        errors = (walk.outputs[-1] - images).square().mean((1, 2, 3)).tolist()
        for path, error in zip(self.files, errors, strict=True):
            print(f"{path}: error {error:.5f}")
        print(f"{ddn.bits_per_image / 8:g} bytes an image; picture in {self.out}")


def save_picture(picture: Image, path: Path) -> None:
    try:
        picture.save(path)
    except ValueError as error:
        raise InvalidInput(f"expected --out with the ending of a picture, such as .png, got {path}") from error


def check_device(name: str) -> None:
    """Raise `InvalidInput` unless PyTorch can compute there."""
    import torch

    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        raise InvalidInput(f"expected a --device that is there, got {name} ({str(error).splitlines()[0]})") from error


def load(folder: Path | None, device: str) -> DDN:
    """The model in this folder, or the one saved last under ./runs."""
    from discrete_distribution_network.ddn import DDN

    check_device(device)
    if folder is None:
        configs = sorted(RUNS.glob("*/config.json"), key=lambda path: path.stat().st_mtime)
        if not configs:
            raise ModelFileError(f"expected a trained model under {RUNS}, found none; run `ddn quickstart` first")
        folder = configs[-1].parent
    if not folder.is_dir():
        raise ModelFileError(f"expected a model folder at {folder}, found none; give a folder that training wrote")
    return DDN.from_pretrained(folder).to(device).eval()


Command = (
    Annotated[Quickstart, tyro.conf.subcommand("quickstart")]
    | Annotated[Train, tyro.conf.subcommand("train")]
    | Annotated[Sample, tyro.conf.subcommand("sample")]
    | Annotated[Reconstruct, tyro.conf.subcommand("reconstruct")]
)


def main(args: list[str] | None = None) -> None:
    """Run a command; an error of the library, or of the file system, is one line and exit code 2."""
    command = tyro.cli(Command, prog="ddn", description="Discrete Distribution Networks.", args=args)
    try:
        command.run()
    except (DDNError, OSError) as error:
        print(f"ddn: {error}", file=sys.stderr)
        sys.exit(2)
