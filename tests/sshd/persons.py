"""People for tests, and instances that have directories of others."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator
from pathlib import Path

from tests.sshd.running import Hatchway, wait_until
from tests.sshd.speaking import CREATE, WRITE, Client, ClosedError, StatusError

_NUMBERS = itertools.count(1)


class Person:
    """Somebody new, with a key of theirs at hand."""

    def __init__(self, hatchway: Hatchway, *grants: tuple[str, ...]) -> None:
        self.hatchway = hatchway
        self.login = f"anna{next(_NUMBERS)}"
        hatchway.command("person", "add", self.login, "--name", "Anna Berg")
        hatchway.command("key", "export", self.login, "-o", str(hatchway.keys / self.login))
        for one in grants:
            self.grant(*one)

    def grant(self, *words: str) -> None:
        """`hatchway person grant`."""
        self.hatchway.command("person", "grant", self.login, *words)

    def revoke(self, *words: str) -> None:
        """`hatchway person revoke`."""
        self.hatchway.command("person", "revoke", self.login, *words)

    def accesses(self) -> list[str]:
        """What they have of each volume, as `hatchway person ls` says it."""
        (found,) = [one for one in self.hatchway.told("person", "ls")["people"] if one["login"] == self.login]
        return [str(volume["access"]) for volume in found["volumes"]]

    def client(self) -> Client:
        """A session of theirs."""
        return Client(self.hatchway, self.login)

    def said(self, batch: str) -> str:
        """What sftp says to `batch`, all of it."""
        done = self.hatchway.sftp(self.login, batch, check=False)
        return done.stdout + done.stderr


@contextlib.contextmanager
def aliases(hatchway: Hatchway, directories: dict[str, Path]) -> Iterator[str]:
    """A static instance whose volumes are these directories. Its key."""
    number = next(_NUMBERS)
    add_alias(hatchway, directories, number)
    try:
        yield f"shop/alias/{number}"
    finally:
        hatchway.remove_instance(container="alias", number=number)
        hatchway.write_instances()


def add_alias(hatchway: Hatchway, directories: dict[str, Path], number: int) -> None:
    """As `aliases`, for good."""
    for path, directory in directories.items():
        hatchway.add_volume(path, container="alias", number=number, directory=directory)
    hatchway.write_instances()
    wait_until(lambda: is_there(hatchway, f"shop/alias/{number}"), "the catalog sees it")


def is_there(hatchway: Hatchway, instance: str) -> bool:
    """Whether the catalog has a static instance now."""
    environment, container, number = instance.split("/")
    key = {"environment": environment, "container": container, "number": int(number)}
    return key in [one["key"] for one in hatchway.told("ls")["instances"] if one["present"]]


@contextlib.contextmanager
def away(hatchway: Hatchway, instance: str) -> Iterator[None]:
    """The catalog does not have a static instance meanwhile."""
    environment, container, number = instance.split("/")
    volumes = hatchway.take_instance(environment, container, int(number))
    hatchway.write_instances()
    wait_until(lambda: not is_there(hatchway, instance), "it is gone")
    try:
        yield
    finally:
        hatchway.give_instance(environment, container, int(number), volumes)
        hatchway.write_instances()
        wait_until(lambda: is_there(hatchway, instance), "it is back")


def writes(client: Client, path: str, data: bytes = b"x") -> bool:
    """Whether somebody can write there."""
    try:
        client.write(client.open(path, WRITE | CREATE), 0, data)
    except (StatusError, ClosedError):
        return False
    return True
