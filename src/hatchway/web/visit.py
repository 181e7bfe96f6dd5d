"""One request of somebody who is signed in: who, from where, what was sent, and what is answered."""

from __future__ import annotations

import re
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import jinja2
import msgspec
from starlette.datastructures import FormData
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route

from hatchway.errors import (
    ConflictError,
    NotFoundError,
    RefusedError,
    SignedOutError,
    SignInWaitError,
    UnfinishedError,
    UsageError,
)
from hatchway.model import InstanceKey
from hatchway.web import paths
from hatchway.web import whose as logins
from hatchway.web.backend import Backend
from hatchway.web.notices import Notices
from hatchway.web.tokens import Cookies, FormTokens, from_here
from hatchway.web.whose import Whose
from hatchway.wire.entry import Password, PasswordKind
from hatchway.wire.web import Viewer, ViewerKind

T = TypeVar("T")

FIELDS_MAX = 300
"""Fields of one form: a choice of all volumes of an instance, and some more."""


class StaleFormError(RefusedError):
    """A form that is not of this session, or that another site sent."""


class NoFormError(UsageError):
    """Something else than a form."""


@dataclass(frozen=True, slots=True)
class House:
    """What all pages share."""

    backend: Backend
    templates: jinja2.Environment
    cookies: Cookies
    forms: FormTokens
    notices: Notices
    https: bool
    now: Callable[[], float] = time.time

    async def form(self, request: Request, session: str | None) -> FormData:
        """What was sent. Raises StaleFormError unless a form of ours was, made for `session`, NoFormError for
        something else."""
        if not from_here(request, https=self.https):
            raise StaleFormError("another site sent this form; nothing was done")
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/x-www-form-urlencoded":
            raise NoFormError("this is no form of ours; nothing was done")
        sent = await request.form(max_files=0, max_fields=FIELDS_MAX)
        token = sent.get("csrf")
        if session is None or not isinstance(token, str) or not self.forms.right(session, token):
            raise StaleFormError(
                "this form was made for another session: the page was open since before you signed in, or Hatchway was "
                "restarted meanwhile; nothing was done. Go back, reload the page and send it again"
            )
        return sent

    def html(self, template: str, status: int = 200, **values: Any) -> HTMLResponse:
        """The page made of `template`."""
        return HTMLResponse(self.templates.get_template(template).render(values), status)


class Visit:
    """A request of whoever is signed in."""

    def __init__(self, house: House, request: Request, token: str, viewer: Viewer) -> None:
        self._house = house
        self.request = request
        self.token = token
        self.viewer = viewer
        self.address: str = request.state.address
        self._form: FormData | None = None

    @property
    def now(self) -> float:
        """Unix seconds."""
        return self._house.now()

    @property
    def origin(self) -> str:
        """By what the browser calls these pages: "https://files.example.org:8022"."""
        return f"{'https' if self._house.https else 'http'}://{self.request.headers.get('host', '')}"

    @property
    def instance(self) -> InstanceKey:
        """The instance the path names. Raises NotFoundError."""
        found = self.request.path_params
        return paths.instance_key(found["environment"], found["container"], found["number"])

    @property
    def whose(self) -> Whose:
        """Whose login the page is about. Raises NotFoundError."""
        return logins.whose(self.request.path_params, self.viewer)

    async def ask(self, request: msgspec.Struct, answer: type[T]) -> T:
        """What the core answers."""
        return await self._house.backend.call(self.token, self.address, request, answer)

    async def change_password(self, current: str, password: str, kind: PasswordKind) -> Password:
        """Have the viewer's own be `password`. Raises as Backend.change_password."""
        return await self._house.backend.change_password(self.token, self.address, current, password, kind)

    async def read_form(self) -> None:
        """Take what was sent: see House.form."""
        self._form = await self._house.form(self.request, self.token)

    def field(self, name: str, longest: int = 4096) -> str:
        """A field of the form, "" when it was not sent. Raises UsageError for one that is too long."""
        assert self._form is not None
        value = self._form.get(name, "")
        if not isinstance(value, str) or len(value) > longest:
            raise UsageError(f"the field '{name}' is too long")
        return value

    def typed(self, name: str) -> str:
        """A field of the form as it was sent, to be shown there again; "" for one that is too long."""
        try:
            return self.field(name)
        except UsageError:
            return ""

    def fields(self, name: str) -> list[str]:
        """All fields of that name."""
        assert self._form is not None
        return [value for value in self._form.getlist(name) if isinstance(value, str)]

    def asked(self, name: str) -> str:
        """A parameter of the URL, "" when there is none."""
        return self.request.query_params.get(name, "")

    def page(self, template: str, status: int = 200, **values: Any) -> HTMLResponse:
        """A page for this viewer."""
        return self._house.html(
            template,
            status,
            viewer=self.viewer,
            csrf=self._house.forms.make(self.token),
            notices=() if self._refreshes else self._house.notices.take(self.token),
            here=self.request.url.path,
            now=self.now,
            **values,
        )

    @property
    def _refreshes(self) -> bool:
        """Whether the script looks for news, on a page that shows no notices that come later."""
        return self.request.headers.get("x-requested-with") == "refresh"

    def say(self, text: str, *, good: bool = True) -> None:
        """Have the next page say `text`."""
        self._house.notices.add(self.token, text, good=good)

    def go(self, path: str) -> Response:
        """Have the browser look at `path`."""
        return RedirectResponse(path, 303)

    def leave(self, path: str) -> Response:
        """The same from a form in a dialog, which ends by that: `path` is no page for one."""
        if self.request.headers.get("x-requested-with") is None:
            return self.go(path)
        # The script would follow a redirect, and throw away what the page has to say.
        return Response(status_code=204, headers={"x-leave": path})


