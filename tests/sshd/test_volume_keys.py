"""Keys an instance keeps in a volume of its own: whom they let in, when they count, and what does not.

Whoever can write to that volume writes what he likes. It can let people into this instance, and nothing more.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from tests.sshd.entering import ELSEWHERE, HERE, Credential, Verdict, attempt, make_key, together
from tests.sshd.place import Place
from tests.sshd.running import Hatchway, running

from hatchway.admin import volume_keys

IN, DENIED, CLOSED = Verdict.IN, Verdict.DENIED, Verdict.CLOSED

SSH_DIRECTORY = "/home/u/.ssh"


@pytest.fixture(scope="module")
def hatchway() -> Iterator[Hatchway]:
    with running() as made:
        yield made


class Kept:
    """An instance with a volume for keys, and pairs of keys to put there."""

    def __init__(self, hatchway: Hatchway) -> None:
        self.hatchway = hatchway
        self.place = Place(hatchway, paths=("/data", SSH_DIRECTORY))
        self.directory = self.place.directories[SSH_DIRECTORY]
        self.keys: list[str] = []

    def pair(self, name: str) -> str:
        """Make a pair of keys. Returns the public line."""
        self.keys.append(name)
        return make_key(self.hatchway, f"{self.place.login}-{name}").strip()

    def write(self, *lines: str, name: str = "authorized_keys") -> Path:
        """Put a file there."""
        path = self.directory / name
        path.touch(0o600)
        path.write_text("".join(f"{line}\n" for line in lines))
        return path

    def command(self, *words: str) -> Any:
        """Run a command of the command line; "*" is the instance."""
        return self.hatchway.command(*(self.place.instance if word == "*" else word for word in words))

    def list(self) -> dict[str, Any]:
        """What `hatchway key list` says of keys in volumes, by their comment, which begins with the login."""
        found = self.command("key", "list", "*")["keys"]
        return {one["comment"].removeprefix(f"{self.place.login}-"): one for one in found if one["origin"] == "volume"}

    def entering(self, address: str = HERE) -> dict[str, Verdict]:
        """What becomes of each key."""

        def enter(name: str) -> Verdict:
            credential = Credential(key=f"{self.place.login}-{name}")
            return attempt(self.hatchway, self.place.login, credential, address=address)

        return dict(zip(self.keys, together(enter, self.keys), strict=True))


def test_good_and_bad_lines(hatchway: Hatchway) -> None:
    kept = Kept(hatchway)
    weak = rsa.generate_private_key(65537, 1024)  # noqa: S505 - to have it refused
    short = weak.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
    kept.write(
        "# keys of the team",
        kept.pair("plain"),
        f'from="{ELSEWHERE}" {kept.pair("from")}',
        f'expiry-time="20200101Z" {kept.pair("expired")}',
        f'environment="LD_PRELOAD=/data/x.so",pty,port-forwarding {kept.pair("grants")}',
        f'command="/bin/sh" {kept.pair("command")}',
        f"cert-authority {kept.pair('authority')}",
        f'frob="x" {kept.pair("unknown")}',
        short.decode(),
        "ssh-ed25519 AAAA!",
        "\0\x1b[2J",
        kept.pair("last"),
    )
    kept.write(kept.pair("file"), name="laptop.pub")
    kept.write(kept.pair("writable"), name="writable.pub").chmod(0o622)
    outside = kept.place.data / "outside"
    outside.write_text(f"{kept.pair('link')}\n")
    (kept.directory / "link.pub").symlink_to(outside)

    # Off unless the operator says so, and not even looked at.
    assert kept.entering() == dict.fromkeys(kept.keys, DENIED)
    listed = kept.command("key", "list", "*")
    assert (listed["volume_keys"], listed["problems"]) == (False, [])
    assert kept.list() == {}

    kept.command("key", "volumes", "*", "--allow")
    places = {name: one["place"] for name, one in kept.list().items()}
    assert places == {
        "plain": f"{SSH_DIRECTORY}/authorized_keys:2",
        "from": f"{SSH_DIRECTORY}/authorized_keys:3",
        "expired": f"{SSH_DIRECTORY}/authorized_keys:4",
        "grants": f"{SSH_DIRECTORY}/authorized_keys:5",
        "last": f"{SSH_DIRECTORY}/authorized_keys:12",
        "file": f"{SSH_DIRECTORY}/laptop.pub:1",
    }
    assert kept.list()["from"]["sources"] == ELSEWHERE
    problems = kept.command("key", "list", "*")["problems"]
    assert [problem.partition(": ")[0].removeprefix(f"{SSH_DIRECTORY}/") for problem in problems] == [
        "authorized_keys:6", "authorized_keys:7", "authorized_keys:8", "authorized_keys:9", "authorized_keys:10",
        "authorized_keys:11", "link.pub", "writable.pub",
    ]  # fmt: skip
    for problem, word in zip(
        problems, ("command", "cert-authority", "option", "1024", "", "", "symbolic link", "may write"), strict=True
    ):
        assert word in problem, problem
        assert "AAAA" not in problem, "nothing of a line is repeated"
    shown = kept.hatchway.cli("key", "list", kept.place.instance).stdout
    assert f"in {SSH_DIRECTORY}/laptop.pub:1" in shown
    assert "\x1b" not in shown

    good = {"plain": IN, "grants": IN, "last": IN, "file": IN}
    assert kept.entering() == dict.fromkeys(kept.keys, DENIED) | good
    assert kept.entering(ELSEWHERE) == dict.fromkeys(kept.keys, DENIED) | good | {"from": IN}
    # What a line would grant is not granted.
    granted = hatchway.ssh(kept.place.login, "id", key=f"{kept.place.login}-grants")
    assert granted.returncode != 0
    assert "uid=" not in granted.stdout

    kept.command("lock", "*")
    assert kept.entering() == dict.fromkeys(kept.keys, DENIED)
    kept.command("unlock", "*")
    assert kept.entering() == dict.fromkeys(kept.keys, DENIED) | good
    # The login's own conditions count for them too.
    kept.command("access", "set", "*", "--from", HERE)
    assert kept.entering(ELSEWHERE) == dict.fromkeys(kept.keys, DENIED) | {"from": CLOSED}
    kept.command("access", "set", "*", "--from-anywhere")

    kept.command("key", "volumes", "*", "--deny")
    assert kept.entering() == dict.fromkeys(kept.keys, DENIED)
    assert kept.list() == {}


def test_a_changed_file_is_changed_keys(hatchway: Hatchway) -> None:
    kept = Kept(hatchway)
    kept.command("key", "volumes", "*", "--allow")
    assert kept.command("key", "list", "*")["problems"] == []
    first, second = kept.pair("first"), kept.pair("second")
    assert kept.entering() == {"first": DENIED, "second": DENIED}

    def changed() -> None:
        # So long what was read before counts.
        time.sleep(volume_keys.FRESH_S)

    kept.write(first)
    changed()
    assert kept.entering() == {"first": IN, "second": DENIED}
    # Of the same length, at once, twice: no time of the file tells.
    kept.write(second)
    changed()
    assert kept.entering() == {"first": DENIED, "second": IN}
    # As an editor does it.
    kept.write(first, name="new").rename(kept.directory / "authorized_keys")
    changed()
    assert kept.entering() == {"first": IN, "second": DENIED}
    kept.write(second, name="second.pub")
    changed()
    assert kept.entering() == {"first": IN, "second": IN}
    # Whoever in the container may write there without being its owner lets nobody in.
    kept.directory.chmod(0o777)
    changed()
    assert kept.entering() == {"first": DENIED, "second": DENIED}
    kept.directory.chmod(0o700)
    (kept.directory / "authorized_keys").unlink()
    changed()
    assert kept.entering() == {"first": DENIED, "second": IN}


def test_what_the_operator_says_of_a_key_counts(hatchway: Hatchway) -> None:
    """Whoever may write to the volume does not get around an operator's restriction by writing the key there."""
    kept = Kept(hatchway)
    public = kept.pair("restricted")
    kept.write(public)
    kept.command("key", "volumes", "*", "--allow")
    assert kept.entering() == {"restricted": IN}
    hatchway.command("key", "add", kept.place.instance, "--from", ELSEWHERE, given=public)
    assert kept.entering() == {"restricted": DENIED}
    assert kept.entering(ELSEWHERE) == {"restricted": IN}
    # Taken away, it is in the volume still, which does not bring it back.
    removed = hatchway.command("key", "remove", kept.place.instance, f"{kept.place.login}-restricted")
    assert "this key was renewed or taken away" in removed["problems"][0]
    assert kept.entering() == {"restricted": DENIED}


def test_a_container_lets_nobody_into_another(hatchway: Hatchway) -> None:
    kept, other = Kept(hatchway), Kept(hatchway)
    kept.write(kept.pair("mine"))
    for one in (kept, other):
        one.command("key", "volumes", "*", "--allow")
    mine = Credential(key=f"{kept.place.login}-mine")
    assert attempt(hatchway, kept.place.login, mine) is IN
    assert attempt(hatchway, other.place.login, mine) is DENIED
