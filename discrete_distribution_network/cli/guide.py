"""`ddn guide`: from image files and options to conditions, and a picture of what they give."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from discrete_distribution_network.cli.images import generator_of
from discrete_distribution_network.cli.runs import (
    batch_size,
    classifier_of,
    image_paths,
    labels_for,
    load_images,
    load_model,
    load_prior,
    model_folder,
    parts,
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
from discrete_distribution_network.viz.pictures import (
    describe_pages,
    make_folder,
    require_picture,
    save_images,
    save_pages,
)

if TYPE_CHECKING:
    from discrete_distribution_network.cli.main import Guide


class Known(NamedTuple):
    """A condition, and a picture of what it says, (B, C, H, W); None if it is no picture."""

    condition: Condition
    picture: Tensor | None = None


def guide(asked: Guide) -> str:
    """Do what `ddn guide` asks; gives what there is to tell."""
    kinds = asked.kinds.split("+")
    unknown = sorted(set(kinds) - set(KINDS))
    require(not unknown, f"conditions among {', '.join(KINDS)}, joined by +", ", ".join(unknown))
    require_picture(asked.out)
    folder = model_folder(asked.model)
    ddn = load_model(folder, asked.device)
    by_files = [kind for kind in kinds if kind not in WITHOUT_FILES]
    paths = image_paths(asked.files) if asked.files or by_files else None
    count = asked.num * (1 if paths is None else len(paths))
    always = {kind: KINDS[kind](asked, ddn, None, None) for kind in kinds if kind in WITHOUT_FILES}
    prior = None if asked.uniform else load_prior(ddn, folder)
    labels = labels_for(ddn, prior, count, asked.label)
    generator = generator_of(asked.seed)
    make_folder(asked.folder)
    scores: list[tuple[int, list[float]]] = []

    def rows() -> Iterator[Tensor]:
        """What is known of each file, its results, and the original; results alone without files."""
        for part in parts(count, batch_size(ddn)):
            files = None if paths is None else [paths[index // asked.num] for index in part]
            images = None if files is None else each_loaded(files, ddn)
            known = [always.get(kind) or KINDS[kind](asked, ddn, images, files) for kind in kinds]
            guided = ddn.guide(
                [own.condition for own in known],
                len(part),
                asked.top_k,
                generator,
                beams=asked.beams,
                prior=prior,
                proposals=asked.proposals,
                temperature=asked.temperature,
                rollouts=rollouts_for(asked, kinds),
                labels=None if labels is None else labels[part.start : part.stop],
            )
            scores.append((len(part), last(guided.scores)))
            save_images(guided.images, [name_of(index, asked.num, paths) for index in part], asked.folder)
            for place, index in enumerate(part):
                if images is not None and index % asked.num == 0:
                    yield from (own.picture[place : place + 1] for own in known if own.picture is not None)
                yield guided.images[place : place + 1]
                if images is not None and (index + 1) % asked.num == 0:
                    yield images[place : place + 1]

    if paths is None:
        pages = save_pages(rows(), asked.out, count)
    else:
        columns = len(by_files) + asked.num + 1
        pages = save_pages(rows(), asked.out, columns * len(paths), columns)
    means = [sum(number * own[place] for number, own in scores) / count for place in range(len(kinds))]
    told = ", ".join(f"{kind} {score:.4g}" for kind, score in zip(kinds, means, strict=True))
    return f"{count} images in {describe_pages(pages)}; mean score where a condition held last: {told}"


def each_loaded(files: Sequence[Path], ddn: DDN) -> Tensor:
    """The images of files, (B, C, H, W); one that is named several times is read once."""
    places = {path: place for place, path in enumerate(dict.fromkeys(files))}
    return load_images(list(places), ddn)[1][[places[path] for path in files]]


def name_of(index: int, num: int, paths: Sequence[Path] | None) -> str:
    """Name of a result's file: its number, or its file's name and its number among that file's results."""
    if paths is None:
        return f"{index:05d}"
    alike = len({path.stem for path in paths}) < len(paths)  # of several folders
    return f"{index // num:05d}-" * alike + f"{paths[index // num].stem}-{index % num}"


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
    mask = torch.cat([opaque(path, ddn.image_size) for path in paths]).to(images)
    return Known(ColorStrokes(images, mask), torch.where(mask > 0, images, torch.full_like(images, 0.5)))


def lowbit(asked: Guide, ddn: DDN, images: Tensor, paths: Sequence[Path]) -> Known:
    condition = LowBit(images, asked.bits)
    return Known(condition, condition.transform(images))


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
"""What makes each condition: (options, model, images, one for each result, and their files) -> `Known`."""

WITHOUT_FILES = ("classify", "clip")
"""Kinds that need no files; their conditions are the same for all results."""


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
        InvalidInput: no such area, and no such file.
        DataError: the file is no picture.
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


def opaque(path: Path, size: tuple[int, int]) -> Tensor:
    """Where a picture is opaque, (1, 1, H, W): that is where its strokes are.

    Raises:
        InvalidInput: it has no transparency.
    """
    with decoding_errors(path), Image.open(path) as image:
        if "A" not in image.getbands():
            raise InvalidInput(f"expected strokes on a transparent ground in {path}, got a picture without; use PNG")
        alpha = image.getchannel("A").resize((size[1], size[0]), Image.Resampling.BOX)
        return torch.from_numpy(np.array(alpha) > 127).float().reshape(1, 1, *size)


def last(scores: Tensor) -> list[float]:
    """Of scores (B, L, number of conditions) the mean over images at the last level at which each condition held."""
    told = []
    for own in scores.unbind(2):
        held = own[:, ~own.isnan().any(0)]
        told.append(float(held[:, -1].mean()) if held.shape[1] else float("nan"))
    return told
