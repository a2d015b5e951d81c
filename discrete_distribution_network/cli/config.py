"""The options of a training run: one typed, flat record, which the command line fills and the run keeps.

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

CONFIG = "config.json"

TEMPERATURE = 0.7
"""At which a prior proposes candidates to `ddn guide`; `prior.temperatures` has those of `ddn sample`."""


def _integers(values: list[str]) -> tuple[int, ...] | None:
    """What was given for a list of integers, which takes all that follows it up to the next option."""
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
    """A folder of images (searched with the folders below), a folder of IDX files, fashion-mnist, mnist-digits,
    torchvision:CIFAR10 and the like, a folder that Hugging Face's datasets wrote, or a name on its hub."""
    config: Path | None = None
    """Begin with the options in this file, the config.json of a run."""
    out: Path | None = None
    """Folder for the model, pictures and checkpoints, never emptied; a new one under ./runs if not given."""
    resume: bool = False
    """Continue from the newest whole checkpoint in OUT, with the run's own options where others are not given. Without
    OUT it is the run of this data set, or of any if none is given, that was started last."""
    overwrite: bool = False
    """Write into OUT although it holds files; files of the same names are replaced, others stay."""

    size: tuple[int, int] = (64, 64)
    """Height and width; images are resized to cover it and cropped at the centre."""
    channels: int = 3
    """3 for colour, 1 for grey."""
    test_share: float = 0.1
    """Share of the images kept for testing, where the data set has no test part."""
    streaming: bool = False
    """Read a Hugging Face data set as it comes, without storing it."""
    augment: tuple[str, ...] = ()
    """Transforms of torchvision.transforms.v2 with no arguments, such as RandomHorizontalFlip. A list takes all
    that follows up to the next option, so a data set goes before it."""
    max_bad_images: int = 0
    """How many images that cannot be decoded are replaced by others before it is an error."""
    workers: int | None = None
    """Processes that load images; by default none on a CPU and two on a GPU."""

    dim: int | None = None
    """Channels at full resolution; they double with every halving of the image. What is not given of the network is as
    in the preset for images of this size."""
    dim_max: int | None = None
    """Most channels at any resolution."""
    codebook_size: int | None = None
    """K, the candidates of each level."""
    levels: Integers = None
    """Levels at each resolution, smallest first."""
    patches: Integers = None
    """Side of the patches that choose for themselves at each resolution, smallest first; 0 for one choice for the
    whole image."""
    res_blocks: int | None = None
    """Residual blocks of a resolution, divided among its levels; each level has at least one."""
    by_class: bool = False
    """Let the network learn with the labels of the images, so that classes can be asked for."""
    cond: Literal["none", "grey", "edges", "low"] = "none"
    """Let the network learn with another image made of each: its grey values, its edges, or itself in few pixels."""
    adversarial: float = 0.0
    """Weight of an adversarial term against blur; at 1 the last image's error and it pull equally. 0 is without."""
    chain_dropout: float = 0.05
    """Chance that a choice is replaced by a random one in training, so that later levels learn to mend what a prior
    draws wrong. Without a prior 0 gives better samples, and somewhat better reconstructions."""

    minutes: float = 30.0
    """Training time; not looked at where STEPS is given."""
    steps: int | None = None
    """Steps of the optimiser, in place of a time."""
    batch_size: int = Recipe.batch_size
    """Images a step, in each process."""
    grad_accum: int = Recipe.grad_accum
    """Batches whose gradients are summed for one step."""
    learning_rate: float = Recipe.learning_rate
    """Highest learning rate."""
    weight_decay: float = Recipe.weight_decay
    """Of AdamW."""
    warmup_steps: int = Recipe.warmup_steps
    """Steps over which the learning rate rises."""
    hold: float = Recipe.hold
    """Share of the training after which the learning rate falls to nothing, along half a cosine."""
    max_grad_norm: float = Recipe.max_grad_norm
    """Gradients are clipped to this norm."""
    split_every: int = Recipe.split_every
    """Steps between two calls of split-and-prune."""
    split_until: float = Recipe.split_until
    """Share of the training after which nodes stay where they are."""
    ema: bool = Recipe.ema
    """Keep a moving average of the weights; it is what is used."""
    precision: Literal["auto", "no", "bf16", "fp16"] = Recipe.precision
    """no is float32; auto is bf16 where the processor has instructions for it."""
    compile: bool = False
    """Compile the network with torch.compile: minutes at the start, faster steps."""
    device: str = "auto"
    """Where to train: cpu, cuda, mps, or auto for what there is."""
    seed: int = Recipe.seed
    """Of the weights, of the order of the images and of all that is random in training."""

    checkpoint_every: int = 500
    """Steps between two checkpoints."""
    max_checkpoints: int = 2
    """How many checkpoints are kept."""
    evaluate_every: int = 500
    """Steps between two evaluations of up to 1,000 test images."""
    pictures_every: int = 500
    """Steps between two grids of samples and reconstructions."""
    trackers: tuple[str, ...] = ()
    """Trackers of accelerate: tensorboard, wandb, trackio."""

    name: ClassVar[str] = "train"
    """What runs under ./runs are called."""

    def save(self, path: Path) -> None:
        """Write what repeats the run elsewhere: all options but the places."""
        options = {name: value for name, value in dataclasses.asdict(self).items() if name not in PLACES}
        write_text(path, json.dumps(options, indent=2) + "\n")


PLACES = ("config", "out", "resume", "overwrite")


def load_config(path: Path) -> dict[str, Any]:
    """The options that a run has kept, as arguments of `TrainConfig`.

    Raises:
        InvalidInput: the file is not there or holds something else.
    """
    fields = {field.name for field in dataclasses.fields(TrainConfig)} - set(PLACES)
    try:
        options = dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise InvalidInput(f"expected the config.json of a run at {path}, but {error}; give its path") from error
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
    """Whether a value is of a type, as the fields of `TrainConfig` have them."""
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
    """The options in the file that `--config` names among these arguments; none if it is not there."""
    path = next(iter(given(args, "--config")), None)
    return {} if path is None else load_config(Path(path))


def given(args: Sequence[str], option: str) -> list[str]:
    """The values of an option among these arguments, `--option value` or `--option=value`."""
    after = [args[place + 1] for place, argument in enumerate(args[:-1]) if argument == option]
    return [*after, *(argument.partition("=")[2] for argument in args if argument.startswith(f"{option}="))]
