"""Pictures of the latent tree: what each choice means and how many images take it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from discrete_distribution_network.ddn import DDN
from discrete_distribution_network.errors import require
from discrete_distribution_network.viz.pictures import grid, save_figure, to_pil


class Node(NamedTuple):
    """A node of the tree: the codes of the first levels, the share of the data under it, and its children."""

    prefix: tuple[int, ...]
    share: float
    children: tuple[Node, ...]


def most_used_tree(codes: Tensor, branches: Sequence[int]) -> Node:
    """The most used children of the most used nodes: `branches[d]` of them at depth d, from codes (B, L)."""
    rows = [tuple(row) for row in codes.tolist()]

    def grow(prefix: tuple[int, ...], members: list[tuple[int, ...]]) -> Node:
        depth = len(prefix)
        children: tuple[Node, ...] = ()
        if depth < len(branches):
            counted = Counter(row[depth] for row in members).most_common(branches[depth])
            children = tuple(
                grow((*prefix, code), [row for row in members if row[depth] == code]) for code, _ in counted
            )
        return Node(prefix, len(members) / len(rows), children)

    return grow((), rows)


def whole_levels(ddn: DDN) -> int:
    """How many levels at the beginning make one choice for the whole image: those that the tree is drawn of."""
    return next((level for level, codes in enumerate(ddn.codes_per_level) if codes > 1), ddn.num_levels)


def nested_grids(ddn: DDN, codes: Tensor, depth: int = 3, unit: int = 32) -> Image.Image:
    """The latent tree of the images with these codes (B, L) as grids within grids (figure 2 of arXiv 2401.00036).

    In the middle of nine cells is a node's image, decoded from its codes; around it are its eight most used children,
    each nine cells again, down to `depth` levels. The bar below a cell says which share of its parent's images it has.
    """
    depth = min(depth, whole_levels(ddn))
    require(depth >= 1, "a model whose first level makes one choice", f"{ddn.codes_per_level[0]}")
    root = most_used_tree(codes[:, :depth], (8,) * depth)
    mode, ground = ("L", 255) if ddn.channels == 1 else ("RGB", (255, 255, 255))
    sheet = Image.new("RGB", (unit * 3**depth,) * 2, (255, 255, 255))

    def image_of(node: Node, side: int) -> Image.Image:
        if not node.prefix:
            return Image.new(mode, (side, side), ground)
        prefix = torch.tensor([node.prefix], device=ddn.start.device)
        return to_pil(ddn.decode(prefix)[0]).resize((side, side), Image.Resampling.BICUBIC)

    def draw(node: Node, left: int, top: int, cells: int, share: float) -> None:
        side = unit * cells
        margin, bar = max(1, side // 40), max(1, side // 24)
        inner = side - 2 * margin
        if not node.children:
            sheet.paste(image_of(node, inner), (left + margin, top + margin))
        else:
            third = side // 3
            sheet.paste(image_of(node, third - 2 * margin), (left + third + margin, top + third + margin))
            places = [(row, column) for row in range(3) for column in range(3) if (row, column) != (1, 1)]
            for child, (row, column) in zip(node.children, places, strict=False):
                draw(child, left + column * third, top + row * third, cells // 3, child.share / node.share)
        if node.prefix:
            whole = (left + margin, top + side - bar, left + side - margin, top + side - 1)
            sheet.paste((225, 225, 225), whole)
            length = max(1, round(inner * share))
            sheet.paste((214, 90, 20), (whole[0], whole[1], whole[0] + length, whole[3]))

    draw(root, 0, 0, 3**depth, 1.0)
    return sheet


def path_picture(ddn: DDN, image: Tensor, codes: Tensor) -> Any:
    """The path of an image (C, H, W): what each level gives, and the share of the images with these codes (B, L) that
    take the same choices so far. Gives a matplotlib figure."""
    from matplotlib.figure import Figure

    walk = ddn.encode_walk(image.unsqueeze(0))
    own, columns = walk.codes[0], ddn.num_levels + 1
    figure = Figure(figsize=(1.1 * columns, 1.6), layout="constrained")
    axes = figure.subplots(1, columns)
    ends = torch.tensor(ddn.codes_per_level).cumsum(0).tolist()
    for level, (output, end) in enumerate(zip(walk.outputs, ends, strict=True)):
        _show(axes[level], output[0])
        share = float((codes[:, :end] == own[:end]).all(1).float().mean())
        number = ddn.codes_per_level[level]
        code = f"code {int(own[end - 1])}" if number == 1 else f"{number} codes"
        axes[level].set_title(f"level {level + 1}\n{code}\n{share:.2%}", fontsize=7)
    _show(axes[-1], image)
    axes[-1].set_title("the image", fontsize=7)
    return figure


def _show(axes: Any, image: Tensor) -> None:
    axes.imshow(np.asarray(to_pil(image).convert("RGB")), interpolation="nearest")
    axes.axis("off")


def animation(ddn: DDN, images: Tensor, side: int = 160) -> list[Image.Image]:
    """The walks of images (B, C, H, W) side by side, a frame a level, the images themselves last."""
    walk = ddn.encode_walk(images)
    frames = [*walk.outputs, images]
    shown = [
        grid(F.interpolate(frame.float().clamp(0, 1), (side, side), mode="nearest"), len(images)) for frame in frames
    ]
    return [frame.convert("RGB") for frame in shown]


def tree_picture(ddn: DDN, codes: Tensor, path: Path, branches: Sequence[int] = (4, 3, 2)) -> None:
    """Draw the latent tree of the images with these codes (B, L), in the format of the path's ending.

    From left to right the first levels: each node shows the image decoded from the choices so far, and the share of
    the images that pass through it. At the right end, for each leaf, one image that took this path, as the whole code
    gives it back.
    """
    require(ddn.codes_per_level[0] == 1, "a model whose first level makes one choice", f"{ddn.codes_per_level[0]}")
    from matplotlib.figure import Figure
    from matplotlib.offsetbox import AnnotationBbox, OffsetImage

    depth = min(len(branches), whole_levels(ddn))
    root = most_used_tree(codes[:, :depth], branches[:depth])
    leaves: list[Node] = []
    places: dict[tuple[int, ...], tuple[float, float]] = {}

    def place(node: Node) -> float:
        if node.children:
            heights = [place(child) for child in node.children]
            y = sum(heights) / len(heights)
        else:
            y = -float(len(leaves))
            leaves.append(node)
        places[node.prefix] = (float(len(node.prefix)), y)
        return y

    place(root)
    figure = Figure(figsize=(1.9 * (depth + 2), max(3.0, 0.5 * len(leaves))), layout="constrained")
    axes = figure.add_subplot()
    zoom = 30 / max(ddn.image_size)

    def show(image: Tensor, x: float, y: float) -> None:
        picture = OffsetImage(np.asarray(to_pil(image).convert("RGB")), zoom=zoom, interpolation="nearest")
        axes.add_artist(AnnotationBbox(picture, (x, y), frameon=True, pad=0.05))

    def draw(node: Node) -> None:
        x, y = places[node.prefix]
        for child in node.children:
            child_x, child_y = places[child.prefix]
            axes.plot([x, child_x], [y, child_y], color="0.6", linewidth=0.5 + 40 * child.share, zorder=0)
            beside = {"facecolor": "white", "edgecolor": "none", "pad": 1}
            axes.text(child_x + 0.16, child_y, f"{child.share:.1%}", va="center", fontsize=7, bbox=beside)
            draw(child)
        if node.prefix:
            show(ddn.decode(torch.tensor([node.prefix], device=codes.device))[0], x, y)

    draw(root)
    for leaf in leaves:
        member = int((codes[:, :depth] == torch.tensor(leaf.prefix, device=codes.device)).all(1).nonzero()[0])
        x, y = places[leaf.prefix]
        axes.plot([x, x + 1], [y, y], color="0.8", linewidth=0.5, linestyle=":", zorder=0)
        show(ddn.decode(codes[member : member + 1])[0], x + 1, y)
    axes.text(0, places[()][1], f"{len(codes)}\nimages", ha="center", va="center", fontsize=8)
    axes.set(xlim=(-0.4, depth + 1.5), ylim=(-len(leaves) + 0.2, 0.9))
    for level in range(1, depth + 1):
        axes.text(level, 0.75, f"level {level}", ha="center", fontsize=8)
    axes.text(depth + 1, 0.75, f"all {ddn.num_levels} levels", ha="center", fontsize=8)
    axes.axis("off")
    save_figure(figure, path, dpi=100)
