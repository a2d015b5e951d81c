"""What `ddn guide` does: conditions from image files and options, and a picture of the guided samples."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from discrete_distribution_network.cli.commands.guide import Guide
from discrete_distribution_network.cli.images import batch_size, image_paths, load_images, parts
from discrete_distribution_network.cli.runs import (
    classifier_of,
    labels_for,
    load_model,
    model_folder,
)
from discrete_distribution_network.data.images import decoding_errors, load_image
from discrete_distribution_network.ddn import DDN
from discrete_distribution_network.errors import InvalidInput, require
from discrete_distribution_network.guidance import (
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
from discrete_distribution_network.model.tensors import resize
from discrete_distribution_network.random_state import random_generator
from discrete_distribution_network.viz.pictures import (
    describe_pages,
    make_folder,
    require_picture,
    save_images,
    save_pages,
)


class Shown(NamedTuple):
    """A condition, and a picture of it, (B, C, H, W); None if there is no picture of it."""

    condition: Condition
    picture: Tensor | None = None


def guide(options: Guide) -> str:
    """Draw guided samples and save their picture; returns a summary to print."""
    kinds = options.kinds.split("+")
    unknown = sorted(set(kinds) - set(KINDS))
    require(not unknown, f"conditions among {', '.join(KINDS)}, joined by +", ", ".join(unknown))
    require_picture(options.out)
    folder = model_folder(options.model)
    ddn = load_model(folder, options.device, options.uniform)
    by_files = [kind for kind in kinds if kind not in WITHOUT_FILES]
    paths = image_paths(options.files) if options.files or by_files else None
    count = options.num * (1 if paths is None else len(paths))
    constant = {kind: KINDS[kind](options, ddn, None, None) for kind in kinds if kind in WITHOUT_FILES}
    labels = labels_for(ddn, count, options.label)
    generator = random_generator(options.seed)
    make_folder(options.folder)
    scores: list[tuple[int, list[float]]] = []

    def rows() -> Iterator[Tensor]:
        """The conditions of each file, its results, and the original; without files only the results."""
        for part in parts(count, batch_size(ddn.image_size)):
            files = None if paths is None else [paths[index // options.num] for index in part]
            images = None if files is None else load_repeated(files, ddn)
            shown = [constant.get(kind) or KINDS[kind](options, ddn, images, files) for kind in kinds]
            guided = ddn.guide(
                [one.condition for one in shown],
                len(part),
                options.top_k,
                generator,
                beams=options.beams,
                proposals=options.proposals,
                temperature=options.temperature,
                rollouts=rollouts_for(options, kinds),
                labels=None if labels is None else labels[part.start : part.stop],
            )
            scores.append((len(part), final_scores(guided.scores)))
            save_images(guided.images, [result_name(index, options.num, paths) for index in part], options.folder)
            for place, index in enumerate(part):
                if images is not None and index % options.num == 0:
                    yield from (one.picture[place : place + 1] for one in shown if one.picture is not None)
                yield guided.images[place : place + 1]
                if images is not None and (index + 1) % options.num == 0:
                    yield images[place : place + 1]

    if paths is None:
        pages = save_pages(rows(), options.out, count)
    else:
        columns = len(by_files) + options.num + 1
        pages = save_pages(rows(), options.out, columns * len(paths), columns)
    means = [sum(number * batch[place] for number, batch in scores) / count for place in range(len(kinds))]
    listed = ", ".join(f"{kind} {score:.4g}" for kind, score in zip(kinds, means, strict=True))
    return f"{count} images in {describe_pages(pages)}; mean score where a condition held last: {listed}"


def load_repeated(files: Sequence[Path], ddn: DDN) -> Float[Tensor, "batch channels height width"]:
    """The images of files in [0, 1]; one that occurs several times is read once."""
    places = {path: place for place, path in enumerate(dict.fromkeys(files))}
    return load_images(list(places), ddn)[1][[places[path] for path in files]]


def result_name(index: int, num: int, paths: Sequence[Path] | None) -> str:
    """Name of a result's file: its index, or its file's name and its index among that file's results."""
    if paths is None:
        return f"{index:05d}"
    ambiguous = len({path.stem for path in paths}) < len(paths)  # of several folders
    return f"{index // num:05d}-" * ambiguous + f"{paths[index // num].stem}-{index % num}"


def inpaint(options: Guide, ddn: DDN, images: Tensor, paths: Sequence[Path]) -> Shown:
    mask = known_part(options.missing, ddn.image_size).to(images)
    return Shown(Inpaint(images, mask), torch.where(mask > 0, images, torch.full_like(images, 0.5)))


def colorize(options: Guide, ddn: DDN, images: Tensor, paths: Sequence[Path]) -> Shown:
    require(ddn.channels == 3, "a model of colour images to colorize with", f"one of {ddn.channels} channel")
    return Shown(Colorize(grey(images)), grey(images).expand_as(images))


