"""No password and no private key is seen where it should not be, whatever is done, and whatever fails meanwhile.

A whole round of all there is to do with secrets, through the command line and real logins, with everything watched.
"""

from __future__ import annotations

import json
import secrets
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path

import crypt_r
import pytest
from tests.figures import note
from tests.sshd.entering import make_key
from tests.sshd.running import Hatchway, running, wait_until
from tests.sshd.test_guessing import daemons
from tests.sshd.watching import Watch

INSTANCE, LOGIN, OTHER = "shop/web/1", "shop-web-1", "shop/db/1"

NO_DUMP = {("0", "0"), ("1", "1")}


@pytest.fixture
def hatchway() -> Iterator[Hatchway]:
    with running(INSTANCE, OTHER) as made:
        made.add_volume("/home/u/.ssh")
        made.write_instances()
        wait_until(lambda: "/home/u/.ssh" in str(made.told("ls")), "the catalog sees the volume")
        yield made


def told(hatchway: Hatchway, *arguments: str, given: str = "") -> subprocess.CompletedProcess[str]:
    """Run the command line with something on standard input. It gives up by itself after 90 s (cli.app)."""
    command = [sys.executable, "-I", "-m", "hatchway.cli.main", "--config", str(hatchway.config_path), *arguments]
    return subprocess.run(command, input=given, capture_output=True, text=True, timeout=150, cwd="/", check=False)


def registry(hatchway: Hatchway) -> sqlite3.Connection:
    return sqlite3.connect(hatchway.directory / "state" / "registry.sqlite", isolation_level=None)


