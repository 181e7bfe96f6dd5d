"""The conditions of a login, as they are said and shown."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.unit.core.stage import staged

from hatchway.errors import UsageError
from hatchway.sshd import hostkeys
from hatchway.wire.admin import Enable, Show
from hatchway.wire.entry import WHY_MAX, Hindrance, Lock, SetConditions, ShowConditions, Unlock

INSTANCE = "shop/web/1"


async def test_a_reason_is_kept_whole_or_refused(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await stage.do(Enable(instance=INSTANCE, volumes=("/data",)))
        with pytest.raises(UsageError, match="a reason of 201 characters: at most 200 are kept"):
            await stage.do(Lock(instance=INSTANCE, why="é" * (WHY_MAX + 1)))
        assert (await stage.do(ShowConditions(INSTANCE))).locked_at is None
        found = await stage.do(Lock(instance=INSTANCE, why=f" {'é' * WHY_MAX}\n"))
        assert found.locked_why == "é" * WHY_MAX


async def test_what_keeps_everybody_out_is_said_the_same_everywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hostkeys, "read", lambda _: ())
    async with staged(tmp_path) as stage:
        stage.core.now = lambda: clock[0]
        clock = [1_000_000.0]
        await stage.do(Enable(instance=INSTANCE, volumes=("/data",)))
        await stage.do(SetConditions(instance=INSTANCE, expires_at=1_000_100.0))
        assert (await stage.do(Show(instance=INSTANCE))).problems == ()
        locked = Hindrance("nobody can enter: shop-web-1 is locked (rent)", "hatchway unlock shop-web-1")
        expired = Hindrance("nobody can enter: shop-web-1 has expired", "hatchway access set shop-web-1 --expires WHEN")
        found = await stage.do(Lock(instance=INSTANCE, why="rent"))
        assert found.hindrances == (locked,)
        assert (await stage.do(Show(instance=INSTANCE))).problems == (locked,)
        clock[0] = 1_000_100.0
        found = await stage.do(ShowConditions(INSTANCE))
        assert found.hindrances == (await stage.do(Show(instance=INSTANCE))).problems == (locked, expired)
        assert (await stage.do(Unlock(INSTANCE))).hindrances == (expired,)
