"""The web pages, when there are to be any: what they are served with, and whether they and their helper answer.

Operators and their group are a finding of `settings`, units and sockets one of `units` and `sockets`.
"""

from __future__ import annotations

import os
import pwd
import socket
import ssl
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from hatchway import trust
from hatchway.cli.doctor import catalog, settings, stranger, units
from hatchway.cli.doctor.advice import HERE, Advice
from hatchway.cli.doctor.catalog import Who
from hatchway.cli.doctor.command_line import Ran, run
from hatchway.cli.doctor.finding import Finding, failed, ok, warning
from hatchway.config import Config, web_address

TIMEOUT_S = 5.0
PROBE_S = 15.0

_EVERY = {"0.0.0.0": "127.0.0.1", "::": "::1"}
"""Where to reach who listens at every address."""


def pam(
    config: Config, running: bool, how: Advice = HERE, flaw: Callable[[str], str | None] = trust.flaw
) -> list[Finding]:
    """Whether the PAM service is there, and root's. Its rules are the operator's to make stricter."""
    name, path = "PAM service of the web pages", config.signin_pam_path
    if not config.web.enabled:
        return []
    if not os.path.lexists(path):
        if not how.packaged and not running:
            return [ok(name, f"{path} is not there yet: it is made at the start")]
        fix = how.missing_conffile() if how.packaged else how.again(why="it writes the file")
        return [failed(name, f"{path} is not there: no operator can sign in", fix)]
    if (found := flaw(path)) is not None:
        return [failed(name, found, f"chown root:root and chmod go-w what is named, down to {path}")]
    return [ok(name, path)]


def certificate(
    config: Config,
    how: Advice = HERE,
    barred: Callable[[Who, str], str | None] = catalog.barred,
    root: bool | None = None,
) -> list[Finding]:
    """Whether certificate and key can be read by the web process, and belong together."""
    name, web = "certificate of the web pages", config.web
    if not web.enabled or web.tls != "files":
        return []
    if not (os.geteuid() == 0 if root is None else root):
        return [warning(name, "not looked at: only root can", "run 'hatchway doctor' as root")]
    for path in (web.certificate, web.key):
        if how.packaged and (directory := catalog.hidden(path, unit=units.WEB)) is not None:
            elsewhere = f"put {path} elsewhere, in /etc/hatchway for example, and set web.certificate and web.key"
            return [failed(name, f"{units.WEB} does not see what is in {directory}", elsewhere)]
    try:
        # A passphrase nobody could type.
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(web.certificate, web.key, lambda: "")
    except (OSError, ValueError) as exc:
        text = f"{web.certificate} and {web.key} cannot be used: {exc}"
        return [failed(name, text, "the key must be that of the first certificate, both in PEM, without a passphrase")]
    account = _web_account(config, how)
    for path in (web.certificate, web.key):
        where = None if account is None else barred(account, path)
        if account is not None and where is not None:
            fix = f"chgrp {account.name} {where} and chmod g+{'r' if where == os.path.realpath(path) else 'x'} {where}"
            return [failed(name, f"{account.name} cannot read {path}: {where} keeps it out", f"{fix}; or a copy")]
    return [ok(name, f"{web.certificate} and its key can be read")]


def _web_account(config: Config, how: Advice) -> Who | None:
    """None where there is none now: `hatchway run` makes it."""
    try:
        entry = pwd.getpwnam(config.ids.web_user)
    except KeyError:
        return None
    groups = tuple(os.getgrouplist(entry.pw_name, entry.pw_gid)) if how.packaged else ()
    return Who(entry.pw_name, entry.pw_uid, entry.pw_gid, groups)


def listens(
    config: Config,
    running: bool,
    how: Advice = HERE,
    *,
    no_address: Callable[[str], str | None] = settings.why_not,
    proc: str = "/proc",
) -> list[Finding]:
    """Whether the pages can be had at each address of web.listen; `running`: whether they are."""
    if not config.web.enabled:
        return []
    return list(_each(config, running, how, no_address, _first_free_port(proc)))


def _each(
    config: Config, running: bool, how: Advice, no_address: Callable[[str], str | None], first: int
) -> Iterator[Finding]:
    name = "web.listen"
    for text in config.web.listen:
        address = web_address(text)
        assert address is not None, "the configuration has been checked"
        host, port = address
        if port < first:
            yield failed(
                name,
                f"{text}: a port below {first} is root's, which the web process is not",
                f"take one from {first} on, or put a proxy in front",
            )
        elif (found := no_address(host)) is not None:
            yield failed(name, f"{text} {found}: the web pages do not start", f"take {text} out")
        elif running:
            try:
                with socket.create_connection((_EVERY.get(host, host), port), TIMEOUT_S):
                    yield ok(name, f"{text} answers")
            except OSError as exc:
                yield failed(name, f"{text}: {exc.strerror or exc}", how.log("hatchway-web"))


def _first_free_port(proc: str) -> int:
    """The first port that is not root's (ip(7), ip_unprivileged_port_start)."""
    try:
        return int(Path(proc, "sys/net/ipv4/ip_unprivileged_port_start").read_text(encoding="ascii"))
    except (OSError, ValueError):
        return 1024


def helper(
    config: Config,
    running: bool,
    how: Advice = HERE,
    execute: Callable[[Sequence[str], float, tuple[int, int, Sequence[int]]], Ran] = run,
    root: bool | None = None,
) -> list[Finding]:
    """Whether the sign-in helper answers, as the core asks it: somebody there is not is no operator."""
    name = "sign-in helper"
    if not config.web.enabled or not running:
        return []
    if not (os.geteuid() == 0 if root is None else root):
        return [warning(name, "not asked: only root can", "run 'hatchway doctor' as root")]
    core = pwd.getpwnam(config.ids.core_user)
    who = stranger.login()
    ran = execute(
        [sys.executable, "-I", "-m", "hatchway.cli.doctor.signin_probe", config.signin_socket, who],
        PROBE_S,
        (core.pw_uid, core.pw_gid, ()),
    )
    if ran.status == 0:
        return [ok(name, "it answers, and knows no stranger")]
    if ran.status == 1:
        return [failed(name, f"it takes {who}, whom nobody knows, for an operator", "report this as a fault")]
    return [failed(name, f"no operator can sign in: {ran.output or ran.status}", how.log("hatchway-signin"))]
