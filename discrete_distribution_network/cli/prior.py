"""What `ddn prior` does: fit a prior to a model and its data set, and save it beside the model.

A fit that a signal ends is kept, and `--resume` continues it.
"""

from __future__ import annotations

import math
import signal
import sys
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from discrete_distribution_network.cli.commands.prior import Prior
from discrete_distribution_network.cli.options import newest_run
from discrete_distribution_network.cli.runs import (
    load_model,
    model_folder,
    open_dataset,
    resolve_device,
    run_config,
)
from discrete_distribution_network.data.datasets import Split, is_stream
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
from discrete_distribution_network.io.pretrained import MODEL, RELEASED
from discrete_distribution_network.prior import PRIORS, prior_class
from discrete_distribution_network.prior.base import LearnedPrior, has_prior, model_checksum
from discrete_distribution_network.prior.entropy_model import EntropyModel
from discrete_distribution_network.random_state import own_random_state
from discrete_distribution_network.signals import Interrupted, Signals
from discrete_distribution_network.training.checkpoints import Checkpoints
from discrete_distribution_network.training.entropy_fitting import fit_entropy_model
from discrete_distribution_network.training.fit_checkpoints import FitCheckpoints, FitInterrupted, read_notes
from discrete_distribution_network.training.fitting import fast_walk, fit, hold_out
from discrete_distribution_network.training.report import Bar

CODES = "codes"
"""The kind of the entropy model for range coding; the other kinds are `prior.PRIORS`."""

DEFAULTS: dict[str, Any] = {"dataset": None, "by_class": False, "seed": 0}
"""Options that are not given."""

MAX_DIM = 4096
"""Widest prior; a larger number is most likely a mistake and would take all memory."""


