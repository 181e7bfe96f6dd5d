"""The connection dialog: everything by which a person gets a program connected."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import msgspec
from starlette.responses import Response
from starlette.routing import BaseRoute

from hatchway.connect import filezilla, keyfiles, links, openssh, rclone
from hatchway.connect.directions import directions
from hatchway.connect.keyfiles import key_file_name, ppk_file_name
from hatchway.connect.logon import Logon, logon
from hatchway.errors import ConflictError, UsageError
from hatchway.model import valid_login
from hatchway.web import whose
from hatchway.web.pages.instance import find
from hatchway.web.visit import Doors, Visit
from hatchway.wire.admin import ConnectionInfo, Server, Show
from hatchway.wire.entry import ExportKey, KeyExport, KeyForm, PasswordKind
from hatchway.wire.web import ViewerKind

SSH_DIRECTORY = "~/.ssh"
"""Where OpenSSH's programs look, on the computer of whoever connects."""

PASSPHRASE_MAX = 512


def routes(doors: Doors) -> list[BaseRoute]:
    """Its pages and files."""
    forms = (("reveal", _reveal), ("key", _key), ("file", _file))
    shown: list[BaseRoute] = [doors.get(f"{here}/connect", _show, kind=kind) for here, kind in whose.SHOWN]
    return shown + [
        doors.post(f"{here}/connect/{name}", form, to_dialog, kind=kind)
        for here, kind in whose.SHOWN
        for name, form in forms
    ]


def to_dialog(visit: Visit) -> str:
    """The dialog's page."""
    return f"{visit.whose.page}/connect"


async def _show(visit: Visit) -> Response:
    if visit.viewer.kind is ViewerKind.OPERATOR and visit.whose.key and (await find(visit)).login is None:
        return visit.page("not-shared.html", whose=visit.whose)
    return _dialog(visit, await visit.ask(Show(instance=visit.whose.asked), ConnectionInfo))


async def _reveal(visit: Visit) -> Response:
    info = await visit.ask(Show(instance=visit.whose.asked, secrets=True), ConnectionInfo)
    return _dialog(visit, info)


def _dialog(visit: Visit, info: ConnectionInfo) -> Response:
    """The dialog. `info` has the password only if somebody has just asked for it."""
    server = Server(host=info.host, port=info.port, host_keys=info.host_keys)
    return visit.page(
        "connect.html",
        whose=visit.whose,
        info=info,
        ways=directions(info) if info.host_keys else None,
        link=links.url(info),
        link_holds_password=info.password is not None,
        raw=info.password_kind is PasswordKind.RAW,
        has_password=info.password_kind is not PasswordKind.NONE,
        has_key=info.key_fingerprint is not None,
        places=len(info.places),
        known_hosts=openssh.known_hosts(server),
    )


async def _key(visit: Visit) -> Response:
    try:
        form = KeyForm(visit.field("form"))
    except ValueError:
        raise UsageError("choose OpenSSH's or PuTTY's format") from None
    passphrase = visit.field("passphrase", PASSPHRASE_MAX) or None
    if form is KeyForm.OPENSSH:
        passphrase = None
    key = await visit.ask(ExportKey(visit.whose.asked, form, passphrase), KeyExport)
    name = key_file_name(key.login) if form is KeyForm.OPENSSH else ppk_file_name(key.login)
    return _attachment(name, key.login, key.private)


async def _file(visit: Visit) -> Response:
    kind = visit.field("kind")
    if kind not in _FILES:
        raise UsageError("there is no file of that kind")
    return await _FILES[kind](visit)


class _Chosen(msgspec.Struct, frozen=True):
    info: ConnectionInfo
    logon: Logon
    key_dir: str


async def _chosen(visit: Visit, *, with_password: bool, default_dir: str) -> _Chosen:
    """What the form says of a file. Raises UsageError, ConflictError."""
    key_dir = visit.field("key_dir").strip() or default_dir
    if key_dir:
        keyfiles.check_directory(key_dir)
    wanted = with_password and bool(visit.field("password"))
    info = await visit.ask(Show(instance=visit.whose.asked, secrets=wanted), ConnectionInfo)
    return _Chosen(info, logon(info, None, key_known=bool(key_dir)), key_dir)


async def _filezilla(visit: Visit) -> Response:
    chosen = await _chosen(visit, with_password=True, default_dir="")
    key_dir = chosen.key_dir or None
    if key_dir is not None and not keyfiles.is_absolute(key_dir):
        raise UsageError("FileZilla finds a key by its whole folder only, from / or a drive on, such as C:\\Users\\me")
    site = filezilla.ChosenSite(info=chosen.info, logon=chosen.logon, key_dir=key_dir)
    return _attachment(f"filezilla-{chosen.info.login}.xml", chosen.info.login, filezilla.sitemanager([site]))


async def _ssh_config(visit: Visit) -> Response:
    chosen = await _chosen(visit, with_password=False, default_dir=SSH_DIRECTORY)
    _check_anchored(chosen.key_dir)
    block = openssh.config_block(chosen.info, chosen.logon, chosen.key_dir)
    return _attachment(f"ssh_config-{chosen.info.login}", chosen.info.login, block)


async def _rclone(visit: Visit) -> Response:
    chosen = await _chosen(visit, with_password=True, default_dir=SSH_DIRECTORY)
    _check_anchored(chosen.key_dir)
    section = rclone.section(chosen.info, chosen.logon, chosen.key_dir)
    return _attachment(f"rclone-{chosen.info.login}.conf", chosen.info.login, section)


async def _known_hosts(visit: Visit) -> Response:
    info = await visit.ask(Show(instance=visit.whose.asked), ConnectionInfo)
    if not info.host_keys:
        raise ConflictError("the server has no host keys yet")
    text = openssh.known_hosts(Server(host=info.host, port=info.port, host_keys=info.host_keys))
    return _attachment("known_hosts", info.login, text)


_FILES: dict[str, Callable[[Visit], Awaitable[Response]]] = {
    "filezilla": _filezilla,
    "ssh-config": _ssh_config,
    "rclone": _rclone,
    "known-hosts": _known_hosts,
}


def _check_anchored(directory: str) -> None:
    if not keyfiles.is_anchored(directory):
        raise UsageError("the folder is another one wherever a program is started: begin it with /, ~/ or a drive")


def _attachment(name: str, login: str, text: str) -> Response:
    """A file to save. `login` is in `name`, which stands in a header."""
    assert valid_login(login)
    return Response(
        text.encode(),
        media_type="application/octet-stream",
        headers={"content-disposition": f'attachment; filename="{name}"', "cache-control": "no-store"},
    )
