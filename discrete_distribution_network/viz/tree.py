"""Pictures of the latent tree: the image of each node, decoded from its codes, and the share of the data under it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Int, Shaped
from PIL import Image
from torch import Tensor

from discrete_distribution_network.ddn import DDN
from discrete_distribution_network.errors import require
from discrete_distribution_network.model.pixels import as_pixels
from discrete_distribution_network.viz.pictures import grid, save_figure, to_pil


class Node(NamedTuple):
    """A node of the tree: the codes that lead to it, the share of the data under it, and its children."""

    prefix: tuple[int, ...]
    share: float
    children: tuple[Node, ...]


def most_used_tree(codes: Int[Tensor, "batch codes"], branches: Sequence[int]) -> Node:
    """The most used children of the most used nodes, in the codes of images.

    Args:
        branches: most children of a node, for each depth.
    """
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
    """Number of leading levels with one code for the whole image, which the tree is drawn from."""
    return next((level for level, codes in enumerate(ddn.codes_per_level) if codes > 1), ddn.num_levels)


def nested_grids(ddn: DDN, codes: Int[Tensor, "batch codes"], depth: int = 3, unit: int = 32) -> Image.Image:
    """The latent tree as nested 3x3 grids (figure 2 of arXiv 2401.00036).

    The centre of a grid is a node's image; around it are its eight most used children, each a grid again. The bar below
    a cell shows its share of its parent's images.

    Args:
        codes: of the images whose tree it is.
        depth: levels of the tree.
        unit: side of the smallest cell, in pixels.
    """
    depth = min(depth, whole_levels(ddn))
    _require_one_code(ddn)
    root = most_used_tree(codes[:, :depth], (8,) * depth)
    mode, background = ("L", 255) if ddn.channels == 1 else ("RGB", (255, 255, 255))
    sheet = Image.new("RGB", (unit * 3**depth,) * 2, (255, 255, 255))

    def image_of(node: Node, side: int) -> Image.Image:
        if not node.prefix:
            return Image.new(mode, (side, side), background)
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
            cells_around = [(row, column) for row in range(3) for column in range(3) if (row, column) != (1, 1)]
            for child, (row, column) in zip(node.children, cells_around, strict=False):
                draw(child, left + column * third, top + row * third, cells // 3, child.share / node.share)
        if node.prefix:
            whole = (left + margin, top + side - bar, left + side - margin, top + side - 1)
            sheet.paste((225, 225, 225), whole)
            length = max(1, round(inner * share))
            sheet.paste((214, 90, 20), (whole[0], whole[1], whole[0] + length, whole[3]))

    draw(root, 0, 0, 3**depth, 1.0)
    return sheet


def _require_one_code(ddn: DDN) -> None:
    number = ddn.codes_per_level[0]
    require(number == 1, "a model whose first level has one code, to draw its tree", f"{number} codes")


def path_picture(
    ddn: DDN, image: Shaped[Tensor, "channels height width"], codes: Int[Tensor, "batch all_codes"]
) -> Any:
    """The path of an image through the tree: the output and code of each level, and the share of the data on the path.

    Args:
        image: in [0, 1], or uint8.
        codes: of the images whose tree it is.

    Returns:
        A matplotlib figure.
    """
    from matplotlib.figure import Figure

    walk = ddn.encode_walk(image.unsqueeze(0))
    own, columns = walk.codes[0], ddn.num_levels + 1
    figure = Figure(figsize=(1.1 * columns, 1.6), layout="constrained")
    axes = figure.subplots(1, columns)
    ends = torch.tensor(ddn.codes_per_level).cumsum(0).tolist()
    for level, (output, end) in enumerate(zip(ddn.pictures(walk), ends, strict=True)):
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


def animation(ddn: DDN, images: Shaped[Tensor, "batch channels height width"], side: int = 160) -> list[Image.Image]:
    """The outputs of images side by side, one frame a level, and the images themselves as the last frame.

    Args:
        images: in [0, 1], or uint8.
        side: of an image in a frame, in pixels.
    """
    walk = ddn.encode_walk(images)
    frames = [*ddn.pictures(walk), as_pixels(images, (None, None, None, None))]
    shown = [
        grid(F.interpolate(frame.float().clamp(0, 1), (side, side), mode="nearest"), len(images)) for frame in frames
    ]
    return [frame.convert("RGB") for frame in shown]


def tree_picture(ddn: DDN, codes: Int[Tensor, "batch codes"], path: Path, branches: Sequence[int] = (4, 3, 2)) -> None:
    """Draw the latent tree from left to right, and write it in the format of the path's extension.

    A node shows the image decoded from its codes, and the share of the data under it; beside each leaf is one image
    under it, reconstructed from all its codes.

    Args:
        codes: of the images whose tree it is.
        branches: most children of a node, for each depth.
    """
    _require_one_code(ddn)
    from matplotlib.figure import Figure
    from matplotlib.offsetbox import AnnotationBbox, OffsetImage

    depth = min(len(branches), whole_levels(ddn))
    root = most_used_tree(codes[:, :depth], branches[:depth])
    leaves: list[Node] = []
    positions: dict[tuple[int, ...], tuple[float, float]] = {}

    def lay_out(node: Node) -> float:
        """Position a node, at the mean height of its children, and all nodes under it."""
        if node.children:
            heights = [lay_out(child) for child in node.children]
            y = sum(heights) / len(heights)
        else:
            y = -float(len(leaves))
            leaves.append(node)
        positions[node.prefix] = (float(len(node.prefix)), y)
        return y

    lay_out(root)
    figure = Figure(figsize=(1.9 * (depth + 2), max(3.0, 0.5 * len(leaves))), layout="constrained")
    axes = figure.add_subplot()
    zoom = 30 / max(ddn.image_size)

    def show(image: Tensor, x: float, y: float) -> None:
        picture = OffsetImage(np.asarray(to_pil(image).convert("RGB")), zoom=zoom, interpolation="nearest")
        axes.add_artist(AnnotationBbox(picture, (x, y), frameon=True, pad=0.05))

    def draw(node: Node) -> None:
        x, y = positions[node.prefix]
        for child in node.children:
            child_x, child_y = positions[child.prefix]
            axes.plot([x, child_x], [y, child_y], color="0.6", linewidth=0.5 + 40 * child.share, zorder=0)
            box = {"facecolor": "white", "edgecolor": "none", "pad": 1}
            axes.text(child_x + 0.16, child_y, f"{child.share:.1%}", va="center", fontsize=7, bbox=box)
            draw(child)
        if node.prefix:
            show(ddn.decode(torch.tensor([node.prefix], device=codes.device))[0], x, y)

    draw(root)
    for leaf in leaves:
        member = int((codes[:, :depth] == torch.tensor(leaf.prefix, device=codes.device)).all(1).nonzero()[0])
        x, y = positions[leaf.prefix]
        axes.plot([x, x + 1], [y, y], color="0.8", linewidth=0.5, linestyle=":", zorder=0)
        show(ddn.decode(codes[member : member + 1])[0], x + 1, y)
    axes.text(0, positions[()][1], f"{len(codes)}\nimages", ha="center", va="center", fontsize=8)
    axes.set(xlim=(-0.4, depth + 1.5), ylim=(-len(leaves) + 0.2, 0.9))
    for level in range(1, depth + 1):
        axes.text(level, 0.75, f"level {level}", ha="center", fontsize=8)
    axes.text(depth + 1, 0.75, f"all {ddn.num_levels} levels", ha="center", fontsize=8)
    axes.axis("off")
    save_figure(figure, path, dpi=100)
