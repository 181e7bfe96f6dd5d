"""`hatchway ls` and `hatchway status`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from msgspec import structs

from hatchway.errors import InternalError
from hatchway.model import InstanceKey, InstanceState, Mode, Origin
from hatchway.wire.admin import (
    Access,
    DaemonStatus,
    GrantStatus,
    Listing,
    ListInstances,
    Show,
    SourceStatus,
    Status,
)

if TYPE_CHECKING:
    from tests.unit.cli.conftest import Cli, FakeDaemon

SOURCES = (
    SourceStatus(source="docker", age_s=2.0, instances=3, problem=None),
    SourceStatus(source="static", age_s=None, instances=0, problem="/x.toml: no such file"),
)


def test_the_whole_tree(run: Cli, daemon: FakeDaemon, make: Any) -> None:
    daemon.answers[ListInstances] = Listing(
        instances=(
            make.instance(
                make.volume(access=Access.READ_WRITE, session_path="/home/work"),
                make.volume("/etc/app", Access.READ_ONLY, name="conf", session_path="/volumes/conf", read_only=True),
                make.volume("/run/docker.sock", name="", refusal="a single file cannot be shared"),
                make.volume("/srv", Access.SUSPENDED, name="srv"),
                make.volume("/gone", Access.SUSPENDED, name="gone", present=False),
                login="shop-web-1",
                sessions=2,
            ),
            make.instance(key=InstanceKey("shop", "web", 2), state=InstanceState.EXITED),
            make.instance(key=InstanceKey("default", "old", 1), present=False),
            make.instance(
                make.volume("/data", Access.READ_WRITE, name="data", present=False),
                key=InstanceKey("default", "old", 2),
                present=False,
            ),
        ),
        sources=SOURCES,
    )
    done = run("ls")
    assert done.exit_code == 0
    assert done.stdout.splitlines() == [
        "shop",
        "└── web",
        "    ├── shop/web/1  running  login shop-web-1  2 sessions",
        "    │   ├── rw         /home/work        work",
        "    │   ├── ro         /etc/app          conf",
        "    │   │   ├── in a session at /volumes/conf",
        "    │   │   └── read-only in the container",
        "    │   ├── off        /run/docker.sock",
        "    │   │   └── cannot be shared: a single file cannot be shared",
        "    │   ├── suspended  /srv              srv",
        "    │   │   └── another volume stands here than the one access was given to; 'hatchway confirm' gives it",
        "    │   └── suspended  /gone             gone",
        "    │       └── there is no volume there now",
        "    └── shop/web/2  exited",
        "        └── no volumes",
        "",
        "default",
        "└── old",
        "    ├── default/old/1  gone",
        "    │   └── no volumes",
        "    └── default/old/2  not seen",
        "        └── rw  /data  data",
        "            └── not heard of since Hatchway was started: access is to the volume as it was known last",
        "",
        "docker  3 instances  seen 2 s ago",
        "static  0 instances  never seen    /x.toml: no such file",
    ]


def test_nothing_at_all(run: Cli, daemon: FakeDaemon) -> None:
    daemon.answers[ListInstances] = Listing(instances=(), sources=())
    assert run("ls").stdout.splitlines() == ["No instances.", "none has reported yet"]


def test_names_of_containers_do_nothing(run: Cli, daemon: FakeDaemon, make: Any) -> None:
    evil = "[red]x\x1b]0;owned\x07[/red]\n\u202ey"
    daemon.answers[ListInstances] = Listing(
        instances=(
            make.instance(
                make.volume(f"/{evil}", name=evil, refusal=evil, session_path=f"/{evil}2"),
                key=InstanceKey(evil, evil, 1),
                login=evil,
            ),
        ),
        sources=(SourceStatus(source=evil, age_s=1.0, instances=1, problem=evil),),
    )
    done = run("ls")
    assert done.exit_code == 0
    assert not {"\x1b", "\x07", "\u202e"} & set(done.stdout)
    assert done.stdout.count("[red]x\\x1b]0;owned\\x07[/red]\\x0a\\u202ey") == 11
    assert len(done.stdout.splitlines()) == 8


def test_where_grants_come_from(run: Cli, daemon: FakeDaemon, make: Any) -> None:
    by_command = GrantStatus(
        origin=Origin.COMMAND, mode=Mode.READ_ONLY, in_force=True, follows=False, granted_by="uid 0", granted_at=0.0
    )
    by_file = structs.replace(
        by_command, origin=Origin.FILE, mode=Mode.READ_WRITE, in_force=False, granted_by="/a\x1b.toml, rule 1"
    )
    volume = make.volume("/data", Access.READ_ONLY, session_path="/data", grants=(by_command, by_file))
    daemon.answers[ListInstances] = Listing(instances=(make.instance(volume),), sources=SOURCES)
    out = run("ls").stdout
    # Whoever takes the rule out must see that something else gives access too.
    assert "given by command, uid 0: ro" in out
    assert "given by /a\\x1b.toml, rule 1: rw, suspended" in out
    alone = make.volume("/data", Access.READ_ONLY, session_path="/data", grants=(by_command,))
    daemon.answers[ListInstances] = Listing(instances=(make.instance(alone),), sources=SOURCES)
    assert "uid 0" not in run("ls").stdout
    daemon.answers[Show] = make.connection(instance=make.instance(volume))
    out = run("show", "shop/web/1").stdout
    assert "      given by command, uid 0: ro\n      given by /a\\x1b.toml, rule 1: rw, suspended\n" in out


def test_what_is_held_back_says_how_it_is_given(run: Cli, daemon: FakeDaemon, make: Any) -> None:
    volume = make.volume("/data", held_back="is it still the same owner's?")
    daemon.answers[ListInstances] = Listing(instances=(make.instance(volume),), sources=SOURCES)
    assert "waits for 'hatchway confirm': is it still the same owner's?\n" in run("ls").stdout


def test_long_names_are_whole_on_a_narrow_terminal(run: Cli, daemon: FakeDaemon, make: Any) -> None:
    path, name = "/" + "p" * 250, "n" * 200
    daemon.answers[ListInstances] = Listing(instances=(make.instance(make.volume(path, name=name)),), sources=SOURCES)
    out = run("ls", env={"COLUMNS": "40"}).stdout
    assert f"off  {path}  {name}\n" in out


def test_json_before_or_behind_the_command(run: Cli, daemon: FakeDaemon, make: Any) -> None:
    daemon.answers[ListInstances] = Listing(instances=(make.instance(make.volume()),), sources=SOURCES)
    before, behind = run("--json", "ls"), run("ls", "--json")
    assert before.stdout == behind.stdout
    document = run.json("ls")
    assert document["instances"][0]["key"] == {"environment": "shop", "container": "web", "number": 1}
    assert document["instances"][0]["volumes"][0]["access"] == "off"
    assert document["sources"][1]["problem"] == "/x.toml: no such file"


def test_status(run: Cli, daemon: FakeDaemon) -> None:
    daemon.answers[DaemonStatus] = Status(
        version="0.1.0", sources=SOURCES, logins=3, sessions=2, mounts=1, host_problem="hostd is gone"
    )
    done = run("status")
    assert done.exit_code == 0
    assert done.stdout.splitlines() == [
        "  Version       0.1.0",
        "  Logins        3",
        "  Sessions      2",
        "  Mounts        1",
        "  Access rules  0",
        "  Host half     hostd is gone",
        "",
        "Sources",
        "  docker  3 instances  seen 2 s ago",
        "  static  0 instances  never seen    /x.toml: no such file",
    ]
    assert run.json("status")["host_problem"] == "hostd is gone"
    daemon.answers[DaemonStatus] = Status(
        version="0.1.0",
        sources=SOURCES,
        logins=3,
        sessions=2,
        mounts=1,
        host_problem=None,
        waiting=("shop/web/1 /data",),
    )
    assert "  Suspended     1 volume: see 'hatchway ls'\n" in run("status").stdout


def test_logins_by_which_nobody_is_let_in_are_told(run: Cli, daemon: FakeDaemon, make: Any) -> None:
    answer = Status(
        version="0.1.0",
        sources=(),
        logins=3,
        sessions=0,
        mounts=0,
        host_problem=None,
        locked=("shop-web-1", "shop-web-2"),
        expired=("shop-db-1",),
    )
    daemon.answers[DaemonStatus] = answer
    out = run("status").stdout
    assert "  Locked        2 logins: see 'hatchway ls'\n  Expired       1 login: see 'hatchway ls'\n" in out
    assert run.json("status")["locked"] == ["shop-web-1", "shop-web-2"]
    found = make.instance(make.volume("/data", Access.READ_WRITE), login="shop-web-1", locked=True, expired=True)
    daemon.answers[ListInstances] = Listing(instances=(structs.replace(found, sessions=1),), sources=())
    assert "shop/web/1  running  login shop-web-1  locked  expired  1 session\n" in run("ls").stdout
    (listed,) = run.json("ls")["instances"]
    assert (listed["locked"], listed["expired"]) == (True, True)


def test_an_error_of_the_daemon(run: Cli, daemon: FakeDaemon) -> None:
    daemon.answers[DaemonStatus] = InternalError("internal error; the log has the details")
    done = run("status")
    assert (done.exit_code, done.stdout) == (70, "")
    assert done.stderr == "hatchway: internal error; the log has the details\n"


def test_some_are_named(run: Cli, daemon: FakeDaemon, make: Any) -> None:
    keys = [("shop", "web", 1), ("shop", "web", 2), ("shop", "db", 1), ("blog", "web", 1)]
    daemon.answers[ListInstances] = Listing(
        instances=tuple(
            make.instance(key=InstanceKey(*key), login=f"l-{number}", runtime_name=f"run-{number}")
            for number, key in enumerate(keys)
        ),
        sources=SOURCES,
    )

    def listed(*names: str) -> list[str]:
        found = run.json("ls", *names)["instances"]
        return ["{environment}/{container}/{number}".format(**one["key"]) for one in found]

    assert listed("shop") == ["shop/web/1", "shop/web/2", "shop/db/1"]
    assert listed("shop/web") == ["shop/web/1", "shop/web/2"]
    assert listed("shop/web/2", "blog") == ["shop/web/2", "blog/web/1"]
    assert listed("l-2") == listed("run-2") == ["shop/db/1"]
    done = run("ls", "shop", "web")
    assert (done.exit_code, done.stdout) == (5, "")
    assert "there is no environment, container or instance 'web'" in done.stderr
    assert "docker" in run("ls", "blog").stdout, "how fresh the list is, is said in any case"
