"""Trying to get in, with any credential and from any address of loopback: what came of it, in which words."""

from __future__ import annotations

import enum
import itertools
import re
import subprocess
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

from tests.sshd.running import Hatchway

T = TypeVar("T")
R = TypeVar("R")

HERE, ELSEWHERE = "127.0.0.1", "127.0.0.2"
"""Two addresses a client can have."""

_ADDRESSES = itertools.count(10)

TOGETHER = 4
"""Clients that try at the same time."""


class Verdict(enum.StrEnum):
    """What becomes of an attempt. A client is told one of these, and nothing of the reason.

    DENIED is said of a credential that is not taken; CLOSED to whoever has proved to hold a right one, and may not
    enter all the same. LATE is that, too, but found out only behind the account stage: what counted when sshd asked for
    keys or the password does not any more.
    """

    IN = "in"
    DENIED = "denied"
    CLOSED = "closed"
    LATE = "late"


@dataclass(frozen=True, slots=True)
class Credential:
    """The key called `key` (Hatchway.keys), or `password`."""

    key: str = ""
    password: str | None = None


def make_key(hatchway: Hatchway, name: str, kind: str = "ed25519") -> str:
    """Make a pair of keys called `name`. Returns the line of the public one."""
    path = hatchway.keys / name
    subprocess.run(["ssh-keygen", "-q", "-t", kind, "-N", "", "-C", name, "-f", path], check=True)
    return path.with_name(f"{name}.pub").read_text()


def add_key(hatchway: Hatchway, instance: str, name: str, *options: str, kind: str = "ed25519") -> Credential:
    """Let a new key called `name` into an instance."""
    hatchway.command("key", "add", instance, *options, given=make_key(hatchway, name, kind))
    return Credential(key=name)


def own_address() -> str:
    """An address of loopback that nobody else has used: wrong passwords from another do not slow it down."""
    number = next(_ADDRESSES)
    return f"127.0.{number // 250 + 1}.{number % 250 + 1}"


def source(address: str) -> tuple[str, ...]:
    """Options with which ssh comes from `address`."""
    return ("-o", f"BindAddress={address}")


def attempt(
    hatchway: Hatchway, login: str, credential: Credential, batch: str = "ls\n", *, address: str = HERE
) -> Verdict:
    """Run `batch`, lines of sftp(1), as `login`, from `address`. Anything but the words of a Verdict is an error."""
    done = hatchway.sftp(
        login, batch, key=credential.key, password=credential.password, check=False, options=source(address)
    )
    return verdict(hatchway, login, done)


def verdict(hatchway: Hatchway, login: str, done: subprocess.CompletedProcess[str]) -> Verdict:
    """What an sftp that is over was told: nothing but that."""
    if done.returncode == 0:
        return Verdict.IN
    said = done.stderr.splitlines()
    # sftp's own last word, whose case has changed between versions.
    if said and re.fullmatch(r"Connection closed\.?\s*", said[-1]):
        said.pop()
    if said == [f"{login}@127.0.0.1: Permission denied (publickey,password)."]:
        return Verdict.DENIED
    if said == [f"Connection closed by 127.0.0.1 port {hatchway.port}"]:
        return Verdict.CLOSED
    if not said:
        return Verdict.LATE
    raise AssertionError(f"{login}: {done.returncode}\n{done.stdout}\n{done.stderr}")


def together(call: Callable[[T], R], those: Iterable[T], at_once: int = TOGETHER) -> list[R]:
    """What `call` says to each of `those`, in their order, `at_once` at a time."""
    with ThreadPoolExecutor(at_once) as pool:
        return list(pool.map(call, those))
