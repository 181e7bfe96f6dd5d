"""`hatchway person`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hatchway.wire.entry import PasswordKind
from hatchway.wire.people import AddPerson, PersonChanged

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
        "  Share with them  hatchway person grant anna INSTANCE VOLUME",
        "  Their password   hatchway password show anna",
        "  How to connect   hatchway show anna",
        "  A key they have  hatchway key add anna FILE",
    ]


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
