"""`hatchway person`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from hatchway.model import InstanceKey
from hatchway.wire.entry import PasswordKind
from hatchway.wire.people import AddPerson, GrantPerson, PersonChanged, RevokePerson

if TYPE_CHECKING:
    from tests.unit.cli.conftest import Cli, FakeDaemon


def test_add_says_what_to_type_next(run: Cli, daemon: FakeDaemon, make: Any) -> None:
    daemon.answers[AddPerson] = PersonChanged(person=make.person(), password_kind=PasswordKind.RAW)
    done = run("person", "add", "anna", "--name", "Anna Berg")
    assert done.exit_code == 0
    assert daemon.requests == [AddPerson(login="anna", full_name="Anna Berg")]
    assert done.stdout.splitlines() == [
        "anna  Anna Berg  added",
        "",
        "  Share with them   hatchway person grant anna INSTANCE VOLUME",
        "  Their password    hatchway password show anna",
        "  How to connect    hatchway show anna",
        "  A key they have   hatchway key add anna FILE",
    ]


@pytest.mark.parametrize(
    ("web", "kind", "said"),
    [
        (
            "https://files.example.org",
            PasswordKind.RAW,
            "https://files.example.org/  they sign in with login and password",
        ),
        ("", PasswordKind.HASHED, "they sign in with login and password"),
        ("", PasswordKind.NONE, "to sign in they need a password, which 'hatchway password reset' makes"),
        (None, PasswordKind.RAW, None),
    ],
)
def test_where_they_sign_in_is_said(
    run: Cli, daemon: FakeDaemon, make: Any, web: str | None, kind: PasswordKind, said: str | None
) -> None:
    daemon.answers[AddPerson] = PersonChanged(person=make.person(), password_kind=kind, web=web)
    daemon.answers[GrantPerson] = PersonChanged(
        person=make.person(make.person_volume()),
        key=InstanceKey("shop", "web", 1),
        changed=("/home/work",),
        password_kind=kind,
        web=web,
    )
    daemon.answers[RevokePerson] = daemon.answers[GrantPerson]
    assert "sign in" not in run("person", "revoke", "anna", "shop/web/1", "work").stdout
    added, granted = run("person", "add", "anna").stdout, run("person", "grant", "anna", "shop/web/1", "work").stdout
    if said is None:
        assert "sign in" not in added + granted
    else:
        assert f"\n  On the web pages  {said}\n" in added
        assert granted.endswith(f"\nThey find it on the web pages, too: {said}.\n")


def test_a_password_that_cannot_be_shown_again_is_shown_at_once(run: Cli, daemon: FakeDaemon, make: Any) -> None:
    daemon.answers[AddPerson] = PersonChanged(
        person=make.person(), password="secret-words", password_kind=PasswordKind.HASHED
    )
    done = run("person", "add", "anna")
    assert "Password, shown this once\n  secret-words\n" in done.stdout
    assert "password show" not in done.stdout


def test_without_a_password_none_is_spoken_of(run: Cli, daemon: FakeDaemon, make: Any) -> None:
    daemon.answers[AddPerson] = PersonChanged(person=make.person())
    assert "assword" not in run("person", "add", "anna").stdout
