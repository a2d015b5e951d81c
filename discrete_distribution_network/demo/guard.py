"""A guard around the page's application: which host names, requests and sizes it accepts, and which files it keeps.

gradio offers more than a page needs (calls by name, fetching of addresses, files of its cache folder) and sets few
limits, so the guard passes on only the requests that the page in a browser makes.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import logging
import re
import socket
from collections.abc import Iterable
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from discrete_distribution_network.demo.files import Files, is_own

MAX_UPLOAD, MAX_JSON, MAX_ADDRESS = 10 << 20, 1 << 15, 2048
"""Bytes of an uploaded file, of any other request, and of a path with its query."""
FORM = 1 << 16
"""Bytes of a form around its files."""
UPLOADS, UPLOAD_SECONDS = 8, 120
"""Uploads at the same time, and seconds that one may take."""

GET_PATHS = re.compile(
    r"/|/(config|theme\.css|favicon\.ico|manifest\.json|robots\.txt)|/(assets|static|svelte)/.*"
    r"|/gradio_api/(theme\.css|app_id|heartbeat/[^/]*|queue/data|upload_progress)"
)
FILE, UPLOAD = "/gradio_api/file=", "/gradio_api/upload"
POST_PATHS = ("/gradio_api/queue/join", "/gradio_api/cancel", "/gradio_api/reset")
"""Paths that a page in a browser gets and posts; no others are answered."""

HEADERS = {
    "X-Frame-Options": "DENY",
    "Content-Security-Policy": "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}
ALL_ADDRESSES = ("", "0.0.0.0", "::")

log = logging.getLogger(__name__)


class Refused(Exception):
    """A request that is not answered: its status, and a sentence with the reason."""

    def __init__(self, status: int, sentence: str):
        super().__init__(sentence)
        self.status = status


class Names:
    """Host names that the page answers to; checking them prevents DNS rebinding by other sites.

    Args:
        host: that the page listens on; if it listens on all addresses, any address and the machine's name are accepted.
        more: other names.
    """

    def __init__(self, host: str, more: Iterable[str] = ()):
        self.any_address = host in ALL_ADDRESSES
        own = {socket.gethostname(), socket.getfqdn()} if self.any_address else {host.strip("[]")}
        self.more = {name.lower() for name in more}
        self.names = {name.lower() for name in ("localhost", "127.0.0.1", "::1", *own)} | self.more

    def __contains__(self, host: str) -> bool:
        name = name_of(f"//{host}")
        if name in self.names:
            return True
        with suppress(ValueError):
            return self.any_address and bool(ipaddress.ip_address(name))
        return False

    def own(self, origin: str, host: str) -> bool:
        """Whether the page at `origin`, which sends a request to `host`, is this page, perhaps behind a proxy."""
        return origin.lower() in (f"http://{host}".lower(), f"https://{host}".lower()) or name_of(origin) in self.more


def name_of(address: str) -> str:
    """The host name in an address, in lower case; empty if there is none."""
    try:
        return urlsplit(address).hostname or ""
    except ValueError:
        return ""


class Guard:
    """An ASGI application around the page's.

    Args:
        names: accepted host names.
        files: the page's files, whose size it limits.
    """

    def __init__(self, app: ASGIApp, names: Names, files: Files):
        self.app, self.names, self.files = app, names, files
        self._uploads = asyncio.Semaphore(UPLOADS)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        begun = False

        async def answer(message: Message) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = True
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        try:
            await self._forward(scope, receive, answer)
        except Exception as error:
            refused = error if isinstance(error, Refused) else Refused(500, "the page could not answer; try again")
            if refused is not error:
                log.warning("%s: %s", scope["path"][:100], summary(error))
            if not begun:
                await JSONResponse({"detail": str(refused)}, refused.status)(scope, receive, answer)

    async def _forward(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers, path = Headers(scope=scope), scope["path"]
        host, origin = headers.get("host", ""), headers.get("origin")
        if host not in self.names:
            raise Refused(403, f"expected a name of this page, got {host[:100]}; start it with --allow and this name")
        if origin is not None and not self.names.own(origin, host):
            raise Refused(403, f"expected a request of this page, got one of {origin[:100]}; open the page itself")
        if (length := len(scope["raw_path"]) + len(scope["query_string"])) > MAX_ADDRESS:
            raise Refused(414, f"expected an address of at most {MAX_ADDRESS} bytes, got {length}; shorten it")
        if scope["method"] in ("GET", "HEAD"):
            if not (is_own(path[len(FILE) :]) if path.startswith(FILE) else GET_PATHS.fullmatch(path)):
                raise Refused(404, f"expected a part or a file of this page, got {path[:100]}; open the page itself")
            await self.app(scope, receive, send)
        elif scope["method"] == "POST" and path == UPLOAD:
            size = content_length(headers, MAX_UPLOAD + FORM)
            async with self._uploads, asyncio.timeout(UPLOAD_SECONDS):
                await asyncio.to_thread(self.files.make_room, size)
                await self.app(scope, receive, send)
        elif scope["method"] == "POST" and path in POST_PATHS:
            content_length(headers, MAX_JSON)
            body = await read_body(receive)
            check_json(body)
            await asyncio.to_thread(self.files.make_room, 0)
            await self.app(scope, replay(body, receive), send)
        else:
            raise Refused(
                404, f"expected a request of this page, got {scope['method'][:20]} {path[:100]}; open the page itself"
            )


def content_length(headers: Headers, most: int) -> int:
    """The bytes of a request's body, which its headers must give."""
    length = headers.get("content-length", "")
    if "transfer-encoding" in headers or not length.isdecimal():
        raise Refused(411, f"expected a request with a Content-Length, got {length[:20]!r}; send it as a whole")
    if len(length) > 20 or int(length) > most:
        raise Refused(413, f"expected at most {most} bytes, got {length[:20]}; send less")
    return int(length)


async def read_body(receive: Receive) -> bytes:
    """The body of a request, whose length was checked before."""
    body, more = b"", True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Refused(400, f"expected a whole request, got {len(body)} bytes of it; send it again")
        body, more = body + message.get("body", b""), message.get("more_body", False)
    return body


def replay(body: bytes, receive: Receive) -> Receive:
    """A `receive` that gives a body that was already read."""
    parts = [body]

    async def replayed() -> Message:
        return {"type": "http.request", "body": parts.pop(), "more_body": False} if parts else await receive()

    return replayed


def check_json(body: bytes) -> None:
    """Refuse a body that is not JSON, or names files that would have to be fetched from elsewhere."""
    try:
        rest: list[Any] = [json.loads(body)]
    except (ValueError, RecursionError) as error:
        raise Refused(400, f"expected JSON, got {body[:40]!r}; open the page itself") from error
    while rest:
        value = rest.pop()
        if isinstance(value, dict):
            if "://" in (path := str(value.get("path"))):
                raise Refused(400, f"expected a file that was uploaded, got {path[:100]!a}; upload the file")
            rest += value.values()
        elif isinstance(value, list):
            rest += value


def summary(error: BaseException) -> str:
    """An error in one short line."""
    return f"{type(error).__name__}: {str(error)[:200]!r}"
