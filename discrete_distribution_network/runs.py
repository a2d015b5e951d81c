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
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import torch
from huggingface_hub import constants
from torch.utils.data import Subset

from discrete_distribution_network.bitstream import Reader
from discrete_distribution_network.checkpoints import Checkpoints
from discrete_distribution_network.classifier import Classifier, accuracy, num_classes, train_classifier
from discrete_distribution_network.code_prior import CODE_PRIOR, CodePrior, FittedCodes, fit_codes
from discrete_distribution_network.code_transformer import CodeTransformer
from discrete_distribution_network.codec import ImageCodec
from discrete_distribution_network.config import CONFIG, TrainConfig, load_config
from discrete_distribution_network.data import Split, held_out, is_stream, open_data
from discrete_distribution_network.ddn import DDN
from discrete_distribution_network.errors import DataError, InvalidInput, ModelFileError, require
from discrete_distribution_network.frechet import FeatureNet, frechet_figures, inception
from discrete_distribution_network.images import find_images, load_image, load_whole
from discrete_distribution_network.loader import in_order, in_unit_range
from discrete_distribution_network.metrics import evaluate, psnr
from discrete_distribution_network.options import RUNS as RUNS
from discrete_distribution_network.options import newest_run
from discrete_distribution_network.pictures import to_pil
from discrete_distribution_network.pretrained import MODEL, load_strictly, read_tensors, released, write_tensors
from discrete_distribution_network.prior import CONFIG as PRIOR
from discrete_distribution_network.prior import Fitted, LearnedPrior, Prior, fit, read_config, temperatures
from discrete_distribution_network.processes import fast_autocast
from discrete_distribution_network.report import read_metrics
from discrete_distribution_network.shown_with import CONDS
from discrete_distribution_network.whole_file import write_text
from discrete_distribution_network.whole_folder import MANIFEST

if TYPE_CHECKING:
    from discrete_distribution_network.demo.page import Demo

CHECKPOINTS = "checkpoints"
EVALUATION = "evaluation.json"

KEPT_BY = 1000
"""Training images by which the weights of a prior are kept."""


def write_figures(run: Path, figures: dict[str, Any]) -> None:
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


PRIORS: dict[str, type[LearnedPrior]] = {kind.kind: kind for kind in (Prior, CodeTransformer)}
"""Of each kind that `ddn prior` fits."""


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
        tensors = read_tensors(path)
        try:
            classifier = Classifier(ddn.channels, len(tensors["head.bias"]))
        except KeyError as error:
            raise ModelFileError(f"expected the weights of a classifier in {path}, got others; train one") from error
        load_strictly(classifier, tensors, path)
        return classifier.to(ddn.start.device).eval().requires_grad_(False)
    if weights is not None:
        raise ModelFileError(f"expected the weights of a classifier in {path}, found no file; check the path")
    config = _config_of(folder or newest_run())
    split = _data_of(config, None, ddn)
    classifier = train_classifier(split.train, ddn, device=ddn.start.device, max_bad_images=config.max_bad_images)
    write_tensors(own, classifier.state_dict())
    return classifier


def fit_prior(
    run: Path | None, dataset: str | None, kind: str, minutes: float, by_class: bool, dim: int, seed: int, device: str
) -> tuple[Fitted, Path]:
    """Fit a prior to the codes of a run's data set and keep it in the run's model folder; gives figures and folder."""
    run = run or newest_run()
    folder, config = model_folder(run), _config_of(run)
    ddn = load_model(folder, device)
    require(
        folder == run / MODEL or folder == run, f"a run that has ended, with {run / MODEL}", "one still in training"
    )
    split = to_fit(_data_of(config, dataset, ddn))
    classes = ddn.num_classes
    if by_class and classes is None:
        classes = num_classes(split.train, ddn, config.max_bad_images)
    torch.manual_seed(seed)
    prior = PRIORS[kind](ddn, dim=dim, num_classes=classes)
    fitted = fit(prior, ddn, split.train, split.test, minutes=minutes, seed=seed, max_bad_images=config.max_bad_images)
    prior.save(folder)
    return fitted, folder


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


