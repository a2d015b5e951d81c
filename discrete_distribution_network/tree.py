"""Pictures of the latent tree: what each choice means and how many images take it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from discrete_distribution_network.ddn import DDN
from discrete_distribution_network.errors import require
from discrete_distribution_network.pictures import to_pil


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


def tree_picture(ddn: DDN, codes: Tensor, path: Path, branches: Sequence[int] = (4, 3, 2)) -> None:
    """Draw the latent tree of the images with these codes (B, L) as a PNG.

    From left to right the first levels: each node shows the image decoded from the choices so far, and the share of
    the images that pass through it. At the right end, for each leaf, one image that took this path, as the whole code
    gives it back.
    """
    require(ddn.codes_per_level[0] == 1, "a model whose first level makes one choice", f"{ddn.codes_per_level[0]}")
    from matplotlib.figure import Figure
    from matplotlib.offsetbox import AnnotationBbox, OffsetImage

    whole = next((level for level, codes in enumerate(ddn.codes_per_level) if codes > 1), ddn.num_levels)
    depth = min(len(branches), whole)
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
    figure.savefig(path, dpi=100)
