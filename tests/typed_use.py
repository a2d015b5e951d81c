"""What people do with the package, with every annotation checked at each call; run by `test_annotations.py`."""

import warnings
from pathlib import Path
from tempfile import TemporaryDirectory

from jaxtyping import install_import_hook

with install_import_hook("discrete_distribution_network", "typechecker.typechecked"):
    import torch

    from discrete_distribution_network import DDN, GuidedSampler, ImageCodec, Prior, Trainer
    from discrete_distribution_network.codec import EntropyModel, fit_entropy_model
    from discrete_distribution_network.evaluation import evaluate, neighbours
    from discrete_distribution_network.guidance import Classifier, Inpaint, Match, RatePenalty, SuperResolve
    from discrete_distribution_network.prior import Chain, CodeTransformer, Frequencies, fit
    from discrete_distribution_network.viz import grid, nested_grids, path_picture, reconstructions

SMALL = dict(dim=4, dim_max=8, image_size=8, channels=1, codebook_size=8, levels_per_resolution=2)
IMAGES = torch.randint(0, 256, (40, 1, 8, 8), dtype=torch.uint8)
LABELS = torch.randint(0, 3, (40,))


def samplers() -> None:
    features, query = torch.randn(2, 16, 8, 8), torch.randn(2, 3, 8, 8)
    for options in ({}, {"patch_size": 4}, {"network": torch.nn.Conv2d(16, 3, 3, padding=1)}, {"stochastic": True}):
        sampler = GuidedSampler(dim=16, codebook_size=10, **options)
        output, _ = sampler(features, query, return_distances=True)
        sampler.forward_for_codes(features, output.codes)
        sampler.candidates(features).distances(sampler._to_patches(query))
        sampler.split_and_prune_()
    GuidedSampler(dim=16, codebook_size=10)(features[:, :, 0, 0], query[:, :, 0, 0])


def networks() -> DDN:
    for options in (
        {},
        {"patch_size": [None, 4]},
        {"recurrence": 2, "levels_per_resolution": [0, 1]},
        {"num_classes": 3, "cond_channels": 1},
        {"use_adversarial_loss": True},
    ):
        ddn = DDN(**{**SMALL, **options})
        shown = {"labels": LABELS, "cond": IMAGES.float() / 255} if "num_classes" in options else {}
        ddn(IMAGES, **shown).backward()
        ddn(IMAGES, return_intermediates=True, reduction="none", **shown)
        ddn.split_and_prune_()
        codes = ddn.encode(IMAGES, **shown)
        ddn.decode(codes, **shown)
        ddn.reconstruct(IMAGES, levels=1, **shown)
        ddn.sample(4, return_codes=True)
        ddn.half().float()
    return DDN(**SMALL, patch_size=[None, 4])


def guided(ddn: DDN, prior: Prior) -> None:
    images = IMAGES[:3].float() / 255
    left = torch.ones(8, 8)
    left[:, 4:] = 0
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 3))
    ddn.encode(images, beams=3)
    ddn.guide(Match(images))
    ddn.guide(Inpaint(images, left), beams=2)
    ddn.guide([SuperResolve(images[:, :, ::4, ::4]), Classifier(net, 1)], 3, prior=prior)
    ddn.guide(Classifier(net, 1), 3, prior=prior, rollouts=4, beams=2)
    ddn.guide(lambda images: images.mean((1, 2, 3)), 2, top_k=3)


def priors(ddn: DDN) -> Prior:
    codes = ddn.encode(IMAGES)
    for prior in (Frequencies.of(ddn, codes), Chain.of(ddn, codes)):
        ddn.sample(3, prior=prior)
    by_class = Prior(ddn, dim=8, num_classes=3)
    for prior in (by_class, CodeTransformer(ddn, dim=8)):
        data = torch.utils.data.TensorDataset(IMAGES, LABELS) if prior is by_class else IMAGES
        fit(prior, ddn, data, data, steps=2, minutes=None, batch_size=8, progress=False)
    ddn.sample(3, prior=by_class.eval(), labels=LABELS[:3], guidance_scale=2.0, temperature=0.5, top_p=0.9)
    plain = Prior(ddn, dim=8).eval()
    ddn.sample(3, prior=plain)
    return plain


def files(ddn: DDN, folder: Path) -> None:
    codes = ddn.encode(IMAGES)
    entropy = EntropyModel.of(ddn, dim=8, hidden=8)
    fit_entropy_model(entropy, codes, codes, steps=2, minutes=None, progress=False)
    entropy.exact()
    for codec in (ImageCodec(ddn), ImageCodec(ddn, entropy, rate=1e-4, beams=2)):
        codec.decompress_batch(codec.compress_batch(IMAGES))
        codec.decompress(codec.compress(torch.rand(1, 13, 9)))
        codec.unpack(codec.pack(codes))
    ddn.encode_walk(IMAGES, beams=2, also=RatePenalty(entropy, weight=1e-4))
    ddn.save_pretrained(folder)
    DDN.from_pretrained(folder)


def trained(folder: Path) -> None:
    trainer = Trainer(
        DDN(**SMALL),
        dataset=IMAGES,
        test_dataset=IMAGES,
        num_train_steps=4,
        batch_size=8,
        checkpoint_every=2,
        save_results_every=2,
        checkpoints_folder=folder / "checkpoints",
        results_folder=folder / "results",
        progress=False,
    )
    trainer()
    evaluate(trainer.result, IMAGES)


def seen(ddn: DDN) -> None:
    images = IMAGES.float() / 255
    codes, walk = ddn.encode(IMAGES), ddn.encode_walk(IMAGES)
    grid(IMAGES)
    reconstructions(ddn, walk, images)
    nested_grids(ddn, codes, depth=1)
    path_picture(ddn, images[0], codes)
    neighbours(ddn, codes[0], codes)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    torch.manual_seed(0)
    with TemporaryDirectory() as folder:
        samplers()
        made = networks().eval()
        guided(made, priors(made))
        files(made, Path(folder) / "model")
        trained(Path(folder))
        seen(made)