@dataclass(frozen=True)
class FitOptions:
    """Options of a fit, kept in its checkpoints so that `--resume` can continue it without them.

    Args:
        model: checksum of the model's weights.
        dataset: the run's own if None.
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


def fit_prior(options: Prior) -> str:
    """Fit a prior to the codes of a run's data set and save it in the model's folder; returns a summary to print.

    Raises:
        Interrupted: a signal came; the fit is kept beside the model.
    """
    resolve_device(options.device)  # raises at once if there is no such device
    run = options.run_folder or options.model or newest_run()
    folder = _own_folder(run)
    check_writable(folder)
    settings = _settings(options, folder)
    checkpoint = FitCheckpoints(
        _checkpoint_folder(folder, settings.kind),
        resume=options.resume,
        overwrite=options.overwrite,
        notes=asdict(settings),
    )
    config = run_config(run)
    ddn = load_model(folder, options.device, alone=True)
    whole = open_dataset(config, settings.dataset, ddn)
    split = Split(*hold_out(whole.train, whole.test))
    with own_random_state(ddn.start.device) as seed:
        seed(settings.seed)
        prior = _build(settings, ddn, split, config.max_bad_images)
        try:
            with checkpoint.noting() as signals:
                summary = _fit(prior, settings, ddn, split, config.max_bad_images, checkpoint, signals)
        except Interrupted as stop:
            rest = _interrupted(stop, prior, folder, run, settings, checkpoint)
            _warn(f"stopped by {signal.Signals(stop.signum).name} {rest}")
            raise
    prior.save(folder)
    checkpoint.clear()
    use = "`ddn encode` packs by it" if settings.kind == CODES else "`ddn sample` draws by it"
    return f"{summary}; it is in {folder}, and {use}"


def _build(settings: FitOptions, ddn: DDN, split: Split, max_bad_images: int) -> LearnedPrior | EntropyModel:
    if settings.kind == CODES:
        return EntropyModel.of(ddn, settings.dim)
    classes = ddn.num_classes
    if settings.by_class and classes is None:
        classes = num_classes(split.train, ddn, max_bad_images)
    return prior_class(settings.kind)(ddn, dim=settings.dim, num_classes=classes)


def _fit(
    prior: LearnedPrior | EntropyModel,
    settings: FitOptions,
    ddn: DDN,
    split: Split,
    max_bad_images: int,
    checkpoint: FitCheckpoints,
    signals: Signals,
) -> str:
    length: dict[str, Any] = {"steps": settings.steps, "minutes": settings.minutes}
    begun = _description(settings, split, checkpoint)
    if isinstance(prior, EntropyModel):
        codes = [codes_of(ddn, part, max_bad_images, signals) for part in (split.train, split.test)]
        print(begun, flush=True)
        packed = fit_entropy_model(prior, *codes, seed=settings.seed, checkpoint=checkpoint, **length)
        return (
            f"codes of held-out images take {packed.test_bits:.1f} of {packed.uniform_bits:g} bits by the entropy "
            f"model, after {packed.steps} steps"
        )
    print(begun, flush=True)
    fitted = fit(
        prior,
        ddn,
        split.train,
        split.test,
        max_bad_images=max_bad_images,
        seed=settings.seed,
        checkpoint=checkpoint,
        **length,
    )
    return (
        f"codes of held-out images cost {fitted.test_bits:.1f} of {fitted.uniform_bits:g} bits by the prior, after "
        f"{fitted.steps} steps"
    )


def codes_of(
    ddn: DDN, dataset: Any, max_bad_images: int = 0, signals: Signals | None = None
) -> Int[Tensor, "images codes"]:
    """The codes of all images of a data set, int16 if they fit.

    Raises:
        Interrupted: one of `signals` came.
        DataError: there are no images.
    """
    dtype = torch.int16 if max(ddn.codebook_sizes) <= 1 << 15 else torch.int64
    device, codes, done = ddn.start.device, [], 0
    with Bar(1.0 if is_stream(dataset) else len(dataset), signals is not None) as bar:
        for batch in in_order(dataset, ddn, 200, max_bad_images=max_bad_images):
            with fast_walk(ddn):
                codes.append(ddn.encode(batch.images.to(device, ddn.start.dtype)).cpu().to(dtype))
            done += len(batch.images)
            bar.advance(done, f" {done} images encoded")
            if signals is not None and signals.received:
                raise Interrupted(signals.received)
    if not codes:
        raise DataError(f"expected images to encode, got {done}; give at least one")
    return torch.cat(codes)


# the folder and its checkpoints


def _own_folder(run: Path) -> Path:
    """The model folder that the prior is saved in: a run's final model, or a model of the user's own."""
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


def _checkpoint_folder(folder: Path, kind: str) -> Path:
    return folder / f"fitting-{kind}"


def _settings(options: Prior, folder: Path) -> FitOptions:
    """The options of the fit, from the command line; with `--resume` over those it began with."""
    model = model_checksum(folder)
    given: dict[str, Any] = {
        "dataset": _absolute(options.dataset),
        "steps": options.steps,
        "minutes": options.minutes,
        "by_class": options.by_class or None,
        "dim": options.dim,
        "seed": options.seed,
    }
    given = {name: value for name, value in given.items() if value is not None}
    if not options.resume:
        kind = options.kind or "heads"
        return FitOptions(model, kind, **{**DEFAULTS, "dim": 64 if kind == CODES else 96, **_ends(given, 5.0)})
    begun = _begun_with(folder, options.kind)
    if begun.model != model:
        raise ModelFileError(
            f"expected the fit of the model in {folder} in {_checkpoint_folder(folder, begun.kind)}, got that of "
            f"another model; begin anew: ddn prior --kind {begun.kind} --overwrite"
        )
    settings = replace(begun, **(_ends(given) if given.keys() & {"steps", "minutes"} else given))
    for name in ("dataset", "by_class", "dim", "seed"):
        if getattr(settings, name) != getattr(begun, name):
            raise InvalidInput(
                f"expected --{name.replace('_', '-')} as the fit began, {getattr(begun, name)}, got "
                f"{getattr(settings, name)}; leave it out, or begin anew with --overwrite"
            )
    return settings


def _ends(given: dict[str, Any], minutes: float | None = None) -> dict[str, Any]:
    """The given options with an end of the fit: `steps`, `minutes`, or whichever comes first."""
    return {"steps": None, "minutes": None if "steps" in given else minutes, **given}


def _absolute(dataset: str | None) -> str | None:
    """The name of a data set, with an absolute path if it is a folder."""
    return str(Path(dataset).resolve()) if dataset is not None and Path(dataset).exists() else dataset


def _begun_with(folder: Path, kind: str | None) -> FitOptions:
    """The options of the unfinished fit beside a model, of this kind; of any kind if None and there is only one."""
    kinds = (
        [one for one in (*PRIORS, CODES) if Checkpoints(_checkpoint_folder(folder, one)).any()]
        if kind is None
        else [kind]
    )
    if len(kinds) > 1:
        raise InvalidInput(f"expected --kind {' or '.join(kinds)}, since a fit of each is unfinished, got none")
    notes = read_notes(_checkpoint_folder(folder, kinds[0])) if kinds else None
    if notes is None:
        of_kind = "" if kind is None else f" of {kind}"
        raise ModelFileError(
            f"expected an unfinished fit{of_kind} in {folder}, found none; begin one, without --resume"
        )
    try:
        return FitOptions(**notes)
    except (TypeError, ValueError) as error:
        raise ModelFileError(
            f"expected the options of a fit in {_checkpoint_folder(folder, kinds[0])}, but {error}; begin anew with "
            "--overwrite"
        ) from error


# messages


def _description(settings: FitOptions, split: Split, checkpoint: FitCheckpoints) -> str:
    images = "a stream of images" if is_stream(split.train) else f"{len(split.train)} images"
    length = f"{settings.steps} steps" if settings.steps is not None else f"{settings.minutes:g} minutes"
    start = "" if checkpoint.found is None else f", from {checkpoint.found.name} on"
    return f"fitting {settings.kind}, {settings.dim} wide, to the codes of {images}, {length} in all{start}"


def _interrupted(
    stop: Interrupted,
    prior: LearnedPrior | EntropyModel,
    folder: Path,
    run: Path,
    settings: FitOptions,
    checkpoint: FitCheckpoints,
) -> str:
    """When a signal came and how to continue. The best weights so far are saved if there is no prior yet."""
    if checkpoint.saved is None:
        return "before the first step; give the command again"
    so_far = ""
    # not an entropy model: a file that is packed by it could not be read once another replaces it
    measured = isinstance(stop, FitInterrupted) and math.isfinite(stop.best)
    if measured and isinstance(prior, LearnedPrior) and not has_prior(folder):
        prior.save(folder)
        so_far = f"; the best so far is in {folder}"
    return f"after {checkpoint.saved} steps{so_far}; go on with: ddn prior {run} --kind {settings.kind} --resume"


def _warn(text: str) -> None:
    with suppress(OSError, ValueError):  # the standard error is closed
        print(f"ddn: {text}", file=sys.stderr, flush=True)
