"""A run: a folder with the options, checkpoints, figures, pictures and the model of one training; what is made of it.

config.json          options; `ddn train --config` repeats the run
metrics.jsonl        figures, every few steps
checkpoints/         to resume from; each is a model folder too
pictures/            samples and reconstructions along the way
model/               the model at the end
evaluation.json      its figures on the whole test set
samples.png, reconstructions.png, tree.png, loss.png
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from huggingface_hub import constants

from discrete_distribution_network.cli.config import CONFIG, TrainConfig, load_config
from discrete_distribution_network.cli.options import RUNS as RUNS
from discrete_distribution_network.cli.options import newest_run
from discrete_distribution_network.conditioning import CONDS
from discrete_distribution_network.data.datasets import Split, is_stream
from discrete_distribution_network.data.image_folder import find_images
from discrete_distribution_network.data.images import load_image
from discrete_distribution_network.data.loader import in_unit_range
from discrete_distribution_network.data.sources import open_data
from discrete_distribution_network.ddn import DDN
from discrete_distribution_network.errors import DataError, InvalidInput, ModelFileError, require_seed
from discrete_distribution_network.evaluation.classifier import Classifier, NoClasses, accuracy, train_classifier
from discrete_distribution_network.evaluation.classifier import num_classes as classes_of
from discrete_distribution_network.evaluation.frechet import FeatureNet, check_drawn, frechet_figures, inception
from discrete_distribution_network.evaluation.metrics import evaluate
from discrete_distribution_network.io.atomic_file import check_writable, write_bytes, write_text
from discrete_distribution_network.io.atomic_folder import MANIFEST
from discrete_distribution_network.io.pretrained import MODEL, released
from discrete_distribution_network.io.safetensors_file import Shapes, load_checked
from discrete_distribution_network.prior import PRIORS
from discrete_distribution_network.prior.base import CONFIG as PRIOR
from discrete_distribution_network.prior.base import LearnedPrior, as_bytes, read_config, temperatures
from discrete_distribution_network.training.checkpoints import Checkpoints
from discrete_distribution_network.training.report import METRICS, read_metrics

if TYPE_CHECKING:
    from discrete_distribution_network.demo.page import Demo

CHECKPOINTS = "checkpoints"
EVALUATION = "evaluation.json"


def write_figures(run: Path, figures: dict[str, Any]) -> None:
    """Keep the figures of a run's model on its test images."""
    write_text(run / EVALUATION, json.dumps(figures, indent=2) + "\n")


def place(name: str) -> torch.device:
    """The device of this name; auto is the accelerator if there is one.

    Raises:
        InvalidInput: there is none such here.
    """
    there = torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    if name in ("auto", there.type):
        return there
    if name != "cpu":
        raise InvalidInput(f"expected a --device that is there, got {name}; use {' or '.join({there.type, 'cpu'})}")
    return torch.device("cpu")


def model_folder(folder: Path | None) -> Path:
    """The folder of the model that a path stands for: a model's own, or of a run the newest that is whole.

    None is the newest run under ./runs; a name may be that of a model that comes with the library. To look for it reads
    all of a checkpoint: once is enough.
    """
    if folder is not None and (there := released(folder)) is not None:
        return there
    folder = folder or newest_run()
    if not folder.is_dir():
        raise ModelFileError(f"expected a run or a model folder at {folder}, found none; give one that training wrote")
    found = Checkpoints(folder / CHECKPOINTS).newest_whole()
    if not (folder / MODEL / CONFIG).is_file():
        return found or folder
    if found is None:
        return folder / MODEL
    # a training that goes on, or was killed, has newer checkpoints than the model of when it last ended
    own, saved = folder / MODEL / MANIFEST, found / MANIFEST
    if not own.is_file() or (_weights_in(own) != _weights_in(saved) and saved.stat().st_mtime > own.stat().st_mtime):
        return found
    return folder / MODEL


def _weights_in(manifest: Path) -> str | None:
    """The checksum of the weights that a manifest tells of."""
    try:
        return json.loads(manifest.read_text(encoding="utf-8")).get(constants.SAFETENSORS_SINGLE_FILE)
    except (ValueError, AttributeError):
        return None


def load_model(folder: Path, device: str) -> DDN:
    """The model in a model's own folder (see `model_folder`)."""
    there = place(device)
    # convolutions are faster in this memory format
    return DDN.from_pretrained(folder).to(there).to(memory_format=torch.channels_last).eval()  # type: ignore[call-overload]


