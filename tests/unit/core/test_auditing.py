"""What operators, rules, labels and the catalog do is recorded: each thing once, none forgotten, no secret among it."""

from __future__ import annotations

import datetime
import itertools
import os
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio
from msgspec import structs
from structlog.testing import capture_logs
from tests.unit.core.stage import ROOT, WEB, Stage, snapshot, staged, volume

from hatchway.admin import auditing
from hatchway.admin.attempts import LOGIN_LENGTH
from hatchway.admin.callers import Caller, Requests
from hatchway.admin.finding import Finding
from hatchway.admin.journal import INSTANCE_LENGTH
from hatchway.admin.sentences import CHANGING, READING, UNSEEN, lasted, requested
from hatchway.errors import ConflictError, HostError, NotFoundError, UsageError
from hatchway.model import (
    AccessRule,
    EventKind,
    NewLimits,
    Ownership,
)
from hatchway.registry.records import NewEvent
from hatchway.wire.admin import (
    Apply,
    Confirm,
    DaemonStatus,
    Disable,
    Enable,
    Forget,
    ListInstances,
    Prune,
    ReadLog,
    Show,
)
from hatchway.wire.entry import (
    DeliverKey,
    ExportKey,
    Kick,
    Lock,
    RenewKey,
    ResetPassword,
    SetConditions,
    ShowPassword,
    TakeKeyBack,
    Unlock,
)
from hatchway.wire.service import Peer, Request

RULE = AccessRule(where="/etc/a.toml, rule 1", project="shop", service="web", volumes=("/data",))


@pytest.fixture(autouse=True)
def _no_host_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hatchway.sshd.hostkeys.read", lambda _: ())


async def recorded(stage: Stage) -> list[NewEvent]:
    await stage.core.journal.finish()
    return [found.event for found in stage.core.registry.events(limit=1000)]


async def told(stage: Stage, *kinds: EventKind) -> list[str]:
    return [event.what for event in await recorded(stage) if not kinds or event.kind in kinds]


