"""`hatchway enable` and `hatchway disable`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from hatchway.cli.listing import ownership_text
from hatchway.errors import ConflictError, HostError, NotFoundError
from hatchway.model import IdPair, Ownership
from hatchway.wire.admin import (
    Access,
    Changed,
    Disable,
    Enable,
    Listing,
    ListInstances,
    Show,
)
from hatchway.wire.entry import (
    Hindrance,
    PasswordKind,
)

if TYPE_CHECKING:
    from tests.unit.cli.conftest import Cli, FakeDaemon


def test_enable(run: Cli, daemon: FakeDaemon, make: Any) -> None:
    shared = make.volume(access=Access.READ_ONLY, session_path="/home/work")
    info = make.connection(instance=make.instance(shared, login="shop-web-1"))
    daemon.answers[Enable] = Changed(instance=info.instance, changed=("/home/work",))
    daemon.answers[Show] = info
    done = run("enable", "shop/web/1", "work", "--read-only")
    assert done.exit_code == 0
    assert daemon.requests == [
        Enable(instance="shop/web/1", volumes=("work",), read_only=True),
        Show(instance="shop/web/1"),
    ]
    assert done.stdout.splitlines() == [
        "shop/web/1  SFTP access is on.",
        "  ro  /home/work  work",
        "",
        "Connect",
        "  hatchway key export shop-web-1",
        "  sftp -P 2022 -o IdentitiesOnly=yes -i id_container-shop-web-1 shop-web-1@sftp.example.org",
        "",
        "'hatchway show shop-web-1' has everything a client needs.",
    ]


def test_enable_with_an_owner(run: Cli, daemon: FakeDaemon, make: Any) -> None:
    said = Ownership("container", 0o002)
    shared = make.volume(
        access=Access.READ_WRITE, session_path="/home/work", ownership=said, owner_ids=IdPair(301000, 300050)
    )
    info = make.connection(instance=make.instance(shared, login="shop-web-1"))
    daemon.answers[Enable] = Changed(instance=info.instance, changed=("/home/work",))
    daemon.answers[Show] = info
    done = run("enable", "shop/web/1", "work", "--owner", "container", "--umask", "002")
    assert daemon.requests[0] == Enable(instance="shop/web/1", volumes=("work",), ownership=said)
    assert "new files belong to the container's user (301000:300050 on the host), umask 002" in done.stdout


@pytest.mark.parametrize("option", ["--owner=app", "--umask=22"])
def test_what_is_no_owner_and_no_umask(run: Cli, daemon: FakeDaemon, option: str) -> None:
    done = run("enable", "shop/web/1", "work", option)
    assert (done.exit_code, daemon.requests) == (2, [])
    assert "is not allowed: expected" in done.stderr


@pytest.mark.parametrize(
    ("ownership", "ids", "text"),
    [
        (Ownership(), None, None),
        (Ownership("inherit"), None, None),
        (Ownership("real"), None, "owners and modes are as on disk"),
        (Ownership("7:8"), IdPair(7, 8), "new files belong to 7:8"),
        (Ownership("7:8"), IdPair(300007, 300008), "new files belong to 7:8 (300007:300008 on the host)"),
        (Ownership(umask=0o077), None, "umask 077"),
    ],
)
def test_owners_in_words(ownership: Ownership, ids: IdPair | None, text: str | None) -> None:
    assert ownership_text(ownership, ids) == text


def test_enable_all(run: Cli, daemon: FakeDaemon, make: Any) -> None:
    info = make.connection(key_fingerprint=None, problems=(Hindrance("sshd does not answer"),))
    daemon.answers[Enable] = Changed(instance=info.instance, changed=())
    daemon.answers[Show] = info
    done = run("enable", "--all", "shop/web/1")
    assert daemon.requests[0] == Enable(instance="shop/web/1", every=True)
    assert "Nothing to change." in done.stdout
    assert "  sshd does not answer" in done.stdout
    assert "sftp -P 2022 -o PubkeyAuthentication=no shop-web-1@sftp.example.org" in done.stdout
    assert "key export" not in done.stdout


def test_a_new_hashed_password_is_shown_once(run: Cli, daemon: FakeDaemon, make: Any) -> None:
    info = make.connection(password_kind=PasswordKind.HASHED)
    daemon.answers[Enable] = Changed(instance=info.instance, changed=("/home/work",), password="sesame-[b]1")
    daemon.answers[Show] = info
    out = run("enable", "shop/web/1", "work").stdout
    assert "Password, shown this once\n  sesame-[b]1\n" in out
    document = run.json("enable", "shop/web/1", "work")
    assert document["changed"]["password"] == "sesame-[b]1"
    assert document["connection"]["host"] == "sftp.example.org"
    assert document["problem"] is None


def test_access_is_on_even_if_nobody_can_say_how_to_connect(run: Cli, daemon: FakeDaemon, make: Any) -> None:
    daemon.answers[Enable] = Changed(instance=make.connection().instance, changed=("/home/work",))
    daemon.answers[Show] = HostError("no host keys")
    done = run("enable", "shop/web/1", "work")
    assert done.exit_code == 0
    assert "How to connect cannot be said now: no host keys" in done.stdout
    assert run.json("enable", "shop/web/1", "work")["problem"] == "no host keys"


@pytest.mark.parametrize("command", ["enable", "disable"])
@pytest.mark.parametrize("name", ["shop/web/1", "shop-web-1"])
def test_without_volumes_they_are_listed(run: Cli, daemon: FakeDaemon, make: Any, command: str, name: str) -> None:
    daemon.answers[ListInstances] = Listing(instances=(make.instance(make.volume()),), sources=())
    done = run(command, name)
    assert done.exit_code == 2
    assert done.stdout.splitlines() == ["shop/web/1  running", "└── off  /home/work  work"]
    assert f"hatchway {command} {name} VOLUME..." in done.stderr
    assert "--all" in done.stderr
    assert daemon.requests == [ListInstances()]

    document = run.json(command, name)
    assert document["error"]["code"] == "usage"
    assert "it has: '/home/work'" in document["error"]["text"]


def test_without_volumes_of_nobody(run: Cli, daemon: FakeDaemon) -> None:
    daemon.answers[ListInstances] = Listing(instances=(), sources=())
    daemon.answers[Show] = NotFoundError("there is no instance 'nobody'")
    done = run("enable", "nobody")
    assert (done.exit_code, done.stdout) == (5, "")
    assert done.stderr == "hatchway: there is no instance 'nobody'\n"


def test_volumes_and_all(run: Cli, daemon: FakeDaemon) -> None:
    done = run("enable", "shop/web/1", "work", "--all")
    assert done.exit_code == 2
    assert daemon.requests == []


def test_disable(run: Cli, daemon: FakeDaemon, make: Any) -> None:
    found = make.instance(make.volume(), make.volume("/var/lib/db", Access.READ_WRITE), login="shop-web-1")
    daemon.answers[Disable] = Changed(instance=found, changed=("/home/work",))
    done = run("disable", "shop-web-1", "/home/work")
    assert done.exit_code == 0
    assert daemon.requests == [Disable(instance="shop-web-1", volumes=("/home/work",))]
    assert done.stdout.splitlines() == ["shop/web/1  Access taken away.", "  off  /home/work  work"]
    assert run.json("disable", "shop-web-1", "--all")["changed"]["changed"] == ["/home/work"]


@pytest.mark.parametrize("error", [NotFoundError("no instance 'x\x1b[31m'"), ConflictError("not shareable")])
def test_what_the_daemon_refuses(run: Cli, daemon: FakeDaemon, error: NotFoundError | ConflictError) -> None:
    daemon.answers[Enable] = error
    done = run("enable", "x", "y")
    assert done.exit_code == error.exit_code
    assert "\x1b" not in done.stderr
    assert run.json("enable", "x", "y") == {"error": {"code": error.code, "text": str(error)}}


def test_what_other_grants_still_give_is_said(run: Cli, daemon: FakeDaemon, make: Any) -> None:
    volume = make.volume(access=Access.READ_WRITE, session_path="/home/work")
    daemon.answers[Enable] = daemon.answers[Disable] = Changed(
        instance=make.instance(volume, login="shop-web-1"), changed=("/home/work",)
    )
    daemon.answers[Show] = make.connection()
    assert (
        "/home/work can still be written: something else" in run("enable", "shop/web/1", "work", "--read-only").stdout
    )
    assert "still be written" not in run("enable", "shop/web/1", "work").stdout
    done = run("disable", "shop/web/1", "work").stdout
    assert done.startswith("shop/web/1  Access by command taken away; what gives it besides goes on.\n")


def test_a_login_that_was_made_for_other_volumes_is_warned_of(run: Cli, daemon: FakeDaemon, make: Any) -> None:
    volume = make.volume(access=Access.READ_WRITE, session_path="/home/work")
    instance = make.instance(volume, login="shop-web-1")
    daemon.answers[Show] = make.connection()
    for other in (True, False):
        daemon.answers[Enable] = Changed(instance=instance, changed=("/home/work",), other_hands=other)
        out = " ".join(run("enable", "shop/web/1", "work").stdout.split())
        assert ("Whoever has its key and password now has these" in out) is other


def test_what_is_gone_is_named_when_it_is_taken_away(run: Cli, daemon: FakeDaemon, make: Any) -> None:
    daemon.answers[Disable] = Changed(instance=make.instance(), changed=("/gone",))
    assert run("disable", "shop/web/1", "--all").stdout.splitlines() == [
        "shop/web/1  Access taken away.",
        "  off  /gone",
    ]
