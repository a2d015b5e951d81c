"""The command line, `ddn`.

Each command is a dataclass whose fields are its options. PyTorch is imported when a command runs, not for `--help`.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout, suppress
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, BinaryIO, ClassVar, Literal

import tyro

from discrete_distribution_network.cli import exits
from discrete_distribution_network.cli.config import TEMPERATURE, TrainConfig
from discrete_distribution_network.cli.options import parsed
from discrete_distribution_network.errors import InvalidInput


@dataclass
class Train(TrainConfig):
    """Train on a folder of images or on a data set."""

    def run(self) -> None:
        from discrete_distribution_network.cli.train import train

        train(self, self.name)


@dataclass
class Quickstart(TrainConfig):
    """Train on 4,000 MNIST digits for three minutes and see what was learnt."""

    dataset: tyro.conf.Positional[str] = "mnist-digits"
    size: tuple[int, int] = (32, 32)
    channels: int = 1
    codebook_size: int | None = 64  # with 4,000 images, more nodes would be seldom chosen
    minutes: float = 3.0

    name: ClassVar[str] = "quickstart"

    def run(self) -> None:
        from discrete_distribution_network.cli.train import train

        train(self, self.name)


Each = Annotated[Path | None, tyro.conf.arg(aliases=["--folder"])]


@dataclass
class _WithModel:
    model: Path | None = None
    """Run or model folder; the run started last under ./runs if not given."""
    device: str = "auto"
    """Where to compute: cpu, cuda, mps, or auto for what there is."""


@dataclass
class _OfRun(_WithModel):
    run_folder: tyro.conf.Positional[Path | None] = None
    """The run; the one started last under ./runs if not given."""
    dataset: str | None = None
    """Another data set than the run's own."""


@dataclass
class Sample(_WithModel):
    """Draw images from a trained model."""

    num: int = 64
    """How many images."""
    out: Path = Path("samples.png")
    """Picture to write; beyond 256 samples it goes on in samples-2.png and so on."""
    seed: int | None = None
    """Of the random choices; new ones each time if not given."""
    uniform: bool = False
    """Choose each candidate with the same chance, although `ddn prior` has fitted a prior."""
    temperature: float | None = None
    """Of the prior, at all levels: below 1 likely candidates become likelier. If not given, 1 for codes of the whole
    image and less for those of patches."""
    top_p: float = 1.0
    """Of the prior: only the likeliest candidates are drawn whose chances together reach this."""
    label: int | None = None
    """Class of the samples, for a network or a prior by class; one after the other if not given."""
    guidance_scale: float = 1.0
    """Of a prior by class: above 1 samples are more like their class, and less like one another."""

    each: Each = None
    """Folder for one PNG a sample, too."""

    def run(self) -> None:
        from discrete_distribution_network.cli.images import sample

        print(sample(self))


@dataclass
class Prior(_OfRun):
    """Fit a prior to the codes of a run's data set, so that samples look like it; it is kept beside the model.

    SIGTERM and Ctrl-C keep what was done, beside the model; --resume goes on from there.
    """

    kind: Literal["heads", "transformer", "codes"] | None = None
    """heads (if not given) look at the network's own features and the codes so far; a transformer looks at the codes
    alone; codes is another that does, in integers, which makes the files of `ddn encode` smaller, and does nothing for
    samples."""
    minutes: float | None = None
    """How long; 5 if neither this nor STEPS is given."""
    steps: int | None = None
    """Steps of the optimiser, in place of a time, or whichever comes first."""
    by_class: bool = False
    """One that takes the class of a sample, as one of a network by class does anyway; the data set must have labels."""
    dim: int | None = None
    """Its width; 96 if not given, and 64 for codes."""
    seed: int | None = None
    """Of its weights and of the order of the images; 0 if not given."""
    resume: bool = False
    """Go on with a fit that was ended, with its own options; STEPS or MINUTES count from its beginning."""
    overwrite: bool = False
    """Begin anew although there is a fit that was ended."""

    def run(self) -> None:
        from discrete_distribution_network.cli.prior import fit_prior

        print(fit_prior(self))


