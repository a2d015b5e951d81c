"""One file for each command: a dataclass, whose fields are the options and whose method `run` does the work.

`run` imports what it needs itself, so that `ddn --help` need not wait for PyTorch. A command that takes more than a
page has a module of the same name in `cli/`. A new command is a file here, a line below, a test and a page.
"""

from discrete_distribution_network.cli.commands.cluster import Cluster
from discrete_distribution_network.cli.commands.decode import Decode
from discrete_distribution_network.cli.commands.demo import Demo
from discrete_distribution_network.cli.commands.encode import Encode
from discrete_distribution_network.cli.commands.evaluate import Evaluate
from discrete_distribution_network.cli.commands.export import Export
from discrete_distribution_network.cli.commands.guide import Guide
from discrete_distribution_network.cli.commands.info import Info
from discrete_distribution_network.cli.commands.interpolate import Interpolate
from discrete_distribution_network.cli.commands.neighbours import Neighbours
from discrete_distribution_network.cli.commands.prior import Prior
from discrete_distribution_network.cli.commands.quickstart import Quickstart
from discrete_distribution_network.cli.commands.reconstruct import Reconstruct
from discrete_distribution_network.cli.commands.sample import Sample
from discrete_distribution_network.cli.commands.train import Train
from discrete_distribution_network.cli.commands.tree import Tree

COMMANDS = {
    "quickstart": Quickstart,
    "train": Train,
    "prior": Prior,
    "sample": Sample,
    "guide": Guide,
    "reconstruct": Reconstruct,
    "encode": Encode,
    "decode": Decode,
    "tree": Tree,
    "interpolate": Interpolate,
    "neighbours": Neighbours,
    "cluster": Cluster,
    "evaluate": Evaluate,
    "export": Export,
    "demo": Demo,
    "info": Info,
}
"""In the order of `ddn --help`."""