async def test_every_request_of_the_table_is_known_to_change_or_to_read(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        kinds = set(stage.requests)
    assert kinds == set(CHANGING) | READING
    assert not set(CHANGING) & READING


async def test_what_an_operator_does_is_recorded_with_who_and_how_it_ended(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await stage.do(Enable(instance="web", volumes=("/data",), read_only=True))
        await stage.do(ExportKey(instance="shop-web-1"))
        await stage.do(ShowPassword(instance="web"))
        await stage.do(ResetPassword(instance="web"))
        await stage.do(Show(instance="web"))
        await stage.do(Show(instance="web", secrets=True))
        with pytest.raises(NotFoundError):
            await stage.do(Disable(instance="shop/web/1", volumes=("/nope",)))
        await stage.do(Enable(instance="web", every=True))
        await stage.do(Disable(instance="web", every=True))
        await stage.do(Forget(instance="web"))
        with pytest.raises(NotFoundError):
            await stage.do(ShowPassword(instance="elsewhere"))
        events = await recorded(stage)
        assert [(event.what, event.instance) for event in events] == [
            ("enable /data read-only", "shop/web/1"),
            # Also where the record is written after it was forgotten, as here.
            ("private key handed out", "shop/web/1"),
            ("password shown", "shop/web/1"),
            ("password reset", "shop/web/1"),
            ("connection information with password shown", "shop/web/1"),
            (
                "disable /nope: access of shop/web/1 to '/nope' is not on; it is on for: /data",
                "shop/web/1",
            ),
            ("enable all volumes: /data, /logs", "shop/web/1"),
            ("disable all volumes: /data, /logs", "shop/web/1"),
            ("forget access, key and password", "shop/web/1"),
            ("password shown: there is no instance 'elsewhere'; 'hatchway ls' lists them", ""),
        ]
        assert {event.kind for event in events} == {EventKind.CHANGE}
        assert [event.login for event in events] == ["shop-web-1"] * 9 + ["elsewhere"]
        assert [event.done for event in events] == [True] * 5 + [False] + [True] * 3 + [False]
        assert {event.who for event in events} == {ROOT.origin}


async def test_what_failed_is_recorded_under_the_instance_it_was_asked_of(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        for text in ("web", "shop-web-1", "shop/web", "shop/web/1", "0123"):
            with pytest.raises(NotFoundError, match="never been enabled"):
                await stage.do(ExportKey(instance=text))
        await stage.do(Enable(instance="web", volumes=("/data",)))
        with pytest.raises(NotFoundError):
            await stage.do(Disable(instance="0123", volumes=("/nope",)))
        # What means none, or several, as it was typed, as far as that is kept.
        twin = structs.replace(snapshot().instances[0], key=structs.replace(WEB, number=2), runtime_id="4567")
        both = (*snapshot(volume("/data")).instances, twin)
        await stage.core.feed(structs.replace(snapshot(), instances=both))
        for text in ("web", "shop/nobody", "\x1b[2J" * 100, "\x1b/" * 1000):
            with pytest.raises((NotFoundError, UsageError)):
                await stage.do(ExportKey(instance=text))
        events = [event for event in await recorded(stage) if not event.done]
        assert [(event.instance, event.login) for event in events[:6]] == [("shop/web/1", "")] * 5 + [
            ("shop/web/1", "shop-web-1")
        ]
        assert [(event.instance, event.login) for event in events[6:8]] == [("", "web"), ("shop/nobody", "")]
        assert (events[8].instance, len(events[8].login)) == ("", LOGIN_LENGTH)
        assert (len(events[9].instance), events[9].login) == (INSTANCE_LENGTH, "")
        assert all(f"{event.instance}{event.login}{event.what}".isprintable() for event in events)


async def test_a_registry_that_cannot_be_asked_stops_no_record(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:

        async def broken(_text: str) -> tuple[str, str]:
            raise RuntimeError("disk I/O error")

        async def done(_request: object, _caller: Caller) -> None:
            await trio.lowlevel.checkpoint()

        rows: Requests = {ShowPassword: Request((0,), done)}
        table = auditing.audited(rows, stage.core.journal, broken, stage.core.now)
        await table[ShowPassword].handler(ShowPassword(instance="web"), ROOT)
        (event,) = await recorded(stage)
        assert (event.what, event.login, event.done) == ("password shown", "web", True)


async def test_a_request_that_names_no_instance_is_recorded_too(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        with pytest.raises(NotFoundError, match="no session 'ffff'"):
            await stage.do(Kick(sessions=("ffff",)))
        (event,) = await recorded(stage)
        assert (event.instance, event.login, event.done) == ("", "", False)


async def test_what_only_looks_is_not_recorded(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await stage.do(Enable(instance="web", volumes=("/data",)))
        before = await recorded(stage)
        for request in (
            ListInstances(),
            DaemonStatus(),
            Show(instance="web"),
            ReadLog(),
            Prune(gone_s=0, dry_run=True),
        ):
            await stage.do(request)
        await stage.do(Apply(rules=(RULE,), dry_run=True))
        assert await recorded(stage) == before


async def test_no_secret_is_recorded(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await stage.do(Enable(instance="web", volumes=("/data",)))
        secrets = [(await stage.do(request)).password for request in (
            ShowPassword(instance="web"), ResetPassword(instance="web"), Show(instance="web", secrets=True)
        )]  # fmt: skip
        private = (await stage.do(ExportKey(instance="web"))).private
        text = repr(await recorded(stage))
        assert len({*secrets}) == 2
        for secret in (*secrets, *private.splitlines()[1:-1]):
            assert secret not in text


async def test_what_is_done_but_not_taken_by_the_host_says_so(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        stage.host.refused.add("shop-web-1")
        with pytest.raises(HostError):
            await stage.do(Enable(instance="web", volumes=("/data",)))
        (event,) = await recorded(stage)
        assert event.what.startswith("enable /data: access is granted, but the host did not take it: ")
        assert event.done
        stage.host.refused.clear()
        await enter(stage)
        stage.host.unendable = HostError("it hangs")
        with pytest.raises(HostError):
            await stage.do(Lock(instance="web", why="rent"))
        with pytest.raises(ConflictError):
            await stage.do(Lock(instance="web"))
        *_, locked, again = await recorded(stage)
        held = "locked: rent: shop-web-1 is locked, but its sessions are not ended yet: it hangs"
        assert locked.what.startswith(held)
        assert (locked.done, again.done) == (True, False)


async def test_who_is_kicked_is_recorded_under_the_instance_it_was_in(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await stage.do(Enable(instance="web", volumes=("/data",)))
        first, second = await enter(stage), await enter(stage, address="192.0.2.8")
        await stage.do(Kick(sessions=(first[:8],)))
        await stage.do(Kick(instance="web"))
        events = [event for event in await recorded(stage) if event.what.startswith("kick")]
        assert [(event.what, event.address) for event in events] == [
            (f"kick session {first}", "192.0.2.7"),
            (f"kick session {first}", "192.0.2.7"),
            (f"kick session {second}", "192.0.2.8"),
        ]
        assert {(event.instance, event.login, event.done) for event in events} == {("shop/web/1", "shop-web-1", True)}
        assert {event.who for event in events} == {ROOT.origin}


async def test_why_a_session_ended_is_recorded(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await stage.do(Enable(instance="web", volumes=("/data",)))

        async def why(request: object | None, by_hostd: bool = True, **more: Any) -> str:
            session = await enter(stage, **more)
            if request is not None:
                await stage.do(request)
            await stage.core.session_ended(session, by_hostd=by_hostd)
            del stage.host.sessions[session]
            return (await told(stage, EventKind.END))[-1].partition(" s")[2]

        own = stage.core.registry.credentials("shop-web-1")
        password = next(one.id for one in own if one.fingerprint is None)
        key = next(one.fingerprint for one in own if one.fingerprint is not None)
        by_password: dict[str, Any] = {"method": "password", "key": None, "credential_id": password}
        assert await why(None, by_hostd=False) == ""
        assert await why(None) == ": what it had mounted could not stay"
        assert await why(Kick(instance="web")) == ": kicked by uid 0"
        assert await why(Lock(instance="web")) == ": the login is locked"
        await stage.do(Unlock("web"))
        assert await why(SetConditions(instance="web", allowed_from=("10.0.0.0/8",))) == ": not from this address"
        await stage.do(SetConditions(instance="web", allowed_from=()))
        assert await why(ResetPassword(instance="web"), **by_password) == ": its password is not valid any more"
        assert await why(RenewKey(instance="web"), key=key) == ": its key is not valid any more"
        assert await why(Disable(instance="web", every=True)) == ": no volume is shared any more"
        await stage.do(Enable(instance="web", volumes=("/data",)))
        # What was not ended goes on, and ends for a reason of its own.
        session = await enter(stage)
        stage.host.unendable = HostError("it hangs")
        with pytest.raises(HostError):
            await stage.do(Kick(sessions=(session,)))
        stage.host.unendable = None
        await stage.core.session_ended(session)
        assert (await told(stage, EventKind.END))[-1].endswith(" s")
        # And what ended while nobody looked.
        password = next(one.id for one in stage.core.registry.credentials("shop-web-1") if one.fingerprint is None)
        session = await enter(stage, method="password", key=None, credential_id=password)
        del stage.host.sessions[session]
        await stage.admission.hostd_connected(await stage.host.status(), trio.current_time() + 1)
        assert (await told(stage, EventKind.END))[-1].endswith(f": {UNSEEN}")
        assert await why(Forget(instance="web")) == ": access was forgotten"
        assert stage.core._reasons == {}


async def test_what_became_of_a_key_that_is_taken_back_is_recorded(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await stage.do(Enable(instance="web", volumes=("/data",)))
        for there, failure in ((True, None), (False, None), (True, HostError("it hangs"))):
            await stage.do(DeliverKey(instance="web", volume="/data"))
            if not there:
                stage.host.keys_there.clear()
            stage.host.unwithdrawable = failure
            await stage.do(TakeKeyBack("web"))
        events = [event for event in await recorded(stage) if "back" in event.what]
        assert [(event.what, event.done) for event in events] == [
            ("private key taken back: /data/id_container: removed", True),
            ("private key taken back: /data/id_container: it was not there", True),
            ("private key taken back: /data/id_container: not taken away yet, it hangs", False),
        ]


async def test_pruning_is_recorded_for_each_instance(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await stage.do(Enable(instance="web", volumes=("/data",)))
        await stage.core.feed(snapshot())
        await stage.core.feed(structs.replace(snapshot(), instances=()))
        await stage.do(Prune(gone_s=0.0))
        assert [(event.what, event.instance, event.login) for event in (await recorded(stage))[-2:]] == [
            ("forget what has been gone for 0 days", "", ""),
            ("forgotten", "shop/web/1", "shop-web-1"),
        ]


async def test_a_request_nobody_has_described_is_recorded_by_its_name() -> None:
    class New(msgspec.Struct):
        instance: str = "shop/web/1"

    assert requested(New()) == "New"


@pytest.mark.parametrize("error", [RuntimeError("argon2 said: hunter2"), trio.Cancelled._create(source="deadline")])
async def test_a_fault_of_ours_is_recorded_without_what_it_says(tmp_path: Path, error: BaseException) -> None:
    async with staged(tmp_path) as stage:

        async def fail(_request: object, _caller: Caller) -> object:
            await trio.lowlevel.checkpoint()
            raise error

        rows: Requests = {ShowPassword: Request((0,), fail)}
        table = auditing.audited(rows, stage.core.journal, Finding(stage.core).subject, stage.core.now)
        with pytest.raises(type(error)):
            await table[ShowPassword].handler(ShowPassword(instance="shop/web/1"), ROOT)
        (event,) = await recorded(stage)
        expected = "internal error" if isinstance(error, Exception) else "stopped meanwhile"
        assert (event.what, event.instance, event.done) == (f"password shown: {expected}", "shop/web/1", False)


def test_who_asks_is_the_uid_and_whose_log_in_it_comes_from(monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = iter(["1000", "4294967295", "0", "", "x"])
    asked = []

    class File:
        def __init__(self, path: str, **_: Any) -> None:
            asked.append(path)

        def __enter__(self) -> File:
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def read(self) -> str:
            return next(numbers)

    monkeypatch.setattr("builtins.open", File)
    assert [Caller.of(Peer(7, 0, 0)).origin for _ in range(5)] == ["uid 0, logged in as uid 1000"] + ["uid 0"] * 4
    assert asked == ["/proc/7/loginuid"] * 5


def test_who_asks_may_be_gone() -> None:
    assert Caller.of(Peer(2**22 + 1, 7, 7)).origin == "uid 7"
    own = Caller.of(Peer(os.getpid(), os.getuid(), os.getgid()))
    assert own.name == f"uid {os.getuid()}"
    assert own.origin.startswith(f"uid {os.getuid()}")


def test_sentences_of_requests() -> None:
    enable = Enable(
        instance="web",
        volumes=("/a", "b"),
        follow=True,
        ownership=Ownership("1000:1000", 0o27),
        limits=NewLimits(20_000_000, None),
    )
    assert requested(enable) == (
        "enable /a, b, following, owner 1000:1000, umask 027, at most 20,000,000 bytes, no limit of files"
    )
    assert requested(Enable(instance="web", every=True, read_only=True)) == "enable all volumes read-only"
    assert requested(Enable(instance="web", limits=NewLimits(None, 5))) == (
        "enable nothing, no limit of size, at most 5 files"
    )
    assert requested(Disable(instance="web")) == "disable nothing"
    assert requested(Confirm(instance="web")) == "confirm all that waits"
    assert requested(Apply(rules=(RULE,))) == "apply the access files: 1 rule"
    assert requested(Prune(gone_s=86400.0)) == "forget what has been gone for 1 day"
    at = datetime.datetime(2026, 1, 31, 23, 59, 59).timestamp()
    assert requested(SetConditions(instance="web", sessions_max=1, expires_at=at)) == (
        f"conditions: expires at 2026-01-31 23:59:59 {datetime.datetime.fromtimestamp(at).astimezone():%Z}; at most "
        "1 session"
    )
    assert requested(Prune(gone_s=86400 * 2.5)) == "forget what has been gone for 2.5 days"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-1.0, "after 0 s"),
        (59.9, "after 59 s"),
        (60.0, "after 1 min 0 s"),
        (7500.0, "after 2 h 5 min"),
        (86400.0, "after 1 day 0 h"),
        (200_000.0, "after 2 days 7 h"),
    ],
)
def test_how_long_a_session_was(seconds: float, text: str) -> None:
    assert lasted(seconds) == text


async def test_what_rules_do_is_recorded_as_theirs(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await stage.do(Apply(rules=(RULE,)))
        # Elsewhere in its file, which changes nothing for anybody; then read-only.
        moved = structs.replace(RULE, where="/etc/a.toml, rule 2")
        await stage.do(Apply(rules=(moved,)))
        await stage.do(Apply(rules=(structs.replace(moved, read_only=True),)))
        await stage.do(Apply(rules=()))
        events = [event for event in await recorded(stage) if event.kind is EventKind.AUTO]
        assert [(event.what, event.who) for event in events] == [
            ("access given to /data: read-write", "/etc/a.toml, rule 1"),
            ("access to /data changed: read-only", "/etc/a.toml, rule 2"),
            ("access to /data withdrawn", "/etc/a.toml, rule 2"),
        ]
        assert {event.instance for event in events} == {"shop/web/1"}
        assert all(event.done for event in events)


async def test_what_a_rule_cannot_do_is_recorded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with staged(tmp_path) as stage:
        stage.inventory.feed(snapshot(volume("/data")))

        async def refuse(*_: object, **_more: object) -> None:
            raise HostError("no uid is left")

        monkeypatch.setattr(stage.reconciler._granting, "grant", refuse)
        await stage.do(Apply(rules=(RULE,)))
        await stage.do(Apply(rules=(RULE,)))
        clock = itertools.count(trio.current_time() + 1e6, 1e6)
        monkeypatch.setattr(trio, "current_time", lambda: next(clock))
        await stage.reconciler.reconcile()
        assert await told(stage, EventKind.AUTO) == ["access given to /data: read-write: no uid is left"] * 2


async def test_what_a_label_does_is_recorded(tmp_path: Path) -> None:
    async with staged(tmp_path, labels=True) as stage:
        await stage.core.feed(snapshot(volume("/data"), label="/data:ro"))
        await stage.reconciler.reconcile()
        (event,) = await recorded(stage)
        assert (event.kind, event.what, event.who) == (
            EventKind.AUTO, "access given to /data: read-only", "label hatchway.volumes",
        )  # fmt: skip


async def test_what_the_catalog_shows_to_be_anothers_is_recorded(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await stage.do(Enable(instance="web", volumes=("/data",)))
        source = volume("/data").source
        assert source is not None
        for change in ("new", "new", "inode:2:1.0"):
            stage.host.born[source] = change
            await stage.core.feed(snapshot(volume("/data"), volume("/logs")))
        await stage.core.feed(snapshot(volume("/logs")))
        # Gone altogether, which an engine shows between removal and recreation: nothing new is known.
        await stage.core.feed(structs.replace(snapshot(), instances=()))
        await stage.core.feed(snapshot(volume("/data", refusal="it is a tmpfs")))
        await stage.core.feed(snapshot(volume("/data")))
        await stage.do(Disable(instance="web", every=True))
        events = [event for event in await recorded(stage) if event.kind is EventKind.AUTO]
        assert [event.what for event in events] == [
            "access to /data suspended: another volume stands there now",
            "access to /data is in force again",
            "access to /data suspended: the instance has no volume there now",
            "access to /data suspended: what is there now cannot be shared",
            "access to /data is in force again",
        ]
        assert {(event.who, event.instance, event.login) for event in events} == {
            ("catalog", "shop/web/1", "shop-web-1")
        }


async def test_volumes_not_identified_are_not_recorded_as_others(tmp_path: Path) -> None:
    """While hostd is away every volume looks like another's."""
    async with staged(tmp_path) as stage:
        await stage.do(Enable(instance="web", volumes=("/data",)))
        successor = type(stage.core)(
            stage.core.config, stage.core.registry, stage.core.sealing, type(stage.inventory)(), stage.host
        )
        stage.host.failure = HostError("nothing answers")
        await successor.feed(snapshot(volume("/data")))
        await successor._look()
        stage.host.failure = None
        await successor.feed(snapshot(volume("/data")))
        await successor.journal.finish()
        assert await told(stage, EventKind.AUTO) == []


async def enter(stage: Stage, **more: Any) -> str:
    record = stage.core.registry.instance(WEB)
    assert record is not None
    fields = {"address": "192.0.2.7", "method": "publickey", "key": "SHA256:abc", "pid": 1, **more}
    async with stage.core.turn(record.login):
        return await stage.core.open_session(record, **fields)


async def test_sessions_are_recorded(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        stage.core.now = stage.core.journal._now = lambda: clock[0]
        clock = [1000.0]
        await stage.do(Enable(instance="web", volumes=("/data",)))
        by_key, by_password = await enter(stage), await enter(stage, method="password", key=None)
        clock[0] = 1075.0
        with capture_logs() as logs:
            await stage.core.session_ended(by_password, 12, 1 << 62)
        ended = {"event": "session ended", "log_level": "info", "session": by_password, "login": "shop-web-1"}
        assert ended in logs
        await stage.core.session_ended(by_password, 12, 13)
        await stage.do(Forget(instance="web"))
        await stage.core.session_ended(by_key)
        events = [event for event in await recorded(stage) if event.kind in (EventKind.LOGIN, EventKind.END)]
        web: dict[str, Any] = {"instance": "shop/web/1", "login": "shop-web-1", "address": "192.0.2.7"}
        assert events == [
            NewEvent(1000.0, EventKind.LOGIN, "logged in", who="key SHA256:abc", **web),
            NewEvent(1000.0, EventKind.LOGIN, "logged in", who="password", **web),
            NewEvent(
                1075.0, EventKind.END, "session ended after 1 min 15 s", who="password", read=12, written=1 << 62, **web
            ),
            NewEvent(
                1075.0,
                EventKind.END,
                "session ended after 1 min 15 s: access was forgotten",
                who="key SHA256:abc",
                **web,
            ),
        ]
        entries = (await stage.do(ReadLog(kinds=(EventKind.END,)))).entries
        assert [(entry.read, entry.written) for entry in entries] == [(12, 1 << 62), (None, None)]


async def test_a_session_that_cannot_be_opened_is_a_refusal_and_no_end(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await stage.do(Enable(instance="web", volumes=("/data",)))
        stage.host.failure = HostError("no worker starts")
        with pytest.raises(HostError):
            await enter(stage)
        stage.host.failure = None
        (event,) = [event for event in await recorded(stage) if event.kind is not EventKind.CHANGE]
        assert (event.kind, event.what, event.instance, event.login, event.address, event.done) == (
            EventKind.REFUSED, "not let in: no worker starts", "shop/web/1", "shop-web-1", "192.0.2.7", False,
        )  # fmt: skip


async def test_the_record_is_read_by_instance_also_when_it_is_forgotten(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await stage.do(Enable(instance="web", volumes=("/data",)))
        await enter(stage)
        stage.core.journal.refused("shop-web-1", "192.0.2.9", "wrong password")
        answer = await stage.do(ReadLog(instance="shop-web-1"))
        assert [(entry.kind, entry.what) for entry in answer.entries] == [
            (EventKind.CHANGE, "enable /data"),
            (EventKind.LOGIN, "logged in"),
            (EventKind.REFUSED, "wrong password"),
        ]
        assert [entry.id is None for entry in answer.entries] == [False, False, True]
        assert answer.last == 2
        await stage.core.feed(structs.replace(snapshot(), instances=()))
        await stage.do(Forget(instance="shop-web-1"))
        assert (await stage.do(ReadLog(instance="shop/web/1"))).entries[-1].what == "forget access, key and password"
        assert (await stage.do(ReadLog(instance="shop/other/1"))).entries == ()
        with pytest.raises(NotFoundError):
            await stage.do(ReadLog(instance="shop-web-1"))
        for limit in (0, 5001):
            with pytest.raises(UsageError):
                await stage.do(ReadLog(limit=limit))
        for after in (-1, 2**63, 2**64 - 1):
            with pytest.raises(UsageError, match="the number of no event"):
                await stage.do(ReadLog(after=after))
        assert [one.id for one in (await stage.do(ReadLog(after=2**63 - 1))).entries] == [None]
