"""The web application: all routes, and what is said when something goes wrong."""

from __future__ import annotations

import time
from collections.abc import Callable
from http import HTTPStatus

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from hatchway import log
from hatchway.config import Web
from hatchway.errors import (
    HatchwayError,
    NotFoundError,
    NotRunningError,
    RefusedError,
    SignedOutError,
    SignInWaitError,
    UsageError,
)
from hatchway.web import looks, paths
from hatchway.web.backend import Backend
from hatchway.web.guard import Guard, TooLargeError
from hatchway.web.notices import Notices
from hatchway.web.pages import (
    conditions,
    connecting,
    credentials,
    instance,
    links,
    own,
    people,
    record,
    sessions,
    signing,
    status,
    tree,
    volumes,
)
from hatchway.web.settings import https, proxies
from hatchway.web.tokens import Cookies, FormTokens
from hatchway.web.visit import Doors, House, sentence
from hatchway.web.whose import SHARED

_STATUSES: tuple[tuple[type[HatchwayError], int], ...] = (
    (RefusedError, 403),
    (NotFoundError, 404),
    (UsageError, 400),
    (SignInWaitError, 429),
    (NotRunningError, 503),
)

_TITLES = {
    400: "That was not understood",
    403: "This is not allowed",
    404: "There is nothing here",
    405: "That was not understood",
    413: "That is too much at once",
    429: "Too many attempts",
    431: "That is too much at once",
    500: "Something went wrong",
    503: "Hatchway does not answer",
}
_ADVICE = {
    400: "Go back, reload the page and try again.",
    403: "If you think that you should be allowed to do this, ask the operator of this host.",
    404: "Check the address, or start from the first page. What was there may have been removed.",
    405: "Go back, reload the page and try again.",
    413: "Send less.",
    429: "Wait a little, and try again.",
    431: "Remove this site's cookies, or use a shorter search.",
    500: "Try again. If it happens again, tell the operator: the log of hatchway-web has the details.",
    503: "It may just be restarting: this page tries again by itself in a few seconds. Sessions and transfers that are "
    "open are not affected.",
}

_UNSURE = (
    "Whether what you sent was done before that is not known: go back in a moment, reload the page, and look before "
    "you send it again."
)


def application(
    settings: Web,
    backend: Backend,
    *,
    now: Callable[[], float] = time.time,
    watch: Callable[[], float] = time.monotonic,
) -> ASGIApp:
    """All of it. `now` gives Unix seconds, `watch` seconds of a clock that only goes on."""
    static, is_https = looks.Static(), https(settings)
    house = House(
        backend=backend,
        templates=looks.environment(static),
        cookies=Cookies(https=is_https),
        forms=FormTokens(),
        notices=Notices(watch),
        https=is_https,
        now=now,
    )
    doors = Doors(house)
    parts = (tree, instance, volumes, connecting, credentials, links, conditions, sessions, record, status, people, own)
    routes = [Route("/static/{name}", static.serve, methods=["GET"]), *signing.routes(house), *links.open_routes(house)]
    routes += [route for part in parts for route in part.routes(doors)]

    def problem(status: int, text: str = "", *, sent: bool = False) -> Response:
        """A page. `sent`: instead of what a form was to do, so that asking again would be another thing."""
        kind = status if status in _TITLES else 500 if status >= 500 else 400
        response = house.html(
            "problem.html",
            status,
            title=_TITLES[kind],
            text=text,
            advice=_UNSURE if sent and kind >= 500 else _ADVICE[kind],
            again=status == 503 and not sent,
            number=status,
        )
        if status == 503:
            response.headers["retry-after"] = "5"
        return response

    def led_here(request: Request) -> bool:
        """Whether a link elsewhere led here, so that the browser kept the cookie back (SameSite=Strict)."""
        elsewhere = request.headers.get("sec-fetch-site") in ("cross-site", "same-site")
        return elsewhere and request.method == "GET" and house.cookies.token(request) is None

    async def failed(request: Request, exc: Exception) -> Response:
        if isinstance(exc, SignedOutError):
            if led_here(request):
                return house.html("onward.html")
            to_page = request.method == "GET" and request.url.path != "/"
            there = f"{request.url.path}?{request.url.query}" if request.url.query else request.url.path
            # Whoever came by a link has nothing to sign in with.
            by_link = request.url.path.startswith(f"{SHARED}/")
            door = paths.query("/link", closed="over") if by_link else None
            away: Response = RedirectResponse(door or paths.query("/sign-in", next=there if to_page else None), 303)
            if house.cookies.token(request) is not None:
                house.cookies.forget(away)
            return away
        assert isinstance(exc, HatchwayError)
        status = next((number for kind, number in _STATUSES if isinstance(exc, kind)), 500)
        # Of what does not answer, the text names the socket: no business of whoever looks.
        text = "" if status == 503 else sentence(str(exc))
        if status >= 500:
            log.get().warning("page failed", code=exc.code, error=str(exc))
        return problem(status, text, sent=request.method == "POST")

    async def http_failed(_request: Request, exc: Exception) -> Response:
        assert isinstance(exc, HTTPException)
        return problem(exc.status_code)

    async def too_large(_request: Request, _exc: Exception) -> Response:
        return problem(413)

    async def crashed(request: Request, _exc: Exception) -> Response:
        return problem(500, sent=request.method == "POST")

    def refuse(status: int) -> ASGIApp:
        async def answer(scope: Scope, receive: Receive, send: Send) -> None:
            await problem(status, HTTPStatus(status).phrase if status not in _TITLES else "")(scope, receive, send)

        return answer

    app = Starlette(
        routes=routes,
        exception_handlers={
            HatchwayError: failed,
            HTTPException: http_failed,
            TooLargeError: too_large,
            Exception: crashed,
        },
    )
    app.router.redirect_slashes = False
    return Guard(
        _Logged(app),
        https=is_https,
        proxied=settings.tls == "proxy",
        proxies=proxies(settings),
        refuse=refuse,
    )


class _Logged:
    """`app`, with the traceback of what is a fault of ours in our log: without what was sent, which has secrets."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self._app(scope, receive, send)
        except Exception:
            if scope["type"] != "http":
                raise
            # Starlette has sent the page for it.
            log.get().exception("page failed", path=scope["path"])
