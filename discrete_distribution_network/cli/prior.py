"""`ddn prior`: from a model and its data set to a prior beside it. What a signal ended goes on with `--resume`."""

from __future__ import annotations

import json
import math
import signal
import sys
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from huggingface_hub import constants
from torch.utils.data import Subset

from discrete_distribution_network.cli.options import newest_run
from discrete_distribution_network.cli.runs import _config_of, _data_of, load_model, model_folder, place
from discrete_distribution_network.codec.entropy_model import EntropyModel, fit_entropy_model
from discrete_distribution_network.data.datasets import Split, is_stream, split_indices
from discrete_distribution_network.data.loader import in_order
from discrete_distribution_network.ddn import DDN
from discrete_distribution_network.errors import (
    DataError,
    InvalidInput,
    ModelFileError,
    require_integer,
    require_positive,
    require_seed,
)
from discrete_distribution_network.evaluation.classifier import num_classes
from discrete_distribution_network.io.atomic_file import check_writable
from discrete_distribution_network.io.atomic_folder import sha256
from discrete_distribution_network.io.pretrained import MODEL, RELEASED
from discrete_distribution_network.prior import PRIORS
from discrete_distribution_network.prior.base import CONFIG as PRIOR
from discrete_distribution_network.prior.base import LearnedPrior
from discrete_distribution_network.prior.fit_checkpoints import FitCheckpoints, FitInterrupted, read_notes
from discrete_distribution_network.prior.fitting import fast_walk, fit
from discrete_distribution_network.random_state import own_random_state
from discrete_distribution_network.signals import Interrupted, Signals
from discrete_distribution_network.training.checkpoints import Checkpoints
from discrete_distribution_network.training.report import Bar

if TYPE_CHECKING:
    from discrete_distribution_network.cli.main import Prior as Asked

KEPT_BY = 1000
"""Training images by which the weights of a prior are kept."""

CODES = "codes"
"""The kind of prior that range coding needs; the others are `prior.PRIORS`."""

DEFAULTS: dict[str, Any] = {"dataset": None, "by_class": False, "seed": 0}
"""Options that need not be given."""

MAX_DIM = 4096
"""Widest prior: more is a slip, and takes all memory."""


@dataclass(frozen=True)
class Options:
    """What a fit of `ddn prior` is, kept in its checkpoints so that `--resume` alone goes on with it.

    Args:
        model: checksum of the model's weights.
        dataset: another than the run's own.
    """

    model: str
    kind: str
    dataset: str | None
    steps: int | None
    minutes: float | None
    by_class: bool
    dim: int
    seed: int

    def __post_init__(self) -> None:
        if self.kind not in (*PRIORS, CODES):
            raise InvalidInput(f"expected a kind of prior among {', '.join((*PRIORS, CODES))}, got {self.kind!r}")
        if self.by_class and self.kind == CODES:
            raise InvalidInput("expected a prior of another kind with --by-class, got codes, which knows no classes")
        if self.steps is not None:
            require_integer(self.steps, "--steps")
        if self.minutes is not None:
            require_positive(self.minutes, "--minutes")
        require_integer(self.dim, "--dim")
        if self.dim > MAX_DIM:
            raise InvalidInput(f"expected --dim of at most {MAX_DIM}, got {self.dim}")
        require_seed(self.seed)


def fit_prior(asked: Asked) -> str:
    """Fit a prior to the codes of a run's data set and keep it in the model's folder; gives what there is to tell.

    Raises:
        FitInterrupted: a signal came; the fit is kept beside the model.
    """
    place(asked.device)  # says at once if it is not there
    run = asked.run_folder or asked.model or newest_run()
    folder = _own_folder(run)
    check_writable(folder)
    options = _options(asked, folder)
    checkpoint = FitCheckpoints(
        _kept_in(folder, options.kind), resume=asked.resume, overwrite=asked.overwrite, notes=asdict(options)
    )
    config = _config_of(run)
    ddn = load_model(folder, asked.device)
    split = to_fit(_data_of(config, options.dataset, ddn))
    with own_random_state(ddn.start.device) as seed:
        seed(options.seed)
        prior = _new(options, ddn, split, config.max_bad_images)
        try:
            with checkpoint.noting() as signals:
                told = _fit(prior, options, ddn, split, config.max_bad_images, checkpoint, signals)
        except Interrupted as stop:
            _say(
                f"stopped by {signal.Signals(stop.signum).name} {_left(stop, prior, folder, run, options, checkpoint)}"
            )
            raise
    prior.save(folder)
    checkpoint.clear()
    by = "`ddn encode` packs by it" if options.kind == CODES else "`ddn sample` draws by it"
    return f"{told}; it is in {folder}, and {by}"


