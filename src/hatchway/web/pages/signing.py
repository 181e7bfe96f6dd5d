"""Signing in and out."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from hatchway.errors import NotRunningError, SignedOutError, SignInError, SignInWaitError, UsageError
from hatchway.web import paths
from hatchway.web.pages.links import CLOSED
from hatchway.web.tokens import new_visitor
from hatchway.web.visit import House, StaleFormError, say_when, sentence

NAME_MAX = 256
PASSWORD_MAX = 512
"""Characters. pam_exec and sshd take no longer ones either."""


def routes(house: House) -> list[Route]:
    """Its pages, for whoever is not signed in."""

    def form(request: Request, status: int = 200, *, problem: str = "", name: str = "", there: str = "") -> Response:
        visitor = house.cookies.visitor_of(request) or new_visitor()
        response = house.html(
            "sign-in.html", status, csrf=house.forms.make(visitor), problem=problem, name=name, there=there
        )
        house.cookies.welcome(response, visitor)
        return response

    async def show(request: Request) -> Response:
        there = paths.local(request.query_params.get("next", "/"))
        if (token := house.cookies.token(request)) is not None:
            try:
                viewer = await house.backend.who_is(token)
                return RedirectResponse(paths.landing(viewer.kind, there), 303)
            except SignedOutError:
                pass
        return form(request, there=there)

    async def sign_in(request: Request) -> Response:
        try:
            sent = await house.form(request, house.cookies.visitor_of(request))
        except (StaleFormError, UsageError):
            return form(request, 403, problem="This page was open for too long. Please sign in again.")
        name, password, there = (str(sent.get(field, "")) for field in ("name", "password", "next"))
        there = paths.local(there)
        if not name or not password:
            return form(request, 400, problem="Enter your name and your password.", name=name, there=there)
        if len(name) > NAME_MAX or len(password) > PASSWORD_MAX:
            return form(request, 403, problem="Name or password is wrong.", there=there)
        try:
            signed_in = await house.backend.sign_in(name, password, request.state.address)
        except SignInError as exc:
            return form(request, 403, problem=sentence(str(exc)), name=name, there=there)
        except SignInWaitError as exc:
            response = form(request, 429, problem=sentence(str(exc)), name=name, there=there)
            say_when(response, exc)
            return response
        if (before := house.cookies.token(request)) is not None:
            try:
                await house.backend.sign_out(before)
            except NotRunningError:
                pass  # it ends by itself
        response = RedirectResponse(paths.landing(signed_in.viewer.kind, there), 303)
        house.cookies.keep(response, signed_in.token)
        return response

    async def sign_out(request: Request) -> Response:
        token = house.cookies.token(request)
        link = str((await house.form(request, token)).get("link", ""))
        assert token is not None
        try:
            await house.backend.sign_out(token)
        except NotRunningError:
            # The browser forgets it all the same; to the core it is valid until it expires.
            pass
        # Whoever came by a link has nothing to sign in with.
        response = RedirectResponse(paths.query("/link", closed=link) if link in CLOSED else "/sign-in", 303)
        house.cookies.forget(response)
        response.headers["clear-site-data"] = '"cache"'
        return response

    return [
        Route("/sign-in", show, methods=["GET"]),
        Route("/sign-in", sign_in, methods=["POST"]),
        Route("/sign-out", sign_out, methods=["POST"]),
    ]
