"""Our DDN alone, `ddn train --chain-dropout 0`: the whole budget is the network's, every node is equally likely."""

from common import main
from ours import Ours

if __name__ == "__main__":
    main(Ours(network_share=1, chain_dropout=0.0))