def load_prior(ddn: DDN, folder: Path) -> LearnedPrior | None:
    """The prior in a model's folder, whatever its kind, if one was fitted."""
    if not (folder / PRIOR).is_file():
        return None
    kind = str(read_config(folder).get("kind"))
    if kind not in PRIORS:
        raise ModelFileError(f"expected a prior of kind {' or '.join(PRIORS)} in {folder}, got {kind}; fit one anew")
    return PRIORS[kind].load(folder, ddn)


def labels_for(ddn: DDN, prior: LearnedPrior | None, count: int, label: int | None) -> torch.Tensor | None:
    """Classes (count,) to draw with, one after the other or all the same; None if there is nothing that knows them."""
    classes = ddn.num_classes or (None if prior is None else prior.num_classes)
    if classes is None:
        return None
    return torch.arange(count) % classes if label is None else torch.full((count,), label)


CLASSIFIER = "classifier.safetensors"
"""Weights of a `Classifier` of the classes of a model's images, in its folder."""


def classifier_of(ddn: DDN, folder: Path | None, weights: Path | None = None) -> Classifier:
    """The classifier in a file, or beside a model; it is trained from the data set of the run if there is none yet.

    Args:
        folder: of the run or the model; the newest run if None.
    """
    own = model_folder(folder) / CLASSIFIER
    path = own if weights is None else weights
    if path.is_file():

        def make(shapes: Shapes, channels: int) -> Classifier:
            return Classifier(channels, *shapes["head.bias"][:1])

        expected = f"the weights of a classifier in {path}"
        return load_checked(make, ddn.channels, path, expected, ddn.start.device).eval().requires_grad_(False)
    if weights is not None:
        raise ModelFileError(f"expected the weights of a classifier in {path}, found no file; check the path")
    check_writable(own.parent)
    config = _config_of(folder or newest_run())
    split = _data_of(config, None, ddn)
    classifier = train_classifier(split.train, ddn, device=ddn.start.device, max_bad_images=config.max_bad_images)
    write_bytes(own, as_bytes(classifier.state_dict()))
    return classifier


def _config_of(run: Path) -> TrainConfig:
    """The options of a run; the default ones of a model folder, which has none."""
    if (run / MODEL).is_dir() and (run / CONFIG).is_file():
        return TrainConfig(**load_config(run / CONFIG))
    return TrainConfig()


def _data_of(config: TrainConfig, dataset: str | None, ddn: DDN) -> Split:
    """The data set of a run, or another, for a model."""
    name = dataset or config.dataset
    if not name:
        raise InvalidInput(f"expected a run with its {CONFIG}, got a model alone; name the data set with --dataset")
    return open_data(name, ddn.image_size, ddn.channels, config.test_share, config.streaming)


def demo_model(model: Path | None, device: str) -> Demo:
    """What the page shows of a model, by default of the released one: with its prior, classifier and classes.

    Raises:
        InvalidInput: gradio is not there.
    """
    try:
        from discrete_distribution_network.demo.page import Demo
    except ImportError as error:
        raise InvalidInput(
            f"expected gradio for the page, but {error}; pip install 'discrete-distribution-network[demo]'"
        ) from error
    from discrete_distribution_network.cli.codes import code_prior_of

    folder = model_folder(Path("fashion-mnist") if model is None else model)
    ddn = load_model(folder, device)
    net = classifier_of(ddn, folder) if (folder / CLASSIFIER).is_file() else None
    card = folder / CARD
    classes = json.loads(card.read_text(encoding="utf-8"))["classes"] if card.is_file() else None
    example = load_images([folder / EXAMPLE], ddn)[1][0] if (folder / EXAMPLE).is_file() else None
    return Demo(ddn, load_prior(ddn, folder), net, classes, example, code_prior=code_prior_of(ddn, folder))


CARD, EXAMPLE = "classes.json", "example.png"
"""Beside a released model: the names of its classes, and an image to begin with."""


