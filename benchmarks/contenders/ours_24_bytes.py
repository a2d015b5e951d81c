"""Our DDN with fewer and larger patches: 192 bits, 24 bytes an image."""

from common import main
from ours import Ours

if __name__ == "__main__":
    main(Ours(levels=(4, 2, 2, 1), patches=(0, 4, 8, 16)))