@dataclass
class Guide(_WithModel):
    """Draw images that fit what is known of them: no gradient, no training, any model."""

    kinds: tyro.conf.Positional[str] = "inpaint"
    """inpaint, colorize, superres, strokes, lowbit, edges, like, classify or clip; several joined by +."""
    files: tyro.conf.Positional[tuple[Path, ...]] = ()
    """Image files or folders, of which a part is taken as known; none for classify and clip."""
    out: Path = Path("guided.png")
    """Picture to write: a row for each file: what is known, results, the original."""
    folder: Annotated[Path | None, tyro.conf.arg(aliases=["--each"])] = None
    """Folder for one PNG a result, too."""
    num: int = 4
    """Results for each file, or in all where there is none."""
    missing: str = "right"
    """Of inpaint: left, right, top, bottom or centre; or a picture that is white where the image is missing."""
    pixels: int | None = None
    """Of superres: how many pixels high the image is known; a quarter of the model's if not given."""
    bits: int = 1
    """Of lowbit."""
    levels: int | None = None
    """Of like: how many of the first levels are as in the file; a third if not given."""
    label: int | None = None
    """Of classify, and for a network or a prior by class: the class."""
    classifier: Path | None = None
    """Of classify: weights that `ddn` wrote; those beside the model, or trained from the run's data, if not given."""
    text: str | None = None
    """Of clip: what the image is to show."""
    clip_model: str = "ViT-B-32"
    """Of clip: a model of open_clip."""
    clip_weights: str = "laion2b_s34b_b79k"
    """Of clip: its weights, by their name there or their file."""
    beams: int = 1
    """Walks of each result that are followed, of which the best is taken."""
    rollouts: int | None = None
    """Of classify, clip, lowbit and edges: judge finished images alone, so many at first, half as many from each
    next level on; 0 for the unfinished ones of each level. 64 if not given, for classify and clip alone."""
    top_k: int = 1
    """Choose at random among the k best candidates."""
    uniform: bool = False
    """Look at all candidates, although `ddn prior` has fitted a prior that would propose some."""
    proposals: int = 128
    """How many candidates the prior proposes at each choice."""
    temperature: float = TEMPERATURE
    """Of the prior."""
    seed: int | None = None
    """Of the random choices; new ones each time if not given."""

    def run(self) -> None:
        from discrete_distribution_network.cli.guide import guide

        print(guide(self))


@dataclass
class Reconstruct(_WithModel):
    """Encode image files and draw what each number of levels gives back."""

    files: tyro.conf.Positional[tuple[Path, ...]] = ()
    """Image files or folders; each image is resized to cover the model's size and cropped at the centre."""
    out: Path = Path("reconstructions.png")
    """Picture to write: a row for each file, at growing numbers of levels, the original last. What does not fit goes on
    in reconstructions-2.png and so on."""
    each: Each = None
    """Folder for one PNG a file, as all levels give it back, too."""

    def run(self) -> None:
        from discrete_distribution_network.cli.images import reconstruct

        print(reconstruct(self))


@dataclass
class Encode(_WithModel):
    """Write image files as codes: one .ddn file of a few bytes an image."""

    files: tyro.conf.Positional[tuple[Path, ...]] = ()
    """Image files or folders; each image is resized to cover the model's size and cropped at the centre. - reads one
    image from the standard input."""
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = Path("codes.ddn")
    """File to write; - is the standard output. One that ends in .json lists the codes for people."""
    tile: bool = False
    """Keep the images' own size, the same for all, and cut them into tiles of the model's size."""
    levels: int | None = None
    """Only the first so many levels: smaller files, coarser images."""
    beams: int = 1
    """Walks of each image that are followed, of which the best is taken: better images in the same bytes."""
    rate: float = 0.0
    """What a bit costs, in mean squared error, where there is a code prior (ddn prior --kind codes): smaller files."""

    def run(self) -> None:
        from discrete_distribution_network.cli.codes import codec_of, write_codes
        from discrete_distribution_network.cli.runs import model_folder

        codec = codec_of(model_folder(self.model), self.device, self.beams, self.rate)
        with standard_input(self.files) as files:
            out = sys.stdout.buffer if str(self.out) == "-" else self.out
            if told := write_codes(codec, files, out, self.tile, self.levels):
                print(told)


