"""What counts as left over, with the processes, the mount table and the user database faked."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from hatchway.config import Config, Paths
from hatchway.host import orphans, processes
from hatchway.host.hostd import Hostd
from hatchway.host.orphans import InUse
from hatchway.host.processes import Seen
from hatchway.host.records import Published, Records
from hatchway.kernel.mounts import FUSE_KIND, MountEntry
from hatchway.wire.host import AskLeftovers, Leftover, LeftoverKind, Leftovers, PublishUsers, UserRecord
from hatchway.wire.service import Peer

LOGIN, OTHER, WORKER = 1_900_100_001, 1_900_100_002, 1_901_000_001
ROOT = (0, 0, 0, 0)


@pytest.fixture
def config(tmp_path: Path) -> Config:
    made = Config(paths=Paths(run_dir=f"{tmp_path}/run", userdb_dir=f"{tmp_path}/userdb"))
    os.makedirs(made.mount_dir)
    return made


def user(uid: int) -> tuple[int, ...]:
    return (uid, uid, uid, uid)


def session(monitor: int, login: str, uid: int, *, title: str = "hatchway-sshd", state: str = "S") -> list[Seen]:
    """The processes of one session, as sshd makes them."""
    return [
        Seen(monitor, 10, state, ROOT, f"{title}: {login} [priv]"),
        Seen(monitor + 1, monitor, "S", user(uid)),
        Seen(monitor + 2, monitor + 1, "S", user(uid)),
    ]


SSHD = [Seen(1, 0, "S", ROOT, "init"), Seen(10, 1, "S", ROOT, "hatchway-sshd: /run/x -D [listener]")]
SLOW = Seen(300, 10, "S", ROOT, "hatchway-sshd: two [priv]")


def pids(found: Sequence[Seen]) -> list[int]:
    return sorted(seen.pid for seen in found)


def test_a_session_that_is_counted_is_none(config: Config) -> None:
    running = [*SSHD, *session(100, "one", LOGIN), *session(200, "two", OTHER), SLOW]
    assert orphans.sessions(config, running, ["one", "two"], {100, 200}) == []
    assert pids(orphans.sessions(config, running, ["one", "two"], {200})) == [100, 101, 102]
    assert pids(orphans.sessions(config, running, [], ())) == [100, 101, 102, 200, 201, 202]


def test_a_session_whose_monitor_is_gone_is_one_though_its_login_has_another(config: Config) -> None:
    alone = [Seen(401, 1, "S", user(LOGIN)), Seen(402, 401, "S", user(LOGIN))]
    running = [*SSHD, *session(100, "one", LOGIN), *alone]
    assert pids(orphans.sessions(config, running, ["one"], {100})) == [401, 402]


def test_only_a_login_of_ours_that_was_stopped_was_being_ended(config: Config) -> None:
    """The host's own sshd calls its processes so too, from OpenSSH 9.8 on."""
    stopped = [
        Seen(500, 10, "T", ROOT, "sshd-session: one [priv]"),
        Seen(501, 1, "T", ROOT, "sshd-session: operator [priv]"),
        Seen(502, 1, "T", ROOT, "vi: one [priv]"),
        Seen(503, 1, "T", user(4000), "sshd-session: one [priv]"),
    ]
    assert pids(orphans.sessions(config, [*SSHD, *stopped], ["one"], ())) == [500]
    assert orphans.sessions(config, [*SSHD, *stopped], ["one"], {500}) == []


def test_processes_that_are_each_others_parents_end_the_search(config: Config) -> None:
    """A pid can be taken again between two of the many looks of one listing."""
    running = [Seen(5, 6, "S", user(LOGIN)), Seen(6, 5, "S", user(LOGIN))]
    assert pids(orphans.sessions(config, running, (), ())) == [5, 6]


def test_workers_are_known_by_their_uid(config: Config) -> None:
    running = [Seen(7, 1, "S", user(WORKER)), Seen(8, 1, "D", user(WORKER + 1)), Seen(9, 1, "S", user(LOGIN))]
    assert pids(orphans.workers(config, running, {WORKER})) == [8]