Page = Callable[[Visit], Awaitable[Response]]

Again = Callable[[Visit, str], Awaitable[Response]]
"""A form once more, with what was typed and why it was not taken."""


class Doors:
    """Makes routes of pages: nobody gets to one without being signed in as the kind of viewer it is for, and no form
    without its token."""

    def __init__(self, house: House) -> None:
        self._house = house

    def get(self, path: str, page: Page, *, kind: ViewerKind = ViewerKind.OPERATOR) -> Route:
        """A page that changes nothing. The first page leads those it is not for to their own."""

        async def serve(request: Request) -> Response:
            visit = await self._visit(request)
            home = paths.HOMES.get(visit.viewer.kind, path)
            if path == "/" != home:
                return visit.go(home)
            _check(visit, kind)
            return await page(visit)

        return Route(path, serve, methods=["GET"])

    def post(
        self,
        path: str,
        page: Page,
        back: Callable[[Visit], str],
        *,
        kind: ViewerKind = ViewerKind.OPERATOR,
        again: Again | None = None,
    ) -> Route:
        """What a form does. What the core has against it is said on the page `back`, or by `again`: then what was typed
        is not typed anew."""

        async def serve(request: Request) -> Response:
            visit = await self._visit(request)
            _check(visit, kind)
            try:
                await visit.read_form()
                return await page(visit)
            except (StaleFormError, NoFormError):
                raise
            except (UsageError, ConflictError, NotFoundError, UnfinishedError) as exc:
                if again is not None and isinstance(exc, UsageError | ConflictError):
                    return await again(visit, sentence(str(exc)))
                visit.say(sentence(str(exc)), good=False)
                return visit.go(back(visit))

        return Route(path, serve, methods=["POST"])

    async def _visit(self, request: Request) -> Visit:
        token = self._house.cookies.token(request)
        if token is None:
            raise SignedOutError("sign in first")
        return Visit(self._house, request, token, await self._house.backend.who_is(token))


def _check(visit: Visit, kind: ViewerKind) -> None:
    """Say no to a page as a whole, before it asks anything. What a viewer may do, the core decides by itself."""
    if visit.viewer.kind is not kind:
        raise RefusedError("this page is not for you")


def say_when(response: Response, exc: SignInWaitError) -> None:
    """Tell programs how many seconds to wait, if the text says it to people."""
    if (wait := re.search(r"\b(\d+) s\b", str(exc))) is not None:
        response.headers["retry-after"] = wait[1]


def sentence(text: str) -> str:
    """`text`, an error's, as a sentence of its own."""
    text = text[:1].upper() + text[1:]
    return text if text.endswith((".", "!", "?", "…")) else f"{text}."


def to_page(visit: Visit) -> str:
    """The page of whose login it is."""
    return visit.whose.page
