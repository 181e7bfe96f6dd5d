"""Method x condition x mode: who is let in, who is kept out in which words, and what may be written.

Six instances have a password of one kind and one kind of key each, and two volumes each, one of them read-only.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import secrets
import sqlite3
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import crypt_r
import pytest
from tests.sshd.entering import (
    ELSEWHERE,
    HERE,
    Credential,
    Verdict,
    add_key,
    attempt,
    make_key,
    own_address,
    source,
    together,
    verdict,
)
from tests.sshd.running import Hatchway, running, wait_until
from tests.sshd.speaking import Client

IN, DENIED, CLOSED = Verdict.IN, Verdict.DENIED, Verdict.CLOSED

CONTENT = "what is written"
HELD = "what was there before"

SSH_DIRECTORY = "/home/u/.ssh"


@dataclass(frozen=True)
class Method:
    """A way into the instance shop/web/<number>."""

    name: str
    number: int
    credential: Credential

    @property
    def instance(self) -> str:
        return f"shop/web/{self.number}"

    @property
    def login(self) -> str:
        return f"shop-web-{self.number}"

    @property
    def is_key(self) -> bool:
        return self.credential.password is None


def directory(hatchway: Hatchway, number: int, path: str) -> Path:
    """Where a volume lies on disk."""
    return hatchway.volumes / f"shop-web-{number}{path.replace('/', '-')}"


@pytest.fixture(scope="module")
def hatchway() -> Iterator[Hatchway]:
    with running() as made:
        for number in range(1, 8):
            for path in ("/data", "/fixed", SSH_DIRECTORY):
                made.add_volume(path, number=number)
            (directory(made, number, "/fixed") / "held").write_text(HELD)
        made.write_instances()
        wait_until(lambda: len(made.told("ls")["instances"]) == 7, "the catalog sees all instances")
        for number in range(1, 8):
            instance = f"shop/web/{number}"
            made.command("enable", instance, "/fixed", "--read-only")
            made.enable(instance, "/data")
        yield made


IMPORTED = {
    "$6$": "$6$abcdefgh./012345$",
    "$y$": "$y$j75$cVfAuBzWLk5OREDYbVPFi0$",
    "$2b$": "$2b$06$abcdefghijklmnopqrstuu",
    "sha512": None,
}
"""Settings for crypt(3), None for SHA-512 in hex."""


def given_password(hatchway: Hatchway, number: int, *options: str) -> Credential:
    password = secrets.token_urlsafe(16)
    hatchway.command("password", "set", f"shop/web/{number}", *options, "--stdin", given=f"{password}\n")
    return Credential(password=password)


def imported_password(hatchway: Hatchway, number: int, kind: str) -> Credential:
    """One whose hash was imported, of a kind in IMPORTED."""
    password, setting = secrets.token_urlsafe(16), IMPORTED[kind]
    encoded = hashlib.sha512(password.encode()).hexdigest() if setting is None else crypt_r.crypt(password, setting)
    hatchway.command("password", "import", f"shop/web/{number}", "--stdin", given=f"{encoded}\n")
    return Credential(password=password)


@pytest.fixture(scope="module")
def methods(hatchway: Hatchway) -> tuple[Method, ...]:
    hatchway.command("key", "renew", "shop/web/2", "--type", "rsa3072")
    hatchway.command("key", "export", "shop/web/2", "--force", "-o", str(hatchway.keys / "shop-web-2"))
    keys = directory(hatchway, 6, SSH_DIRECTORY) / "authorized_keys"
    keys.touch(0o600)
    keys.write_text(make_key(hatchway, "volume"))
    hatchway.command("key", "volumes", "shop/web/6", "--allow")
    return (
        Method("generated ed25519 key", 1, Credential(key="shop-web-1")),
        Method("generated rsa key", 2, Credential(key="shop-web-2")),
        Method("added ed25519 key", 3, add_key(hatchway, "shop/web/3", "ed25519")),
        Method("added ecdsa key", 4, add_key(hatchway, "shop/web/4", "ecdsa", kind="ecdsa")),
        Method("added rsa key", 5, add_key(hatchway, "shop/web/5", "rsa", kind="rsa")),
        Method("key in a volume", 6, Credential(key="volume")),
        Method("raw password", 1, given_password(hatchway, 1, "--raw")),
        Method("hashed password", 2, given_password(hatchway, 2, "--hashed")),
        Method("imported $6$", 3, imported_password(hatchway, 3, "$6$")),
        Method("imported $y$", 4, imported_password(hatchway, 4, "$y$")),
        Method("imported $2b$", 5, imported_password(hatchway, 5, "$2b$")),
        Method("imported sha512", 6, imported_password(hatchway, 6, "sha512")),
    )


_NAMES = (f"file-{number}" for number in itertools.count())


class Outcome:
    """What came of writing to both volumes, and reading the one that is read-only, by one method."""

    def __init__(self, hatchway: Hatchway, method: Method, to: int, address: str = HERE) -> None:
        name = next(_NAMES)
        local = hatchway.directory / name
        local.write_text(CONTENT)
        got = hatchway.directory / f"{name}-got"
        batch = f"-put {local} /data/{name}\n-put {local} /fixed/{name}\n-get /fixed/held {got}\n"
        done = hatchway.sftp(
            f"shop-web-{to}",
            batch,
            key=method.credential.key,
            password=method.credential.password,
            check=False,
            options=source(address),
        )
        self.verdict = verdict(hatchway, f"shop-web-{to}", done)
        written, fixed = directory(hatchway, to, "/data") / name, directory(hatchway, to, "/fixed") / name
        assert not fixed.exists(), "written to a read-only volume"
        # Let in means both: there is no login that may be used and cannot do what its mode says.
        assert written.exists() is got.exists() is (self.verdict is IN), method
        if self.verdict is IN:
            assert (written.read_text(), got.read_text()) == (CONTENT, HELD)
            assert "/fixed/" in done.stderr, "the client was told"
            written.unlink()


def verdicts(hatchway: Hatchway, methods: tuple[Method, ...]) -> dict[str, Verdict]:
    """What becomes of each method now."""
    found = together(lambda method: Outcome(hatchway, method, method.number).verdict, methods)
    return {method.name: one for method, one in zip(methods, found, strict=True)}


def kept_as(hatchway: Hatchway, login: str) -> str:
    """The hash by which the login's password is checked, as it stands in the registry."""
    path = hatchway.directory / "state" / "registry.sqlite"
    query = "SELECT public FROM credentials JOIN logins ON logins.id = login_id WHERE logins.name = ? AND kind = ?"
    with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as registry:
        ((found,),) = registry.execute(query, (login, "password")).fetchall()
    return str(found)


