"""Our DDN alone: the whole budget is the network's, and every node is drawn with the same chance."""

from common import main
from ours import Ours

if __name__ == "__main__":
    main(Ours(network_share=1))
