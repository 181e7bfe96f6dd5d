"""The process `hatchway-hostd`: gives up what it does not need, takes over or cleans up, serves the core.

SIGTERM ends everything. SIGHUP ends hostd alone: workers and sessions go on for the next one, as after a SIGKILL.
"""

from __future__ import annotations

import argparse
import grp
import os
import pwd
import signal
import sys
from pathlib import Path

import trio

from hatchway import config as configuration
from hatchway import log
from hatchway.config import Config
from hatchway.errors import HatchwayError, HostError, plain_errors
from hatchway.host.hostd import Hostd
from hatchway.kernel import limits, privileges
from hatchway.wire import notify
from hatchway.wire.service import inherited_listener, serve

STOP_TIMEOUT_S = 20.0


async def run(config: Config) -> None:
    """Serve until SIGTERM or SIGHUP; after SIGTERM, end all sessions and take all mounts away."""
    try:
        core_uid = pwd.getpwnam(config.ids.core_user).pw_uid
        gid = grp.getgrnam(config.ids.session_group).gr_gid
    except KeyError as exc:
        raise HostError(f"{exc.args[0]}: are the accounts of [ids] there? 'hatchway doctor' tells") from exc
    listener = inherited_listener("hostd")
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
        async with trio.open_nursery() as nursery:
            hostd = Hostd(config, nursery, gid=gid)
            await hostd.start()
            nursery.start_soon(serve, "hostd", listener, hostd.table(core_uid))
            nursery.start_soon(hostd.unmount_idle)
            nursery.start_soon(hostd.count_volumes)
            log.get().info("ready")
            notify.ready()
            number = await anext(aiter(signals))
            if number == signal.SIGHUP:
                log.get().info("leaving everything to the next hostd")
            else:
                with trio.move_on_after(STOP_TIMEOUT_S):
                    await hostd.stop()
            nursery.cancel_scope.cancel()


def main() -> None:
    """Entry point: `python -I -m hatchway.host.main --config FILE`."""
    parser = argparse.ArgumentParser(prog="hatchway-hostd")
    parser.add_argument("--config", type=Path)
    arguments = parser.parse_args()
    try:
        config = configuration.load(arguments.config)
        log.configure("hostd", config.log.level)
        if os.geteuid() != 0:
            raise HostError("hostd must be started as root")
        os.umask(0o022)
        limits.raise_open_files()
        privileges.bound(privileges.HOSTD_CAPS)
        privileges.no_new_privileges()
        privileges.not_dumpable()
        with plain_errors():
            trio.run(run, config)
    except HatchwayError as exc:
        sys.stderr.write(f"hatchway-hostd: {exc}\n")
        sys.exit(exc.exit_code)


if __name__ == "__main__":
    main()