def info(run: Path) -> str:
    """What there is to say of a run or a model: network, bits, levels, usage by level, last figures."""
    folder = model_folder(run)
    ddn = load_model(folder, "cpu")
    parameters = sum(parameter.numel() for parameter in ddn.parameters())
    trained, tested = _last_figures(run)
    height, width = ddn.image_size
    told = [
        f"model      {folder}",
        f"network    {parameters:,} parameters, images {height}x{width} with {ddn.channels} channels",
        *([f"classes    {ddn.num_classes}, which may be asked for"] if ddn.num_classes is not None else []),
        f"latent     {ddn.num_levels} levels, {ddn.bits_per_image:g} bits ({ddn.bits_per_image / 8:g} bytes) an image",
    ]
    told += _readable("training", run / METRICS, lambda: _of_training(trained))
    told += _readable("test", run / EVALUATION, lambda: _of_test(tested))
    used = _by_level(tested or trained, "usage_by_level", ddn.num_levels)
    errors = _by_level(tested, "error_by_level", ddn.num_levels)
    sizes = ddn.level_sizes
    told.append("level  size       K     codes  in use  error")
    for level, (size, nodes, codes) in enumerate(zip(sizes, ddn.codebook_sizes, ddn.codes_per_level, strict=True)):
        share = f"{used[level]:.0%}" if used else ""
        error = f"{errors[level]:.5f}" if errors else ""
        told.append(f"{level:5d}  {f'{size[0]}x{size[1]}':9s}  {nodes:<5d} {codes:<5d}  {share:>6s}  {error}".rstrip())
    return "\n".join(told)


UNREADABLE = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError, RecursionError)
"""What figures raise that are not as they were written."""


def _last_figures(run: Path) -> tuple[Any, Any]:
    """The last figures of a run's training, and those on its test images; None where there are none."""
    try:
        lines = read_metrics(run)
    except UNREADABLE:
        lines = []
    trained = next((line for line in reversed(lines) if "loss" in line), None)
    tested = next((line["test"] for line in reversed(lines) if "test" in line), None)
    if (run / EVALUATION).is_file():
        try:
            tested = json.loads((run / EVALUATION).read_text(encoding="utf-8"))
        except UNREADABLE as error:
            tested = error
    return trained, tested


def _readable(what: str, path: Path, lines: Callable[[], list[str]]) -> list[str]:
    """These lines, or one that says that their figures cannot be read."""
    try:
        return lines()
    except UNREADABLE as error:
        return [f"{what:10s} {path} is damaged ({type(error).__name__}: {error}); remove it, or have it made anew"]


def _of_training(figures: Any) -> list[str]:
    if figures is None:
        return []
    return [
        f"training   step {figures['step']}, {figures['seconds'] / 60:.1f} minutes, loss {figures['loss']:.5f}, "
        f"{figures['images_per_second']:.0f} images/s, {figures['splits']} nodes pruned"
    ]


def _of_test(figures: Any) -> list[str]:
    if figures is None:
        return []
    if isinstance(figures, Exception):
        raise figures
    return [
        f"test       error {figures['error']:.5f} ({figures['psnr']:.1f} dB) on {figures['images']} images",
        *(f"           {name} {value}" for name, value in figures.items() if name.startswith("frechet")),
    ]


def _by_level(figures: Any, name: str, levels: int) -> list[float] | None:
    """Figures of each level, if they are as many numbers as there are levels."""
    found = figures.get(name) if isinstance(figures, dict) else None
    fits = isinstance(found, list) and len(found) == levels and all(isinstance(one, int | float) for one in found)
    return found if fits else None


def image_paths(files: Sequence[Path]) -> list[Path]:
    """The image files among files and folders.

    Raises:
        InvalidInput: there are none.
        DataError: a file or folder is not there, or a folder has no images.
    """
    paths = [path for file in files for path in (find_images(file) if file.is_dir() else [file])]
    if not paths:
        raise InvalidInput("expected at least one image file, got none; name files or folders")
    if missing := [path for path in paths if not path.exists()]:
        raise DataError(f"expected an image, found no file {missing[0]}; check the path")
    return paths


def load_images(files: Sequence[Path], ddn: DDN) -> tuple[list[Path], torch.Tensor]:
    """The images of files and folders, (B, C, H, W) on the model's device, and their paths."""
    paths = image_paths(files)
    images = torch.stack([load_image(path, ddn.image_size, ddn.channels) for path in paths])
    return paths, in_unit_range(images.to(ddn.start.device))


BATCH, BATCH_PIXELS = 64, 1 << 22
"""Most images that a command works on at once, and most pixels of them."""