def expected(methods: tuple[Method, ...], keys: Verdict, passwords: Verdict) -> dict[str, Verdict]:
    return {method.name: keys if method.is_key else passwords for method in methods}


def of_all(hatchway: Hatchway, methods: tuple[Method, ...], *command: str) -> None:
    """Run a command of the command line with each instance."""
    instances = sorted({method.instance for method in methods})
    together(lambda instance: hatchway.command(*(instance if word == "*" else word for word in command)), instances)


@dataclass(frozen=True)
class Condition:
    """What `command` makes of all methods, and `undo` takes away: "*" is the instance. After `wait_s` seconds."""

    name: str
    command: tuple[str, ...]
    undo: tuple[str, ...]
    keys: Verdict
    passwords: Verdict
    wait_s: float = 0.0


NEVER = ("access", "set", "*", "--expires", "never")
ANYWHERE = ("access", "set", "*", "--from-anywhere")
# Which keys count is asked before it is known whether somebody holds one; a password is known to be right by then.
CONDITIONS = (
    Condition("locked", ("lock", "*", "--reason", "a test"), ("unlock", "*"), DENIED, CLOSED),
    Condition("expired", ("access", "set", "*", "--expires", "1s"), NEVER, DENIED, CLOSED, 1.1),
    Condition("expires later", ("access", "set", "*", "--expires", "1h"), NEVER, IN, IN),
    Condition("from here", ("access", "set", "*", "--from", "10.0.0.0/8", "--from", "127.0.0.1/32"), ANYWHERE, IN, IN),
    Condition("not from here", ("access", "set", "*", "--from", "127.0.0.2"), ANYWHERE, DENIED, CLOSED),
    Condition("from IPv6 only", ("access", "set", "*", "--from", "::/0"), ANYWHERE, DENIED, CLOSED),
)


