"""Two-dimensional densities: does one level with split-and-prune learn a distribution?

    python benchmarks/density.py

K nodes start uniformly in [-1, 1]^2. Each step draws 40 points from the density, moves the nearest node (L1) of each
towards it and calls split-and-prune; 1,800 steps, as in the public script of the paper. The measure is the package
distribution-playground's own: the Kullback-Leibler divergence of the nodes, counted on 100 x 100 bins, to the density.
As many points drawn from the density itself are the yardstick. Prints a table, draws `docs/density.png`, writes
`benchmarks/results/density.json`. Needs `pip install '.[benchmark]'`.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from distribution_playground import DistributionByDensityArray, density_map_builders
from matplotlib.figure import Figure

from discrete_distribution_network import GuidedSampler

ROOT = Path(__file__).resolve().parent.parent
BINS, STEPS, BATCH = 100, 1800, 40
DENSITIES = {"spirals": "sprial", "blurs": "blur_circles", "QR": "QR_code", "strings": "words"}
PAPER = {  # figures of the paper's project page (2d-density): gradient descent alone, split-and-prune, real samples
    "spirals": (20.19, 0.11, 0.21),
    "blurs": (30.34, 0.14, 0.24),
    "QR": (15.79, 0.12, 0.29),
    "strings": (29.36, 0.05, 0.16),
}


def learn(density: DistributionByDensityArray, nodes: int, split: bool, seed: int = 0) -> np.ndarray:
    """The nodes (K, 2) of one vector level after training."""
    torch.manual_seed(seed)
    np.random.seed(seed)  # noqa: NPY002 (the package draws from NumPy's global generator)
    sampler = GuidedSampler(
        dim=1,
        dim_query=2,
        codebook_size=nodes,
        distance_fn=lambda queries, candidates: torch.cdist(queries, candidates, p=1),
        chain_dropout_prob=0.0,
        min_total_count_before_split_prune=BATCH,
        max_swaps=None,
    )
    torch.nn.init.uniform_(sampler.keys.weight, -1, 1)
    optimizer = torch.optim.SGD(sampler.parameters(), lr=1.0)
    features = torch.ones(BATCH, 1)
    for step in range(STEPS):
        points = torch.from_numpy(density.sample(BATCH)).float()
        # the loss is a mean over 2 * BATCH numbers: a rate of BATCH moves a node all the way, one of BATCH / 10 a tenth
        optimizer.param_groups[0]["lr"] = BATCH * (0.5 - 0.4 * step / STEPS)
        loss = sampler(features, points).commit_loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if split:
            sampler.split_and_prune_(optimizer)
    return sampler.keys.weight.detach().squeeze(-1).double().numpy()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nodes", type=int, nargs="+", default=[2000, 10000])
    options = parser.parse_args()
    results = {}
    figure = Figure(figsize=(10, 2.6 * len(DENSITIES)), layout="constrained")
    axes = figure.subplots(len(DENSITIES), 4)
    for nodes in options.nodes:
        print(f"\n| KL, K={nodes} | gradient descent alone | with split-and-prune | {nodes} real samples |")
        print("|---|---|---|---|")
        for row, (name, key) in enumerate(DENSITIES.items()):
            density = DistributionByDensityArray(density_map_builders[key](BINS)["density"])
            real = [density.sample(nodes) for _ in range(5)]
            points = {"alone": learn(density, nodes, False), "split": learn(density, nodes, True), "real": real[0]}
            kl = {kind: density.kl_divergence(xy)["kl"] for kind, xy in points.items()}
            kl["real"] = float(np.mean([density.kl_divergence(xy)["kl"] for xy in real]))
            results[f"{name}, K={nodes}"] = kl
            print(f"| {name} | {kl['alone']:.2f} | {kl['split']:.3f} | {kl['real']:.3f} |", flush=True)
            shown = [density.density, *points.values()]
            titles = ["density", "gradient descent alone", "with split-and-prune", "real samples"]
            for ax, title, what in zip(axes[row], titles, shown, strict=True):
                ax.clear()
                if title == "density":
                    ax.imshow(what, extent=(-1, 1, -1, 1))
                else:
                    ax.scatter(*what.T, s=0.15, linewidths=0)
                    title = f"{title}, KL {density.kl_divergence(what)['kl']:.2f}"
                ax.set(xlim=(-1, 1), ylim=(-1, 1), xticks=[], yticks=[], aspect="equal")
                ax.set_title(title, fontsize=8)
    print("\n| the paper's figures | gradient descent alone | with split-and-prune | real samples |\n|---|---|---|---|")
    for name, figures in PAPER.items():
        print(f"| {name} | {figures[0]} | {figures[1]} | {figures[2]} |")
    figure.savefig(ROOT / "docs" / "density.png", dpi=90)
    path = ROOT / "benchmarks" / "results" / "density.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
