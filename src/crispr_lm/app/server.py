"""Serving the page: from this machine to this machine, to no other site's scripts, without anything from elsewhere.

Gradio's own check (``strict_cors``) withholds answers from other origins; here their requests are refused before they
reach it, as are those by a name that is not this machine's (which a site could point here).
"""

from __future__ import annotations

import ipaddress
import logging
import re
import socket
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crispr_lm.app.session import open_session
from crispr_lm.errors import InputError
from crispr_lm.other_settings import AppSettings
from crispr_lm.runtime.progress import Progress, SilentProgress

if TYPE_CHECKING:
    import fastapi

logger = logging.getLogger(__name__)

HOST = re.compile(r"(?:\[(?P<address>[0-9A-Fa-f:.]+)\]|(?P<name>[A-Za-z0-9._-]+))(?::(?P<port>[0-9]{1,5}))?")
"""A Host header: a name or an address, perhaps a port in digits; no user, no path, no white space."""
LAST_PORT = 65535

SCHEMES = ("http", "https")
"""Of the page's own origin: with https, another program serves it on."""

FETCHED = ("sec-fetch-site", "sec-fetch-mode", "sec-fetch-dest")
"""What browsers send with a request: from where, how, and what it is for."""

LOCAL_NAMES = ("localhost", "127.0.0.1", "::1")

# Scripts and styles are Gradio's own, some written into the page; nothing is fetched from, or sent to, elsewhere.
SECURITY_HEADERS = {
    "content-security-policy": "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; frame-ancestors 'none'; "
    "form-action 'self'; base-uri 'self'; object-src 'none'",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}


@dataclass(frozen=True)
class ReadyPage:
    """A page that can be served.

    Attributes:
        address: Where it will be.
        serve: Serves it until the process is interrupted.
    """

    address: str
    serve: Callable[[], None]


def prepare(run: Path, settings: AppSettings, progress: Progress | None = None) -> ReadyPage:
    """Load a run and make its page.

    Raises:
        InputError: the address can't be served on, the folder holds no finished run, or its model can't be loaded.
        EditMismatchError: another model than the run's.
    """
    progress = progress or SilentProgress()
    check_address(settings.host, settings.port)
    session = open_session(run, settings, progress)
    if not is_loopback(settings.host):
        progress.say(
            f"Warning: {settings.host} is no address of this machine alone; everyone who reaches port {settings.port} "
            "can use the model, without a password"
        )
    from crispr_lm.app.page import build

    application = made_application(build(session), settings.host)

    def serve() -> None:
        import uvicorn

        with suppress(KeyboardInterrupt):
            uvicorn.run(application, host=settings.host, port=settings.port, log_level="warning")

    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    return ReadyPage(f"http://{host}:{settings.port}", serve)


def made_application(page: Any, host: str) -> fastapi.FastAPI:
    """The page as a web application behind `OwnOriginOnly`."""
    import fastapi
    import gradio

    from crispr_lm.app.page import ENTER_SENDS, STYLE, THEME

    application = fastapi.FastAPI(openapi_url=None)
    application.add_middleware(OwnOriginOnly, names=(*LOCAL_NAMES, host) if is_loopback(host) else None)
    return gradio.mount_gradio_app(
        application,
        page.queue(api_open=False),
        path="/",
        allowed_paths=[],
        show_error=False,
        ssr_mode=False,
        enable_monitoring=False,
        footer_links=["settings"],
        theme=THEME,
        css=STYLE,
        js=ENTER_SENDS,
    )


class OwnOriginOnly:
    """Refuses what does not come from the page itself."""

    def __init__(self, application: Any, names: tuple[str, ...] | None) -> None:
        """Guard an application; `names` are those the machine may be called by, None for any."""
        self._application = application
        self._names = names

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Pass a request on, or answer it with 403."""
        if scope["type"] not in ("http", "websocket"):
            await self._application(scope, receive, send)
            return
        headers = [(name.decode("latin-1").lower(), value.decode("latin-1")) for name, value in scope["headers"]]
        opens = scope["type"] == "http" and scope["method"] in ("GET", "HEAD") and scope["path"] == "/"
        if not self._is_own(headers, opens_page=opens):
            if scope["type"] == "websocket":
                await send({"type": "websocket.close", "code": 1008})
                return
            await send({"type": "http.response.start", "status": 403, "headers": [(b"content-type", b"text/plain")]})
            await send({"type": "http.response.body", "body": b"crispr-lm answers its own page only"})
            return

        async def guarded(message: Any) -> None:
            if message["type"] == "http.response.start":
                own = [(name.encode(), value.encode()) for name, value in SECURITY_HEADERS.items()]
                message = {**message, "headers": [*message.get("headers", []), *own]}
            await send(message)

        await self._application(scope, receive, guarded)

    def _is_own(self, headers: Sequence[tuple[str, str]], *, opens_page: bool) -> bool:
        given = dict(headers)
        if any(sum(name == one for name, _ in headers) > 1 for one in ("host", "origin", *FETCHED)):
            return False  # which of two counts is read differently by every program on the way
        host = HOST.fullmatch(given.get("host", ""))
        if host is None or int(host["port"] or 0) > LAST_PORT:
            return False
        name = (host["address"] or host["name"]).lower()
        if self._names is not None and name not in self._names:
            return False
        origin = given.get("origin")
        if origin is not None and origin.lower() not in (f"{scheme}://{host[0].lower()}" for scheme in SCHEMES):
            return False
        # What a browser fetches for another page without naming the origin (an image, a script). Another port of this
        # machine is the same site, and not the same origin. A link may open the page itself in a tab, nothing below it.
        site, mode, place = (given.get(header) for header in FETCHED)
        followed = opens_page and mode == "navigate" and place == "document"
        return site in (None, "same-origin", "none") or followed


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def check_address(host: str, port: int) -> None:
    """Check that a page can be served there, before a model is loaded.

    Raises:
        InputError: no address of this machine, or a port in use.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except (OSError, UnicodeError) as error:
        raise InputError(
            f"the page can't be served on {host}, port {port} ({error}); give another --port or --host"
        ) from error
