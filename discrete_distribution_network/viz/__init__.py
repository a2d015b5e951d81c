"""Pictures: grids, reconstructions, and the latent tree."""

from discrete_distribution_network.viz.pictures import grid, reconstructions, save_picture, to_pil
from discrete_distribution_network.viz.tree import animation, most_used_tree, nested_grids, path_picture, tree_picture

__all__ = [
    "animation",
    "grid",
    "most_used_tree",
    "nested_grids",
    "path_picture",
    "reconstructions",
    "save_picture",
    "to_pil",
    "tree_picture",
]