class Round:
    """Everything that is done with secrets. What is printed without being asked for is gathered in `printed`."""

    def __init__(self, hatchway: Hatchway, watch: Watch) -> None:
        self.hatchway = hatchway
        self.watch = watch
        self.printed: list[str] = []

    def quietly(self, *arguments: str, given: str = "", status: int | None = 0) -> str:
        """A command that has no secret to print, as text and as JSON; of the latter the answer."""
        for options in ((), ("--json",)):
            done = told(self.hatchway, *options, *arguments, given=given)
            self.printed += [done.stdout, done.stderr]
            assert status is None or (done.returncode == 0) == (status == 0), (arguments, done)
        return done.stdout

    def enters(self, password: str, *, right: bool = True, login: str = LOGIN) -> None:
        done = self.hatchway.sftp(login, "ls\n", password=password, check=False)
        self.printed += [done.stdout, done.stderr]
        assert (done.returncode == 0) == right, done

    def passwords(self) -> None:
        """Made, set, imported; kept raw and hashed; used, and mistyped."""
        made = self.watch.keep_secret("the password made", self.hatchway.password(INSTANCE))
        self.enters(made)
        self.enters(self.watch.keep_secret("a mistyped password", f"{made[:-1]}_"), right=False)
        self.enters(
            self.watch.keep_secret("a stranger's password", secrets.token_urlsafe(20)), right=False, login="nobody"
        )
        for kind in ("--raw", "--hashed"):
            chosen = self.watch.keep_secret(f"the password set {kind}", secrets.token_urlsafe(20))
            self.quietly("password", "set", INSTANCE, kind, "--stdin", given=f"{chosen}\n")
            self.enters(chosen)
            reset = json.loads(told(self.hatchway, "--json", "password", "reset", INSTANCE, kind).stdout)["password"]
            self.enters(self.watch.keep_secret(f"the password reset {kind}", reset))
        for method in ("METHOD_SHA512", "METHOD_BLOWFISH"):
            chosen = self.watch.keep_secret(f"the password imported {method}", secrets.token_urlsafe(20))
            encoded = crypt_r.crypt(chosen, crypt_r.mksalt(getattr(crypt_r, method)))
            self.quietly("password", "import", INSTANCE, "--stdin", given=f"{encoded}\n")
            self.enters(chosen[:-1] + "!", right=False)
            self.enters(chosen)
        told(self.hatchway, "password", "reset", INSTANCE, "--raw")

    def keys(self) -> None:
        """Made, fetched, renewed and used; and a private one given where a public one belongs."""
        for kind in ("ed25519", "rsa2048"):
            self.quietly("key", "renew", INSTANCE, "--type", kind)
            private = told(self.hatchway, "key", "export", INSTANCE, "-o", "-").stdout
            self.watch.keep_secret(f"the {kind} key", private)
            self.hatchway.command("key", "export", INSTANCE, "-o", str(self.hatchway.keys / LOGIN), "--force")
            self.hatchway.sftp(LOGIN, "ls\n")
            self.quietly("key", "add", INSTANCE, given=private, status=1)
            self.quietly("password", "import", INSTANCE, "--stdin", given=private, status=1)
            self.quietly("password", "set", INSTANCE, "--stdin", given=private, status=None)

    def deliveries(self) -> None:
        """The private key in a volume: put there, not put where another file is, replaced, taken away."""
        data = self.hatchway.volumes / "shop-web-1-data"
        (data / "taken").mkdir()
        (data / "taken" / "id_container").write_text("the user's own\n")
        self.quietly("key", "deliver", INSTANCE, "/data")
        assert self.lying() == {f"the rsa2048 key in {data}/id_container"}
        self.quietly("key", "deliver", INSTANCE, "/data", "--dir", "taken", status=1)
        self.quietly("key", "renew", INSTANCE)
        exported = told(self.hatchway, "key", "export", INSTANCE, "-o", "-").stdout
        self.watch.keep_secret("the key delivered", exported)
        self.hatchway.command("key", "export", INSTANCE, "-o", str(self.hatchway.keys / LOGIN), "--force")
        assert self.lying() == {f"the key delivered in {data}/id_container"}
        self.quietly("key", "list", INSTANCE)
        done = told(self.hatchway, "key", "take-back", INSTANCE)
        self.printed += [done.stdout, done.stderr]
        assert done.returncode == 0, done
        self.quietly("key", "take-back", INSTANCE, status=1)
        assert self.lying() == set()
        # And with the access to its volume.
        self.quietly("key", "deliver", INSTANCE, "/data")
        assert self.lying() != set()
        self.hatchway.command("disable", INSTANCE, "/data")
        assert self.lying() == set()
        self.hatchway.command("enable", INSTANCE, "/data")

    def volume_keys(self) -> None:
        """Keys an instance keeps in a volume: used, and private ones left where public ones belong."""
        directory = self.hatchway.volumes / "shop-web-1-home-u-.ssh"
        public = make_key(self.hatchway, "in-a-volume")
        private = self.watch.keep_secret("the key of a volume", (self.hatchway.keys / "in-a-volume").read_text())
        for name, contents in (
            ("authorized_keys", f"{public}{private}"),
            ("mistaken.pub", private),
            ("in-a-volume.pub", f"{private}{public}"),
            ("id_ed25519", private),
        ):
            path = directory / name
            path.touch(0o600)
            path.write_text(contents)
        self.quietly("key", "volumes", INSTANCE, "--allow")
        for options in ((), ("--json",)):
            done = self.hatchway.sftp(LOGIN, "ls\n", key="in-a-volume")
            self.printed += [done.stdout, done.stderr]
            listed = told(self.hatchway, *options, "key", "list", INSTANCE).stdout
            assert "mistaken.pub:1" in listed
            self.printed.append(listed)
        self.looks()
        for name in ("authorized_keys", "mistaken.pub", "in-a-volume.pub", "id_ed25519"):
            (directory / name).unlink()
        self.quietly("key", "volumes", INSTANCE, "--deny")

    def lying(self) -> set[str]:
        """What lies in volumes, and where."""
        return self.watch.found_beneath(self.hatchway.volumes)

    def looks(self) -> None:
        """Everything that only looks, without asking for a secret."""
        for command in (("ls",), ("show", INSTANCE), ("key", "list", INSTANCE), ("log",), ("sessions",), ("status",)):
            self.quietly(*command)
        self.quietly("access", "show", INSTANCE)
        self.quietly("doctor", status=None)

    def failures(self) -> None:
        """hostd away, a registry that cannot be written, sealed secrets that are damaged, a core that is killed."""
        self.quietly("rotate-key")
        pids = daemons(self.hatchway)
        subprocess.run(["kill", "-STOP", str(pids["hostd"])], check=True)
        try:
            chosen = self.watch.keep_secret("the password set without hostd", secrets.token_urlsafe(20))
            # Once: it waits for hostd. With --json the text of an error is printed as well.
            done = told(self.hatchway, "--json", "password", "set", INSTANCE, "--raw", "--stdin", given=f"{chosen}\n")
            self.printed += [done.stdout, done.stderr]
        finally:
            subprocess.run(["kill", "-CONT", str(pids["hostd"])], check=True)
        self.enters(chosen)
        chosen = self.watch.keep_secret("the password that could not be kept", secrets.token_urlsafe(20))
        with closing(registry(self.hatchway)) as database:
            database.execute("BEGIN EXCLUSIVE")
            # Once: each waits until the registry's patience ends.
            done = told(self.hatchway, "password", "set", INSTANCE, "--raw", "--stdin", given=f"{chosen}\n")
            self.printed += [done.stdout, done.stderr]
            assert done.returncode != 0
            database.execute("ROLLBACK")
            self.enters(chosen, right=False)
            database.execute("UPDATE credentials SET sealed = zeroblob(length(sealed)) WHERE sealed IS NOT NULL")
        self.quietly("password", "show", INSTANCE, status=1)
        self.quietly("key", "export", INSTANCE, "-o", "-", status=1)
        self.quietly("show", INSTANCE, "--secrets", status=None)
        subprocess.run(["kill", "-ABRT", str(pids["core"])], check=True)
        wait_until(lambda: told(self.hatchway, "status").returncode == 0, "the core is there again")
        self.enters(self.watch.keep_secret("the last password", self.reset()))

    def reset(self) -> str:
        return str(json.loads(told(self.hatchway, "--json", "password", "reset", INSTANCE, "--raw").stdout)["password"])


