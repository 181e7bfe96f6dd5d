"""What stands before every page: limits of requests, and headers of answers.

Plain ASGI, so that nothing gets round it.
"""

from __future__ import annotations

from collections.abc import Callable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hatchway.addresses import Network
from hatchway.web.client import client_address, is_proxy

BODY_MAX = 64 * 1024
"""Bytes of a request's body. The largest form is a key with its options."""

HEADERS_MAX = 16 * 1024
"""Bytes of a request's headers together."""

TARGET_MAX = 16 * 1024
"""Bytes of path and query."""

POLICY = "; ".join((
    "default-src 'none'",
    "script-src 'self'",
    "style-src 'self'",
    "img-src 'self' data:",
    "connect-src 'self'",
    "form-action 'self'",
    "frame-ancestors 'none'",
    "base-uri 'none'",
))  # fmt: skip

_ALWAYS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
}
_TRANSPORT = {"strict-transport-security": "max-age=31536000"}


class TooLargeError(Exception):
    """The body is longer than BODY_MAX."""


class Guard:
    """`app` behind limits. `https`: browsers come by https. With `proxied` only `proxies` may ask.

    Handlers find the client's address in scope["state"]["address"].
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        https: bool,
        proxied: bool,
        proxies: tuple[Network, ...],
        refuse: Callable[[int], ASGIApp],
    ) -> None:
        self._app = app
        self._proxied = proxied
        self._proxies = proxies
        self._refuse = refuse
        self._headers = [
            (name.encode(), value.encode()) for name, value in (_ALWAYS | (_TRANSPORT if https else {})).items()
        ]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            # No WebSockets.
            await send({"type": "websocket.close"})
            return

        async def guarded_send(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = list(message.get("headers", []))
                if not any(name.lower() == b"cache-control" for name, _ in headers):
                    headers.append((b"cache-control", b"no-store"))
                message = {**message, "headers": headers + self._headers}
            await send(message)

        received = 0

        async def guarded_receive() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > BODY_MAX:
                raise TooLargeError
            return message

        peer = (scope.get("client") or ("", 0))[0]
        forwarded = [value.decode("latin-1") for name, value in scope["headers"] if name == b"x-forwarded-for"]
        scope.setdefault("state", {})["address"] = client_address(peer, forwarded, self._proxies)
        problem = self._problem(scope, peer)
        app = self._app if problem is None else self._refuse(problem)
        await app(scope, guarded_receive, guarded_send)

    def _problem(self, scope: Scope, peer: str) -> int | None:
        """The HTTP status by which to refuse a request before anybody looks at it."""
        headers = scope["headers"]
        # Hypercorn speaks HTTP/2 to whoever begins so without TLS, or asks for it by Upgrade: where a proxy passes that
        # on, requests would come that it has not seen.
        if scope["http_version"] not in ("1.0", "1.1"):
            return 400
        if self._proxied and not is_proxy(peer, self._proxies):
            return 403
        if scope["method"] not in ("GET", "HEAD", "POST"):
            return 405
        target = len(scope.get("raw_path") or b"") + len(scope["query_string"])
        if target > TARGET_MAX or sum(len(name) + len(value) for name, value in headers) > HEADERS_MAX:
            return 431
        # No path of ours has an escape, and what a proxy makes of one is its own affair: see paths.coded.
        if b"%" in (scope.get("raw_path") or b""):
            return 404
        lengths = [value for name, value in headers if name == b"content-length"]
        if any(not value.isdigit() or int(value[:12]) > BODY_MAX for value in lengths):
            return 413
        return None
