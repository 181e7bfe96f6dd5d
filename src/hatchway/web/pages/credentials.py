"""Keys and passwords of a login: renewed, added, set and removed."""

from __future__ import annotations

from starlette.responses import Response
from starlette.routing import BaseRoute

from hatchway.errors import UsageError
from hatchway.web.moments import from_form
from hatchway.web.pages.connecting import to_dialog
from hatchway.web.visit import Doors, Page, Visit, to_page
from hatchway.web.whose import ALL, OF_INSTANCE, OPERATED
from hatchway.wire.admin import ConnectionInfo, Show
from hatchway.wire.entry import (
    AddKey,
    AllowVolumeKeys,
    Keys,
    Password,
    PasswordKind,
    RemoveKey,
    RemovePassword,
    RenewKey,
    ResetPassword,
    SetPassword,
)

PASSWORD_MAX = 512


def routes(doors: Doors) -> list[BaseRoute]:
    """Its pages and forms."""
    found: list[BaseRoute] = [doors.post(f"{OF_INSTANCE}/keys/volume", _volume_keys, to_page)]
    for here, kind in ALL:
        found += [
            doors.get(f"{here}/renew-key", _ask_renew, kind=kind),
            doors.post(f"{here}/renew-key", _renew, to_dialog, kind=kind),
            doors.post(f"{here}/keys/add", _add_key, to_page, kind=kind),
            doors.post(f"{here}/keys/remove", _remove_key, to_page, kind=kind),
        ]
    # Without the password that there is: people change theirs in pages.own.
    for here, kind in OPERATED:
        forms: dict[str, Page] = {"reset": _reset, "set": _set, "remove": _remove_password}
        found.append(doors.get(f"{here}/password", _ask_password, kind=kind))
        found += [doors.post(f"{here}/password/{name}", forms[name], _to_password, kind=kind) for name in forms]
    return found


def _to_password(visit: Visit) -> str:
    return f"{visit.whose.page}/password"


async def _ask_renew(visit: Visit) -> Response:
    info = await visit.ask(Show(instance=visit.whose.asked), ConnectionInfo)
    return visit.page("renew-key.html", info=info, whose=visit.whose)


async def _renew(visit: Visit) -> Response:
    keys = await visit.ask(RenewKey(instance=visit.whose.asked), Keys)
    visit.say("There is a new key. The old one does not work any more; download the new one.")
    _say_not_ended(visit, keys.not_ended)
    for text in keys.undelivered:
        visit.say(text, good=False)
    return visit.go(to_dialog(visit))


async def _ask_password(visit: Visit) -> Response:
    info = await visit.ask(Show(instance=visit.whose.asked), ConnectionInfo)
    return visit.page("password.html", info=info, whose=visit.whose)


def _kind(visit: Visit) -> PasswordKind | None:
    kind = visit.field("kind")
    if kind not in ("", PasswordKind.RAW, PasswordKind.HASHED):
        raise UsageError("choose whether the password can be shown again")
    return PasswordKind(kind) if kind else None


async def _reset(visit: Visit) -> Response:
    password = await visit.ask(ResetPassword(instance=visit.whose.asked, kind=_kind(visit)), Password)
    remark = (
        "It is kept as a hash: it cannot be shown again, so copy it now."
        if password.kind is PasswordKind.HASHED
        else "It can be shown again in the connection dialog."
    )
    if password.password is None:
        visit.say("There is a new password. The old one does not work any more.")
        return visit.go(to_dialog(visit))
    _say_not_ended(visit, password.not_ended)
    return visit.page("new-password.html", whose=visit.whose, password=password.password, remark=remark)


async def _set(visit: Visit) -> Response:
    text, again = visit.field("password", PASSWORD_MAX), visit.field("again", PASSWORD_MAX)
    if not text:
        raise UsageError("enter a password")
    if text != again:
        raise UsageError("the two passwords are not the same; nothing was changed")
    request = SetPassword(instance=visit.whose.asked, password=text, kind=_kind(visit))
    password = await visit.ask(request, Password)
    visit.say("The password is set. The one before does not work any more.")
    _say_not_ended(visit, password.not_ended)
    return visit.go(to_dialog(visit))


async def _remove_password(visit: Visit) -> Response:
    password = await visit.ask(RemovePassword(visit.whose.asked), Password)
    visit.say("There is no password any more: this login takes keys only.")
    _say_not_ended(visit, password.not_ended)
    return visit.go(to_dialog(visit))


async def _add_key(visit: Visit) -> Response:
    public = visit.field("public", 20_000).strip()
    if not public:
        raise UsageError("paste a public key, such as the line in id_ed25519.pub")
    if "PRIVATE KEY" in public:
        raise UsageError(
            "that is a private key, which nobody should ever get: it was not kept. Paste the public one, whose file "
            "ends in .pub"
        )
    request = AddKey(
        instance=visit.whose.asked,
        public=public,
        sources=visit.field("sources", 1000).strip(),
        expires_at=from_form(visit.field("expires"), visit.now),
    )
    await visit.ask(request, Keys)
    visit.say("The key is added.")
    return visit.go(to_page(visit))


async def _remove_key(visit: Visit) -> Response:
    keys = await visit.ask(RemoveKey(instance=visit.whose.asked, key=visit.field("key", 200)), Keys)
    visit.say("The key is removed, and the sessions that came in by it have ended.")
    _say_not_ended(visit, keys.not_ended)
    return visit.go(to_page(visit))


async def _volume_keys(visit: Visit) -> Response:
    allow = visit.field("allow") == "yes"
    await visit.ask(AllowVolumeKeys(instance=visit.whose.asked, allow=allow), Keys)
    visit.say(f"Keys in the instance's own volumes {'count' if allow else 'do not count'} from now on.")
    return visit.go(to_page(visit))


def _say_not_ended(visit: Visit, why: str) -> None:
    if why:
        visit.say(f"Sessions by the one before go on for now: {why}.", good=False)