def test_no_condition(hatchway: Hatchway, methods: tuple[Method, ...]) -> None:
    assert verdicts(hatchway, methods) == expected(methods, IN, IN)


@pytest.mark.parametrize("condition", CONDITIONS, ids=lambda condition: condition.name)
def test_condition(hatchway: Hatchway, methods: tuple[Method, ...], condition: Condition) -> None:
    of_all(hatchway, methods, *condition.command)
    time.sleep(condition.wait_s)
    try:
        assert verdicts(hatchway, methods) == expected(methods, condition.keys, condition.passwords)
    finally:
        of_all(hatchway, methods, *condition.undo)
    undone = [method for method in methods if method.number in (1, 6)]
    assert verdicts(hatchway, tuple(undone)) == expected(tuple(undone), IN, IN)


def test_as_many_sessions_as_may_be(hatchway: Hatchway, methods: tuple[Method, ...]) -> None:
    of_all(hatchway, methods, "access", "set", "*", "--sessions", "1")
    wait_until(lambda: hatchway.sessions() == 0, "nobody is in")
    keys = [method for method in methods if method.is_key]
    sessions = together(lambda method: Client(hatchway, method.login, key=method.credential.key), keys)
    try:
        assert verdicts(hatchway, methods) == expected(methods, CLOSED, CLOSED)
        assert [session.list("/fixed") for session in sessions] == [["held"]] * len(sessions)
    finally:
        for session in sessions:
            session.close()
    wait_until(lambda: hatchway.sessions() == 0, "all sessions are over")
    some = tuple(method for method in methods if method.number == 1)
    for method in some:
        assert Outcome(hatchway, method, method.number).verdict is IN
        wait_until(lambda: hatchway.sessions() == 0, "the session is over")
    of_all(hatchway, methods, "access", "set", "*", "--sessions", "default")


def test_of_many_at_once_only_as_many_as_may_be(hatchway: Hatchway, methods: tuple[Method, ...]) -> None:
    """Each sees that there is room for one; one gets it."""
    method = methods[0]
    hatchway.command("access", "set", method.instance, "--sessions", "2")
    wait_until(lambda: hatchway.sessions() == 0, "nobody is in")
    sessions = [hatchway.open_sftp(method.login) for _ in range(8)]
    try:
        wait_until(lambda: sum(session.poll() is not None for session in sessions) == 6, "six are refused")
        assert hatchway.sessions() == 2
    finally:
        said = [session.communicate("ls\n", timeout=60)[0] for session in sessions]
        hatchway.command("access", "set", method.instance, "--sessions", "default")
    refused = [text for session, text in zip(sessions, said, strict=True) if session.returncode != 0]
    assert len(refused) == 6
    # Who came a moment too late is refused behind the account stage, and its client has heard of a login by then.
    words = {line.rstrip() for text in refused for line in text.splitlines()}
    assert words <= {f"Connection closed by 127.0.0.1 port {hatchway.port}", "Connection closed", "Connection closed."}


def test_of_no_use_at_another_instance(hatchway: Hatchway, methods: tuple[Method, ...]) -> None:
    def elsewhere(method: Method) -> Verdict:
        return Outcome(hatchway, method, method.number % 6 + 1, own_address()).verdict

    assert together(elsewhere, methods) == [DENIED] * len(methods)


