"""Out at once: what is taken away ends exactly the sessions that came in by it, in the middle of what they do.

In each test five sessions of one login upload, each by a credential of its own, and one of a neighbour. Those that lost
their right are over within a second and have written nothing since; what the others sent has all arrived.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from tests.figures import note
from tests.sshd.entering import (
    ELSEWHERE,
    Credential,
    Verdict,
    add_key,
    attempt,
    make_key,
    own_address,
    source,
    together,
)
from tests.sshd.place import Place
from tests.sshd.running import Hatchway, running, wait_until
from tests.sshd.speaking import ClosedError
from tests.sshd.test_sessions import Uploading

from hatchway.admin import volume_keys

IN, DENIED, CLOSED = Verdict.IN, Verdict.DENIED, Verdict.CLOSED

IN_TIME_S = 1.0

PAUSE_S = 0.04
"""Between two blocks of 32 KiB of an upload: six of them leave the machine time for what they are about."""

SSH_DIRECTORY = "/home/u/.ssh"

GENERATED, ADDED, PASSWORD, VOLUME, FAR = "generated", "added", "password", "volume", "far"
OWN = (GENERATED, ADDED, PASSWORD, VOLUME, FAR)
NEIGHBOUR = "neighbour"


@pytest.fixture(scope="module")
def hatchway() -> Iterator[Hatchway]:
    with running() as made:
        yield made


@pytest.fixture(scope="module")
def neighbour(hatchway: Hatchway) -> Place:
    return Place(hatchway)


class Crowd:
    """Six sessions that upload. Five are of `place`: by its generated key, an added one, its password, a key in its
    volume, and the generated key from another address."""

    def __init__(self, place: Place, neighbour: Place) -> None:
        self.place = place
        self.hatchway = place.hatchway
        self.keys_file = place.directories[SSH_DIRECTORY] / "authorized_keys"
        self.keys_file.touch(0o600)
        self.keys_file.write_text("# keys\n" + make_key(self.hatchway, f"{place.login}-volume"))
        self.command("key", "volumes", "*", "--allow")
        self.credentials = {
            GENERATED: Credential(key=place.login),
            ADDED: add_key(self.hatchway, place.instance, f"{place.login}-added"),
            PASSWORD: Credential(password=self.hatchway.password(place.instance)),
            VOLUME: Credential(key=f"{place.login}-volume"),
            FAR: Credential(key=place.login),
            NEIGHBOUR: Credential(key=neighbour.login),
        }
        self._stack = contextlib.ExitStack()
        self._neighbour = neighbour
        self.sessions: dict[str, Uploading] = {}

    @contextlib.contextmanager
    def uploading(self) -> Iterator[None]:
        """All are in, and upload, for as long as the block takes."""

        with self._stack:
            for name, session in together(self._begin, (*OWN, NEIGHBOUR)):
                self._keep(name, session)
            self.go_on(*self.sessions)
            yield

    def join(self, name: str, credential: Credential) -> None:
        """One more session, called `name`."""
        self.credentials[name] = credential
        self._keep(*self._begin(name))

    def _begin(self, name: str) -> tuple[str, Uploading]:
        credential = self.credentials[name]
        place = self._neighbour if name == NEIGHBOUR else self.place
        options = source(ELSEWHERE) if name == FAR else ()
        return name, Uploading(
            place, f"{self.place.login}-{name}", pause_s=PAUSE_S,
            key=credential.key, password=credential.password, options=options,
        )  # fmt: skip

    def _keep(self, name: str, session: Uploading) -> None:
        self.sessions[name] = session
        self._stack.callback(session.close)

    def command(self, *words: str, given: str | None = None) -> Any:
        """Run a command of the command line; "*" is the instance."""
        return self.hatchway.command(*(self.place.instance if word == "*" else word for word in words), given=given)

    def go_on(self, *names: str) -> None:
        """Some more of each arrives."""
        for name in names:
            self.sessions[name].goes_on()

    def sizes(self, names: tuple[str, ...]) -> dict[str, int]:
        """How much of each has arrived."""
        return {name: self.sessions[name].file.stat().st_size for name in names}

    def ended_at(self, names: tuple[str, ...], timeout_s: float) -> float:
        """When the last of them ended, in seconds of the monotonic clock. All must within `timeout_s` seconds."""
        wait_until(lambda: all(self.sessions[name].ended_at for name in names), f"{names} end", timeout_s)
        return max((self.sessions[name].ended_at for name in names), default=0.0)

    def all_is_well(self, ended: tuple[str, ...], sizes: dict[str, int]) -> None:
        """Those that `ended` had not more than `sizes` when they had, and the others arrive."""
        others = tuple(name for name in self.sessions if name not in ended)
        for name in ended:
            assert isinstance(self.sessions[name].upload.failure, ClosedError), name
        self.go_on(*others)
        self.go_on(*others)
        assert self.sizes(ended) == sizes, "not a byte after it was over"
        for name in others:
            self.sessions[name].arrived()

    def ends(self, what: str, act: Callable[[], object], *ended: str) -> None:
        """By the time `act` has returned, which is one command, `ended` are over, and no others."""
        asked = time.monotonic()
        self.command("access", "show", "*")
        # What any command takes before it has asked, on a machine that is busy with uploads.
        command_s = time.monotonic() - asked
        began = time.monotonic()
        act()
        sizes = self.sizes(ended)
        took_s = max(0.0, self.ended_at(ended, IN_TIME_S) - began - command_s)
        assert took_s < IN_TIME_S, took_s
        self.all_is_well(ended, sizes)
        note(f"{what}: {len(ended)} of {len(self.sessions)} uploads over within {took_s * 1000:.0f} ms")

    def entering(self, **changed: Verdict) -> None:
        """Who is let in now, from addresses that have not guessed wrong: everybody, but for what `changed` says."""

        def enter(name: str) -> Verdict:
            address = ELSEWHERE if name == FAR else own_address() if self.credentials[name].key == "" else "127.0.0.1"
            return attempt(self.hatchway, self.place.login, self.credentials[name], address=address)

        assert dict(zip(OWN, together(enter, OWN), strict=True)) == dict.fromkeys(OWN, IN) | changed


@pytest.fixture
def crowd(hatchway: Hatchway, neighbour: Place) -> Iterator[Crowd]:
    made = Crowd(Place(hatchway, paths=("/data", SSH_DIRECTORY)), neighbour)
    with made.uploading():
        yield made


def test_renew(crowd: Crowd) -> None:
    crowd.ends("key renewed", lambda: crowd.command("key", "renew", "*"), GENERATED, FAR)
    crowd.entering(generated=DENIED, far=DENIED)
    crowd.command("key", "export", "*", "--force", "-o", str(crowd.hatchway.keys / crowd.place.login))
    crowd.entering()


def test_lock(crowd: Crowd) -> None:
    crowd.ends("locked", lambda: crowd.command("lock", "*"), *OWN)
    crowd.entering(**dict.fromkeys(OWN, DENIED) | {PASSWORD: CLOSED})
    crowd.command("unlock", "*")
    crowd.entering()


def test_allow_list_shrunk(crowd: Crowd) -> None:
    shrink = ("access", "set", "*", "--from", "127.0.0.1", "--from", "127.0.1.0/24", "--from", "10.0.0.0/8")
    crowd.ends("allow-list shrunk", lambda: crowd.command(*shrink), FAR)
    crowd.entering(far=DENIED)


def test_added_key_removed(crowd: Crowd) -> None:
    name = crowd.credentials[ADDED].key
    crowd.ends("added key removed", lambda: crowd.command("key", "remove", "*", name), ADDED)
    crowd.entering(added=DENIED)


def test_password_reset(crowd: Crowd) -> None:
    crowd.ends("password reset", lambda: crowd.command("password", "reset", "*"), PASSWORD)
    crowd.entering(password=DENIED)
    crowd.credentials[PASSWORD] = Credential(password=crowd.hatchway.password(crowd.place.instance))
    crowd.entering()


def test_password_removed(crowd: Crowd) -> None:
    crowd.ends("password removed", lambda: crowd.command("password", "remove", "*"), PASSWORD)
    crowd.entering(password=DENIED)


def test_keys_in_volumes_denied(crowd: Crowd) -> None:
    crowd.ends("keys in volumes denied", lambda: crowd.command("key", "volumes", "*", "--deny"), VOLUME)
    crowd.entering(volume=DENIED)


def test_kick(crowd: Crowd) -> None:
    (session,) = [
        one["id"]
        for one in crowd.command("sessions", "*")["sessions"]
        if crowd.sessions[FAR].path in [file["path"] for file in one["files"]]
    ]
    crowd.ends("one kicked", lambda: crowd.command("kick", "*", "--session", session[:10]), FAR)
    # Who was in may come in again.
    crowd.entering()


def test_all_kicked(crowd: Crowd) -> None:
    crowd.ends("all kicked", lambda: crowd.command("kick", "*"), *OWN)
    crowd.entering()


def test_fewer_sessions_allowed(crowd: Crowd) -> None:
    """Who is in stays, but nobody else comes in."""
    crowd.ends("session limit lowered", lambda: crowd.command("access", "set", "*", "--sessions", "1"))


def expire_s(crowd: Crowd, expires_at: float, *ended: str) -> float:
    """`ended` are over when it is `expires_at`, Unix seconds, and not before. Returns how many seconds after it."""
    crowd.go_on(*crowd.sessions)
    assert time.time() < expires_at
    last = crowd.ended_at(ended, expires_at + IN_TIME_S - time.time())
    sizes = crowd.sizes(ended)
    late_s = last - time.monotonic() + time.time() - expires_at
    assert 0 <= late_s < IN_TIME_S
    crowd.all_is_well(ended, sizes)
    return late_s


def test_login_expires(crowd: Crowd) -> None:
    expires_at = crowd.command("access", "set", "*", "--expires", "3s")["expires_at"]
    late_s = expire_s(crowd, expires_at, *OWN)
    note(f"login expired: all uploads of it over {late_s * 1000:.0f} ms after")
    crowd.entering(**dict.fromkeys(OWN, DENIED) | {PASSWORD: CLOSED})


def test_added_key_expires(crowd: Crowd) -> None:
    name = f"{crowd.place.login}-expires"
    crowd.join("expires", add_key(crowd.hatchway, crowd.place.instance, name, "--expires", "5s"))
    keys = crowd.command("key", "list", "*")["keys"]
    (expires_at,) = [key["expires_at"] for key in keys if key["comment"] == name]
    late_s = expire_s(crowd, expires_at, "expires")
    note(f"added key expired: the upload by it was over {late_s * 1000:.0f} ms after")
    assert attempt(crowd.hatchway, crowd.place.login, crowd.credentials["expires"]) is DENIED


def test_line_restricted_in_a_volume(crowd: Crowd) -> None:
    public = (crowd.hatchway.keys / f"{crowd.credentials[VOLUME].key}.pub").read_text()
    crowd.keys_file.write_text(f'from="{ELSEWHERE}" {public}')
    # Until then what was read before counts.
    time.sleep(volume_keys.FRESH_S)
    crowd.ends("key in a volume restricted", lambda: crowd.command("key", "volumes", "*", "--allow"), VOLUME)
    crowd.entering(volume=DENIED)


def test_line_taken_out_of_a_volume(crowd: Crowd) -> None:
    """Nobody tells us of that: it is seen at the next login, and at the latest when all sessions are looked at."""
    crowd.keys_file.write_text("# no keys any more\n")
    began = time.monotonic()
    last = crowd.ended_at((VOLUME,), 35)
    sizes = crowd.sizes((VOLUME,))
    crowd.all_is_well((VOLUME,), sizes)
    note(f"line taken out of a volume's authorized_keys: the upload by it was over {last - began:.0f} s after")
    crowd.entering(volume=DENIED)
