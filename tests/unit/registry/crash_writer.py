"""Run as a program by test_registry_crash: writes to a registry until it is killed, or kills itself on the way.

crash_writer.py loop PATH           print each instance's number once it is on disk, for ever
crash_writer.py each PATH OPERATION do the operation, killing itself (kill -9) after each of its statements in turn
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time
from collections.abc import Callable
from contextlib import closing

from sqlalchemy import Engine, event

from hatchway.model import InstanceKey, Login, Mode, VolumeInfo, VolumeKind
from hatchway.registry.records import CredentialKind, NewCredential, NewLogin
from hatchway.registry.store import Registry

VOLUMES = [
    (VolumeInfo(path=path, kind=VolumeKind.BIND, source=f"/srv{path}"), Mode.READ_WRITE)
    for path in ("/data", "/logs", "/var/cache")
]
CREDENTIALS = (
    NewCredential(CredentialKind.PASSWORD, "hash", b"sealed" * 1000, None),
    NewCredential(CredentialKind.KEY, "ssh-ed25519 AAAA", b"sealed" * 1000, "SHA256:x"),
)


def key(number: int) -> InstanceKey:
    """The instance with this number."""
    return InstanceKey("crash", "web", number)


def first_enable(registry: Registry, number: int) -> None:
    """Everything at once."""
    login = NewLogin(Login(f"crash-web-{number}"), registry.next_uid(70000, 500000), CREDENTIALS)
    registry.enable(key(number), VOLUMES, by="test", now=time.time(), new=login)


def enable_again(registry: Registry, number: int) -> None:
    """Replace every grant."""
    registry.enable(key(number), [(volume, Mode.READ_ONLY) for volume, _ in VOLUMES], by="again", now=2.0, new=None)


def disable(registry: Registry, number: int) -> None:
    """Take every grant away."""
    registry.disable(key(number), ["/data", "/logs", "/var/cache"], 3.0)


def renew(registry: Registry, number: int) -> None:
    """Another password."""
    registry.replace_credential(
        f"crash-web-{number}", NewCredential(CredentialKind.PASSWORD, "other", b"other", None), 4.0
    )


OPERATIONS: dict[str, Callable[[Registry, int], None]] = {
    operation.__name__: operation for operation in (first_enable, enable_again, disable, renew)
}


def state(path: str) -> object:
    """All that can be asked for."""
    with closing(Registry.open(path)) as registry:
        found = registry.instances()
        return found, [registry.credentials(instance.login) for instance in found]


def loop(path: str) -> None:
    """Write until killed."""
    registry = Registry.open(path)
    number = len(registry.instances())
    while True:
        number += 1
        first_enable(registry, number)
        os.write(1, b"%d\n" % number)
        enable_again(registry, number)
        registry.open_session(f"s-{number}", f"crash-web-{number}", address="", method="", credential=None, now=5.0)
        renew(registry, number)


def each(path: str, name: str) -> None:
    """Print how many times it was killed; raise AssertionError if that ever changed anything."""
    with closing(Registry.open(path)) as registry:
        first_enable(registry, 1)
    number = 2 if name == "first_enable" else 1
    before = state(path)
    for count in range(1, 1000):
        copy = f"{path}-{count}"
        shutil.copy2(path, copy)
        if (child := os.fork()) == 0:
            registry = Registry.open(copy)
            die_after(count)
            OPERATIONS[name](registry, number)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if status == 0:
            assert state(copy) != before, "the operation did nothing"
            os.write(1, b"%d\n" % (count - 1))
            return
        assert os.WTERMSIG(status) == signal.SIGKILL, status
        assert state(copy) == before, f"killed after statement {count}, it left something"


def die_after(count: int) -> None:
    """Kill this process as soon as `count` statements were executed from now on."""
    left = count

    def executed(*_arguments: object) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    event.listen(Engine, "after_cursor_execute", executed)


if __name__ == "__main__":
    if sys.argv[1] == "loop":
        loop(sys.argv[2])
    else:
        each(sys.argv[2], sys.argv[3])
