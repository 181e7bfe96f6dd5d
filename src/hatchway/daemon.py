"""The core, `hatchwayd`: the only place that wires registry, catalog feed, access and administration together."""

from __future__ import annotations

import argparse
import functools
import os
import pwd
import signal
from pathlib import Path
from typing import Any

import trio

from hatchway import config as configuration
from hatchway import log
from hatchway.access.service import Gate
from hatchway.admin import requests
from hatchway.admin.admission import Admission
from hatchway.admin.callers import for_peers
from hatchway.admin.core import Core
from hatchway.admin.deliveries import Deliveries
from hatchway.admin.granting import Granting
from hatchway.admin.hostlink import HostLink
from hatchway.admin.inventory import Inventory
from hatchway.admin.measuring import Measuring
from hatchway.admin.person_door import PersonDoor
from hatchway.admin.reconcile import Reconciler
from hatchway.admin.relaying import CONNECTIONS_MAX, REQUEST_MAX, Relaying
from hatchway.admin.secrets import seal_anew, unopened
from hatchway.admin.share_links import LinkDoor
from hatchway.admin.signing import Signing, guesses, helper
from hatchway.admin.volume_keys import VolumeKeys
from hatchway.config import Config
from hatchway.credentials import authorized
from hatchway.credentials.sealing import SealingKey
from hatchway.errors import HatchwayError, HostError, plain_errors
from hatchway.kernel import limits, privileges
from hatchway.registry.store import Registry
from hatchway.sshd import version as sshd_version
from hatchway.wire import notify
from hatchway.wire.feed import Alive, Fed
from hatchway.wire.service import FINISH_S, Peer, Request, Table, Work, inherited_listener, serve

SETTLE_S = 5.0
"""Longest that commands wait after a start until hostd and catalog have been heard."""

RESERVE_EVERY_S = 600.0
"""How often it is looked whether the registry's reserve can be made (again)."""


async def run(config: Config) -> None:
    """Serve until SIGTERM."""
    try:
        catalog_uid = pwd.getpwnam(config.ids.catalog_user).pw_uid
        keys_uid = pwd.getpwnam(config.ids.keys_user).pw_uid
        web_uid = pwd.getpwnam(config.ids.web_user).pw_uid if _has_web(config) else None
    except KeyError as exc:
        raise HostError(f"{exc.args[0]}: are the accounts of [ids] there? 'hatchway doctor' tells") from exc
    limits.raise_open_files()
    registry = Registry.open(config.registry_path)
    try:
        credentials = os.environ.get("CREDENTIALS_DIRECTORY")
        sealing = SealingKey.load(config.sealing_key_path, credentials, needed=bool(registry.sealed()))
        if sealing.rotating:
            # A core before us died while it did that, or the operator has given a new key.
            try:
                log.get().info("sealing key rotated", secrets=seal_anew(registry, sealing))
                sealing.finish()
            except HatchwayError as exc:
                # With both keys everything that can be opened is; nobody must be locked out for one that cannot.
                log.get().error("sealing key not rotated, both are used", error=str(exc))
        if closed := unopened(registry, sealing):
            problem = "the sealing key is missing" if sealing.lost else "secrets do not open with the sealing key"
            log.get().error(problem, file=config.sealing_key_path, logins=len(closed), first=closed[0])
        inventory = Inventory()
        host = HostLink(config)
        core = Core(config, registry, sealing, inventory, host)
        volume_keys = VolumeKeys(core)
        admission = Admission(core, volume_keys)
        binary, since = config.sshd.binary, authorized.EXPIRY_SINCE
        expiry_known = await trio.to_thread.run_sync(sshd_version.at_least, binary, since)
        gate = Gate(core, admission, keys_uid, expiry_known=expiry_known)
        granting = Granting(core)
        reconciler = Reconciler(core, granting)
        measuring = Measuring(core)
        deliveries = Deliveries(core)
        admin = requests.table(core, granting, reconciler, measuring, admission, volume_keys, deliveries)
        signing = Signing(
            config.web,
            core.journal,
            guesses(gate.throttle),
            helper(config.signin_socket),
            PersonDoor(core, admission),
            LinkDoor(core),
            core.now,
        )

        await reconciler.take_away()

        settled = trio.Event()
        sources = [name for name, has in (("docker", config.engine.enabled), ("static", config.static.file)) if has]

        def heard() -> None:
            if host.problem is None and all(inventory.fed(source) for source in sources):
                settled.set()

        async def fed(message: Fed, _peer: Peer) -> None:
            await core.feed(message.snapshot)
            heard()

        def ready() -> None:
            core.tell_news()
            core.tell_sharing()
            heard()

        async def alive(message: Alive, _peer: Peer) -> None:
            inventory.alive(message.source)

        work = Work()
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            async with trio.open_nursery() as nursery:
                feeders: Table = {Fed: Request((catalog_uid,), fed), Alive: Request((catalog_uid,), alive)}
                nursery.start_soon(serve, "catalog", inherited_listener("catalog"), feeders)
                nursery.start_soon(_serve_settled, "admin", settled, for_peers(admin), work)
                if web_uid is not None:
                    relayed = functools.partial(
                        _serve_settled, request_max=REQUEST_MAX, connections_max=CONNECTIONS_MAX, sparing=True
                    )
                    nursery.start_soon(relayed, "web", settled, Relaying(admin, signing).table(web_uid), work)
                nursery.start_soon(gate.serve, inherited_listener("auth"), work)
                nursery.start_soon(host.follow, admission.hostd_connected, core.session_ended, ready)
                nursery.start_soon(core.keep_in_step)
                nursery.start_soon(core.keep_looking)
                nursery.start_soon(core.keep_note)
                nursery.start_soon(admission.run)
                nursery.start_soon(deliveries.run)
                nursery.start_soon(core.journal.run)
                nursery.start_soon(reconciler.run)
                nursery.start_soon(measuring.run)
                nursery.start_soon(_keep_reserve, core)
                nursery.start_soon(notify.stay_well)
                log.get().info("ready")
                notify.ready()
                async for _ in signals:
                    break
                # Nobody who is just logging in is refused because of a restart.
                await work.finish(FINISH_S)
                nursery.cancel_scope.cancel()
    finally:
        registry.close()