def batch_size(ddn: DDN) -> int:
    """How many images of a model's size a command works on at once."""
    return max(1, min(BATCH, BATCH_PIXELS // math.prod(ddn.image_size)))


def parts(count: int, size: int) -> Iterator[range]:
    """The places 0 to `count` in parts of at most `size`."""
    return (range(start, min(start + size, count)) for start in range(0, count, size))


def encoded(paths: Sequence[Path], ddn: DDN) -> torch.Tensor:
    """The codes (B, number of codes) of image files, a batch at a time."""
    batches = (paths[part.start : part.stop] for part in parts(len(paths), batch_size(ddn)))
    return torch.cat([ddn.encode(load_images(batch, ddn)[1]) for batch in batches])


def data_of_run(run: Path | None, dataset: str | None, ddn: DDN) -> Any:
    """The training images of a run, or another data set; those of Fashion-MNIST for a released model."""
    if dataset is None and run is not None and released(run) is not None:
        dataset = "fashion-mnist"
    return _data_of(_config_of(run or newest_run()), dataset, ddn).train


def evaluate_run(
    run: Path | None,
    dataset: str | None,
    samples: int,
    features: str | None,
    uniform: bool,
    temperature: float | None,
    seed: int,
    device: str,
) -> dict[str, Any]:
    """Figures of a run's model on its test images, and Fréchet distances unless `features` is none; kept in the run.

    Samples are drawn by the run's prior, if it has one and `uniform` is not said.

    Args:
        features: None for a classifier, where the data set has classes to train one, and else for no distance.
    """
    check_drawn(samples)
    require_seed(seed)
    if temperature is not None and not 0 <= temperature < math.inf:
        raise InvalidInput(f"expected --temperature of at least 0, got {temperature}")
    run = run or newest_run()
    folder, config = model_folder(run), _config_of(run)
    if dataset is None and run.is_dir():
        check_writable(run)
    ddn = load_model(folder, device)
    split = _data_of(config, dataset, ddn)
    bad, classes = config.max_bad_images, None
    if features != "none" and (reason := _no_distance(ddn, split)) is not None:
        if features is not None:
            raise InvalidInput(f"expected --features none, since {reason}; got {features}")
        features = _left_out(reason)
    if features in (None, "classifier"):
        try:
            classes = classes_of(split.train, ddn, bad)
        except NoClasses as error:
            if features is not None:
                raise
            features = _left_out(str(error))
    prior = None if uniform or features == "none" else load_prior(ddn, folder)
    net = None if features == "none" else feature_net(features or "classifier", ddn, split, seed, bad, classes)
    figures: dict[str, Any] = evaluate(ddn, split.test, max_bad_images=bad, cond_fn=CONDS.get(config.cond))._asdict()
    if net is not None:
        at = temperatures(ddn) if temperature is None else temperature
        how: dict[str, Any] = {} if prior is None else {"prior": prior, "temperature": at}
        found = frechet_figures(ddn, net[0], split.train, split.test, samples, seed=seed, max_bad_images=bad, **how)
        drawn = "uniformly" if prior is None else "by the prior"
        if prior is not None and temperature is not None:
            drawn += f" at temperature {temperature:g}"
        figures |= {"frechet_features": net[1], "frechet_samples_drawn": drawn}
        figures |= {f"frechet_{key}": value for key, value in found._asdict().items()}
    if dataset is None:
        write_figures(run, figures)
    return figures


def _no_distance(ddn: DDN, split: Split) -> str | None:
    """Why no Fréchet distance can be measured, whatever the features; None if one can."""
    if ddn.cond_channels:
        return f"the network learnt with images of {ddn.cond_channels} channels beside its own"
    if not is_stream(split.test) and len(split.test) < 2:
        return f"a Fréchet distance needs at least 2 test images, and there are {len(split.test)}"
    return None


def _left_out(reason: str) -> str:
    """The features to measure a Fréchet distance in where none can be by default, once that is said."""
    print(
        f"ddn: no Fréchet distance: {reason}; --features inception or a file of its weights needs no labels",
        file=sys.stderr,
    )
    return "none"


def feature_net(
    features: str, ddn: DDN, split: Split, seed: int, max_bad_images: int = 0, classes: int | None = None
) -> tuple[FeatureNet, str]:
    """The network that a Fréchet distance is measured in, and what it is called."""
    device = ddn.start.device
    if features != "classifier":
        net = inception(None if features == "inception" else features, str(device))
        return net, "Inception, 2048 features"
    classifier = train_classifier(split.train, ddn, classes, seed=seed, device=device, max_bad_images=max_bad_images)
    right = accuracy(classifier, split.test, ddn, max_bad_images)
    return classifier.features, f"classifier of this data set, {right:.1%} right on its test images"