@dataclass
class Decode(_WithModel):
    """Write the images of codes that `ddn encode` wrote."""

    codes: tyro.conf.Positional[Path] = Path("codes.ddn")
    """The file of codes; - is the standard input."""
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = Path("decoded")
    """Folder for one PNG an image; files of the same names are not replaced. - writes one to the standard output."""
    levels: int | None = None
    """Only the first so many levels: coarser images."""

    def run(self) -> None:
        from discrete_distribution_network.cli.codes import codec_of, read_codes, write_image, write_images
        from discrete_distribution_network.cli.runs import model_folder

        codec = codec_of(model_folder(self.model), self.device)
        stored = read_codes(codec, self.codes if str(self.codes) != "-" else open_input(), self.levels)
        if str(self.out) == "-":
            write_image(stored, sys.stdout.buffer)
            return
        write_images(stored, self.out)
        print(f"{stored.number} images in {self.out}")


@contextmanager
def standard_input(files: Sequence[Path]) -> Iterator[Sequence[Path]]:
    """The files; a - among them stands for one that holds what the standard input gives."""
    if not any(str(file) == "-" for file in files):
        yield files
        return
    with tempfile.TemporaryDirectory(prefix="ddn-") as folder:
        path = Path(folder, "standard input")
        with path.open("wb") as copy:
            shutil.copyfileobj(open_input(), copy)
        yield [path if str(file) == "-" else file for file in files]


def open_input() -> BinaryIO:
    """The standard input.

    Raises:
        InvalidInput: it is closed.
    """
    if sys.stdin is None:
        raise InvalidInput("expected a file on the standard input, which is closed; redirect one to it or name a file")
    return sys.stdin.buffer


@dataclass
class Tree(_WithModel):
    """Draw the latent tree: which images the first choices lead to, and how many take them."""

    files: tyro.conf.Positional[tuple[Path, ...]] = ()
    """Of path and walk: the image files."""
    kind: Literal["grids", "branches", "path", "walk"] = "grids"
    """grids within grids, branches from left to right, the path of one image, or an animation of walks."""
    out: Path = Path("tree.png")
    """Picture to write; of walk one that ends in .gif, .webp or .png."""
    dataset: str | None = None
    """Whose images are counted; the run's own if not given."""
    images: int = 2000
    """How many of them."""

    def run(self) -> None:
        from discrete_distribution_network.cli.tree import draw_tree

        print(draw_tree(self.kind, self.model, self.files, self.dataset, self.images, self.out, self.device))


@dataclass
class Interpolate(_WithModel):
    """Draw what lies between two images."""

    one: tyro.conf.Positional[Path] = Path()
    """An image file."""
    other: tyro.conf.Positional[Path] = Path()
    """Another."""
    steps: int = 8
    """Pictures."""
    beams: int = 4
    """Walks of each picture that are followed, of which the best is taken."""
    out: Path = Path("between.png")
    """Picture to write."""

    def run(self) -> None:
        from discrete_distribution_network.cli.tree import interpolate

        print(interpolate(self.model, self.one, self.other, self.steps, self.beams, self.out, self.device))


@dataclass
class Neighbours(_WithModel):
    """Find the images of a folder that are nearest to an image, by their codes alone."""

    image: tyro.conf.Positional[Path] = Path()
    """An image file."""
    folder: tyro.conf.Positional[Path] = Path()
    """Where to look, also in the folders below."""
    num: int = 10
    """How many."""
    out: Path = Path("neighbours.png")
    """Picture to write: the image first."""

    def run(self) -> None:
        from discrete_distribution_network.cli.tree import show_neighbours

        print(show_neighbours(self.model, self.image, self.folder, self.num, self.out, self.device))


@dataclass
class Cluster(_WithModel):
    """Sort the images of a folder by the first choices of their codes."""

    folder: tyro.conf.Positional[Path] = Path()
    """The images, also in the folders below."""
    levels: int = 1
    """How many of the first levels."""
    out: Path = Path("clusters.png")
    """Picture to write: a row for each of the largest clusters, what its images share first."""

    def run(self) -> None:
        from discrete_distribution_network.cli.tree import show_clusters

        print(show_clusters(self.model, self.folder, self.levels, self.out, self.device))


