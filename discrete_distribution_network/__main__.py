"""`python -m discrete_distribution_network` is `ddn`, for launchers that start modules."""

import signal

if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # before and after `main`, Ctrl-C ends without a traceback

from discrete_distribution_network.cli.main import main

if __name__ == "__main__":
    main()
