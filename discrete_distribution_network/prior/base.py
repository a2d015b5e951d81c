"""`LearnedPrior`: what learned priors share, and the two files of a prior beside its model.

    p(codes) = prod_l p(code_l | features_l, code_1 .. code_(l-1), class)

With patches, code_l stands for the codes of all patches of level l. Codes of a DDN are far from uniform, so sampling
them uniformly gives poor images; a prior learns p(codes).
"""

from __future__ import annotations

import json
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar, Self, cast

import torch
import torch.nn.functional as F
from huggingface_hub import constants
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn

from discrete_distribution_network.errors import InvalidInput, ModelFileError, require, shown
from discrete_distribution_network.io.atomic_file import atomic_file, fsync
from discrete_distribution_network.io.atomic_folder import sha256
from discrete_distribution_network.io.json_file import read_object
from discrete_distribution_network.io.plain_values import check_types
from discrete_distribution_network.io.safetensors_file import Shapes, load_checked, safetensors_bytes
from discrete_distribution_network.model.code_distribution import check_temperature
from discrete_distribution_network.model.guided_sampler import GuidedSampler
from discrete_distribution_network.model.network import Network
from discrete_distribution_network.model.selection import Nearest, Recorder
from discrete_distribution_network.model.stages import Stage
from discrete_distribution_network.model.walk import Walk
from discrete_distribution_network.prior.kinds import PRIORS

WEIGHTS, CONFIG = "prior.safetensors", "prior.json"
"""Files of a prior, beside those of its model."""

Levels = list[tuple[Tensor, Tensor]]
"""Of each level of a walk: the features that its sampler saw, and its codes."""

PATCH_TEMPERATURES = {"grey": (0.1, 0.6), "colour": (0.1, 0.01)}
"""For codes of patches at the two lowest resolutions, which decide shapes, and at the higher ones (docs/log.md)."""


def temperatures(ddn: Network) -> list[float]:
    """Sampling temperature of each level for a prior whose own are not chosen: 1 where one code holds for the image.

    A prior that was fitted for minutes overrates unlikely shapes, and a wrong patch is not corrected by later levels;
    the first codes, which choose the kind of image, it predicts well. Tuned on training images, for the presets at
    32x32 in grey and at 64x64 in colour.
    """
    low, high = PATCH_TEMPERATURES["grey" if ddn.channels == 1 else "colour"]
    return [
        1.0 if sampler.patch_size is None else low if resolution < 2 else high
        for resolution, stage in enumerate(cast("Iterator[Stage]", ddn.stages))
        for sampler in stage.samplers()
    ] * ddn.recurrence