def _new(options: Options, ddn: DDN, split: Split, max_bad_images: int) -> LearnedPrior | EntropyModel:
    if options.kind == CODES:
        return EntropyModel.of(ddn, options.dim)
    classes = ddn.num_classes
    if options.by_class and classes is None:
        classes = num_classes(split.train, ddn, max_bad_images)
    return PRIORS[options.kind](ddn, dim=options.dim, num_classes=classes)


def _fit(
    prior: LearnedPrior | EntropyModel,
    options: Options,
    ddn: DDN,
    split: Split,
    max_bad_images: int,
    checkpoint: FitCheckpoints,
    signals: Signals,
) -> str:
    how: dict[str, Any] = {"steps": options.steps, "minutes": options.minutes, "seed": options.seed}
    how["checkpoint"] = checkpoint
    begun = _begun(options, split, checkpoint)
    if isinstance(prior, EntropyModel):
        codes = [codes_of(ddn, part, max_bad_images, signals) for part in (split.train, split.test)]
        print(begun, flush=True)
        packed = fit_entropy_model(prior, *codes, **how)
        return (
            f"codes of held-out images take {packed.test_bits:.1f} of {packed.uniform_bits:g} bits by the code prior, "
            f"after {packed.steps} steps"
        )
    print(begun, flush=True)
    fitted = fit(prior, ddn, split.train, split.test, max_bad_images=max_bad_images, **how)
    return (
        f"codes of held-out images cost {fitted.test_bits:.1f} of {fitted.uniform_bits:g} bits by the prior, after "
        f"{fitted.steps} steps"
    )


def codes_of(ddn: DDN, dataset: Any, max_bad_images: int = 0, signals: Signals | None = None) -> torch.Tensor:
    """The codes (N, number of codes) of all images of a data set, as small integers where they fit.

    Raises:
        Interrupted: one of `signals` came.
        DataError: there are no images.
    """
    kind = torch.int16 if max(ddn.codebook_sizes) <= 1 << 15 else torch.int64
    device, codes, done = ddn.start.device, [], 0
    with Bar(1.0 if is_stream(dataset) else len(dataset), signals is not None) as bar:
        for batch in in_order(dataset, ddn, 200, max_bad_images=max_bad_images):
            with fast_walk(ddn):
                codes.append(ddn.encode(batch.images.to(device, ddn.start.dtype)).cpu().to(kind))
            done += len(batch.images)
            bar.advance(done, f" {done} images encoded")
            if signals is not None and signals.received:
                raise Interrupted(signals.received)
    if not codes:
        raise DataError("expected images to encode, got none; give some")
    return torch.cat(codes)


def to_fit(split: Split) -> Split:
    """The training images in two: those that a prior is fitted to, and at most `KEPT_BY` by which its weights are kept.

    So the test images choose nothing. Of a stream all are for fitting, and the test images for keeping.

    Raises:
        DataError: fewer than two images, or a stream without held-out ones.
    """
    if is_stream(split.train):
        if split.test is None:
            raise DataError("expected held-out images to fit a prior with, got a stream without; give some")
        return split
    count = len(split.train)
    if count < 2:
        raise DataError(f"expected at least 2 images, one to fit a prior to and one to keep it by, got {count}")
    return Split(*(Subset(split.train, part) for part in split_indices(count, min(0.1, KEPT_BY / count))))


# the folder, and what is kept there


def _own_folder(run: Path) -> Path:
    """The folder of a run's final model, or of a model."""
    folder = model_folder(run)
    if folder.resolve().is_relative_to(RELEASED.resolve()):
        raise InvalidInput(
            f"expected a model of your own, got {folder.name} inside the installed library; copy it first (cp -r "
            f"{folder} my-{folder.name}) and give my-{folder.name} and --dataset"
        )
    if folder not in (run, run / MODEL):
        raise InvalidInput(
            f"expected a run that has ended, with its newest weights in {run / MODEL}, got newer ones in {folder}; end "
            "the training first (ddn train --resume)"
        )
    return folder


def _kept_in(folder: Path, kind: str) -> Path:
    return folder / f"fitting-{kind}"


