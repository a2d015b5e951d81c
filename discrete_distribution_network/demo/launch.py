"""The server of a gradio page: where it listens, how it ends, and what a visitor sees of an error."""

from __future__ import annotations

import html
import os
import re
import socket
import sys
import threading
import time
import webbrowser
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import gradio as gr
import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from gradio.exceptions import ComponentProcessingError

from discrete_distribution_network.demo.files import Files, own_folder
from discrete_distribution_network.demo.guard import MAX_UPLOAD, Guard, Names, log, summary
from discrete_distribution_network.errors import DDNError, InvalidInput
from discrete_distribution_network.io.atomic_file import output_errors

PORTS = range(7860, 7960)
"""Ports that are tried by default; the first free one is used."""
CONNECTIONS = 1000
"""Connections at the same time."""
FOLDERS = re.compile(r"(?<![\w.:/])/(?:[^\s/:;,'\"()]+/)+")
"""The folders of an absolute path."""


def sentence(error: BaseException) -> str:
    """What a visitor sees of an error: one sentence, without folders of this machine."""
    if isinstance(error, ComponentProcessingError) and error.__cause__ is not None:
        error = error.__cause__
    if isinstance(error, gr.Error):
        message = error.message
    elif isinstance(error, OSError):
        message = f"expected to write and read files, got: {error.strerror or type(error).__name__}; try again later"
    elif isinstance(error, DDNError):
        message = str(error)
    else:
        log.warning("%s", summary(error))
        message = f"expected values as this page sends them, but {type(error).__name__}; reload it and try again"
    return html.escape(FOLDERS.sub("", message), quote=False)


class Served(NamedTuple):
    """A page that is served.

    Attributes:
        app: of gradio; `app.blocks.close()` ends it.
        address: its URL.
        shared: None; gradio's public address, which is never used.
    """

    app: Any
    address: str
    shared: None


def start(
    make: Callable[[], gr.Blocks], host: str, port: int | None, allow: Sequence[str], browser: bool, quiet: bool
) -> Served:
    """Make a page and serve it from a thread (see `page.serve`)."""
    listening = bind(host, port)
    folder = Path(own_folder().name)
    with output_errors(folder):
        blocks = make()
    fonts = ["system-ui", "sans-serif"]  # those of the visitor: nothing is fetched
    inner = gr.mount_gradio_app(
        FastAPI(openapi_url=None),
        blocks,
        path="/",
        theme=gr.themes.Default(font=fonts, font_mono=["ui-monospace", "monospace"]),
        max_file_size=MAX_UPLOAD,
        app_kwargs={"exception_handlers": {OSError: _full}},
        footer_links=[],
        run_history=False,
        show_error=False,
        enable_monitoring=False,
        ssr_mode=False,
        mcp_server=False,
        pwa=False,
    )
    config = uvicorn.Config(
        Guard(inner, Names(host, allow), Files(folder)),
        log_level="critical",  # the guard logs errors, one line each
        server_header=False,
        ws="none",
        limit_concurrency=CONNECTIONS,
        timeout_graceful_shutdown=1,
    )
    server = Server(config, listening)
    server.start()
    if not server.started:
        raise InvalidInput(f"expected a server at {host}, got one that ended; give another --host or --port")
    blocks.app = inner.routes[-1].app
    blocks.server = server  # type: ignore[assignment]
    shown = {"0.0.0.0": "localhost", "::": "localhost"}.get(host, host)
    address = f"http://{f'[{shown}]' if ':' in shown else shown}:{listening.getsockname()[1]}"
    if not quiet:
        print(f"* Running on local URL:  {address}", flush=True)
    if browser:
        webbrowser.open(address)
    return Served(blocks.app, f"{address}/", None)


async def _full(request: Request, error: Exception) -> JSONResponse:
    return JSONResponse({"detail": sentence(error)}, 507)


def bind(host: str, port: int | None) -> socket.socket:
    """A socket at this address, at the first free one of `PORTS` if `port` is None.

    Raises:
        InvalidInput: there is none.
    """
    if port is not None and not 0 <= port < 1 << 16:
        raise InvalidInput(f"expected a port from 0 to 65535, got {port}; give another --port, or none")
    for number in PORTS if port is None else [port]:
        made = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
        try:
            if os.name != "nt":  # there it would let two programs have one port
                made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            made.bind((host.strip("[]"), number))
            return made
        except (OSError, UnicodeError) as error:
            made.close()
            failure = error
    raise InvalidInput(
        f"expected a free address, got {host} with port {number} ({failure}); give another --host or --port"
    ) from failure


def leave(code: int) -> NoReturn:
    """End the program at once, without waiting for what is still computed for visitors, which cannot be interrupted."""
    for _ in range(3):  # a file may be written meanwhile
        own_folder().cleanup()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


class Server(uvicorn.Server):
    """A server in its own thread."""

    def __init__(self, config: uvicorn.Config, listening: socket.socket):
        super().__init__(config)
        self._thread = threading.Thread(target=self.run, args=([listening],), daemon=True)

    def start(self) -> None:
        self._thread.start()
        while not self.started and self._thread.is_alive():
            time.sleep(0.01)

    def close(self) -> None:
        self.should_exit = True
        self._thread.join(timeout=5)
