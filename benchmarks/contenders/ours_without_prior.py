"""Our DDN alone, `ddn train --no-prior --chain-dropout 0`: no prior, every node is equally likely."""

from common import main
from ours import Ours

if __name__ == "__main__":
    main(Ours(prior=False, chain_dropout=0.0))