class World:
    """What a look sees."""

    def __init__(self, config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
        self.config = config
        self.running: list[Seen] = list(SSHD)
        self.targets: list[str] = []
        monkeypatch.setattr(processes, "everyone", lambda: self.running)
        monkeypatch.setattr(orphans, "mount_table", self._table)

    def _table(self) -> list[MountEntry]:
        return [MountEntry(target, FUSE_KIND, "hatchway:x", 1) for target in ["/", "/proc", *self.targets]]

    def find(self, **in_use: object) -> list[tuple[str, object]]:
        found = orphans.find(self.config, InUse(**{name: frozenset(value) for name, value in in_use.items()}))  # type: ignore[call-overload]
        return [(one.kind.value, one.pid or one.path) for one in found]


@pytest.fixture
def world(config: Config, monkeypatch: pytest.MonkeyPatch) -> World:
    return World(config, monkeypatch)


def test_everything_in_use_is_none_and_with_nothing_in_use_all_of_it_is(world: World, config: Config) -> None:
    records = Records(config.paths.userdb_dir, config.paths.run_dir)
    records.publish_login("one", LOGIN, 1_900_000_003, "/")
    records.publish_service("hatchway", 1_900_000_000)
    records.publish_login("elsewhere", 70_000, 70_000, "/")
    world.running += [*session(100, "one", LOGIN), Seen(7, 1, "S", user(WORKER)), SLOW]
    data = f"{config.mount_dir}/one/data"
    world.targets = [config.mount_dir, data, "/run/hatchway-of-another/mnt"]
    for name in ("one", "two"):
        os.mkdir(f"{config.mount_dir}/{name}")
    assert (
        world.find(
            names=["one", "hatchway"],
            roots=["one", "two"],
            targets=[config.mount_dir, data],
            worker_uids=[WORKER],
            monitors=[100],
        )
        == []
    )
    userdb = config.paths.userdb_dir
    assert sorted(world.find(), key=str) == sorted(
        [
            ("session", 100),
            ("session", 101),
            ("session", 102),
            ("worker", 7),
            ("mount", config.mount_dir),
            ("mount", data),
            ("directory", f"{config.mount_dir}/two"),  # not also "one", which cannot go before its mount
            ("record", f"{userdb}/one.user"),
            ("record", f"{userdb}/hatchway.user"),
            ("record", f"{userdb}/hatchway.group"),
        ],
        key=str,
    )


def test_workers_are_nobodys_only_where_there_is_no_other_hatchway(world: World, config: Config) -> None:
    """Another one with other logins and services may have the same uids for its workers, which it publishes nowhere."""
    world.running.append(Seen(7, 1, "S", user(WORKER)))
    assert world.find() == [("worker", 7)]
    Records(config.paths.userdb_dir, "/run/other").publish_login("theirs", 70_000, 70_000, "/")
    assert orphans.others(config) == {"/run/other"}
    assert world.find() == []


def test_records_of_another_hatchway_that_runs_are_in_use(world: World, config: Config, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    Records(config.paths.userdb_dir, str(other)).publish_login("theirs", OTHER, 1, "/")
    named = [("record", f"{config.paths.userdb_dir}/theirs.user")]
    assert world.find() == named
    with (other / "lock").open("w") as lock:
        assert world.find() == named
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert world.find() == []


def test_who_they_belong_to(world: World, config: Config) -> None:
    Records(config.paths.userdb_dir, config.paths.run_dir).publish_login("one", LOGIN, 1, "/")
    world.running = session(100, "one", LOGIN)
    world.targets = [f"{config.mount_dir}/three/a b\n\udcff"]
    found = orphans.find(config, InUse())
    assert [(one.uid, one.login) for one in found] == [
        (0, "one"),
        (LOGIN, "one"),
        (LOGIN, "one"),
        (0, "three"),
        (LOGIN, "one"),
    ]
    assert found[3].path == f"{config.mount_dir}/three/a b\n\ufffd", "any message can carry it"


def test_another_hatchway_with_the_same_uids(world: World, config: Config) -> None:
    """Its processes must not be called nobody's; its records must, since it may be long gone."""
    Records(config.paths.userdb_dir, "/run/other").publish_login("theirs", OTHER, 1, "/")
    Records(config.paths.userdb_dir, config.paths.run_dir).publish_login("ours", LOGIN, 1, "/")
    world.running = [
        *session(100, "ours", LOGIN),
        *session(200, "theirs", OTHER),
        Seen(7, 1, "S", user(WORKER)),
    ]
    assert world.find(names=["ours"]) == [
        ("session", 100),
        ("session", 101),
        ("session", 102),
        ("record", f"{config.paths.userdb_dir}/theirs.user"),
    ]


def test_records_nobody_could_have_written(config: Config) -> None:
    directory = Path(config.paths.userdb_dir)
    records = Records(str(directory), config.paths.run_dir)
    records.publish_login("one", LOGIN, 1, "/")
    for name, text in {
        "a": "{",
        "b": "[]",
        "c": json.dumps({"hatchway": "/run/x"}),
        "d": json.dumps({"hatchway": "/run/x", "userName": "d", "uid": "many"}),
        "e": json.dumps({"userName": "e", "uid": LOGIN}),
    }.items():
        (directory / f"{name}.user").write_text(text)
    assert records.everybodys() == [Published(f"{directory}/one.user", "one", LOGIN, config.paths.run_dir)]
    assert records.users() == {"one": LOGIN}


def test_without_any_directory_nothing_is_left(tmp_path: Path) -> None:
    config = Config(paths=Paths(run_dir=f"{tmp_path}/none", userdb_dir=f"{tmp_path}/nothing"))
    assert orphans.published(config) == []
    assert [one for one in orphans.find(config, InUse()) if one.kind is not LeftoverKind.WORKER] == []


def test_processes_as_they_really_are() -> None:
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)"]) as program:
        (seen,) = (one for one in processes.everyone() if one.pid == program.pid)
        assert (seen.parent, seen.uids[0]) == (os.getpid(), os.getuid())
        assert seen.monitored("hatchway-sshd") is None
        (held,) = processes.hold([seen])
        assert held.alive()
        held.close()
        assert processes.hold([seen._replace(uids=(1, 2, 3, 4))]) == [], "another one has its pid by now"
        program.kill()
    assert processes.hold([seen]) == []
    assert program.pid not in pids(processes.everyone())


@pytest.mark.skipif(os.geteuid() != 0, reason="a pid namespace needs root")
def test_a_container_may_use_any_uid() -> None:
    script = f"import os, sys; os.setuid({WORKER}); print(flush=True); sys.stdin.read()"
    command = ["unshare", "--pid", "--fork", sys.executable, "-c", script]
    # It ends with its standard input.
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as container:
        assert container.stdout is not None
        assert container.stdin is not None
        container.stdout.readline()
        everyone = processes.everyone()
        container.stdin.close()
    assert container.pid in pids(everyone), "it is in ours, its child is not"
    assert [seen for seen in everyone if WORKER in seen.uids] == []


# --- hostd ----------------------------------------------------------------------------------------------------------


class Looks:
    """Stands in for `orphans.find`: one answer after the other, and what was in use each time."""

    def __init__(self, *answers: list[Leftover]) -> None:
        self.answers = list(answers)
        self.in_use: list[InUse] = []

    def __call__(self, _config: Config, in_use: InUse) -> list[Leftover]:
        self.in_use.append(in_use)
        return self.answers.pop(0)


ONE, TWO = (Leftover(kind=LeftoverKind.SESSION, pid=pid, uid=LOGIN, login="one") for pid in (1, 2))
CORE = Peer(1, 0, 0)


async def asked(config: Config, monkeypatch: pytest.MonkeyPatch, looks: Looks) -> tuple[Leftover, ...]:
    monkeypatch.setattr(orphans, "find", looks)
    async with trio.open_nursery() as nursery:
        made = Hostd(config, nursery, gid=1)
        answer = await made.table(0)[AskLeftovers].handler(AskLeftovers(), CORE)
    assert isinstance(answer, Leftovers)
    assert answer.hostd_pid == os.getpid()
    return answer.found


async def test_only_what_two_looks_see_is_left_over(
    config: Config, monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    begin = trio.current_time()
    assert await asked(config, monkeypatch, Looks([])) == ()
    assert trio.current_time() == begin, "who is well need not wait"
    assert await asked(config, monkeypatch, Looks([ONE, TWO], [TWO])) == (TWO,)
    assert trio.current_time() - begin >= orphans.PAUSE_S


async def test_what_is_to_be_published_is_in_use(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    Records(config.paths.userdb_dir, config.paths.run_dir).publish_login("old", LOGIN, 1, "/")
    looks = Looks([], [])
    monkeypatch.setattr(orphans, "find", looks)
    async with trio.open_nursery() as nursery:
        made = Hostd(config, nursery, gid=1)
        table = made.table(0)
        await table[AskLeftovers].handler(AskLeftovers(), CORE)
        await table[PublishUsers].handler(PublishUsers((UserRecord("new", OTHER, "/"),)), CORE)
        await table[AskLeftovers].handler(AskLeftovers(), CORE)
    ids = config.ids
    ours = {ids.core_user, ids.catalog_user, ids.keys_user, ids.web_user, ids.session_group}
    assert looks.in_use[0].names == {"old", *ours}, "nobody has said yet whose login is none any more"
    assert looks.in_use[1].names == {"new", *ours}
    assert looks.in_use[1].targets == {config.mount_dir}