def _options(asked: Asked, folder: Path) -> Options:
    """What is asked for; with `--resume`, laid over what the fit began with."""
    model = sha256(folder / constants.SAFETENSORS_SINGLE_FILE)
    given: dict[str, Any] = {
        "dataset": _lasting(asked.dataset),
        "steps": asked.steps,
        "minutes": asked.minutes,
        "by_class": asked.by_class or None,
        "dim": asked.dim,
        "seed": asked.seed,
    }
    given = {name: value for name, value in given.items() if value is not None}
    if not asked.resume:
        kind = asked.kind or "heads"
        return Options(model, kind, **{**DEFAULTS, "dim": 64 if kind == CODES else 96, **_ends(given, 5.0)})
    begun = _begun_with(folder, asked.kind)
    if begun.model != model:
        raise ModelFileError(
            f"expected the fit of the model in {folder} in {_kept_in(folder, begun.kind)}, got that of another model; "
            f"begin anew: ddn prior --kind {begun.kind} --overwrite"
        )
    options = replace(begun, **(_ends(given) if given.keys() & {"steps", "minutes"} else given))
    for name in ("dataset", "by_class", "dim", "seed"):
        if getattr(options, name) != getattr(begun, name):
            raise InvalidInput(
                f"expected --{name.replace('_', '-')} as the fit began, {getattr(begun, name)}, got "
                f"{getattr(options, name)}; leave it out, or begin anew with --overwrite"
            )
    return options


def _ends(given: dict[str, Any], minutes: float | None = None) -> dict[str, Any]:
    """What is given, with an end: by steps, by minutes, or whichever comes first if both are."""
    return {"steps": None, "minutes": None if "steps" in given else minutes, **given}


def _lasting(dataset: str | None) -> str | None:
    """A data set's name that holds in any folder."""
    return str(Path(dataset).resolve()) if dataset is not None and Path(dataset).exists() else dataset


def _begun_with(folder: Path, kind: str | None) -> Options:
    """The options of the unfinished fit of this kind beside a model; of any kind if there is but one."""
    kinds = [one for one in (*PRIORS, CODES) if Checkpoints(_kept_in(folder, one)).any()] if kind is None else [kind]
    if len(kinds) > 1:
        raise InvalidInput(f"expected --kind {' or '.join(kinds)}, since a fit of each is unfinished, got none")
    notes = read_notes(_kept_in(folder, kinds[0])) if kinds else None
    if notes is None:
        of = "" if kind is None else f" of {kind}"
        raise ModelFileError(f"expected an unfinished fit{of} in {folder}, found none; begin one, without --resume")
    try:
        return Options(**notes)
    except (TypeError, ValueError) as error:
        raise ModelFileError(
            f"expected the options of a fit in {_kept_in(folder, kinds[0])}, but {error}; begin anew with --overwrite"
        ) from error


def _has_prior(folder: Path) -> bool:
    """Whether a prior of the model that lies there now lies beside it."""
    try:
        told = json.loads((folder / PRIOR).read_text(encoding="utf-8"))
        return bool(told["model"] == sha256(folder / constants.SAFETENSORS_SINGLE_FILE))
    except (OSError, LookupError, TypeError, ValueError):
        return False


# what is told


def _begun(options: Options, split: Split, checkpoint: FitCheckpoints) -> str:
    images = "a stream of images" if is_stream(split.train) else f"{len(split.train)} images"
    until = f"{options.steps} steps" if options.steps is not None else f"{options.minutes:g} minutes"
    on = "" if checkpoint.found is None else f", from {checkpoint.found.name} on"
    return f"fitting {options.kind}, {options.dim} wide, to the codes of {images}, {until} in all{on}"


def _left(
    stop: Interrupted,
    prior: LearnedPrior | EntropyModel,
    folder: Path,
    run: Path,
    options: Options,
    checkpoint: FitCheckpoints,
) -> str:
    """What a signal left and how to go on. The best weights so far are saved where there is no prior yet."""
    if checkpoint.saved is None:
        return "before the first step; give the command again"
    so_far = ""
    # of codes not: where a prior is replaced later, files are left that nothing reads
    measured = isinstance(stop, FitInterrupted) and math.isfinite(stop.best)
    if measured and isinstance(prior, LearnedPrior) and not _has_prior(folder):
        prior.save(folder)
        so_far = f"; the best so far is in {folder}"
    return f"after {checkpoint.saved} steps{so_far}; go on with: ddn prior {run} --kind {options.kind} --resume"


def _say(text: str) -> None:
    with suppress(OSError, ValueError):  # of an output that is closed
        print(f"ddn: {text}", file=sys.stderr, flush=True)
