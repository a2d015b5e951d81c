"""The network: candidates, the choice among them, split-and-prune, and the walk over its levels.

From the inside out: `candidates` (distances of K candidates without drawing them), `heads` (their weights), `choice`
and `guided_sampler` (one level), `split_and_prune`, `network_config`, `stages` (the levels of one resolution),
`selection` (how a walk chooses), `walk`, `network`.
"""

from discrete_distribution_network.model.candidates import Candidates, LinearCandidates, NetworkCandidates
from discrete_distribution_network.model.code_distribution import (
    AutoregressiveDistribution,
    CodeDistribution,
    draw_codes,
)
from discrete_distribution_network.model.discriminator import Discriminator
from discrete_distribution_network.model.guided_sampler import GuidedSampler, SamplerOutput, split_and_prune_
from discrete_distribution_network.model.network import Network
from discrete_distribution_network.model.selection import (
    ClassifierFreeGuidance,
    FixedCodes,
    Nearest,
    PriorSampling,
    Uniform,
)
from discrete_distribution_network.model.split_and_prune import Plan, apply_plan, plan_split_and_prune
from discrete_distribution_network.model.walk import Branches, Selection, Walk

__all__ = [
    "AutoregressiveDistribution",
    "Branches",
    "Candidates",
    "ClassifierFreeGuidance",
    "CodeDistribution",
    "Discriminator",
    "FixedCodes",
    "GuidedSampler",
    "LinearCandidates",
    "Nearest",
    "Network",
    "NetworkCandidates",
    "Plan",
    "PriorSampling",
    "SamplerOutput",
    "Selection",
    "Uniform",
    "Walk",
    "apply_plan",
    "draw_codes",
    "plan_split_and_prune",
    "split_and_prune_",
]
