"""What hostd does with requests it must refuse."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import pytest
import structlog
import trio

from hatchway.config import Config, Host, Paths
from hatchway.errors import HostError, RefusedError
from hatchway.host import sources
from hatchway.host.hostd import Hostd
from hatchway.host.roots import LoginRoot
from hatchway.wire.host import (
    Activities,
    ApplyViews,
    AskActivity,
    AskBirths,
    AskFolders,
    Births,
    EndSessions,
    Folder,
    Folders,
    FolderState,
    SessionActivity,
    View,
)
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

    async def end_sessions(self, sessions: tuple[str, ...]) -> None:
        self.told.append(("end", *sessions))

    async def activity(self) -> list[SessionActivity]:
        return [SessionActivity(session="a", login="l", read=1, written=2, idle_s=3.0)]


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


async def test_named_sessions_or_all_of_a_login_are_ended(tmp_path: Path) -> None:
    config = Config(paths=Paths(run_dir=str(tmp_path / "run"), state_dir=str(tmp_path / "state")))
    async with trio.open_nursery() as nursery:
        made = Hostd(config, nursery, gid=1)
        root, other = FakeRoot(), FakeRoot()
        made._roots.update({"one": cast(LoginRoot, root), "other": cast(LoginRoot, other)})
        table, core = made.table(4242), Peer(1, 4242, 0)
        for kind in (EndSessions, AskActivity):
            assert table[kind].uids == (4242,), "the core's alone"
        end = table[EndSessions].handler
        await end(EndSessions("one", ("a", "b")), core)
        await end(EndSessions("one", ()), core)
        await end(EndSessions("nobody", ("a",)), core)
        assert root.told == [("end", "a", "b"), ("end",)]
        await end(EndSessions("one"), core)
        assert root.told[2:] == ["close"]
        assert other.told == []
        for login, count in ((None, 2), ("one", 1), ("nobody", 0)):
            answer = await table[AskActivity].handler(AskActivity(login), core)
            assert isinstance(answer, Activities)
            assert len(answer.sessions) == count


async def test_a_directory_that_cannot_be_identified_is_logged_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The core asks again and again."""
    problems = {"/srv/a": "does not answer", "/srv/b": ""}

    def look(_config: Config, source: str, _whereabouts: object) -> sources.Look:
        if problems[source]:
            raise HostError(problems[source])
        return sources.Look("inode:2:1.0", "8:1:/data")

    monkeypatch.setattr(sources, "look", look)
    config = Config(paths=Paths(run_dir=str(tmp_path / "run"), state_dir=str(tmp_path / "state")))
    async with trio.open_nursery() as nursery:
        ask = Hostd(config, nursery, gid=1).table(0)[AskBirths].handler

        async def logged(*asked: str) -> list[str]:
            with structlog.testing.capture_logs() as lines:
                answer = await ask(AskBirths(asked), Peer(1, 0, 0))
            assert isinstance(answer, Births)
            assert answer.unknown == {one: problems[one] for one in asked if problems[one]}
            return [line["error"] for line in lines]

        assert await logged("/srv/a", "/srv/b") == ["does not answer"]
        assert await logged("/srv/a") == []
        assert await logged("/srv/b") == []
        assert await logged("/srv/a", "/srv/b") == []
        problems["/srv/a"] = "out of memory"
        assert await logged("/srv/a") == ["out of memory"]
        problems["/srv/a"] = ""
        assert await logged("/srv/a") == []
        problems["/srv/a"] = "out of memory"
        assert await logged("/srv/a") == ["out of memory"]


async def test_what_is_where_folders_should_be(tmp_path: Path) -> None:
    volume, other = tmp_path / "srv" / "volume", tmp_path / "srv" / "other"
    for directory in (volume / "photos" / "2026", other / "photos"):
        directory.mkdir(parents=True)
    (volume / "file").touch()
    (volume / "link").symlink_to(other)
    config = Config(
        paths=Paths(run_dir=str(tmp_path / "run"), state_dir=str(tmp_path / "state")),
        host=Host(bind_prefixes=(str(tmp_path / "srv"),)),
    )
    birth = sources.birth(config, str(volume))
    wanted = {
        "photos": FolderState.THERE,
        "photos/2026": FolderState.THERE,
        "photos/none": FolderState.NOTHING,
        "photos/none/2026": FolderState.NOTHING,
        "file": FolderState.FILE,
        "file/2026": FolderState.FILE,
        "link": FolderState.LINK,
        "link/photos": FolderState.LINK,
        "../other/photos": FolderState.UNKNOWN,
    }
    asked = [Folder(str(volume), birth, folder) for folder in wanted]
    # Another directory than access was given to, one that is not there, and what is never shared.
    asked += [Folder(str(volume), "inode:1:1.0", "photos"), Folder(f"{volume}2", birth, "photos")]
    asked += [Folder("/etc", birth, "ssh")]
    async with trio.open_nursery() as nursery:
        ask = Hostd(config, nursery, gid=1).table(0)[AskFolders].handler

        async def states(*asked: Folder) -> tuple[FolderState, ...]:
            answer = await ask(AskFolders(asked), Peer(1, 0, 0))
            assert isinstance(answer, Folders)
            return answer.states

        for one, state in zip(asked, [*wanted.values(), *[FolderState.UNKNOWN] * 3], strict=True):
            assert await states(one) == (state,), one
        together = [one for one in asked if not one.folder.startswith("..")]
        expected = [wanted[one.folder] for one in together[:-3]]
        assert await states(*together) == (*expected, *[FolderState.UNKNOWN] * 3)
        nursery.cancel_scope.cancel()
