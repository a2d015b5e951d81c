"""The options of a training: one flat dataclass, filled by the command line and saved as the run's `config.json`.

Nothing heavy is imported here, so that `ddn --help` is quick.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, get_args, get_origin, get_type_hints

import tyro
from tyro.constructors import PrimitiveConstructorSpec

from discrete_distribution_network.errors import InvalidInput
from discrete_distribution_network.io.atomic_file import write_text
from discrete_distribution_network.training.recipes import Recipe


def _integers(values: list[str]) -> tuple[int, ...] | None:
    """A list of integers from its arguments, which are all up to the next option."""
    try:
        return None if values == ["None"] else tuple(map(int, values))
    except ValueError as error:
        raise ValueError(f"expected integers, got {' '.join(values)}; a data set goes before this option") from error


Integers = Annotated[
    tuple[int, ...] | None,
    PrimitiveConstructorSpec(
        nargs="*",
        metavar="INT [INT ...]",
        instance_from_str=_integers,
        is_instance=lambda value: value is None or isinstance(value, tuple),
        str_from_instance=lambda value: ["None"] if value is None else [str(number) for number in value],
    ),
]


@dataclass
class TrainConfig:
    """Options of `ddn train`; `ddn quickstart` has others by default."""

    dataset: tyro.conf.Positional[str] = ""
    """A folder of images (with its subfolders), a folder of IDX files, fashion-mnist, mnist-digits, another data set
    of torchvision such as torchvision:CIFAR10, a folder written by Hugging Face's datasets, or a name on its hub."""
    config: Path | None = None
    """Take the defaults from this file, the config.json of a run."""
    out: Path | None = None
    """Folder for the model, pictures and checkpoints, never emptied; a new one under ./runs if not given."""
    resume: bool = False
    """Continue from the newest complete checkpoint in OUT; options that are not given are the run's own. Without OUT,
    the newest run of this data set, or the newest of all if no data set is given."""
    overwrite: bool = False
    """Write into OUT even if it holds files; files of the same names are replaced, others stay."""

    size: tuple[int, int] = (64, 64)
    """Height and width; images are resized to cover it and cropped at the centre."""
    channels: int = 3
    """3 for colour, 1 for grey."""
    test_share: float = 0.1
    """Fraction of the images held out for testing, if the data set has no test split."""
    streaming: bool = False
    """Stream a Hugging Face data set instead of storing it."""
    augment: tuple[str, ...] = ()
    """Transforms of torchvision.transforms.v2 without arguments, such as RandomHorizontalFlip. A list takes all
    arguments up to the next option, so the data set goes before it."""
    max_bad_images: int = 0
    """Number of images that may fail to decode (others replace them) before training stops with an error."""
    workers: int | None = None
    """Processes that load images; 0 on a CPU and 2 on a GPU if not given."""

    preset: Literal["minutes", "hours"] = "minutes"
    """Network for images of this size, as far as the options below do not say otherwise, by the time of training; in
    colour at 64x64, 256 bytes an image for minutes and 704 for hours, at grey both are the same."""
    dim: int | None = None
    """Channels at full resolution, doubled with every halving of the image."""
    dim_max: int | None = None
    """Most channels at any resolution."""
    codebook_size: int | None = None
    """K, the number of candidates at each level."""
    levels: Integers = None
    """Levels at each resolution, smallest first."""
    patches: Integers = None
    """Patch size at each resolution, smallest first; 0 for one choice for the whole image."""
    decoder: int | None = None
    """Channels of the decoder after the last choice; 0 for none."""
    res_blocks: int | None = None
    """Residual blocks of a resolution, divided among its levels; each level has at least one."""
    by_class: bool = False
    """Train a class-conditional network with the labels of the images."""
    cond: Literal["none", "grey", "edges", "low"] = "none"
    """Condition the network on an image made from each: its grey values, its edges, or a low-resolution version."""
    adversarial: float = 0.0
    """Weight of an adversarial loss against blur, relative to the last level's reconstruction error; 0 for none."""
    chain_dropout: float = 0.05
    """Probability that a choice is replaced by a random one in training, so that later levels learn to correct the
    prior's mistakes. Without a prior, 0 gives better samples, and slightly better reconstructions."""

    prior: bool = True
    """Fit a prior in the last part of the training, for better samples."""
    second_stage: float | None = Recipe.second_stage
    """Fraction of the training, its last part, in which the network rests while its decoder and the prior learn; 0.55
    with a prior and 0.2 without if not given."""

    minutes: float = 30.0
    """Training time; ignored if STEPS is given."""
    steps: int | None = None
    """Optimiser steps, instead of a time."""
    batch_size: int | None = Recipe.batch_size
    """Images a step in each process. If not given, 64, but on a CPU fewer where images have more than 32x32 pixels,
    such as 16 at 64x64."""
    grad_accum: int = Recipe.grad_accum
    """Batches whose gradients are accumulated for one step."""
    learning_rate: float = Recipe.learning_rate
    """Peak learning rate of AdamW."""
    muon_learning_rate: float | None = Recipe.muon_learning_rate
    """Peak learning rate of Muon, which trains the weights of convolutions and linear layers, but for the nodes; None
    to train all by AdamW."""
    weight_decay: float = Recipe.weight_decay
    """Weight decay of both."""
    warmup_steps: int = Recipe.warmup_steps
    """Steps of linear learning-rate warm-up."""
    hold: float = Recipe.hold
    """Fraction of the training after which the learning rate decays to zero along a cosine."""
    max_grad_norm: float = Recipe.max_grad_norm
    """Norm that gradients are clipped to."""
    split_every: int = Recipe.split_every
    """Steps between two calls of split-and-prune."""
    split_until: float = Recipe.split_until
    """Fraction of the training after which split-and-prune stops."""
    ema: bool = Recipe.ema
    """Save and evaluate an exponential moving average of the weights."""
    precision: Literal["auto", "no", "bf16", "fp16"] = Recipe.precision
    """no is float32; auto is bf16 if the processor has instructions for it."""
    compile: bool = False
    """Compile the network with torch.compile: minutes at the start, faster steps."""
    device: str = "auto"
    """Device to train on: cpu, cuda, mps, or auto for the accelerator if there is one."""
    seed: int = Recipe.seed
    """Random seed of the weights, the order of the images and the training."""

    checkpoint_every: int = 500
    """Steps between two checkpoints."""
    max_checkpoints: int = 2
    """Number of checkpoints to keep."""
    evaluate_every: int = 500
    """Steps between two evaluations on up to 1,000 test images."""
    pictures_every: int = 500
    """Steps between two grids of samples and reconstructions."""
    trackers: tuple[str, ...] = ()
    """Trackers of accelerate: tensorboard, wandb, trackio."""

    name: ClassVar[str] = "train"
    """Name of new runs under ./runs."""

    def save(self, path: Path) -> None:
        """Write the options that repeat the run elsewhere: all but `PLACES`."""
        options = {name: value for name, value in dataclasses.asdict(self).items() if name not in PLACES}
        write_text(path, json.dumps(options, indent=2) + "\n")