class LearnedPrior(nn.Module, ABC):
    """Base of the learned priors: embeddings of nodes and classes, saving and loading.

    Args:
        ddn: the network whose codes it models.
        dim: width.
        num_classes: of the labels, for a prior by class.

    Attributes:
        temperatures: the sampling temperature of each level by what is asked for: "fidelity" or "diversity". They are
            chosen at the end of a training (see `training/temperatures.py`); before, they are those of `temperatures`.
    """

    kind: ClassVar[str]
    """Its name in `kinds.PRIORS`, `prior.json` and `ddn prior --kind`."""

    before: ClassVar[dict[str, Any]] = {}
    """Arguments that a `prior.json` of an older version lacks, as they were then."""

    temperatures: dict[str, list[float]]

    def __init__(self, ddn: Network, dim: int, num_classes: int | None):
        super().__init__()
        require(dim >= 1, "dim of at least 1", dim)
        require(num_classes is None or num_classes >= 1, "num_classes of at least 1, or None", num_classes)
        self.dim, self.num_classes = dim, num_classes
        self.code_shapes, self.codebook_sizes = ddn.code_shapes, ddn.codebook_sizes
        self.temperatures = {"fidelity": temperatures(ddn), "diversity": temperatures(ddn)}
        self.start = nn.Parameter(torch.zeros(1, dim))
        self.classes = None if num_classes is None else nn.Embedding(num_classes, dim)
        self.nodes = nn.ModuleList(
            nn.Embedding.from_pretrained(projected_weights(sampler, dim), freeze=False)
            for sampler in ddn.samplers * ddn.recurrence
        )

    def init_scores(self, level: int, weight: Float[Tensor, "nodes dim"]) -> None:
        """Initialise the weight of the linear layer that scores a level's nodes with the embeddings of these nodes."""
        with torch.no_grad():
            weight.copy_(cast("nn.Embedding", self.nodes[level]).weight / self.dim**0.5)

    @abstractmethod
    def begin(self, batch_size: int, labels: Tensor | None = None) -> Any:
        """See `CodeDistribution`; labels are classes (B,), for a prior by class."""

    @abstractmethod
    def logits(self, level: int, features: Tensor, state: Any) -> Tensor:
        """See `CodeDistribution`."""

    @abstractmethod
    def follow(self, level: int, codes: Tensor, state: Any) -> Any:
        """See `CodeDistribution`."""

    def bits(
        self,
        ddn: Network,
        images: Float[Tensor, "batch channels height width"],
        labels: Int[Tensor, " batch"] | None = None,
    ) -> Float[Tensor, " levels"]:
        """Negative log-likelihood of the images' codes by level, in bits an image, differentiable by the prior.

        Args:
            ddn: in evaluation mode.
            images: in [0, 1].
            labels: classes; -1 for none.
        """
        return self.bits_of(recorded_walk(ddn, images, labels)[1], labels)

    @abstractmethod
    def bits_of(self, levels: Levels, labels: Int[Tensor, " batch"] | None = None) -> Float[Tensor, " levels"]:
        """`bits` of a walk that is recorded: see `recorded_walk`."""

    def measure(self, levels: Levels) -> None:
        """Adapt to the features of a walk before the first step of a fit: see `recorded_walk`."""

    def require_network(self, ddn: Network) -> None:
        """Raise `InvalidInput` unless it models codes of a network's levels."""
        if (list(self.code_shapes), self.codebook_sizes) != (list(ddn.code_shapes), list(ddn.codebook_sizes)):
            raise InvalidInput(
                f"expected a prior of this network's levels, with K {ddn.codebook_sizes}, got one of levels with K "
                f"{self.codebook_sizes}; make it of this network"
            )

    @property
    def arguments(self) -> dict[str, Any]:
        """Constructor arguments, beside the network."""
        return {"dim": self.dim, "num_classes": self.num_classes}

    def condition(self, batch_size: int, labels: Tensor | None) -> Float[Tensor, "batch dim"]:
        """Embedding of what each image is conditioned on: its class, or nothing (no classes, or a label of -1)."""
        start = self.start.expand(batch_size, -1)
        if self.classes is None:
            require(labels is None, "no labels, since this prior was fitted without classes", shown(labels))
            return start
        if labels is None:
            raise InvalidInput(
                f"expected labels below {self.num_classes} for a prior by class, got {labels}; give them"
            )
        require(tuple(labels.shape) == (batch_size,), f"labels of shape ({batch_size},)", tuple(labels.shape))
        integer = not (labels.is_floating_point() or labels.is_complex())
        require(integer, "integer labels", labels.dtype)
        if labels.device.type == "cpu" and not torch.compiler.is_compiling():  # on another device reading them waits
            inside = bool(((labels >= -1) & (labels < len(self.classes.weight))).all())
            require(inside, f"labels in [0, {self.num_classes}), or -1 for none", labels.tolist()[:8])
        labels = labels.to(self.start.device)
        return start + self.classes(labels.clamp_min(0)) * (labels >= 0).unsqueeze(1)

    def save(self, folder: str | Path) -> None:
        """Write `prior.safetensors` and `prior.json` into the folder of its model.

        Raises:
            ModelFileError: there is no model in the folder.
            OutputError: the disk is full or cannot be written; a prior that was there stays.
        """
        weights, config = Path(folder) / WEIGHTS, Path(folder) / CONFIG
        content = {
            "model": model_checksum(Path(folder)),
            "kind": self.kind,
            **self.arguments,
            "temperatures": self.temperatures,
        }
        text = (json.dumps(content, indent=2) + "\n").encode()
        with atomic_file(config) as new_config, atomic_file(weights) as new_weights:
            for path, data in ((new_weights, safetensors_bytes(self.state_dict())), (new_config, text)):
                path.write_bytes(data)
                fsync(path)
            # a kill between the two renames must not leave the new weights beside the old configuration
            if config.exists() and config.read_bytes() != text:
                config.unlink()

    @classmethod
    def load(cls, folder: str | Path, ddn: Network) -> Self:
        """The prior beside a model.

        Raises:
            ModelFileError: the prior is missing, damaged, or of another model.
        """
        folder = Path(folder)
        config = read_config(folder)
        model, kind, own = (config.pop(name, None) for name in ("model", "kind", "temperatures"))
        if kind != cls.kind:
            raise ModelFileError(
                f"expected a prior of kind {cls.kind} in {folder}, got {kind!r:.80}; fit one of that kind"
            )
        if model != model_checksum(folder):
            raise ModelFileError(
                f"expected {folder / CONFIG} of the model beside it, got one of another model; fit a prior with "
                "`ddn prior`"
            )

        def make(_: Shapes, ddn: Network) -> Any:
            arguments = {**cls.before, **config}
            check_types(cls, arguments)
            return cls(ddn, **arguments)

        expected = f"a prior's arguments in {folder / CONFIG}"
        prior: Self = load_checked(make, ddn, folder / WEIGHTS, expected, ddn.start.device)
        if own is not None:  # a prior that an older version saved has none
            prior._set_temperatures(own, folder / CONFIG)
        return prior.eval()

    def _set_temperatures(self, found: Any, file: Path) -> None:
        try:
            self.temperatures = {name: [float(value) for value in found[name]] for name in self.temperatures}
            for values in self.temperatures.values():
                check_temperature(values, len(self.code_shapes))
        except (KeyError, TypeError, ValueError) as error:
            raise ModelFileError(
                f"expected a temperature for each of {len(self.code_shapes)} levels in {file}, got {found!r:.80}; fit "
                "the prior anew with `ddn prior`"
            ) from error


