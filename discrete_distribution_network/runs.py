"""A run: a folder with the options, checkpoints, figures, pictures and the model of one training.

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
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any

import torch

from discrete_distribution_network.checkpoints import Checkpoints
from discrete_distribution_network.classifier import accuracy, train_classifier
from discrete_distribution_network.config import CONFIG, TrainConfig, load_config
from discrete_distribution_network.data import Split, is_stream, open_data
from discrete_distribution_network.ddn import DDN, resolutions
from discrete_distribution_network.errors import DataError, InvalidInput, ModelFileError, require
from discrete_distribution_network.frechet import FeatureNet, frechet_figures, inception
from discrete_distribution_network.images import find_images, load_image
from discrete_distribution_network.loader import Augment, first_images, in_order, in_unit_range
from discrete_distribution_network.metrics import evaluate
from discrete_distribution_network.pictures import grid, loss_curve, reconstructions, to_pil
from discrete_distribution_network.report import read_metrics
from discrete_distribution_network.trainer import MODEL, Trainer
from discrete_distribution_network.tree import tree_picture
from discrete_distribution_network.whole_folder import MANIFEST

RUNS = Path("runs")
CHECKPOINTS = "checkpoints"
EVALUATION = "evaluation.json"


def train(config: TrainConfig, name: str = "train") -> None:
    """Train, save, evaluate, draw. SIGTERM and Ctrl-C save first."""
    if config.channels not in (1, 3):
        raise InvalidInput(f"expected --channels 1 (grey) or 3 (colour), got {config.channels}")
    if config.steps is None and config.minutes <= 0:
        raise InvalidInput(f"expected --minutes above 0, got {config.minutes}")
    if not config.dataset:
        raise InvalidInput("expected a data set, got none; give a folder of images or the name of a data set")
    device = place(config.device)
    split = open_split(config)
    torch.manual_seed(config.seed)
    ddn = network(config)
    augment = augmentation(config.augment)
    with _folder(config, name) as out:
        trainer = Trainer(
            ddn,
            dataset=split.train,
            test_dataset=split.test,
            num_train_steps=sys.maxsize if config.steps is None else config.steps,
            max_minutes=config.minutes if config.steps is None else None,
            batch_size=config.batch_size,
            grad_accum_every=config.grad_accum,
            learning_rate=config.learning_rate,
            weight_decay=config.weight_decay,
            adam_kwargs={"betas": (0.9, 0.99)},
            warmup_steps=config.warmup_steps,
            decay="cosine",
            hold=config.hold,
            max_grad_norm=config.max_grad_norm,
            split_every=config.split_every,
            split_until=config.split_until,
            use_ema=config.ema,
            augment=augment,
            max_bad_images=config.max_bad_images,
            num_workers=config.workers,
            mixed_precision=config.precision,
            compile=config.compile,
            accelerate_kwargs={"cpu": device.type == "cpu"},
            seed=config.seed,
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
    if trainer.processes.is_main:
        out.mkdir(parents=True, exist_ok=True)
        config.save(out / CONFIG)
        (out / EVALUATION).unlink(missing_ok=True)  # of the model that this training replaces
        images = "a stream of images" if is_stream(split.train) else f"{len(split.train)} images to learn from"
        print(
            f"{images}; {ddn.num_levels} levels of {config.codebook_size} candidates, {ddn.bits_per_image:g} bits an "
            f"image; {trainer.precision.replace('no', 'float32')} on {trainer.processes.device}; all goes to {out}"
        )
    trainer()
    if trainer.processes.is_main:
        _finish(trainer.result, split, out, config.max_bad_images)
    trainer.accelerator.end_training()


@contextmanager
def _folder(config: TrainConfig, name: str) -> Iterator[Path]:
    """The run's folder: the given one, or a new one under ./runs; to resume, the newest there of this data set.

    A new one is made at once, so that no other training takes it, and taken away if this one cannot begin.
    """
    if config.out is not None:
        yield config.out
        return
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise InvalidInput("expected --out where several processes train, got none; name a folder for all of them")
    if config.resume:
        yield newest_run(f"{name}*", config.dataset)
        return
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
        with suppress(OSError):  # it holds files, or others do
            out.rmdir()
            RUNS.rmdir()
        raise


def _finish(ddn: DDN, split: Split, out: Path, max_bad_images: int) -> None:
    figures = evaluate(ddn, split.test, max_bad_images=max_bad_images)
    _write_figures(out, figures._asdict())
    many = in_order(split.train, ddn, 100, limit=2000, max_bad_images=max_bad_images)
    codes = torch.cat([ddn.encode(batch.images.to(ddn.start.device)) for batch in many])
    some = first_images(split.test, ddn, 10, max_bad_images).to(ddn.start.device)
    grid(ddn.sample(64, generator=torch.Generator().manual_seed(0))).save(out / "samples.png")
    reconstructions(ddn, ddn.encode_walk(some), some).save(out / "reconstructions.png")
    tree_picture(ddn, codes, out / "tree.png")
    lines = [line for line in read_metrics(out) if "loss" in line]
    loss_curve([line["step"] for line in lines], [line["loss"] for line in lines], out / "loss.png")
    print(
        f"on {figures.images} test images: reconstruction error {figures.error:.5f} ({figures.psnr:.1f} dB), "
        f"{min(figures.usage_by_level):.0%} of the nodes in use at the least used level; model and pictures in {out}"
    )


def _write_figures(run: Path, figures: dict[str, Any]) -> None:
    (run / EVALUATION).write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


def network(config: TrainConfig) -> DDN:
    return DDN(
        dim=config.dim,
        dim_max=config.dim_max,
        image_size=list(config.size),
        channels=config.channels,
        codebook_size=config.codebook_size,
        num_resnet_blocks=config.res_blocks,
        levels_per_resolution=list(config.levels or levels_for(len(resolutions(config.size)))),
        guided_sampler_kwargs={"chain_dropout_prob": config.chain_dropout},
    )


def levels_for(count: int) -> list[int]:
    """Levels at each of `count` resolutions, smallest first: few where the image is tiny, most in the middle."""
    return [*[2, 4, *[6] * count][: count - 1], 4]


def open_split(config: TrainConfig) -> Split:
    return open_data(config.dataset, config.size, config.channels, config.test_share, config.streaming)


def augmentation(names: Sequence[str]) -> Augment | None:
    """The transforms of torchvision.transforms.v2 of these names, one after the other."""
    if not names:
        return None
    try:
        from torchvision.transforms import v2
    except (ImportError, RuntimeError) as error:  # RuntimeError: a torchvision built for another torch
        raise DataError(
            f"expected torchvision for --augment, which cannot be imported ({error}); install the torchvision of your "
            "torch's version"
        ) from error
    try:
        return v2.Compose([getattr(v2, name)() for name in names])
    except (AttributeError, TypeError) as error:
        raise InvalidInput(
            f"expected transforms of torchvision.transforms.v2 that need no arguments, got {' '.join(names)} ({error})"
        ) from error


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


def newest_run(pattern: str = "*", dataset: str | None = None) -> Path:
    """The run under ./runs that was started last, among those of this data set if one is given."""
    configs = sorted(RUNS.glob(f"{pattern}/{CONFIG}"), key=lambda path: path.stat().st_mtime, reverse=True)
    for path in configs:
        if dataset is None or load_config(path).get("dataset") == dataset:
            return path.parent
    of_it = "" if dataset is None else f" of {dataset}"
    raise ModelFileError(f"expected a run{of_it} under {RUNS}, found none; run `ddn quickstart` or `ddn train` first")


def model_folder(folder: Path) -> Path:
    """The folder of the model that a path stands for: a model's own, or of a run the newest that is whole."""
    if not folder.is_dir():
        raise ModelFileError(f"expected a run or a model folder at {folder}, found none; give one that training wrote")
    found = Checkpoints(folder / CHECKPOINTS).newest_whole()
    if not (folder / MODEL / CONFIG).is_file():
        return found or folder
    if found is None:
        return folder / MODEL
    # a training that goes on, or was killed, has newer checkpoints than the model of when it last ended
    saved, ended = (path / MANIFEST for path in (found, folder / MODEL))
    return found if not ended.is_file() or saved.stat().st_mtime > ended.stat().st_mtime else folder / MODEL


