"""What hostd does with requests it must refuse."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import pytest
import trio

from hatchway.config import Config, Host, Paths
from hatchway.errors import RefusedError
from hatchway.host.hostd import Hostd
from hatchway.host.roots import LoginRoot
from hatchway.wire.host import ApplyViews, View
from hatchway.wire.service import Peer


class FakeRoot:
    """A root in which something is mounted; it remembers what it was told."""

    empty = False

    def __init__(self) -> None:
        self.told: list[object] = []

    async def apply(self, views: tuple[View, ...]) -> None:
        self.told.append(views)

    async def close(self) -> None:
        self.told.append("close")


async def test_what_may_not_be_shown_does_not_keep_what_was_taken_away(tmp_path: Path) -> None:
    """One volume too deep, which a container may have at any time, must not make revocations fail for ever."""
    config = Config(
        paths=Paths(run_dir=str(tmp_path / "run"), state_dir=str(tmp_path / "state")),
        host=Host(volume_roots=(), bind_prefixes=(str(tmp_path / "srv"),)),
    )
    good = View("/data", str(tmp_path / "srv" / "data"), False)
    deep = View("/data" + "/a" * 65, str(tmp_path / "srv" / "deep"), False)
    async with trio.open_nursery() as nursery:
        made = Hostd(config, nursery, gid=1)
        root = FakeRoot()
        made._roots["shop-web-1"] = cast(LoginRoot, root)
        apply = made.table(0)[ApplyViews].handler
        await apply(ApplyViews("shop-web-1", (good,)), Peer(1, 0, 0))
        assert root.told == [(good,)]
        with pytest.raises(RefusedError, match="too deep"):
            await apply(ApplyViews("shop-web-1", (good, deep)), Peer(1, 0, 0))
        assert root.told == [(good,), "close"]
