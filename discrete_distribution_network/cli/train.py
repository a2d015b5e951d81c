"""What `ddn train` does: data set, network, `Trainer`, evaluation and pictures."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from discrete_distribution_network.cli.config import TrainConfig, load_config
from discrete_distribution_network.cli.evaluate import write_evaluation
from discrete_distribution_network.cli.images import encode_dataset
from discrete_distribution_network.cli.options import differences, require_out, run_folder
from discrete_distribution_network.cli.runs import resolve_device
from discrete_distribution_network.conditioning import CONDS, cond_channels, conditioning_inputs
from discrete_distribution_network.data.datasets import Split, is_stream
from discrete_distribution_network.data.decoding import Augment
from discrete_distribution_network.data.loader import first_batch
from discrete_distribution_network.data.sources import open_data
from discrete_distribution_network.data.sources.torchvision import import_torchvision
from discrete_distribution_network.ddn import DDN
from discrete_distribution_network.errors import InvalidInput
from discrete_distribution_network.evaluation.classifier import num_classes
from discrete_distribution_network.evaluation.metrics import evaluate
from discrete_distribution_network.io.atomic_file import output_errors
from discrete_distribution_network.io.run_folder import CHECKPOINTS, CONFIG, EVALUATION, RUNS
from discrete_distribution_network.prior.heads import Prior
from discrete_distribution_network.training.checkpoints import Checkpoints
from discrete_distribution_network.training.presets import images_per_step, preset, recipe
from discrete_distribution_network.training.report import read_metrics
from discrete_distribution_network.training.trainer import Trainer
from discrete_distribution_network.viz.pictures import grid, loss_curve, reconstructions, save_picture
from discrete_distribution_network.viz.tree import tree_picture

NETWORK = (
    "size", "channels", "preset", "dim", "dim_max", "codebook_size", "levels", "patches", "res_blocks", "decoder",
    "by_class", "cond",
)  # fmt: skip
"""Options of the network, which a resumed training cannot change."""

MANY_IMAGES = 20_000
"""From so many images on a prior does not overfit before its time is over, and takes no dropout (docs/log.md)."""


def train(config: TrainConfig, name: str = "train") -> None:
    """Train, save, evaluate, draw. SIGTERM and Ctrl-C save first.

    Args:
        name: of a new run under ./runs.
    """
    if config.channels not in (1, 3):
        raise InvalidInput(f"expected --channels 1 (grey) or 3 (colour), got {config.channels}")
    if config.steps is None and config.minutes <= 0:
        raise InvalidInput(f"expected --minutes above 0, got {config.minutes}")
    if not config.dataset:
        swallowed = _swallowed(config)
        raise InvalidInput(f"expected a data set, got none; give a folder of images or the name of one{swallowed}")
    resolve_device(config.device)  # raises at once if there is no such device
    config = with_preset(config)  # so that the run's config.json repeats it, whatever later presets are
    changed: dict[str, str] = {}
    if config.resume:
        config = replace(config, out=run_folder(config, name))
        changed = _changed(config)
    split = open_data(config.dataset, config.size, config.channels, config.test_share, config.streaming)
    shape = SimpleNamespace(image_size=config.size, channels=config.channels)
    classes = num_classes(split.train, shape, config.max_bad_images) if config.by_class else None
    torch.manual_seed(config.seed)
    ddn = network(config, classes)
    with _new_folder(config, name) as out:
        trainer = trainer_for(config, ddn, split, out)
    if trainer.processes.is_main:
        with output_errors(out):
            out.mkdir(parents=True, exist_ok=True)
            config.save(out / CONFIG)
            (out / EVALUATION).unlink(missing_ok=True)  # of the model that this training replaces
        images = "a stream of images" if is_stream(split.train) else f"{len(split.train)} images to learn from"
        print(
            f"{images}; {ddn.num_levels} levels of {ddn.codebook_sizes[0]} candidates, {ddn.bits_per_image:g} "
            f"bits an image; {trainer.precision.replace('no', 'float32')} on {trainer.processes.device}; all goes to "
            f"{out}"
        )
        print("".join(f"{line}\n" for line in changed.values()), end="", flush=True)
    trainer()
    if trainer.processes.is_main:
        _finish(trainer, split, out, config)
    trainer.accelerator.end_training()


def _swallowed(config: TrainConfig) -> str:
    """A hint for an error, if an option that takes a list may have taken the data set that follows it."""
    lists = {"--augment": config.augment, "--trackers": config.trackers}
    return "".join(
        f"; {option} took {' '.join(values)}: a data set goes before it, as in ddn train FOLDER {option} {values[0]}"
        for option, values in lists.items()
        if values
    )


def _changed(config: TrainConfig) -> dict[str, str]:
    """The options that differ from those of the run in `out`: name -> a line with both values.

    Raises:
        InvalidInput: the network is another one, so the run cannot be continued.
    """
    assert config.out is not None
    if not (config.out / CONFIG).is_file():
        return {}
    before = TrainConfig(**load_config(config.out / CONFIG))
    changed = differences(before, config)
    discriminator = {"adversarial"} if (before.adversarial > 0) != (config.adversarial > 0) else set()
    fixed = [line for name, line in changed.items() if name in discriminator.union(NETWORK)]
    if fixed and Checkpoints(config.out / CHECKPOINTS).any():
        raise InvalidInput(
            f"expected the network of {config.out} to resume it, got {', '.join(fixed)}; leave these options out, or "
            "train anew without --resume"
        )
    return changed


def trainer_for(config: TrainConfig, ddn: DDN, split: Split, out: Path) -> Trainer:
    """The `Trainer` of a run, which writes into `out`."""
    device = resolve_device(config.device).type
    return Trainer(
        ddn,
        prior=prior_for(ddn, split) if config.prior else None,
        dataset=split.train,
        test_dataset=split.test,
        num_train_steps=sys.maxsize if config.steps is None else config.steps,
        max_minutes=config.minutes if config.steps is None else None,
        **recipe(config, config.size, device),
        augment=augmentation(config.augment),
        cond_fn=CONDS.get(config.cond),
        max_bad_images=config.max_bad_images,
        num_workers=config.workers,
        compile=config.compile,
        accelerate_kwargs={"cpu": device == "cpu"},
        results_folder=out,
        checkpoints_folder=out / CHECKPOINTS,
        checkpoint_every=config.checkpoint_every,
        max_checkpoints=config.max_checkpoints,
        save_results_every=config.pictures_every,
        evaluate_every=config.evaluate_every,
        trackers=config.trackers,
        resume=config.resume,
        overwrite=config.overwrite,
    )


def prior_for(ddn: DDN, split: Split) -> Prior:
    """The untrained prior of a run; with dropout where the images are few, or are a stream."""
    few = is_stream(split.train) or len(split.train) < MANY_IMAGES
    return Prior(ddn, num_classes=ddn.num_classes, dropout=0.5 if few else 0.0)


@contextmanager
def _new_folder(config: TrainConfig, name: str) -> Iterator[Path]:
    """The run's folder: the given one, or a new one under ./runs.

    A new one is made at once, so that no other training takes it, and removed if this training cannot begin.
    """
    if config.out is not None:
        yield config.out
        return
    require_out()
    with output_errors(RUNS):
        RUNS.mkdir(exist_ok=True)
        for number in count(1):
            out = RUNS / (name if number == 1 else f"{name}-{number}")
            try:
                out.mkdir()
                break
            except FileExistsError:
                continue
    try:
        yield out
    except BaseException:
        with suppress(OSError):  # one of them holds files
            out.rmdir()
            RUNS.rmdir()
        raise


def _finish(trainer: Trainer, split: Split, out: Path, config: TrainConfig) -> None:
    """Evaluate the trained model and draw its pictures."""
    ddn, bits = trainer.result, trainer.held_out_bits
    device, bad, cond_fn = ddn.start.device, config.max_bad_images, CONDS.get(config.cond)
    metrics = evaluate(ddn, split.test, max_bad_images=bad, cond_fn=cond_fn)
    write_evaluation(out, metrics._asdict())
    batch = first_batch(split.test, ddn, 64, bad)
    images = batch.images.to(device)
    inputs = conditioning_inputs(ddn, images, batch.labels, cond_fn)
    count = len(images) if inputs else 64
    save_picture(grid(ddn.sample(count, generator=torch.Generator().manual_seed(0), **inputs)), out / "samples.png")
    labels = None if batch.labels is None else batch.labels[:10]
    walk = ddn.encode_walk(images[:10], **conditioning_inputs(ddn, images[:10], labels, cond_fn))
    save_picture(reconstructions(ddn, walk, images[:10]), out / "reconstructions.png")
    if ddn.codes_per_level[0] == 1 and not inputs:
        tree_picture(ddn, encode_dataset(ddn, split.train, 2000, bad), out / "tree.png")
    lines = [line for line in read_metrics(out) if "loss" in line]
    loss_curve([line["step"] for line in lines], [line["loss"] for line in lines], out / "loss.png")
    by_prior = "" if bits is None else f"; codes of held-out images cost {bits:.1f} of {ddn.bits_per_image:g} bits"
    print(
        f"on {metrics.images} test images: reconstruction error {metrics.error:.5f} ({metrics.psnr:.1f} dB), "
        f"{min(metrics.usage_by_level):.0%} of the nodes in use at the least used level{by_prior}; model and pictures "
        f"in {out}"
    )


def with_preset(config: TrainConfig) -> TrainConfig:
    """The options with those that are None taken from the preset for images of this size."""
    arguments = preset(config.size, config.channels, config.preset)
    defaults = {
        "dim": arguments["dim"],
        "dim_max": arguments["dim_max"],
        "codebook_size": arguments["codebook_size"],
        "levels": tuple(arguments["levels_per_resolution"]),
        "patches": tuple(patch or 0 for patch in arguments["patch_size"]),
        "res_blocks": arguments["num_resnet_blocks"],
        "decoder": arguments["decoder_dim"],
        "batch_size": images_per_step(config.size, resolve_device(config.device).type),
    }
    return replace(config, **{name: value for name, value in defaults.items() if getattr(config, name) is None})


def network(config: TrainConfig, num_classes: int | None = None) -> DDN:
    """The untrained network of a run."""
    config = with_preset(config)
    arguments: dict[str, Any] = {
        "dim": config.dim,
        "dim_max": config.dim_max,
        "image_size": list(config.size),
        "channels": config.channels,
        "codebook_size": config.codebook_size,
        "num_resnet_blocks": config.res_blocks,
        "levels_per_resolution": list(config.levels or ()),
        "patch_size": [patch or None for patch in config.patches or ()],
        "guided_sampler_kwargs": {"chain_dropout_prob": config.chain_dropout},
        "use_adversarial_loss": config.adversarial > 0,
        "adversarial_loss_weight": config.adversarial,
        "num_classes": num_classes,
        "decoder_dim": config.decoder,
        "cond_channels": 0 if config.cond == "none" else cond_channels(config.cond, config.channels),
    }
    return DDN(**arguments)


def augmentation(names: Sequence[str]) -> Augment | None:
    """A composition of transforms of torchvision.transforms.v2, by name; None if there are none."""
    if not names:
        return None
    v2 = import_torchvision("transforms.v2")
    try:
        return v2.Compose([getattr(v2, name)() for name in names])
    except (AttributeError, TypeError) as error:
        raise InvalidInput(
            f"expected transforms of torchvision.transforms.v2 that need no arguments, got {' '.join(names)} "
            f"({error}); a data set goes before --augment"
        ) from error
