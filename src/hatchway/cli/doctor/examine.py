"""All findings, in the order of a login: host, sshd, names, PAM, engine, our own files and processes."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from hatchway.cli.app import App
from hatchway.cli.doctor import (
    catalog,
    daemon,
    engine,
    files,
    kernel,
    leftovers,
    names,
    openssh,
    pam,
    settings,
    sockets,
    units,
    web,
)
from hatchway.cli.doctor.advice import HERE
from hatchway.cli.doctor.finding import Finding, failed
from hatchway.config import DEFAULT_PATH, Config
from hatchway.errors import ConfigError
from hatchway.model import AccessRule
from hatchway.sshd import dropin
from hatchway.wire.admin import DaemonStatus, Status

_MEND = "mend the file: 'hatchway config check' says all that is wrong in it, hatchway.toml.example explains every key"


def examine(app: App) -> Iterator[Finding]:
    """Look at everything. A configuration that cannot be read is the only finding then."""
    try:
        config = app.config
    except ConfigError as exc:
        yield failed("configuration", str(exc), _MEND)
        return
    told: list[Finding] = []
    running = False
    applied: tuple[AccessRule, ...] | None = None

    def status() -> Status:
        nonlocal applied
        answer = app.ask(DaemonStatus(), Status)
        applied = answer.rules
        return answer

    def ask() -> list[Finding]:
        nonlocal running
        found, running = daemon.ask(status, known=away)
        return found

    state = units.settle(units.ask) if HERE.packaged else units.State({})
    away = {"docker"} if engine.absent(config) is not None else set[str]()
    if (down := state.in_the_way) is None:
        told = list(_guarded("daemon", ask))
    else:
        told, running = [daemon.not_asked(down)], state.runs(units.CORE)
    drop_in = HERE.packaged and dropin.in_place(config)
    checks: list[tuple[str, Callable[[], Finding | list[Finding] | None]]] = [
        ("configuration", lambda: files.configuration(app.config_path)),
        ("settings", lambda: _settings(app, config)),
        ("kernel", kernel.version),
        ("containment", kernel.containment),
        ("/dev/fuse", kernel.fuse_device),
        ("libfuse3", kernel.fuse_library),
        ("sshd", lambda: openssh.installed(config)),
        ("privilege separation", lambda: openssh.privsep(running or state.runs(units.SSHD))),
        ("login helpers", lambda: openssh.helpers(config)),
        *(
            [("drop-in", lambda: openssh.drop_in(config))]
            if drop_in
            else [("host keys", lambda: openssh.host_keys(config)), ("port", lambda: openssh.port(config))]
        ),
        ("nsswitch", names.switch),
        ("nss-systemd", lambda: names.answers(config)),
        ("sshd in use", lambda: openssh.in_use(config)),
        ("PAM service", lambda: pam.service_file(config, running)),
        ("PAM login", lambda: pam.refuses_strangers(config, running)),
        ("PAM service of the web pages", lambda: web.pam(config, running)),
        ("certificate of the web pages", lambda: web.certificate(config)),
        ("engine", lambda: engine.check(config)),
        ("engine access", lambda: catalog.uses_engine(config, pid=state.pid(units.CATALOG))),
        ("static instances", lambda: files.static(config)),
        ("access files", lambda: files.access(config, applied)),
        ("secrets", lambda: files.secrets(config)),
        ("room for the registry", lambda: files.room(config)),
    ]
    for name, check in checks:
        yield from _guarded(name, check)
    if HERE.packaged:
        yield from _guarded(
            "units", lambda: units.active(state, running, units.last_line, web=config.web.enabled, drop_in=drop_in)
        )
        yield from _guarded("mount name space", lambda: units.namespaces(state))
    yield from told
    yield from _guarded("sockets", lambda: sockets.modes(config, running))
    yield from _guarded("login decisions", lambda: sockets.auth(config, running))
    yield from _guarded("sign-in helper", lambda: web.helper(config, running))
    yield from _guarded("web.listen", lambda: web.listens(config, running))
    if down is not None and running:
        yield leftovers.not_asked(down)
        return
    yield from _guarded(
        "leftovers",
        lambda: leftovers.look(config, running, lambda: app.ask(DaemonStatus(leftovers=True), Status)),
    )


def _settings(app: App, config: Config) -> list[Finding]:
    file = str((app.config_path or DEFAULT_PATH).absolute())
    return [*settings.readable("configuration", file), *settings.examine(config)]


def _guarded(name: str, check: Callable[[], Finding | list[Finding] | None]) -> Iterator[Finding]:
    """The findings of one check, if there are any; one that breaks is a finding itself and spoils no other."""
    try:
        found = check() or []
    except Exception as exc:  # whatever it is, the other findings are wanted
        found = failed(
            name, f"could not be looked at: {type(exc).__name__}: {exc}", "report this as a fault of Hatchway"
        )
    yield from found if isinstance(found, list) else [found]