def to_fit(split: Split) -> Split:
    """The training images in two: those that a prior is fitted to, and at most `KEPT_BY` by which its weights are kept.

    So the test images choose nothing. Of a stream all are for fitting, and the test images for keeping.
    """
    if is_stream(split.train):
        if split.test is None:
            raise DataError("expected held-out images to fit a prior with, got a stream without; give some")
        return split
    parts = held_out(len(split.train), min(0.1, KEPT_BY / len(split.train)))
    return Split(*(Subset(split.train, part) for part in parts))


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
    lines = read_metrics(run)
    trained = next((line for line in reversed(lines) if "loss" in line), None)
    tested = next((line for line in reversed(lines) if "test" in line), None)
    test = tested["test"] if tested else None
    if (run / EVALUATION).is_file():
        test = json.loads((run / EVALUATION).read_text(encoding="utf-8"))
    used = (test or trained or {}).get("usage_by_level")
    height, width = ddn.image_size
    told = [
        f"model      {folder}",
        f"network    {parameters:,} parameters, images {height}x{width} with {ddn.channels} channels",
        *([f"classes    {ddn.num_classes}, which may be asked for"] if ddn.num_classes is not None else []),
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


def codec_of(folder: Path, device: str, beams: int = 1, rate: float = 0.0) -> ImageCodec:
    """The codec of a model's folder, which range codes if a code prior lies there."""
    ddn = load_model(folder, device)
    return ImageCodec(ddn, code_prior_of(ddn, folder), beams=beams, rate=rate)


def code_prior_of(ddn: DDN, folder: Path) -> CodePrior | None:
    """The code prior beside a model, if there is one."""
    return CodePrior.load(folder, ddn) if (folder / CODE_PRIOR).is_file() else None


def fit_code_prior(
    run: Path | None, dataset: str | None, minutes: float, dim: int, seed: int, device: str
) -> tuple[FittedCodes, Path]:
    """Fit a code prior to the codes of a run's training images, for range-coded files; gives figures and folder."""
    run = run or newest_run()
    folder, config = model_folder(run), _config_of(run)
    ddn = load_model(folder, device)
    split = to_fit(_data_of(config, dataset, ddn))
    codes = [codes_of(ddn, part, config.max_bad_images) for part in (split.train, split.test)]
    torch.manual_seed(seed)
    prior = CodePrior.of(ddn, dim)
    fitted = fit_codes(prior, *codes, minutes=minutes, seed=seed)
    prior.save(folder)
    return fitted, folder


def codes_of(ddn: DDN, dataset: Any, max_bad_images: int = 0) -> torch.Tensor:
    """The codes (N, number of codes) of all images of a data set, as small integers where they fit."""
    kind = torch.int16 if max(ddn.codebook_sizes) <= 1 << 15 else torch.int64
    codes = []
    for batch in in_order(dataset, ddn, 200, max_bad_images=max_bad_images):
        with fast_autocast(ddn.start.device):
            codes.append(ddn.encode(batch.images.to(ddn.start.device)).cpu().to(kind))
    return torch.cat(codes)


def write_codes(codec: ImageCodec, files: Sequence[Path], out: Path | BinaryIO, tile: bool, levels: int | None) -> str:
    """Encode image files into one `.ddn` file, or their codes into a JSON file; gives what there is to tell.

    Args:
        tile: keep the images' own size, which must be the same for all, and cut them into tiles.
    """
    ddn = codec.ddn
    if not tile:
        paths, images = load_images(files, ddn)
    else:
        paths = list(files)
        require(len(paths) >= 1, "at least one image file", "none", "name files")
        whole = [load_whole(path, ddn.channels) for path in paths]
        sizes = {tuple(one.shape[1:]) for one in whole}
        require(len(sizes) == 1, "images of one size for --tile", f"{len(sizes)} sizes", "encode them one by one")
        images = in_unit_range(torch.stack(whole))
    if isinstance(out, Path) and out.suffix == ".json":
        require(not tile, "a .ddn file for --tile", out)
        codes: list[Any] = ddn.encode_walk(images, levels, beams=codec.beams).codes.tolist()
        if set(ddn.codebook_sizes) == {2}:  # Taiji-DDN: a string of bits
            codes = ["".join(map(str, own)) for own in codes]
        listed = [{"name": path.stem, "codes": own} for path, own in zip(paths, codes, strict=True)]
        out.write_text(json.dumps({"images": listed}) + "\n", encoding="utf-8")
        return f"{len(paths)} images, {ddn.bits_per_image / 8:g} bytes each, as codes in {out}"
    data = codec.compress_batch(images, levels)
    if not isinstance(out, Path):
        out.write(data)
        return ""
    out.write_bytes(data)
    back = codec.decompress_batch(data)
    error = float((back - images.cpu()).square().mean())
    reader = Reader(data)
    each = sum(len(reader[place]) for place in range(len(reader))) / len(reader)
    return (
        f"{len(paths)} images in {out}: {len(data)} bytes, {each:.1f} an image without the header; "
        f"error {error:.5f} ({psnr(error):.1f} dB)"
    )


def read_codes(codec: ImageCodec, source: Path | BinaryIO, levels: int | None) -> tuple[list[str], torch.Tensor]:
    """The images (B, C, H, W) of a `.ddn` or JSON file, and their names.

    Raises:
        DataError, CodeFileError: the file is something else.
        InvalidInput: the codes do not fit the model.
    """
    ddn = codec.ddn
    data = source.read_bytes() if isinstance(source, Path) else source.read()
    if data[:1] != b"{":
        images = codec.decompress_batch(data, levels)
        return [f"{index:05d}" for index in range(len(images))], images
    try:
        listed = [(str(image["name"]), image["codes"]) for image in json.loads(data.decode())["images"]]
        codes = torch.tensor([list(map(int, own)) if isinstance(own, str) else list(own) for _, own in listed])
    except (UnicodeDecodeError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"expected codes that `ddn encode` wrote in {source}, got something else ({error})") from error
    require(len(listed) >= 1, f"at least one image in {source}", "none")
    if levels is not None:
        require(1 <= levels <= ddn.num_levels, f"levels from 1 to {ddn.num_levels}", levels)
        codes = codes[:, : sum(ddn.codes_per_level[:levels])]
    return [f"{index:05d}-{Path(name).name}" for index, (name, _) in enumerate(listed)], ddn.decode(codes)


def write_images(names: Sequence[str], images: torch.Tensor, out: Path) -> None:
    """One PNG an image into a folder.

    Raises:
        InvalidInput: a file of that name is there.
    """
    out.mkdir(parents=True, exist_ok=True)
    targets = [out / f"{name}.png" for name in names]
    if there := [target for target in targets if target.exists()]:
        raise InvalidInput(f"expected a folder without {there[0].name}, got {out}; use another --out")
    for target, image in zip(targets, images, strict=True):
        to_pil(image).save(target)


def evaluate_run(
    run: Path | None,
    dataset: str | None,
    samples: int,
    features: str,
    uniform: bool,
    temperature: float | None,
    seed: int,
    device: str,
) -> dict[str, Any]:
    """Figures of a run's model on its test images, and Fréchet distances unless `features` is none; kept in the run.

    Samples are drawn by the run's prior, if it has one and `uniform` is not said.
    """
    run = run or newest_run()
    folder, config = model_folder(run), _config_of(run)
    ddn = load_model(folder, device)
    split = _data_of(config, dataset, ddn)
    require(
        features == "none" or not ddn.cond_channels, "--features none for a network that learnt with images", features
    )
    prior = None if uniform or features == "none" else load_prior(ddn, folder)
    bad = config.max_bad_images
    figures: dict[str, Any] = evaluate(ddn, split.test, max_bad_images=bad, make_cond=CONDS.get(config.cond))._asdict()
    if features != "none":
        net, name = feature_net(features, ddn, split, seed, bad)
        at = temperatures(ddn) if temperature is None else temperature
        how: dict[str, Any] = {} if prior is None else {"prior": prior, "temperature": at}
        found = frechet_figures(ddn, net, split.train, split.test, samples, seed=seed, max_bad_images=bad, **how)
        drawn = "uniformly" if prior is None else "by the prior"
        if prior is not None and temperature is not None:
            drawn += f" at temperature {temperature:g}"
        figures |= {"frechet_features": name, "frechet_samples_drawn": drawn}
        figures |= {f"frechet_{key}": value for key, value in found._asdict().items()}
    if dataset is None:
        write_figures(run, figures)
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