@dataclass
class Evaluate(_OfRun):
    """Measure a run's model on its test images, and its samples by Fréchet distance."""

    samples: int = 10_000
    """Samples for the Fréchet distance."""
    features: str | None = None
    """What the distance is measured in: classifier (trained from the data set's labels), inception (its weights must
    be on this machine), the path of Inception's weights, or none for no distance. If not given, a classifier where the
    images have labels, and no distance where they have none."""
    uniform: bool = False
    """Draw the samples uniformly, although `ddn prior` has fitted a prior."""
    temperature: float | None = None
    """Of the prior, as for `ddn sample`."""
    seed: int = 0
    """Of the samples and of the classifier."""

    def run(self) -> None:
        from discrete_distribution_network.cli.runs import evaluate_run

        for name, value in evaluate_run(
            self.run_folder or self.model,
            self.dataset,
            self.samples,
            self.features,
            self.uniform,
            self.temperature,
            self.seed,
            self.device,
        ).items():
            print(f"{name}: {value}")


@dataclass
class Demo(_WithModel):
    """Open a page to play with a model: walk its tree, sample, compress, guide, watch a training."""

    model: Path | None = None
    """Run or model folder; the released model of Fashion-MNIST if not given."""
    host: str = "127.0.0.1"
    """Address to listen on; 0.0.0.0 lets others in."""
    port: int | None = None
    """Port to listen on; a free one from 7860 on if not given."""
    browser: bool = True
    """Open the page in a browser."""
    allow: tuple[str, ...] = ()
    """Names of the page beside the host, localhost and, with 0.0.0.0, this machine's: such as a proxy's before it."""

    def run(self) -> None:
        from discrete_distribution_network.cli.runs import demo_model

        demo = demo_model(self.model, self.device)
        from discrete_distribution_network.demo.launch import leave
        from discrete_distribution_network.demo.page import serve
        from discrete_distribution_network.signals import Interrupted

        try:
            serve(demo, self.host, self.port, self.browser, self.allow)
        except Interrupted as end:
            leave(128 + end.signum)


@dataclass
class Info:
    """Tell a run's or a model's network, bits, levels, use of nodes by level, and last figures."""

    folder: tyro.conf.Positional[Path | None] = None
    """Run or model folder; the run started last under ./runs if not given."""

    def run(self) -> None:
        from discrete_distribution_network.cli.options import newest_run
        from discrete_distribution_network.cli.runs import info

        print(info(self.folder or newest_run()))


def commands(training: dict[str, Any]) -> Any:
    """All commands; `training` goes over the defaults of those that train."""
    return (
        Annotated[Quickstart, tyro.conf.subcommand("quickstart", default=Quickstart(**training))]
        | Annotated[Train, tyro.conf.subcommand("train", default=Train(**training))]
        | Annotated[Prior, tyro.conf.subcommand("prior")]
        | Annotated[Sample, tyro.conf.subcommand("sample")]
        | Annotated[Guide, tyro.conf.subcommand("guide")]
        | Annotated[Reconstruct, tyro.conf.subcommand("reconstruct")]
        | Annotated[Encode, tyro.conf.subcommand("encode")]
        | Annotated[Decode, tyro.conf.subcommand("decode")]
        | Annotated[Tree, tyro.conf.subcommand("tree")]
        | Annotated[Interpolate, tyro.conf.subcommand("interpolate")]
        | Annotated[Neighbours, tyro.conf.subcommand("neighbours")]
        | Annotated[Cluster, tyro.conf.subcommand("cluster")]
        | Annotated[Evaluate, tyro.conf.subcommand("evaluate")]
        | Annotated[Demo, tyro.conf.subcommand("demo")]
        | Annotated[Info, tyro.conf.subcommand("info")]
    )


def main(args: list[str] | None = None) -> None:
    """Run a command; an error of the library, or of the file system, is one line and exit code 2."""
    args = sys.argv[1:] if args is None else args
    with exits.command("ddn"):
        if args == ["--version"]:
            print(f"ddn {version('discrete-distribution-network')}")
        elif not args:
            with redirect_stdout(sys.stderr), suppress(SystemExit):
                parse(["--help"], {})
            sys.exit(2)
        else:
            parsed(partial(parse, args), args).run()


def parse(args: Sequence[str], training: dict[str, Any]) -> Any:
    """The command of these arguments; `training` goes over the defaults of those that train."""
    said = "Discrete Distribution Networks. `ddn COMMAND --help` tells its options, `ddn --version` the version."
    return tyro.cli(commands(training), prog="ddn", description=said, args=args)