def load_model(folder: Path | None, device: str) -> DDN:
    """The model of a run (the newest under ./runs if None), or in a model folder."""
    there = place(device)
    return DDN.from_pretrained(model_folder(folder or newest_run())).to(there).eval()


def info(run: Path) -> str:
    """What there is to say of a run or a model: network, bits, levels, usage by level, last figures."""
    ddn = load_model(run, "cpu")
    parameters = sum(parameter.numel() for parameter in ddn.parameters())
    lines = read_metrics(run)
    trained = next((line for line in reversed(lines) if "loss" in line), None)
    tested = next((line for line in reversed(lines) if "test" in line), None)
    test = tested["test"] if tested else None
    if (run / EVALUATION).is_file():
        test = json.loads((run / EVALUATION).read_text(encoding="utf-8"))
    used = (test or trained or {}).get("usage_by_level")
    height, width = ddn.image_size
    told = [
        f"model      {model_folder(run)}",
        f"network    {parameters:,} parameters, images {height}x{width} with {ddn.channels} channels",
        f"latent     {ddn.num_levels} levels, {ddn.bits_per_image:g} bits ({ddn.bits_per_image / 8:g} bytes) an image",
    ]
    if trained:
        told.append(
            f"training   step {trained['step']}, {trained['seconds'] / 60:.1f} minutes, loss {trained['loss']:.5f}, "
            f"{trained['images_per_second']:.0f} images/s, {trained['splits']} nodes pruned"
        )
    if test:
        told.append(f"test       error {test['error']:.5f} ({test['psnr']:.1f} dB) on {test['images']} images")
        told += [f"           {name} {value}" for name, value in test.items() if name.startswith("frechet")]
    sizes = [size for stage in ddn._stages() for size in [stage.size] * len(stage.samplers())] * ddn.recurrence
    told.append("level  size       K     codes  in use  error")
    for level, (size, nodes, codes) in enumerate(zip(sizes, ddn.codebook_sizes, ddn.codes_per_level, strict=True)):
        share = f"{used[level]:.0%}" if used else ""
        error = f"{test['error_by_level'][level]:.5f}" if test else ""
        told.append(f"{level:5d}  {f'{size[0]}x{size[1]}':9s}  {nodes:<5d} {codes:<5d}  {share:>6s}  {error}".rstrip())
    return "\n".join(told)


