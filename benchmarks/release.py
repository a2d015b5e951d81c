"""Make a model for release of a run: in half precision, with what lies beside it, and figures measured of just that.

    python benchmarks/release.py runs/fashion fashion-mnist

Writes `discrete_distribution_network/released/NAME`: network and prior in float16, the judge of `quality.py`, an
entropy model if there is one, an example, the names of the classes and a card. No file may have more than 8 MiB.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

import torch
from quality import classifier

from discrete_distribution_network.cli.config import load_config
from discrete_distribution_network.cli.prior import codes_of
from discrete_distribution_network.cli.runs import CARD, CLASSIFIER, EXAMPLE, model_folder
from discrete_distribution_network.data.loader import in_order
from discrete_distribution_network.data.sources import open_data
from discrete_distribution_network.ddn import DDN
from discrete_distribution_network.evaluation.frechet import frechet_figures
from discrete_distribution_network.evaluation.metrics import evaluate
from discrete_distribution_network.io import atomic_folder
from discrete_distribution_network.io.pretrained import RELEASED
from discrete_distribution_network.io.safetensors_file import read_tensors, write_tensors
from discrete_distribution_network.prior.base import LearnedPrior
from discrete_distribution_network.prior.entropy_model import ENTROPY_MODEL, EntropyModel
from discrete_distribution_network.viz.pictures import to_pil

LIMIT = 8 << 20
CLASSES = ["t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot"]


def halved(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: value.half() if value.is_floating_point() else value for name, value in tensors.items()}


def parameters(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


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
    split = open_data("fashion-mnist", ddn.image_size, ddn.channels)
    judge, _ = classifier()
    write_tensors(out / CLASSIFIER, halved(judge.state_dict()))
    (out / CARD).write_text(json.dumps({"classes": CLASSES}) + "\n", encoding="utf-8")
    to_pil(next(iter(in_order(split.test, ddn, 1))).images[0]).save(out / EXAMPLE)
    code_bits = ""
    if (source / ENTROPY_MODEL).is_file():
        shutil.copy(source / ENTROPY_MODEL, out)
        bits = EntropyModel.load(out, ddn).cost(codes_of(ddn, split.test))
        code_bits = f"\n- Range coded by the entropy model beside it, codes of the test images take {bits:.0f} bits"
    assert isinstance(ddn.prior, LearnedPrior)
    figures = evaluate(ddn, split.test)
    distances = frechet_figures(ddn, judge.features, split.train, split.test)
    config = load_config(given.run / "config.json")
    by_class = " by class" if ddn.num_classes is not None else ""
    card = f"""---
library_name: discrete-distribution-network
tags: [discrete-distribution-network]
license: mit
---

# {given.name}

A Discrete Distribution Network{by_class} of Fashion-MNIST (60,000 training images, padded to 32x32), with its learned
prior.

    DDN.from_pretrained("{given.name}")

- Data: Fashion-MNIST (Zalando Research, MIT licence), Debian's package dataset-fashion-mnist
- Network: {parameters(ddn):,} parameters, {ddn.num_levels} levels of {ddn.codebook_sizes[0]} candidates,
  {ddn.bits_per_image:g} bits an image; prior: {parameters(ddn.prior):,} parameters; both stored in float16
- Recipe: the preset of `ddn train` for 32x32{", --by-class" if by_class else ""}, batch {config["batch_size"]}, seed
  {config["seed"]}. {given.how}
- On the 10,000 test images: error {figures.error:.5f} ({figures.psnr:.1f} dB), least used level
  {min(figures.usage_by_level):.2f} (perplexity over K){code_bits}
- Fréchet distance to the test images, in the features of the classifier beside it: samples as
  `ddn sample` draws them {distances.samples:.1f}, reconstructions {distances.reconstructions:.1f}, training images
  {distances.floor:.2f} (10,000 images each)
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