def _has_web(config: Config) -> bool:
    """Whether there are web pages to answer. Logins must not depend on them: that they cannot be had is no failure."""
    passed = "web" in dict(notify.passed())
    if config.web.enabled and not passed:
        log.get().error("web.enabled is on, but there is no socket for the web pages: is hatchway-web.socket masked?")
    return config.web.enabled and passed


async def _serve_settled(name: str, settled: trio.Event, table: Table, work: Work, **bounds: Any) -> None:
    """Answer on the socket `name`, but not before what it is about is known, or it takes too long: requests wait in the
    socket. `bounds` are those of `serve`.

    Else whatever follows a restart at once would be told that hostd has not answered yet, or that there is no instance.
    """
    listener = inherited_listener(name)
    with trio.move_on_after(SETTLE_S):
        await settled.wait()
    await serve(name, listener, table, work, **bounds)


async def _keep_reserve(core: Core) -> None:
    was_whole = True
    while True:
        if not (whole := await core.db(Registry.keep_reserve)):
            log.get().error("the registry's reserve cannot be made: its file system is full, or nearly")
        elif not was_whole:
            log.get().info("the registry's reserve is there again")
        was_whole = whole
        await trio.sleep(RESERVE_EVERY_S)


def main() -> None:
    """Entry point: `python -I -m hatchway.daemon --config FILE`."""
    parser = argparse.ArgumentParser(prog="hatchwayd")
    parser.add_argument("--config", type=Path)
    arguments = parser.parse_args()
    try:
        config = configuration.load(arguments.config)
        log.configure("core", config.log.level)
        if os.geteuid() == 0:
            raise HostError("the core must not run as root: start it with 'hatchway run'")
        os.umask(0o077)
        privileges.no_new_privileges()
        privileges.not_dumpable()
        privileges.prove_unprivileged(os.getuid(), os.getgid(), permitted=(), effective=())
        with plain_errors():
            trio.run(run, config)
    except HatchwayError as exc:
        log.fatal("hatchwayd", exc)


if __name__ == "__main__":
    main()