def load_images(files: Sequence[Path], ddn: DDN) -> tuple[list[Path], torch.Tensor]:
    """The images of files and folders, (B, C, H, W) on the model's device, and their paths."""
    paths = [path for file in files for path in (find_images(file) if file.is_dir() else [file])]
    if not paths:
        raise InvalidInput("expected at least one image file, got none; name files or folders")
    images = torch.stack([load_image(path, ddn.image_size, ddn.channels) for path in paths])
    return paths, in_unit_range(images.to(ddn.start.device))


def write_codes(path: Path, paths: Sequence[Path], codes: torch.Tensor) -> None:
    """A JSON file of codes: {"images": [{"name": ..., "codes": [...]}]}."""
    images = [{"name": file.stem, "codes": own} for file, own in zip(paths, codes.tolist(), strict=True)]
    path.write_text(json.dumps({"images": images}) + "\n", encoding="utf-8")


def decode_to_folder(ddn: DDN, path: Path, out: Path, levels: int | None) -> int:
    """Write the images of a file of codes as PNG files; gives how many.

    Raises:
        DataError: the file is something else.
        InvalidInput: the codes do not fit the model, or a file of that name is there.
    """
    try:
        images = [(str(image["name"]), list(image["codes"])) for image in json.loads(path.read_text("utf-8"))["images"]]
        codes = torch.tensor([own for _, own in images])
    except (UnicodeDecodeError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"expected codes that `ddn encode` wrote in {path}, got something else ({error})") from error
    require(len(images) >= 1, f"at least one image in {path}", "none")
    if levels is not None:
        require(1 <= levels <= ddn.num_levels, f"levels from 1 to {ddn.num_levels}", levels)
        codes = codes[:, : sum(ddn.codes_per_level[:levels])]
    decoded = ddn.decode(codes)
    out.mkdir(parents=True, exist_ok=True)
    targets = [out / f"{index:05d}-{Path(name).name}.png" for index, (name, _) in enumerate(images)]
    if there := [target for target in targets if target.exists()]:
        raise InvalidInput(f"expected a folder without {there[0].name}, got {out}; use another --out")
    for target, image in zip(targets, decoded, strict=True):
        to_pil(image).save(target)
    return len(targets)


def evaluate_run(
    run: Path | None, dataset: str | None, samples: int, features: str, seed: int, device: str
) -> dict[str, Any]:
    """Figures of a run's model on its test images, and Fréchet distances unless `features` is none; kept in the run."""
    run = run or newest_run()
    folder = model_folder(run)
    ddn = load_model(run, device)
    config = TrainConfig()
    if run != folder and (run / CONFIG).is_file():
        config = TrainConfig(**load_config(run / CONFIG))
    if not (dataset or config.dataset):
        raise InvalidInput(f"expected a run with its {CONFIG}, got {run}; name the data set with --dataset")
    split = open_data(dataset or config.dataset, ddn.image_size, ddn.channels, config.test_share, config.streaming)
    bad = config.max_bad_images
    figures: dict[str, Any] = evaluate(ddn, split.test, max_bad_images=bad)._asdict()
    if features != "none":
        net, name = feature_net(features, ddn, split, seed, bad)
        found = frechet_figures(ddn, net, split.train, split.test, samples, seed=seed, max_bad_images=bad)
        figures["frechet_features"] = name
        figures |= {f"frechet_{key}": value for key, value in found._asdict().items()}
    if dataset is None:
        _write_figures(run, figures)
    return figures


def feature_net(features: str, ddn: DDN, split: Split, seed: int, max_bad_images: int = 0) -> tuple[FeatureNet, str]:
    """The network that a Fréchet distance is measured in, and what it is called."""
    device = ddn.start.device
    if features != "classifier":
        net = inception(None if features == "inception" else features, str(device))
        return net, "Inception, 2048 features"
    classifier = train_classifier(split.train, ddn, seed=seed, device=device, max_bad_images=max_bad_images)
    right = accuracy(classifier, split.test, ddn, max_bad_images)
    return classifier.features, f"classifier of this data set, {right:.1%} right on its test images"