def load_prior(ddn: Network, folder: str | Path) -> LearnedPrior | None:
    """The prior beside a model, of any kind; None if there is none.

    Raises:
        ModelFileError: it is damaged, or of another model.
    """
    if not (Path(folder) / CONFIG).is_file():
        return None
    kind = str(read_config(Path(folder)).get("kind"))
    if kind not in PRIORS:
        raise ModelFileError(f"expected a prior of kind {' or '.join(PRIORS)} in {folder}, got {kind}; fit one anew")
    return prior_class(kind).load(folder, ddn)


@torch.no_grad()
def recorded_walk(
    ddn: Network,
    images: Float[Tensor, "batch channels height width"],
    labels: Int[Tensor, " batch"] | None = None,
    cond: Float[Tensor, "batch cond_channels height width"] | None = None,
) -> tuple[Walk, Levels]:
    """The walk of images by the nearest candidates, with the features and the codes of each level."""
    recorder = Recorder(Nearest(images))
    walk = ddn.walk(recorder, len(images), None, ddn.accepted_labels(labels), cond)
    return walk, recorder.levels


def prior_class(kind: str) -> type[LearnedPrior]:
    """The class of a kind of `PRIORS`."""
    own = PRIORS[kind]
    found: type[LearnedPrior] = getattr(import_module(f"{__package__}.{own.module}"), own.name)
    return found


def read_config(folder: Path) -> dict[str, Any]:
    """The content of `prior.json` in a model's folder: the prior's kind, its arguments, the checksum of its model.

    Raises:
        ModelFileError: the file is missing or damaged.
    """
    if not (folder / CONFIG).is_file():
        raise ModelFileError(f"expected a prior in {folder}, found none; fit one with `ddn prior`")
    return read_object(folder / CONFIG, "a prior's arguments")


def has_prior(folder: Path) -> bool:
    """Whether a prior of the model in this folder lies beside it."""
    try:
        return bool(read_config(folder).get("model") == model_checksum(folder))
    except ModelFileError:
        return False


def model_checksum(folder: Path) -> str:
    """SHA-256 of the model's weights in a folder.

    Raises:
        ModelFileError: there is no model in the folder.
    """
    path = folder / constants.SAFETENSORS_SINGLE_FILE
    if not path.is_file():
        raise ModelFileError(f"expected a model in {folder}, found no {path.name}; a prior lies beside its model")
    return sha256(path)


# shared by the priors and the entropy model


@torch.no_grad()
def projected_weights(sampler: GuidedSampler, dim: int) -> Float[Tensor, "nodes dim"]:
    """Initial embeddings of a level's nodes: random projections of their weights, scaled to unit variance.

    A code's number has no meaning; with these, what is learnt of one node holds from the first step for similar nodes.
    """
    nodes = torch.cat([parameter.flatten(1).float() for parameter in sampler.keys.parameters()], 1)
    nodes = nodes - nodes.mean(0)
    rows = nodes @ torch.randn(nodes.shape[1], dim, device=nodes.device)
    return rows / rows.square().mean().sqrt().clamp_min(1e-12)


def grids_of(code_shapes: Sequence[tuple[int, ...]]) -> list[tuple[int, int]]:
    """(rows, columns) of each level's codes; (1, 1) where one code holds for the whole image."""
    return [(shape[0], shape[1]) if shape else (1, 1) for shape in code_shapes]


def resize_grid(
    values: Shaped[Tensor, "batch dim rows columns"], grid: tuple[int, int]
) -> Shaped[Tensor, "batch dim _ _"]:
    """Values at the places of another grid, from the nearest place of their own."""
    return values if values.shape[2:] == grid else F.interpolate(values, grid, mode="nearest")


def cross_entropy_bits(scores: Tensor, codes: Tensor, batch_size: int) -> Float[Tensor, ""]:
    """Cross-entropy in bits, summed over a level's codes and averaged over `batch_size` images.

    Args:
        scores: (N, K, ...) of codes (N, ...).
    """
    return F.cross_entropy(scores, codes, reduction="sum") / batch_size / math.log(2)