def superres(options: Guide, ddn: DDN, images: Tensor, paths: Sequence[Path]) -> Shown:
    height, width = ddn.image_size
    pixels = max(1, height // 4) if options.pixels is None else options.pixels
    require(1 <= pixels <= height, f"--pixels from 1 to {height}", pixels)
    small = resize(images, (pixels, max(1, round(pixels * width / height))))
    return Shown(SuperResolve(small), F.interpolate(small, ddn.image_size, mode="nearest"))


def strokes(options: Guide, ddn: DDN, images: Tensor, paths: Sequence[Path]) -> Shown:
    mask = torch.cat([opaque(path, ddn.image_size) for path in paths]).to(images)
    return Shown(ColorStrokes(images, mask), torch.where(mask > 0, images, torch.full_like(images, 0.5)))


def lowbit(options: Guide, ddn: DDN, images: Tensor, paths: Sequence[Path]) -> Shown:
    condition = LowBit(images, options.bits)
    return Shown(condition, condition.transform(images))


def like_edges(options: Guide, ddn: DDN, images: Tensor, paths: Sequence[Path]) -> Shown:
    return Shown(Edges(edges(images)), edges(images).expand_as(images))


def like(options: Guide, ddn: DDN, images: Tensor, paths: Sequence[Path]) -> Shown:
    levels = max(1, ddn.num_levels // 3) if options.levels is None else options.levels
    require(1 <= levels <= ddn.num_levels, f"--levels from 1 to {ddn.num_levels}", levels)
    return Shown(Match(images, levels=range(levels)), ddn.reconstruct(images, levels=levels))


def classify(options: Guide, ddn: DDN, images: Tensor | None, paths: Sequence[Path] | None) -> Shown:
    if options.label is None:
        raise InvalidInput("expected --label for classify, got none; give the class")
    return Shown(Classifier(classifier_of(ddn, options.model, options.classifier), options.label))


def clip(options: Guide, ddn: DDN, images: Tensor | None, paths: Sequence[Path] | None) -> Shown:
    if options.text is None:
        raise InvalidInput("expected --text for clip, got none; describe the image")
    return Shown(Clip(options.text, options.clip_model, options.clip_weights))


KINDS: dict[str, Callable[..., Shown]] = {
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
"""Each condition by name: (options, model, images of the results, and their files) -> `Shown`."""

WITHOUT_FILES = ("classify", "clip")
"""Kinds without files; their conditions are the same for all results."""


def rollouts_for(options: Guide, kinds: Sequence[str]) -> int:
    """Number of rollouts; by default only for classifiers and CLIP, which say little about unfinished images."""
    if options.rollouts is not None:
        return options.rollouts
    return ROLLOUTS if any(kind in WITHOUT_FILES for kind in kinds) else 0


ROLLOUTS = 64
"""Default number of rollouts."""


def known_part(missing: str, size: tuple[int, int]) -> Float[Tensor, "1 1 height width"]:
    """A mask of an image: 1 where it is known, 0 where it is missing.

    Args:
        missing: left, right, top, bottom or centre, or the path of a picture that is white where the image is missing.
        size: height and width.

    Raises:
        InvalidInput: `missing` is none of these.
        DataError: the file is not a picture.
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
    missing = "centre" if missing == "center" else missing
    if missing not in areas:
        if not Path(missing).is_file():
            raise InvalidInput(
                f"expected --missing {', '.join(areas)} or a picture that is white where the image is missing, got "
                f"{missing}, and there is no such file"
            )
        return (load_image(missing, size, 1).unsqueeze(0) < 128).float()
    rows, columns = areas[missing]
    mask[:, :, rows, columns] = 0
    return mask


def opaque(path: Path, size: tuple[int, int]) -> Float[Tensor, "1 1 height width"]:
    """A mask of the strokes of a picture: 1 where it is opaque, resized to `size` (height, width).

    Raises:
        InvalidInput: the picture has no alpha channel.
    """
    with decoding_errors(path), Image.open(path) as image:
        if "A" not in image.getbands():
            raise InvalidInput(f"expected strokes on a transparent ground in {path}, got mode {image.mode}; use PNG")
        alpha = image.getchannel("A").resize((size[1], size[0]), Image.Resampling.BOX)
        return torch.from_numpy(np.array(alpha) > 127).float().reshape(1, 1, *size)


def final_scores(scores: Float[Tensor, "batch levels conditions"]) -> list[float]:
    """Mean score of each condition at the last level where it held (is not NaN)."""
    means = []
    for one in scores.unbind(2):
        held = one[:, ~one.isnan().any(0)]
        means.append(float(held[:, -1].mean()) if held.shape[1] else float("nan"))
    return means
