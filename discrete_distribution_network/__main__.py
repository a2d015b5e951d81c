"""`python -m discrete_distribution_network` is `ddn`, for launchers that start modules."""

from discrete_distribution_network.cli import main

if __name__ == "__main__":
    main()
