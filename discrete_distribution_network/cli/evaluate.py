"""What `ddn evaluate` measures: reconstructions of the test images, and Fréchet distances of samples."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

from discrete_distribution_network.cli.commands.evaluate import Evaluate
from discrete_distribution_network.cli.options import newest_run
from discrete_distribution_network.cli.runs import load_model, model_folder, open_dataset, run_config
from discrete_distribution_network.conditioning import CONDS
from discrete_distribution_network.data.datasets import Split, is_stream
from discrete_distribution_network.ddn import DDN
from discrete_distribution_network.errors import InvalidInput, require_seed
from discrete_distribution_network.evaluation.classifier import NoClasses, accuracy, num_classes, train_classifier
from discrete_distribution_network.evaluation.compared import drawn, real, reconstructed
from discrete_distribution_network.evaluation.frechet import FeatureNet, check_drawn, frechet_figures, inception
from discrete_distribution_network.evaluation.imagenet import imagenet
from discrete_distribution_network.evaluation.metrics import evaluate
from discrete_distribution_network.evaluation.sample_figures import features_of, sample_figures
from discrete_distribution_network.io.atomic_file import check_writable, write_text
from discrete_distribution_network.io.run_folder import EVALUATION

MOST_TRAINING = 20_000
"""Most training images whose features are compared."""


def evaluate_run(options: Evaluate) -> dict[str, Any]:
    """Metrics of a run's model on its test images, saved in the run unless they are of another data set.

    Fréchet distances are among them unless `features` is none; their samples are drawn by the run's prior, if it has
    one and `uniform` is false.
    """
    check_drawn(options.samples)
    require_seed(options.seed)
    if isinstance(options.temperature, int | float) and not 0 <= options.temperature < math.inf:
        raise InvalidInput(f"expected --temperature of at least 0, got {options.temperature}")
    run = options.run_folder or options.model or newest_run()
    folder, config = model_folder(run), run_config(run)
    if options.dataset is None and run.is_dir():
        check_writable(run)
    ddn = load_model(folder, options.device, options.uniform)
    split = open_dataset(config, options.dataset, ddn)
    bad = config.max_bad_images
    features, classes = _choose_features(options.features, ddn, split, bad)
    net = None if features == "none" else feature_net(features, ddn, split, options.seed, bad, classes)
    metrics: dict[str, Any] = evaluate(ddn, split.test, max_bad_images=bad, cond_fn=CONDS.get(config.cond))._asdict()
    if net is not None:
        temperature = None if ddn.prior is None else options.temperature
        how = "uniformly" if ddn.prior is None else "by the prior"
        if temperature is not None:
            how += f" at temperature {temperature}"
        metrics |= {"frechet_features": net[1], "frechet_samples_drawn": how}
        compare = _imagenet_figures if features == "imagenet" else _frechet_figures
        metrics |= compare(ddn, net[0], split, options, bad, temperature)
    if options.dataset is None:
        write_evaluation(run, metrics)
    return metrics


def _frechet_figures(
    ddn: DDN, net: FeatureNet, split: Split, options: Evaluate, max_bad_images: int, temperature: Any
) -> dict[str, Any]:
    figures = frechet_figures(
        ddn,
        net,
        split.train,
        split.test,
        options.samples,
        seed=options.seed,
        max_bad_images=max_bad_images,
        temperature=temperature,
    )
    return {f"frechet_{name}": value for name, value in figures._asdict().items()}


def _imagenet_figures(
    ddn: DDN, net: FeatureNet, split: Split, options: Evaluate, max_bad_images: int, temperature: Any
) -> dict[str, Any]:
    """`SampleFigures` of the model's samples."""
    bad = {"max_bad_images": max_bad_images}
    sets = (
        drawn(ddn, options.samples, seed=options.seed, temperature=temperature),
        reconstructed(ddn, split.test, **bad),
        real(ddn, split.train, MOST_TRAINING, **bad),
        real(ddn, split.test, **bad),
    )
    samples, reconstructions, train, test = (features_of(net, images) for images in sets)
    figures = sample_figures(samples, reconstructions, train, test, options.seed)
    return {"samples": options.samples, **figures.by_name()}


def write_evaluation(run: Path, metrics: dict[str, Any]) -> None:
    """Save the metrics of a run's model on its test images."""
    write_text(run / EVALUATION, json.dumps(metrics, indent=2) + "\n")


def _choose_features(features: str | None, ddn: DDN, split: Split, max_bad_images: int) -> tuple[str, int | None]:
    """The features of the Fréchet distance, and the number of classes where a classifier is trained for them.

    None becomes a classifier where the images have labels, and otherwise none, which is printed with its reason.
    """
    if features == "none":
        return "none", None
    if (reason := _no_distance(ddn, split)) is not None:
        if features is not None:
            raise InvalidInput(f"expected --features none, since {reason}; got {features}")
        return _print_no_distance(reason), None
    if features not in (None, "classifier"):
        return features, None
    try:
        return "classifier", num_classes(split.train, ddn, max_bad_images)
    except NoClasses as error:
        if features is not None:
            raise
        return _print_no_distance(str(error)), None


def _no_distance(ddn: DDN, split: Split) -> str | None:
    """Why no Fréchet distance can be measured, whatever the features; None if one can."""
    if ddn.cond_channels:
        return f"the network is conditioned on images of {ddn.cond_channels} channels"
    if not is_stream(split.test) and len(split.test) < 2:
        return f"a Fréchet distance needs at least 2 test images, and there are {len(split.test)}"
    return None


def _print_no_distance(reason: str) -> str:
    print(
        f"ddn: no Fréchet distance: {reason}; --features imagenet or inception needs no labels",
        file=sys.stderr,
    )
    return "none"


def feature_net(
    features: str, ddn: DDN, split: Split, seed: int, max_bad_images: int = 0, classes: int | None = None
) -> tuple[FeatureNet, str]:
    """The network whose features a Fréchet distance compares, and its description."""
    device = ddn.start.device
    if features == "imagenet":
        return imagenet(device), "EfficientNet-Lite0, 1280 features"
    if features != "classifier":
        net = inception(None if features == "inception" else features, str(device))
        return net, "Inception, 2048 features"
    classifier = train_classifier(split.train, ddn, classes, seed=seed, device=device, max_bad_images=max_bad_images)
    right = accuracy(classifier, split.test, ddn, max_bad_images)
    return classifier.features, f"classifier of this data set, {right:.1%} right on its test images"
