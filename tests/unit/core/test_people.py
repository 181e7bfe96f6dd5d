"""People, on the core's side: what is answered to whoever makes one."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.unit.core.stage import staged

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
