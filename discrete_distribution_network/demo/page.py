"""The page of `ddn demo`: walk the tree, sample, compress, guide, and watch a training."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from typing import Any

import gradio as gr

from discrete_distribution_network.demo.handlers import Demo
from discrete_distribution_network.demo.launch import Served, sentence, start
from discrete_distribution_network.demo.tabs import compress_tab, guide_tab, sample_tab, train_tab, walk_tab
from discrete_distribution_network.signals import Interrupted, Signals

DAY = 86_400
"""Seconds after which pictures that were shown are deleted."""
AT_ONCE, WAITING = 2, 100
"""Events of one `concurrency_id` that are answered at the same time, and that may wait."""
VISITORS = 200
"""Visitors whose place in the tree is kept."""


TABS = {
    "Walk the tree": walk_tab,
    "Sample": sample_tab,
    "Reconstruct and compress": compress_tab,
    "Guide": guide_tab,
    "Train": train_tab,
}


MODEL_OF_LINK = """() => {
    const names = NAMES;
    return names.find((name) => encodeURIComponent(name) === location.hash.slice(1).split("/")[0]) ?? names[0];
}"""
"""Run where the page is opened: the model of a link to a place in its tree, see `tabs.OPEN_LINK`."""


class Blocks(gr.Blocks):
    """gradio's page, where an error becomes a sentence for its visitor, and the page goes on."""

    async def process_api(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return await super().process_api(*args, **kwargs)
        except Exception as error:
            raise gr.Error(sentence(error), print_exception=False, title="") from error


def page(demos: Mapping[str, Demo]) -> gr.Blocks:
    """The whole page, with a queue; where there are several models, one of them is chosen at the top."""
    with Blocks(title="Discrete Distribution Networks", analytics_enabled=False, delete_cache=(DAY, DAY)) as blocks:
        gr.Markdown("# Discrete Distribution Network")
        if len(demos) == 1:
            _tabs(*demos.values())
        else:
            names = list(demos)
            chosen = gr.Dropdown(names, value=names[0], label="Model", elem_id="model")
            gr.render(chosen)(lambda name: _tabs(demos[name]))
            blocks.load(None, outputs=chosen, js=MODEL_OF_LINK.replace("NAMES", json.dumps(names)))
    blocks.state_session_capacity = VISITORS
    return blocks.queue(max_size=WAITING, default_concurrency_limit=AT_ONCE, api_open=False)


def _tabs(demo: Demo) -> None:
    ddn = demo.ddn
    gr.Markdown(
        f"A picture is {sum(ddn.codes_per_level)} choices, {ddn.bits_per_image / 8:g} bytes. "
        "[How it works](https://arxiv.org/abs/2401.00036)"
    )
    with gr.Tabs(selected=0):  # without it none is selected where another model is chosen
        for number, (name, tab) in enumerate(TABS.items()):
            with gr.Tab(name, id=number):
                tab(demo)


def serve(
    demos: Demo | Mapping[str, Demo],
    host: str = "127.0.0.1",
    port: int | None = None,
    browser: bool = False,
    allow: Sequence[str] = (),
    prevent_thread_lock: bool = False,
    quiet: bool = False,
) -> Served:
    """Serve the page until SIGTERM or Ctrl-C, which end the program with their own code.

    Args:
        demos: of one model, or of several by name.
        host, port: address; a free port from 7860 on if None.
        browser: whether to open the page in one.
        allow: names of the page beside `host` and localhost, such as that of a proxy before it.
        prevent_thread_lock: return at once; the page is served until `app.blocks.close()`, or the program ends.
        quiet: do not print the address.

    Raises:
        InvalidInput: the address is not free, or not one of this machine.
        Interrupted: one of the signals came.
    """
    named = {"": demos} if isinstance(demos, Demo) else demos
    if prevent_thread_lock:
        return start(lambda: page(named), host, port, allow, browser, quiet)
    with Signals() as signals:
        served = start(lambda: page(named), host, port, allow, browser, quiet)
        while signals.received is None and served.app.blocks.is_running:
            time.sleep(0.1)
    served.app.blocks.close(verbose=False)
    if signals.received is not None:
        raise Interrupted(signals.received)
    return served
