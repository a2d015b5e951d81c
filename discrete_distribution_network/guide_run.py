"""`ddn guide`: from image files and options to conditions, and a picture of what they give."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from discrete_distribution_network.conditions import (
    Classifier,
    Clip,
    Colorize,
    ColorStrokes,
    Condition,
    Edges,
    Inpaint,
    LowBit,
    Match,
    SuperResolve,
    edges,
    grey,
)
from discrete_distribution_network.ddn import DDN
from discrete_distribution_network.errors import InvalidInput, require
from discrete_distribution_network.images import faults_named, load_image
from discrete_distribution_network.pictures import grid, save_picture, to_pil
from discrete_distribution_network.runs import (
    classifier_of,
    labels_for,
    load_images,
    load_model,
    load_prior,
    model_folder,
)
from discrete_distribution_network.selection import resize

if TYPE_CHECKING:
    from discrete_distribution_network.cli import Guide


class Known(NamedTuple):
    """A condition, and a picture of what it says, (B, C, H, W); None if it is no picture."""

    condition: Condition
    picture: Tensor | None = None


def guide(asked: Guide) -> str:
    """Do what `ddn guide` asks; gives what there is to tell."""
    kinds = asked.kinds.split("+")
    unknown = sorted(set(kinds) - set(KINDS))
    require(not unknown, f"conditions among {', '.join(KINDS)}, joined by +", ", ".join(unknown))
    require(asked.num >= 1, "--num of at least 1", asked.num)
    folder = model_folder(asked.model)
    ddn = load_model(folder, asked.device)
    images = paths = None
    if asked.files or any(kind not in WITHOUT_FILES for kind in kinds):
        paths, originals = load_images(asked.files, ddn)
        images = originals.repeat_interleave(asked.num, 0)
    known = [KINDS[kind](asked, ddn, images, paths) for kind in kinds]
    generator = torch.Generator()
    generator.seed() if asked.seed is None else generator.manual_seed(asked.seed)
    count = asked.num if images is None else len(images)
    prior = None if asked.uniform else load_prior(ddn, folder)
    guided = ddn.guide(
        [own.condition for own in known],
        count,
        asked.top_k,
        generator,
        beams=asked.beams,
        prior=prior,
        proposals=asked.proposals,
        temperature=asked.temperature,
        rollouts=rollouts_for(asked, kinds),
        labels=labels_for(ddn, prior, count, asked.label),
    )
    save_picture(sheet(known, guided.images, images, asked.num), asked.out)
    if asked.folder is not None:
        asked.folder.mkdir(parents=True, exist_ok=True)
        for index, image in enumerate(guided.images):
            name = f"{index:05d}" if paths is None else f"{paths[index // asked.num].stem}-{index % asked.num}"
            to_pil(image).save(asked.folder / f"{name}.png")
    scores = ", ".join(f"{kind} {score:.4g}" for kind, score in zip(kinds, last(guided.scores), strict=True))
    return f"{len(guided.images)} images in {asked.out}; mean score where a condition held last: {scores}"


def inpaint(asked: Guide, ddn: DDN, images: Tensor, paths: Sequence[Path]) -> Known:
    mask = known_part(asked.missing, ddn.image_size).to(images)
    return Known(Inpaint(images, mask), torch.where(mask > 0, images, torch.full_like(images, 0.5)))


def colorize(asked: Guide, ddn: DDN, images: Tensor, paths: Sequence[Path]) -> Known:
    require(ddn.channels == 3, "a model of colour images to colorize with", f"one of {ddn.channels} channel")
    return Known(Colorize(grey(images)), grey(images).expand_as(images))


def superres(asked: Guide, ddn: DDN, images: Tensor, paths: Sequence[Path]) -> Known:
    height, width = ddn.image_size
    pixels = max(1, height // 4) if asked.pixels is None else asked.pixels
    require(1 <= pixels <= height, f"--pixels from 1 to {height}", pixels)
    small = resize(images, (pixels, max(1, round(pixels * width / height))))
    return Known(SuperResolve(small), F.interpolate(small, ddn.image_size, mode="nearest"))


def strokes(asked: Guide, ddn: DDN, images: Tensor, paths: Sequence[Path]) -> Known:
    mask = torch.cat([opaque(path, ddn.image_size) for path in paths]).repeat_interleave(asked.num, 0).to(images)
    return Known(ColorStrokes(images, mask), torch.where(mask > 0, images, torch.full_like(images, 0.5)))


def lowbit(asked: Guide, ddn: DDN, images: Tensor, paths: Sequence[Path]) -> Known:
    condition = LowBit(images, asked.bits)
    return Known(condition, condition.made_of(images))


def like_edges(asked: Guide, ddn: DDN, images: Tensor, paths: Sequence[Path]) -> Known:
    return Known(Edges(edges(images)), edges(images).expand_as(images))


def like(asked: Guide, ddn: DDN, images: Tensor, paths: Sequence[Path]) -> Known:
    levels = max(1, ddn.num_levels // 3) if asked.levels is None else asked.levels
    require(1 <= levels <= ddn.num_levels, f"--levels from 1 to {ddn.num_levels}", levels)
    return Known(Match(images, levels=range(levels)), ddn.reconstruct(images, levels=levels))


def classify(asked: Guide, ddn: DDN, images: Tensor | None, paths: Sequence[Path] | None) -> Known:
    if asked.label is None:
        raise InvalidInput("expected --label for classify, got none; say which class is wanted")
    return Known(Classifier(classifier_of(ddn, asked.model, asked.classifier), asked.label))


def clip(asked: Guide, ddn: DDN, images: Tensor | None, paths: Sequence[Path] | None) -> Known:
    if asked.text is None:
        raise InvalidInput("expected --text for clip, got none; say what the image is to show")
    return Known(Clip(asked.text, asked.clip_model, asked.clip_weights))


KINDS: dict[str, Callable[..., Known]] = {
    "inpaint": inpaint,
    "colorize": colorize,
    "superres": superres,
    "strokes": strokes,
    "lowbit": lowbit,
    "edges": like_edges,
    "like": like,
    "classify": classify,
    "clip": clip,
}
"""What makes each condition: (options, model, images, each `--num` times, and their files) -> `Known`."""

WITHOUT_FILES = ("classify", "clip")


def rollouts_for(asked: Guide, kinds: Sequence[str]) -> int:
    """What an unfinished image shows says little to a classifier or CLIP, so finished ones are judged by default."""
    if asked.rollouts is not None:
        return asked.rollouts
    return ROLLOUTS if any(kind in WITHOUT_FILES for kind in kinds) else 0


ROLLOUTS = 64
"""Walks that are finished at first, by default."""


def known_part(missing: str, size: tuple[int, int]) -> Tensor:
    """A mask (1, 1, H, W), 1 where an image is known, by the name of what is missing or a picture that is white there.

    Raises:
        DataError: there is no such picture.
    """
    height, width = size
    mask = torch.ones(1, 1, height, width)
    areas = {
        "left": (slice(None), slice(0, width // 2)),
        "right": (slice(None), slice(width - width // 2, None)),
        "top": (slice(0, height // 2), slice(None)),
        "bottom": (slice(height - height // 2, None), slice(None)),
        "centre": (slice(height // 4, height - height // 4), slice(width // 4, width - width // 4)),
    }
    if missing not in areas:
        return (load_image(missing, size, 1).unsqueeze(0) < 128).float()
    rows, columns = areas[missing]
    mask[:, :, rows, columns] = 0
    return mask


def opaque(path: Path, size: tuple[int, int]) -> Tensor:
    """Where a picture is opaque, (1, 1, H, W): that is where its strokes are.

    Raises:
        InvalidInput: it has no transparency.
    """
    with faults_named(path), Image.open(path) as image:
        if "A" not in image.getbands():
            raise InvalidInput(f"expected strokes on a transparent ground in {path}, got a picture without; use PNG")
        alpha = image.getchannel("A").resize((size[1], size[0]), Image.Resampling.BOX)
        return torch.from_numpy(np.array(alpha) > 127).float().reshape(1, 1, *size)


def sheet(known: Sequence[Known], results: Tensor, images: Tensor | None, each: int) -> Image.Image:
    """A row for each file: what is known of it, `each` results, and the original; results alone without files."""
    if images is None:
        return grid(results)
    columns = [own.picture[::each].unsqueeze(1) for own in known if own.picture is not None]
    rows = torch.cat([*columns, results.unflatten(0, (-1, each)), images[::each].unsqueeze(1)], 1)
    return grid(rows.flatten(0, 1), rows.shape[1])


def last(scores: Tensor) -> list[float]:
    """Of scores (B, L, number of conditions) the mean over images at the last level at which each condition held."""
    told = []
    for own in scores.unbind(2):
        held = own[:, ~own.isnan().any(0)]
        told.append(float(held[:, -1].mean()) if held.shape[1] else float("nan"))
    return told
