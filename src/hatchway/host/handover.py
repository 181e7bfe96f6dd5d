"""What hostd leaves for its successor, so that restarting or killing it ends no session.

Workers and sessions live on without hostd. What the next one needs of them is kept outside the process, always as it
is now: their descriptors (a worker's control socket and its volume's ledger, pidfds) with whoever started us
(`wire.notify`), the rest in one file per login in a directory that only root can enter. A file without its
descriptors, or one that was being changed when hostd died, is not trusted: that login's sessions are then ended and
cleaned up, which is always safe.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import os
from pathlib import Path

import msgspec

from hatchway import log
from hatchway.errors import HostError
from hatchway.wire import notify
from hatchway.wire.host import View

VERSION = 2
"""Of the files. Another one's are not read."""


class KeptWorker(msgspec.Struct, frozen=True):
    """A worker that serves `view`. `uid` is its own; `places` as in wire.worker.Spawn; `mount_id` as in Worker."""

    view: View
    pid: int
    uid: int
    places: tuple[str, ...] = ()
    mount_id: int = 0


class KeptRoot(msgspec.Struct, frozen=True, kw_only=True):
    """A login's root. `starting` are paths at which something was being mounted, `closed` the places of what could not
    be had; `sessions` maps ids to pids."""

    version: int = VERSION
    login: str
    uid: int
    gid: int
    workers: tuple[KeptWorker, ...] = ()
    starting: tuple[str, ...] = ()
    sessions: dict[str, int] = {}
    closed: tuple[str, ...] = ()


class Handover:
    """Writes what is to be kept, and reads what was. `directory` is of no other use."""

    def __init__(self, directory: str) -> None:
        self._directory = Path(directory)
        self._received: dict[str, int] = {}
        # Descriptors nobody has kept: what needs them cannot be handed over.
        self._unkept: set[str] = set()

    def open(self, *, listeners: int = 1) -> None:
        """Make the directory, take over what an earlier hostd left. The first `listeners` descriptors are not that.

        Raises HostError.
        """
        try:
            self._directory.mkdir(mode=0o700, exist_ok=True)
        except OSError as exc:
            raise HostError(f"{self._directory} cannot be made: {exc.strerror}") from exc
        for name, fd in notify.passed()[listeners:]:
            os.set_inheritable(fd, False)
            if name in self._received:
                os.close(self._received[name])
            self._received[name] = fd

    def roots(self) -> list[KeptRoot]:
        """The roots an earlier hostd kept. A file that cannot be read is removed."""
        found = []
        for path in sorted(self._directory.iterdir()):
            if path.name.startswith("."):
                path.unlink(missing_ok=True)  # it was being written
                continue
            try:
                root = msgspec.json.decode(path.read_bytes(), type=KeptRoot)
                problem = "" if (root.version, root.login) == (VERSION, path.name) else f"version {root.version}"
            except (OSError, ValueError, RecursionError) as exc:
                problem = str(exc)
            if problem:
                log.get().error("not taken over", file=str(path), error=problem)
                with contextlib.suppress(OSError):
                    path.unlink()
            else:
                found.append(root)
        return found

    def descriptor(self, name: str) -> int:
        """The descriptor kept under `name`, now the caller's. Raises HostError."""
        try:
            return self._received.pop(name)
        except KeyError:
            raise HostError(f"nothing is left of {name}") from None

    def discard(self) -> None:
        """Close and forget the descriptors nobody asked for."""
        for name, fd in self._received.items():
            os.close(fd)
            notify.forget(name)
        self._received.clear()

    def keep(self, name: str, descriptor: int) -> None:
        """Keep a copy of `descriptor` under `name`."""
        if notify.keep(name, descriptor):
            self._unkept.discard(name)
        elif name not in self._unkept:
            self._unkept.add(name)
            log.get().warning("not kept for a successor, which will end it", name=name)

    def forget(self, name: str) -> None:
        """Keep what is under `name` no longer."""
        self._unkept.discard(name)
        notify.forget(name)

    def save(self, root: KeptRoot) -> None:
        """This is how `root` is now. A failure is logged: then the next hostd ends its sessions."""
        path = self._directory / root.login
        if not self._unkept.isdisjoint(kept_names(root)):
            path.unlink(missing_ok=True)
            return
        new = self._directory / f".{root.login}"
        try:
            new.write_bytes(msgspec.json.encode(root))
            new.replace(path)
        except OSError as exc:
            log.get().error("not kept for a successor", login=root.login, error=str(exc))
            path.unlink(missing_ok=True)

    def drop(self, login: str) -> None:
        """Nothing of `login` is mounted, and nobody is in."""
        (self._directory / login).unlink(missing_ok=True)

    def close(self) -> None:
        """Remove what was kept: there is to be no successor.

        The directory stays: units hide it from the core, which they can only where it is when that starts.
        """
        for path in self._directory.iterdir():
            path.unlink(missing_ok=True)


# Short: all of them together are one variable of the next hostd's environment, which holds 128 KiB (execve(2)). So many
# may its unit keep (FileDescriptorStoreMax=), not more: with one too many it could not be started any more.


def control_name(uid: int) -> str:
    """What the control socket of the worker with that uid is kept under."""
    return f"c{uid}"


def process_name(uid: int) -> str:
    """What its pidfd is kept under."""
    return f"p{uid}"


def ledger_name(uid: int) -> str:
    """What the ledger of its volume is kept under."""
    return f"l{uid}"


def worker_names(uid: int) -> tuple[str, str, str]:
    """What all descriptors of the worker with that uid are kept under."""
    return control_name(uid), process_name(uid), ledger_name(uid)


def session_name(session: str) -> str:
    """What the pidfd of a session's monitor is kept under: 13 characters, for some 9,000 at once."""
    return f"s{base64.urlsafe_b64encode(hashlib.sha256(session.encode()).digest()[:9]).decode()}"


def kept_names(root: KeptRoot) -> list[str]:
    """The names of all descriptors that belong to `root`."""
    names = [name for one in root.workers for name in worker_names(one.uid)]
    return names + [session_name(session) for session in root.sessions]
