"""The process `hatchway-hostd`: gives up what it does not need, takes over or cleans up, serves the core.

SIGTERM ends everything. SIGHUP ends hostd alone: workers and sessions go on for the next one, as after a SIGKILL; what
is then to end after all is ended by `--end`. So a unit can be restarted without anybody noticing.
"""

from __future__ import annotations

import argparse
import fcntl
import grp
import os
import pwd
import signal
from pathlib import Path

import trio

from hatchway import config as configuration
from hatchway import log
from hatchway.config import Config
from hatchway.errors import ConflictError, HatchwayError, HostError, plain_errors
from hatchway.host.hostd import Hostd
from hatchway.kernel import limits, mounts, privileges
from hatchway.wire import notify
from hatchway.wire.service import FINISH_S, Work, inherited_listener, serve

STOP_TIMEOUT_S = 20.0


async def run(config: Config) -> None:
    """Serve until SIGTERM or SIGHUP; after SIGTERM, end all sessions and take all mounts away."""
    try:
        core_uid = pwd.getpwnam(config.ids.core_user).pw_uid
        gid = grp.getgrnam(config.ids.session_group).gr_gid
    except KeyError as exc:
        raise HostError(f"{exc.args[0]}: are the accounts of [ids] there? 'hatchway doctor' tells") from exc
    listener = inherited_listener("hostd")
    work = Work()
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
        async with trio.open_nursery() as nursery:
            hostd = Hostd(config, nursery, gid=gid)
            await hostd.start()
            nursery.start_soon(serve, "hostd", listener, hostd.table(core_uid), work)
            nursery.start_soon(hostd.unmount_idle)
            nursery.start_soon(hostd.count_volumes)
            nursery.start_soon(notify.stay_well)
            log.get().info("ready")
            notify.ready()
            number = await anext(aiter(signals))
            if number == signal.SIGHUP:
                await work.finish(FINISH_S)
                log.get().info("leaving everything to the next hostd")
            else:
                with trio.move_on_after(STOP_TIMEOUT_S):
                    await hostd.stop()
            nursery.cancel_scope.cancel()


async def end(config: Config) -> None:
    """End all sessions, take all mounts and records away. No hostd may run."""
    async with trio.open_nursery() as nursery:
        try:
            gid = grp.getgrnam(config.ids.session_group).gr_gid
        except KeyError:
            gid = -1  # nobody is let in any more, and that is all it is for
        await Hostd(config, nursery, gid=gid).end_everything()


def _require_mounts_of_host() -> None:
    """Raise HostError when our unit has mounts of its own: sshd would see none of ours, and everybody be refused."""
    if "INVOCATION_ID" in os.environ and not mounts.same_mounts_as(1):  # systemd.exec(5)
        raise HostError(
            "the unit has a mount namespace of its own, in which sshd would not see what is mounted: something in a "
            "drop-in makes one (ProtectSystem=, PrivateTmp=, PrivateNetwork=, …); systemctl cat hatchway-hostd shows it"
        )


def _lock(run_dir: str) -> int | None:
    """Hold the run directory, so that no `hatchway run` starts beside the units. Raises ConflictError.

    None when it is held already by the `hatchway run` that has started us.
    """
    lock = os.open(f"{run_dir}/lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        if "INVOCATION_ID" in os.environ:  # systemd.exec(5)
            raise ConflictError(f"a 'hatchway run' uses {run_dir}; stop it first") from None
        return None
    return lock


def main() -> None:
    """Entry point: `python -I -m hatchway.host.main --config FILE [--end]`."""
    parser = argparse.ArgumentParser(prog="hatchway-hostd")
    parser.add_argument("--config", type=Path)
    parser.add_argument("--end", action="store_true", help="end all sessions, take mounts and records away, and exit")
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
        _require_mounts_of_host()
        lock = _lock(config.paths.run_dir)
        with plain_errors():
            trio.run(end if arguments.end else run, config)
        if lock is not None:
            os.close(lock)
    except HatchwayError as exc:
        log.fatal("hatchway-hostd", exc)


if __name__ == "__main__":
    main()
