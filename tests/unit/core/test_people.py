"""People, on the core's side: what is answered to whoever makes one."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.unit.core.stage import staged

from hatchway.config import Web
from hatchway.errors import UsageError
from hatchway.wire.entry import PasswordKind
from hatchway.wire.people import AddPerson, PersonChanged


@pytest.mark.parametrize(
    ("configured", "kind", "shown"),
    [
        ("raw", PasswordKind.RAW, False),
        ("argon2id", PasswordKind.HASHED, True),
        ("none", PasswordKind.NONE, False),
    ],
)
async def test_whether_the_password_can_be_shown_is_told(
    tmp_path: Path, configured: str, kind: PasswordKind, shown: bool
) -> None:
    async with staged(tmp_path, password=configured) as stage:
        made = await stage.do(AddPerson(login="berta"))
        assert isinstance(made, PersonChanged)
        assert (made.password_kind, made.password is not None) == (kind, shown)


@pytest.mark.parametrize("login", ["_x", "-x", "1x", "Berta", "ber ta", "b\u00e9rta", "", "b" * 32])
async def test_what_cannot_be_a_login_is_refused_with_what_can(tmp_path: Path, login: str) -> None:
    async with staged(tmp_path) as stage:
        with pytest.raises(UsageError, match="a letter, then letters, digits, '-' and '_', all in lower case"):
            await stage.do(AddPerson(login=login))
        assert await stage.do(AddPerson(login="b_-1"))


@pytest.mark.parametrize(
    ("web", "told"),
    [(Web(), None), (Web(enabled=True), ""), (Web(enabled=True, url="https://a.example/"), "https://a.example")],
)
async def test_where_they_sign_in_is_told(tmp_path: Path, web: Web, told: str | None) -> None:
    async with staged(tmp_path, web=web) as stage:
        made = await stage.do(AddPerson(login="berta"))
        assert isinstance(made, PersonChanged)
        assert made.web == told
