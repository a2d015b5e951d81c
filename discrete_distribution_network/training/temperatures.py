"""`choose_temperatures`: the sampling temperatures of a prior, chosen by held-out training images.

Samples at some temperatures are compared with the held-out images in the features of a small network, which is trained
on training images to tell by how much an image is rotated (Gidaris et al., arXiv 1803.07728): it needs no labels.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from discrete_distribution_network.data.loader import in_order
from discrete_distribution_network.ddn import DDN
from discrete_distribution_network.evaluation.classifier import Classifier
from discrete_distribution_network.evaluation.compared import drawn
from discrete_distribution_network.evaluation.coverage import covered
from discrete_distribution_network.evaluation.frechet import frechet_distance, statistics
from discrete_distribution_network.model.tensors import resize
from discrete_distribution_network.prior.base import LearnedPrior, temperatures
from discrete_distribution_network.random_state import mix_seed, own_random_state

Images = Float[Tensor, "images channels height width"]

SAMPLES, LEAST = 400, 100
"""Most samples at each temperature and most held-out images; with fewer images nothing is chosen."""

LEARNT = 2000
"""Most training images that features are learnt from."""

SIDE = 64
"""Images are compared at no more than this side."""

WIDTH, DIM, STEPS, BATCH, RATE = 16, 64, 200, 16, 3e-3
"""Of the network that tells rotations: its width and features, the steps, images and learning rate of its training."""

POWERS = (1.5, 1.0, 0.67, 0.33, 0.0)
"""What is tried: the temperatures of `prior.temperatures`, below 1 for patches, to these powers; at 0 all are 1."""

LEAST_PRECISION = 0.95
"""Of varied samples, as a share of that of the samples nearest to the data."""


class Figures(NamedTuple):
    """Samples compared with held-out images: Fréchet distance, precision and recall (arXiv 1904.06991)."""

    distance: float
    precision: float
    recall: float


def choose_temperatures(
    ddn: DDN, prior: LearnedPrior, images: Images, held_out: Images, seed: int
) -> dict[float, Figures]:
    """Set the temperatures of a prior; gives the figures of each power, none where too few images are there.

    Args:
        ddn: the network of the prior; one that is conditioned on images keeps the temperatures.
        images: of the training set, in [0, 1], to learn features from, as `first_images` gives them.
        held_out: images of the training set that neither was fitted to, likewise.
        seed: of all random numbers.
    """
    if len(held_out) < LEAST or ddn.cond_channels:
        return {}
    at = {power: [value**power for value in temperatures(ddn)] for power in POWERS}
    device = ddn.start.device
    with own_random_state(device) as seeded:
        seeded(mix_seed(seed, STEPS))
        count = min(SAMPLES, len(held_out))
        samples = {
            power: torch.cat(
                [_square(part.cpu()) for part in drawn(ddn, count, seed=seed, prior=prior, temperature=own)]
            )
            for power, own in at.items()
        }
        # autocast would keep its first copies of weights that are trained
        with torch.autocast(device.type, enabled=False):
            net = rotation_features(images, device)
            real = _features(net, held_out[:SAMPLES])
            figures = {power: compare(_features(net, own), real) for power, own in samples.items()}
    nearest = min(figures, key=lambda power: figures[power].distance)
    least = LEAST_PRECISION * figures[nearest].precision
    precise = [power for power in figures if figures[power].precision >= least]
    varied = max(precise, key=lambda power: figures[power].recall)
    prior.temperatures = {"fidelity": at[nearest], "diversity": at[varied]}
    return figures


def compare(samples: Float[Tensor, "samples dim"], real: Float[Tensor, "real dim"]) -> Figures:
    """The figures of samples, by features."""
    one, other = (statistics(lambda features: features, own.split(100)) for own in (samples, real))
    return Figures(frechet_distance(one, other), covered(samples, real), covered(real, samples))


def rotation_features(images: Images, device: torch.device) -> Classifier:
    """A network whose features tell by how many quarter turns an image is rotated, trained on these square images."""
    net = Classifier(images.shape[1], 4, WIDTH, DIM).to(device)
    optimizer = torch.optim.AdamW(net.parameters(), RATE, (0.9, 0.99))
    turns = torch.arange(4, device=device).repeat_interleave(BATCH)
    for step in range(STEPS):
        optimizer.param_groups[0]["lr"] = RATE * (1 - step / STEPS)
        batch = images[torch.randint(len(images), (BATCH,))].to(device)
        rotated = torch.cat([torch.rot90(batch, turn, (2, 3)) for turn in range(4)])
        loss = F.cross_entropy(net(rotated), turns)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return net.eval()


@torch.no_grad()
def _features(net: Classifier, images: Images) -> Float[Tensor, "images dim"]:
    device = net.head.weight.device
    return torch.cat([net.features(part.to(device)).cpu() for part in images.split(100)])


def _square(images: Images) -> Images:
    """The centre square of images, at no more than `SIDE` pixels a side."""
    height, width = images.shape[2:]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    images = images[:, :, top : top + side, left : left + side].float().clamp(0, 1)
    return resize(images, (min(side, SIDE),) * 2)


def first_images(dataset: Any, ddn: DDN, limit: int, max_bad_images: int = 0) -> Images:
    """The centre squares of the first images of a data set, in [0, 1], at no more than `SIDE` pixels a side."""
    batches = in_order(dataset, ddn, 100, limit=limit, max_bad_images=max_bad_images)
    none = _square(torch.zeros(0, ddn.channels, *ddn.image_size))
    return torch.cat([none, *(_square(batch.images) for batch in batches)])
