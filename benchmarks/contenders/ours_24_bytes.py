"""Our DDN as a codec of 192 bits, 24 bytes an image: fewer and larger patches, no prior and no chain dropout.

`ddn train --no-prior --levels 4 2 2 1 --patches 0 4 8 16 --chain-dropout 0`; samples are uniform.
"""

from common import main
from ours import Ours

if __name__ == "__main__":
    main(Ours(prior=False, chain_dropout=0.0, levels=(4, 2, 2, 1), patches=(0, 4, 8, 16)))
