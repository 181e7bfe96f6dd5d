"""Share links: made and taken back by operators, and opened by whoever was given one.

A token is behind the # of an address, which no browser sends. The script puts it into the form, or whoever opens the
page pastes the address there; so it is sent when somebody presses the button, in the body of a request.
"""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import BaseRoute, Route

from hatchway import addresses
from hatchway.errors import NotRunningError, PassphraseError, SignInError, SignInWaitError, UsageError
from hatchway.web import paths, whose
from hatchway.web.pages.instance import find
from hatchway.web.tokens import TOKEN_MAX, new_visitor
from hatchway.web.visit import Doors, House, StaleFormError, Visit, say_when, sentence
from hatchway.wire.links import NOTE_MAX, USES_MAX, LinkMade, LinkRevoked, ListLinks, MakeLink, RevokeLink, ShareLinks

PASSPHRASE_MAX = 512

ADDRESS_MAX = 4096
"""Characters of what may be pasted."""

LIVES_S = {"1h": 3600.0, "1d": 86400.0, "7d": 7 * 86400.0, "30d": 30 * 86400.0}
LIVES = {"1h": "one hour", "1d": "one day", "7d": "seven days", "30d": "30 days"}
"""For how long a link can be made to open, as the form says it."""
LIFE = "7d"


CLOSED = {
    "used": "To see it again you need another link: ask whoever sent you this one.",
    "more": "To see it again, open the link once more.",
    "over": "The page was not used for a while, or the link has expired or was taken back. If the link was for once "
    "only, ask whoever sent it for a new one.",
}
"""What is said to whom the page behind a link was closed, or who closed it."""


def routes(doors: Doors) -> list[BaseRoute]:
    """Pages and forms of operators."""
    return [
        doors.get(f"{whose.OF_INSTANCE}/links", _links),
        doors.post(f"{whose.OF_INSTANCE}/links/make", _make, _to_links, again=_links_again),
        doors.post(f"{whose.OF_INSTANCE}/links/revoke", _revoke, _to_links),
    ]


def _to_links(visit: Visit) -> str:
    return paths.instance(visit.instance, "links")


async def _links(visit: Visit) -> Response:
    return await _form(visit)


async def _links_again(visit: Visit, problem: str) -> Response:
    # The passphrase is typed anew: no page has a secret that was not asked for.
    return await _form(visit, 400, problem, visit.typed("note"), visit.typed("life"), visit.typed("uses"))


async def _form(
    visit: Visit, status: int = 200, problem: str = "", note: str = "", life: str = "", uses: str = "1"
) -> Response:
    instance = await find(visit)
    found = await visit.ask(ListLinks(instance=str(instance.key)), ShareLinks)
    return visit.page(
        "links.html",
        status,
        whose=visit.whose,
        instance=instance,
        links=found.links,
        note_max=NOTE_MAX,
        problem=problem,
        note=note,
        life=life if life in LIVES_S else LIFE,
        lives=LIVES,
        uses=uses,
    )


async def _make(visit: Visit) -> Response:
    life_s = LIVES_S.get(visit.field("life"))
    uses = visit.field("uses", 10).strip() or "1"
    if life_s is None:
        raise UsageError("choose until when the link opens")
    if not re.fullmatch(r"[0-9]{1,4}", uses, re.ASCII):
        raise UsageError(f"how often it opens was not understood: expected 1 to {USES_MAX}")
    request = MakeLink(
        instance=str(visit.instance),
        expires_at=visit.now + life_s,
        uses=int(uses),
        passphrase=visit.field("passphrase", PASSPHRASE_MAX) or None,
        note=visit.field("note", NOTE_MAX).strip(),
    )
    instance = await find(visit)
    made = await visit.ask(request, LinkMade)
    # Where the operator is: what they see the pages by, others may see them by as well.
    url = made.url or f"{visit.origin}/link#{made.token}"
    return visit.page(
        "link-made.html",
        whose=visit.whose,
        instance=instance,
        link=made.link,
        url=url,
        configured=bool(made.url),
        only_here=_is_only_here(url),
    )


def _is_only_here(url: str) -> bool:
    """Whether an address leads everybody to the computer they sit at."""
    try:
        host = urlsplit(url).hostname or ""
    except ValueError:
        return False
    found = addresses.address(host)
    return host == "localhost" if found is None else found.is_loopback


async def _revoke(visit: Visit) -> Response:
    gone = await visit.ask(RevokeLink(visit.field("link", 100)), LinkRevoked)
    visit.say(f"The link {gone.link.name} is taken back: it opens nothing any more, and who came in by it is out.")
    return visit.go(_to_links(visit))


def open_routes(house: House) -> list[Route]:
    """The page that opens a link, for whoever is not signed in."""

    def form(
        request: Request, status: int = 200, *, problem: str = "", token: str = "", asks: bool = False, closed: str = ""
    ) -> Response:
        visitor = house.cookies.visitor_of(request) or new_visitor()
        response = house.html(
            "link.html",
            status,
            csrf=house.forms.make(visitor),
            problem=problem,
            token=token,
            asks=asks,
            closed=closed,
            signed_in=house.cookies.token(request) is not None,
        )
        house.cookies.welcome(response, visitor)
        return response

    async def show(request: Request) -> Response:
        return form(request, closed=CLOSED.get(request.query_params.get("closed", ""), ""))

    async def open_link(request: Request) -> Response:
        try:
            sent = await house.form(request, house.cookies.visitor_of(request))
        except (StaleFormError, UsageError):
            return form(request, 403, problem="This page was open for too long. Please open the link again.")
        address, passphrase = (str(sent.get(field, "")) for field in ("token", "passphrase"))
        token = address.strip().rpartition("#")[2]
        if not token:
            return form(request, 400, problem="Paste the address that you were given, all of it.")
        if len(address) > ADDRESS_MAX or len(token) > TOKEN_MAX or len(passphrase) > PASSPHRASE_MAX:
            return form(request, 400, problem="This is no link of ours. Paste the address that you were given.")
        try:
            signed_in = await house.backend.open_link(token, passphrase, request.state.address)
        except PassphraseError as exc:
            return form(request, 403, problem=sentence(str(exc)) if passphrase else "", token=token, asks=True)
        except SignInError as exc:
            return form(request, 403, problem=sentence(str(exc)))
        except SignInWaitError as exc:
            # A passphrase is typed again; a token is still in the form.
            response = form(request, 429, problem=sentence(str(exc)), token=token, asks=bool(passphrase))
            say_when(response, exc)
            return response
        if (before := house.cookies.token(request)) is not None:
            try:
                await house.backend.sign_out(before)
            except NotRunningError:
                # It ends by itself; what was opened is used.
                pass
        response = RedirectResponse(paths.HOMES[signed_in.viewer.kind], 303)
        house.cookies.keep(response, signed_in.token)
        return response

    return [Route("/link", show, methods=["GET"]), Route("/link", open_link, methods=["POST"])]
