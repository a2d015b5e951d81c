"""`ddn demo`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from discrete_distribution_network.cli.options import ModelOptions
from discrete_distribution_network.errors import InvalidInput


@dataclass
class Demo(ModelOptions):
    """Open an interactive page: walk the latent tree, sample, compress, guide, watch a training."""

    model: Path | None = None
    """Run or model folder; one of the included models, chosen on the page, if not given."""
    host: str = "127.0.0.1"
    """Address to listen on; 0.0.0.0 is reachable from other machines."""
    port: int | None = None
    """Port to listen on; the first free one from 7860 on if not given."""
    browser: bool = True
    """Open the page in a browser."""
    allow: tuple[str, ...] = ()
    """More host names of the page, such as a proxy's, beside the host, localhost and, with 0.0.0.0, this machine's."""

    def run(self) -> None:
        try:
            from discrete_distribution_network.demo.launch import leave
            from discrete_distribution_network.demo.page import serve
        except ImportError as error:
            raise InvalidInput(
                f"expected gradio for the page, but {error}; pip install 'discrete-distribution-network[demo]'"
            ) from error
        from discrete_distribution_network.cli.demo import load_demos
        from discrete_distribution_network.signals import Interrupted

        demos = load_demos(self.model, self.device)
        try:
            serve(demos, self.host, self.port, self.browser, self.allow)
        except Interrupted as end:
            leave(128 + end.signum)
