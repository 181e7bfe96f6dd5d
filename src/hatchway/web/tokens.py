"""Cookies and the tokens of forms.

The cookie holds the core's token and nothing else. A form's token is made of it with a key that this process makes
when it starts, so nothing is kept, and a form is of use to nobody but the session it was made for.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets

from starlette.requests import Request
from starlette.responses import Response

TOKEN_MAX = 512
"""Characters of a token."""


class Cookies:
    """The session's cookie, and that of somebody who has not signed in yet, whose form needs a token as well.

    Without `https` it has another name: browsers take `__Host-` over https only, and from loopback some do not.
    """

    def __init__(self, *, https: bool) -> None:
        self._https = https
        self.session = "__Host-hatchway" if https else "hatchway"
        self.visitor = "__Host-hatchway-visitor" if https else "hatchway-visitor"

    def token(self, request: Request) -> str | None:
        """The session's token, None when there is none that could be one."""
        return self._value(request, self.session)

    def visitor_of(self, request: Request) -> str | None:
        """What tells one visitor's form from another's."""
        return self._value(request, self.visitor)

    def keep(self, response: Response, token: str) -> None:
        """Have the browser send `token` from now on, until it is closed; the core says how long it is valid."""
        self._set(response, self.session, token)
        self._drop(response, self.visitor)

    def welcome(self, response: Response, visitor: str) -> None:
        """Have the browser tell its visitors apart."""
        self._set(response, self.visitor, visitor)

    def forget(self, response: Response) -> None:
        """Have the browser forget the session."""
        self._drop(response, self.session)

    def _value(self, request: Request, name: str) -> str | None:
        # Of several of one name, which other hosts of the domain could add, none is ours for certain.
        pairs = [
            part.strip().partition("=") for value in request.headers.getlist("cookie") for part in value.split(";")
        ]
        found = [value for key, _, value in pairs if key == name]
        if len(found) != 1 or not 0 < len(found[0]) <= TOKEN_MAX or not found[0].isascii():
            return None
        return found[0]

    def _set(self, response: Response, name: str, value: str) -> None:
        response.set_cookie(name, value, path="/", secure=self._https, httponly=True, samesite="strict")

    def _drop(self, response: Response, name: str) -> None:
        response.delete_cookie(name, path="/", secure=self._https, httponly=True, samesite="strict")


def new_visitor() -> str:
    """For `Cookies.welcome`."""
    return secrets.token_urlsafe(24)


class FormTokens:
    """Tokens that say that a form is one of ours, made for this session."""

    def __init__(self) -> None:
        self._key = os.urandom(32)

    def make(self, session: str) -> str:
        """The token of all forms of the session, or visitor, with this token."""
        return hmac.new(self._key, session.encode(), hashlib.sha256).hexdigest()

    def right(self, session: str, token: str) -> bool:
        """Whether `token` is that."""
        return hmac.compare_digest(self.make(session).encode(), token.encode("utf-8", "replace"))


def from_here(request: Request, *, https: bool) -> bool:
    """Whether the browser says that one of our pages sent this form.

    Every browser of today says it in Sec-Fetch-Site, over https and from loopback. Origin is "null" where the referrer
    is not to be told, as we ask for; of the browsers that send nothing but that, the form's token decides alone.
    """
    site = request.headers.get("sec-fetch-site")
    if site is not None and site != "same-origin":
        return False
    origin = request.headers.get("origin", "null")
    return origin == "null" or origin == f"{'https' if https else 'http'}://{request.headers.get('host', '')}"