def test_no_secret_is_seen(hatchway: Hatchway) -> None:
    canary = secrets.token_urlsafe(20)
    before = set(Path("/").glob("core*")) | set(Path.cwd().glob("core*"))
    with Watch() as watch:
        enabled = told(hatchway, "--json", "enable", INSTANCE, "--all")
        hatchway.command("enable", OTHER, "--all")
        played = Round(hatchway, watch)
        played.printed += [enabled.stdout, enabled.stderr]
        parts = (
            played.passwords,
            played.keys,
            played.deliveries,
            played.volume_keys,
            played.looks,
            played.failures,
        )
        for part in parts:
            began = time.monotonic()
            part()
            note(f"secrets, {part.__name__}: {time.monotonic() - began:.1f} s, {watch.rounds} looks")
        # What is looked for is found where it is.
        watch.keep_secret("the canary", canary)
        with subprocess.Popen(["sleep", "60"], env={"CANARY": canary}) as sleeping:
            wait_until(lambda: watch.seen, "the canary is seen")
            sleeping.kill()
    assert {one.partition(" in ")[0] for one in watch.seen} == {"the canary"}, watch.seen
    assert any(one.startswith("the key delivered in ") for one in watch.found_beneath(hatchway.keys))

    places = [path for path in hatchway.directory.iterdir() if path.is_dir() and path != hatchway.keys]
    handover = hatchway.run_dir / "handover"
    assert handover.is_dir()
    found = watch.found_beneath(*places, handover)
    assert found == set()
    assert watch.found_in(hatchway.log().encode()) == set()
    assert watch.found_in(told(hatchway, "--json", "log", "-n", "5000").stdout.encode()) == set()
    assert watch.found_in("\n".join(played.printed).encode()) == set()
    assert "Traceback" not in "\n".join(played.printed)

    # No core dump was written, and none would be if there were a place for it.
    assert set(Path("/").glob("core*")) | set(Path.cwd().glob("core*")) == before
    # The key helper lives for some 8 ms, which not every look meets.
    assert set(watch.limits) | {"authorized-keys"} == {"pam", "authorized-keys", "crypt", "core", "sshd"}
    assert {limit for limits in watch.limits.values() for limit in limits} <= NO_DUMP


def as_one_of_its_user(pid: int) -> list[str]:
    """What to put before a command so that the user of process `pid` runs it, who may nothing but what a user may."""
    ids = {}
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        name, _, rest = line.partition(":")
        if name in ("Uid", "Gid"):
            ids[name] = rest.split()[0]
    user = [f"--reuid={ids['Uid']}", f"--regid={ids['Gid']}", "--clear-groups"]
    return ["setpriv", *user, "--bounding-set=-sys_ptrace,-perfmon", "--"]


def may_be_dumped(pid: int) -> bool:
    """Whether the kernel lets a process of the same user at the memory of this one: ptrace(2), access mode checking."""
    command = [*as_one_of_its_user(pid), "sh", "-c", f": </proc/{pid}/mem"]
    done = subprocess.run(command, capture_output=True, check=False)
    assert done.returncode == 0 or b"ermission denied" in done.stderr, done
    return done.returncode == 0


def test_what_holds_secrets_is_not_dumpable(hatchway: Hatchway) -> None:
    pids = daemons(hatchway)
    for name in ("core", "hostd", "workers"):
        pid = pids[name]
        with subprocess.Popen([*as_one_of_its_user(pid), "sleep", "60"]) as like_it:
            wait_until(partial(may_be_dumped, like_it.pid), "what is like it can be dumped")
            like_it.kill()
        assert not may_be_dumped(pid), name
