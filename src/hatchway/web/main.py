"""The process `hatchway-web`: serves the pages. It has no rights of its own, and asks the core for everything.

Whoever starts it sets its user, whom the core's socket "web" is for, and no_new_privs.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import trio
from hypercorn.config import Config as ServerConfig
from hypercorn.trio import serve

from hatchway import config as configuration
from hatchway import log
from hatchway.config import Config
from hatchway.errors import ConfigError, HatchwayError, HostError, RefusedError, plain_errors
from hatchway.kernel import privileges
from hatchway.web import certificate, guard
from hatchway.web.app import application
from hatchway.web.backend import Backend
from hatchway.web.settings import own_directory
from hatchway.wire import notify

STOP_S = 3.0
"""Longest wait for answers that are being given when the process is to end."""

READ_S = 20
"""Longest silence within a request."""


async def run(
    config: Config,
    stop: trio.Event,
    *,
    started: Callable[[tuple[str, ...]], None] = lambda _urls: None,
) -> None:
    """Serve until `stop`. `started` is told the URLs. Raises ConfigError, HostError."""
    server = _server(config)
    app: Any = application(config.web, Backend(config.web_socket))
    wait: Callable[[], Awaitable[Any]] = stop.wait
    async with trio.open_nursery() as nursery:
        try:
            urls = await nursery.start(partial(_serve, app, server, wait))
        except OSError as exc:
            raise HostError(f"cannot listen on {', '.join(config.web.listen)}: {exc.strerror or exc}") from None
        log.get().info("ready", addresses=urls)
        started(tuple(urls))


async def _serve(
    app: Any, server: ServerConfig, stop: Callable[[], Awaitable[Any]], *, task_status: trio.TaskStatus[list[str]]
) -> None:
    await serve(app, server, shutdown_trigger=stop, task_status=task_status)


async def _until_told(config: Config) -> None:
    stop = trio.Event()
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async with trio.open_nursery() as nursery:

            async def served() -> None:
                await run(config, stop, started=lambda _urls: notify.ready())
                nursery.cancel_scope.cancel()

            nursery.start_soon(served)
            nursery.start_soon(notify.stay_well)
            async for _ in signals:
                stop.set()


def _server(config: Config) -> ServerConfig:
    server, web = ServerConfig(), config.web
    server.bind = list(web.listen)
    server.alpn_protocols = ["http/1.1"]
    server.include_server_header = False
    server.h11_max_incomplete_size = guard.HEADERS_MAX + guard.TARGET_MAX
    server.keep_alive_timeout = 30
    server.read_timeout = READ_S
    server.graceful_timeout = STOP_S
    server.shutdown_timeout = STOP_S
    server.accesslog = None
    server.errorlog = _Quiet("hypercorn")
    if web.tls in ("own", "files"):
        if web.tls == "own":
            found = (configuration.web_address(text) for text in web.listen)
            hosts = [address[0] for address in found if address and address[0] not in ("0.0.0.0", "::")]
            chosen = certificate.own(Path(own_directory(config)), [*hosts, config.connect.host])
        else:
            chosen = Path(web.certificate), Path(web.key)
            for path in chosen:
                if not os.access(path, os.R_OK):
                    raise ConfigError(f"{path}: the user of hatchway-web cannot read it")
        server.certfile, server.keyfile = map(str, chosen)
        log.get().info("certificate", file=server.certfile, sha256=certificate.fingerprint(chosen[0]))
    return server


class _Quiet(logging.Logger):
    """What Hypercorn says, in our log. Tracebacks of clients that leave are of no interest."""

    def handle(self, record: logging.LogRecord) -> None:
        """One record."""
        level = "debug" if record.levelno < logging.WARNING else "warning"
        getattr(log.get(), level)("server", message=record.getMessage()[:500])


def main() -> None:
    """Entry point: `python -I -m hatchway.web.main --config FILE`. Exit status 0 after SIGTERM."""
    parser = argparse.ArgumentParser(prog="hatchway-web")
    parser.add_argument("--config", type=Path, help="the configuration file")
    arguments = parser.parse_args()
    try:
        config = configuration.load(arguments.config)
        log.configure("web", config.log.level)
        if 0 in os.getresuid():
            raise RefusedError(
                "hatchway-web must not run as root: it needs no rights, and everybody on the network can talk to it"
            )
        os.umask(0o077)
        privileges.no_new_privileges()
        privileges.not_dumpable()
        privileges.prove_unprivileged(os.getuid(), os.getgid(), permitted=(), effective=())
        with plain_errors():
            trio.run(_until_told, config)
    except HatchwayError as exc:
        log.fatal("hatchway-web", exc)


if __name__ == "__main__":
    main()