def test_a_key_with_conditions_of_its_own(hatchway: Hatchway) -> None:
    instance, login = "shop/web/7", "shop-web-7"
    loopback_but_here = ("--from", "127.0.0.0/8", "--from", f"!{HERE}")
    keys = {
        "here": add_key(hatchway, instance, "from-here", "--from", HERE),
        "there": add_key(hatchway, instance, "from-there", "--from", ELSEWHERE),
        "excepted": add_key(hatchway, instance, "excepted", *loopback_but_here),
        "later": add_key(hatchway, instance, "expires-later", "--expires", "1h"),
        "expired": add_key(hatchway, instance, "expired", "--expires", "1s"),
    }
    time.sleep(1)

    def seen_from(address: str) -> dict[str, Verdict]:
        found = together(lambda key: attempt(hatchway, login, key, address=address), keys.values())
        return dict(zip(keys, found, strict=True))

    assert seen_from(HERE) == {"here": IN, "there": DENIED, "excepted": DENIED, "later": IN, "expired": DENIED}
    assert seen_from(ELSEWHERE) == {"here": DENIED, "there": IN, "excepted": IN, "later": IN, "expired": DENIED}
    # Both must allow it. Of two from= sshd sees the key's own; the login's is decided after it.
    hatchway.command("access", "set", instance, "--from", ELSEWHERE)
    assert seen_from(HERE) == {"here": CLOSED, "there": DENIED, "excepted": DENIED, "later": DENIED, "expired": DENIED}
    assert seen_from(ELSEWHERE) == {"here": DENIED, "there": IN, "excepted": IN, "later": IN, "expired": DENIED}
    # More networks than fit in a line for sshd: still decided, at the account stage.
    many = [word for number in range(90) for word in ("--from", f"2001:db8:1111:2222:3333:4444:5555:{number + 4096:x}")]
    hatchway.command("access", "set", instance, *many)
    assert attempt(hatchway, login, keys["later"]) is CLOSED
    hatchway.command("access", "set", instance, *many, "--from", HERE)
    assert attempt(hatchway, login, keys["later"]) is IN
    hatchway.command("access", "set", instance, "--from-anywhere")


def test_key_only(hatchway: Hatchway) -> None:
    instance, login = "shop/web/7", "shop-web-7"
    password = Credential(password=hatchway.password(instance))
    assert attempt(hatchway, login, password) is IN
    hatchway.command("password", "remove", instance)
    for wrong in (password, Credential(password=""), Credential(password="*"), Credential(password="!")):
        assert attempt(hatchway, login, wrong, address=own_address()) is DENIED
    assert attempt(hatchway, login, Credential(key=login)) is IN
    anew = Credential(password=str(hatchway.command("password", "reset", instance)["password"]))
    assert attempt(hatchway, login, anew) is IN
    assert attempt(hatchway, login, password, address=own_address()) is DENIED


@pytest.mark.parametrize("kind", IMPORTED)
def test_what_was_imported_is_kept_as_we_hash_passwords(hatchway: Hatchway, kind: str) -> None:
    """From the first login on, and is right all the same; a wrong one changes nothing."""
    credential = imported_password(hatchway, 7, kind)
    before = kept_as(hatchway, "shop-web-7")
    assert not before.startswith("$argon2id$")
    assert attempt(hatchway, "shop-web-7", Credential(password="a guess"), address=own_address()) is DENIED
    assert kept_as(hatchway, "shop-web-7") == before
    assert attempt(hatchway, "shop-web-7", credential) is IN
    after = kept_as(hatchway, "shop-web-7")
    assert after.startswith("$argon2id$")
    assert attempt(hatchway, "shop-web-7", credential) is IN
    assert kept_as(hatchway, "shop-web-7") == after


@pytest.mark.parametrize("by", ["key", "password"])
def test_twelve_connections_at_once(hatchway: Hatchway, methods: tuple[Method, ...], by: str) -> None:
    """Ten transfers of a FileZilla and its window, with the next one's: all from one address, none is refused."""
    (method,) = [one for one in methods if one.number == 1 and one.is_key is (by == "key")]
    wait_until(lambda: hatchway.sessions() == 0, "nobody is in")
    all_in = threading.Barrier(12, timeout=60)

    def transfer(number: int) -> bytes:
        credential = method.credential
        with Client(hatchway, method.login, key=credential.key, password=credential.password) as client:
            all_in.wait()
            name = f"/data/parallel-{number}"
            handle = client.open(name, 2 | 8)
            client.write(handle, 0, name.encode())
            client.release(handle)
            return client.read(client.open(name, 1), 0, 100)

    assert together(transfer, range(12), 12) == [f"/data/parallel-{number}".encode() for number in range(12)]