PLACES = ("config", "out", "resume", "overwrite")
"""Options that say where a run is and how it begins, and are not saved."""


BEFORE_0_5: dict[str, Any] = {
    "preset": "minutes",
    "prior": False,
    "second_stage": Recipe.second_stage,
    "decoder": 0,
    "muon_learning_rate": None,
}
"""Options that the runs of version 0.4 and before lack, as they were then."""


def load_config(path: Path) -> dict[str, Any]:
    """The options in the `config.json` of a run, as arguments of `TrainConfig`.

    Raises:
        InvalidInput: the file is not there or holds something else.
    """
    fields = {field.name for field in dataclasses.fields(TrainConfig)} - set(PLACES)
    try:
        options = dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise InvalidInput(f"expected the config.json of a run at {path}, but {error}; give its path") from error
    if fields - options.keys() == BEFORE_0_5.keys():
        options |= BEFORE_0_5
    if unknown := sorted(options.keys() - fields):
        raise InvalidInput(
            f"expected options of `ddn train` in {path}, got {', '.join(unknown)}; give the config.json of a run "
            "that this version wrote"
        )
    hints = get_type_hints(TrainConfig, include_extras=True)
    options = {name: tuple(value) if isinstance(value, list) else value for name, value in options.items()}
    for name, value in options.items():
        if not _fits(value, hints[name]):
            raise InvalidInput(
                f"expected another kind of value for {name} in {path}, got {value!r}; see ddn train --help"
            )
    return options


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value is of the type of a field of `TrainConfig`."""
    arguments = get_args(hint)
    if get_origin(hint) is Annotated:
        return _fits(value, arguments[0])
    if get_origin(hint) is Literal:
        return value in arguments
    if get_origin(hint) is tuple:
        kinds = arguments[:1] * len(value) if arguments[-1:] == (...,) and isinstance(value, tuple) else arguments
        return isinstance(value, tuple) and len(value) == len(kinds) and all(map(_fits, value, kinds))
    if arguments:  # a union
        return any(_fits(value, kind) for kind in arguments)
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    return isinstance(value, hint) and not (hint is int and isinstance(value, bool))


def configured(args: Sequence[str]) -> dict[str, Any]:
    """The options in the file of `--config`; empty without that argument."""
    path = next(iter(given(args, "--config")), None)
    return {} if path is None else load_config(Path(path))


def given(args: Sequence[str], option: str) -> list[str]:
    """The values of an option in these arguments, `--option value` or `--option=value`."""
    after = [args[place + 1] for place, argument in enumerate(args[:-1]) if argument == option]
    return [*after, *(argument.partition("=")[2] for argument in args if argument.startswith(f"{option}="))]
