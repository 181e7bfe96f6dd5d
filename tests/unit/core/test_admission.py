"""Conditions, and what follows for sessions that are open when they change."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import structlog
import trio
from msgspec import structs
from tests.unit.core.logins import INSTANCE, LOGIN, by_key, by_password, newest, own_key, shared
from tests.unit.core.stage import WEB, Stage, staged, volume

from hatchway.access import service
from hatchway.access.attempts import FAILURE_S
from hatchway.access.decision import Denial
from hatchway.access.service import Proved
from hatchway.access.throttle import Flood
from hatchway.admin.admission import LOOK_EVERY_S
from hatchway.admin.attempts import Attempts
from hatchway.credentials import keys
from hatchway.errors import ConflictError, HostError, NotFoundError, UsageError
from hatchway.model import EventKind, Login, Mode, Snapshot, Uid
from hatchway.registry.records import NO_CONDITIONS, Conditions, NewLogin
from hatchway.registry.store import Registry
from hatchway.wire.admin import DaemonStatus, Disable, Enable, ListInstances, Show
from hatchway.wire.entry import (
    AddKey,
    Kick,
    ListSessions,
    Lock,
    SetConditions,
    ShowConditions,
    Unlock,
)

pytestmark = pytest.mark.usefixtures("no_host_keys")


async def test_locked_means_nobody_and_the_sessions_end(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        password, key = await shared(stage), await own_key(stage)
        assert await by_password(stage, password)
        assert await by_key(stage, key)
        found = await stage.do(Lock(instance=INSTANCE, why="rent not paid"))
        assert (found.locked_at is not None, found.locked_why) == (True, "rent not paid")
        assert sorted(stage.host.ended) == sorted(stage.host.sessions)
        assert not await by_password(stage, password)
        assert not await by_key(stage, key)
        with pytest.raises(ConflictError, match="locked already: rent not paid"):
            await stage.do(Lock(instance=INSTANCE))
        assert "rent not paid" in " ".join(one.text for one in (await stage.do(Show(instance=INSTANCE))).problems)
        (listed,) = (await stage.do(ListInstances())).instances
        assert (listed.locked, listed.expired) == (True, False)
        assert (await stage.do(DaemonStatus())).locked == ("shop-web-1",)
        # To a client its key is wrong; why it is not looked at the operator finds in the record.
        assert await stage.ask("keys", login="shop-web-1") == (False, "")
        stage.core.journal._attempts, ended = Attempts(0), stage.core.journal._attempts
        why = "no key is looked at: the login is locked"
        assert [event.login for event in ended.events() if why in event.what] == ["shop-web-1"]
        assert (await stage.do(Unlock(INSTANCE))).locked_at is None
        with pytest.raises(ConflictError, match="is not locked"):
            await stage.do(Unlock(INSTANCE))
        assert await by_password(stage, password)
        assert await by_key(stage, key)


async def test_an_allow_list_keeps_others_out_and_ends_their_sessions(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        password, key = await shared(stage), await own_key(stage)
        assert await by_key(stage, key, "192.0.2.1")
        inside = newest(stage)
        assert await by_key(stage, key, "198.51.100.1")
        outside = newest(stage)
        found = await stage.do(SetConditions(instance=INSTANCE, allowed_from=("192.0.2.0/24", "2001:db8::/32")))
        assert found.allowed_from == ("192.0.2.0/24", "2001:db8::/32")
        assert stage.host.ended == [outside]
        for address, may in (
            ("192.0.2.9", True),
            ("2001:db8::9", True),
            ("::ffff:192.0.2.9", True),
            ("198.51.100.1", False),
            ("2001:db9::9", False),
            ("", False),
            ("client.example.org", False),
        ):
            assert await by_password(stage, password, address) is may
            assert await by_key(stage, key, address) is may
        _ok, lines = await stage.ask("keys", login=LOGIN)
        assert 'from="192.0.2.0/24,2001:db8::/32"' in lines
        assert inside not in stage.host.ended
        with pytest.raises(UsageError, match=r"192\.0\.2\.7/24"):
            await stage.do(SetConditions(instance=INSTANCE, allowed_from=("192.0.2.7/24",)))
        assert (await stage.do(SetConditions(instance=INSTANCE, allowed_from=()))).allowed_from == ()
        assert await by_password(stage, password, "198.51.100.1")


async def test_an_allow_list_too_long_for_sshd_is_kept_by_us(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await shared(stage)
        key = await own_key(stage)
        many = tuple(f"2001:db8:{number:x}::/48" for number in range(1, 100))
        await stage.do(SetConditions(instance=INSTANCE, allowed_from=many))
        assert "from=" not in (await stage.ask("keys", login=LOGIN))[1]
        assert await by_key(stage, key, "2001:db8:5::1")
        assert not await by_key(stage, key, "2001:db9::1")


async def test_whoever_expires_is_ended_at_that_moment(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage, trio.open_nursery() as nursery:
        password = await shared(stage)
        clock = 1000.0
        stage.core.now = lambda: clock
        started = trio.current_time()
        stage.core.now = lambda: clock + trio.current_time() - started
        assert await by_password(stage, password)
        nursery.start_soon(stage.admission.run)
        await stage.do(SetConditions(instance=INSTANCE, expires_at=stage.core.now() + 0.5))
        assert stage.host.ended == []
        with trio.fail_after(5):
            while not stage.host.ended:
                await trio.sleep(0.01)
        late = stage.core.now() - (await stage.do(ShowConditions(INSTANCE))).expires_at
        assert 0 <= late < 1
        assert not await by_password(stage, password)
        assert "has expired" in " ".join(one.text for one in (await stage.do(Show(instance=INSTANCE))).problems)
        await stage.do(SetConditions(instance=INSTANCE, expires_at=None))
        assert await by_password(stage, password)
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("at", [0.0, -1.0, float("nan"), float("inf"), 1e12])
async def test_a_time_that_cannot_be_is_refused(tmp_path: Path, at: float) -> None:
    async with staged(tmp_path) as stage:
        await shared(stage)
        for request in (
            SetConditions(instance=INSTANCE, expires_at=at),
            AddKey(instance=INSTANCE, public=keys.generate_ed25519("x").public, expires_at=at),
        ):
            with pytest.raises(UsageError):
                await stage.do(request)


async def test_only_so_many_sessions_at_once_whoever_asks_first(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        password = await shared(stage)
        await stage.do(SetConditions(instance=INSTANCE, sessions_max=3))
        let_in: list[bool] = []

        async def enter(number: int) -> None:
            let_in.append(await by_password(stage, password, port=number))

        async with trio.open_nursery() as nursery:
            for number in range(8):
                nursery.start_soon(enter, number)
        assert sorted(let_in) == [False] * 5 + [True] * 3
        assert len(stage.host.sessions) == 3
        await stage.core.session_ended(newest(stage))
        assert await by_password(stage, password)
        # Who is in stays.
        await stage.do(SetConditions(instance=INSTANCE, sessions_max=1))
        assert stage.host.ended == []
        for bad in (0, 129):
            with pytest.raises(UsageError, match="from 1 to 128"):
                await stage.do(SetConditions(instance=INSTANCE, sessions_max=bad))


async def test_what_is_not_said_stays_as_it_was(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await shared(stage)
        await stage.do(SetConditions(instance=INSTANCE, allowed_from=("10.0.0.0/8",), sessions_max=5))
        found = await stage.do(SetConditions(instance=INSTANCE, expires_at=9e9))
        assert (found.allowed_from, found.sessions_max, found.expires_at) == (("10.0.0.0/8",), 5, 9e9)
        found = await stage.do(SetConditions(instance=INSTANCE, sessions_max=None))
        assert (found.allowed_from, found.sessions_max, found.sessions_default) == (("10.0.0.0/8",), None, 40)


async def test_wrong_passwords_lock_a_login_where_that_is_wanted(tmp_path: Path) -> None:
    async with staged(tmp_path, lock_after=10) as stage:
        password = await shared(stage)
        assert await by_password(stage, password)
        for number in range(10):
            assert not await by_password(stage, "guess", f"198.51.100.{number}")
        assert stage.host.ended == [newest(stage)]
        assert not await by_password(stage, password)
        assert (await stage.do(ShowConditions(INSTANCE))).locked_why == "10 wrong passwords within an hour"
        page = await stage.core.journal.read(limit=50, instance=None, kinds=(), since=None, after=None)
        assert [event.kind for _, event in page.events].count(EventKind.LOCKED) == 1


async def test_a_login_of_which_nothing_is_shared_is_not_guessed_at(tmp_path: Path) -> None:
    """sshd does not know it, and asks with a password of its own, whatever the client has said."""
    async with staged(tmp_path, lock_after=10) as stage:
        password = await shared(stage)
        await stage.do(Disable(instance=INSTANCE, every=True))
        for number in range(20):
            assert not await by_password(stage, "\b\n\r\177INCORRECT", f"198.51.100.{number}")
        assert {what for _, what in await refusals(stage)} == {Denial.NOTHING_SHARED.value}
        assert (await stage.do(ShowConditions(INSTANCE))).locked_at is None
        await stage.do(Enable(instance=INSTANCE, volumes=("/data",)))
        assert await by_password(stage, password)


async def test_one_attacker_locks_nobody_else_out(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        password = await shared(stage)
        before = trio.current_time()
        async with trio.open_nursery() as nursery:
            for number in range(30):
                nursery.start_soon(by_password, stage, "guess", "198.51.100.1", number)
            await trio.sleep(FAILURE_S)
            assert await by_password(stage, password, "192.0.2.1")
            assert trio.current_time() - before < FAILURE_S + 2
            nursery.cancel_scope.cancel()
        assert not await by_password(stage, password, "198.51.100.1"), "who guesses waits"


async def test_who_is_in_is_told_and_can_be_sent_away(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        password, pair = await shared(stage), keys.generate_ed25519("anna@laptop")
        await stage.do(AddKey(instance=INSTANCE, public=pair.public))
        assert await by_password(stage, password)
        assert await by_key(stage, pair.public, "192.0.2.2")
        first, second = (await stage.do(ListSessions())).sessions
        assert (first.method, first.credential, first.address, first.key) == ("password", "", "192.0.2.1", WEB)
        assert (second.method, second.credential, second.comment) == ("publickey", pair.fingerprint, "anna@laptop")
        assert (second.read, second.idle_s, second.files) == (None, None, ())
        stage.host.failure = HostError("hostd is away")
        assert len((await stage.do(ListSessions(instance=INSTANCE))).sessions) == 2
        with pytest.raises(HostError):
            await stage.do(Kick(sessions=(second.id,)))
        stage.host.failure = None
        assert [one.id for one in (await stage.do(Kick(sessions=(second.id[:8],)))).sessions] == [second.id]
        assert stage.host.ended == [second.id]
        for request, error in (
            (Kick(), UsageError),
            (Kick(sessions=("",)), NotFoundError),
            (Kick(sessions=("zzz",)), NotFoundError),
        ):
            with pytest.raises(error):
                await stage.do(request)
        await stage.do(Kick(instance=INSTANCE))
        assert stage.host.ended == [second.id, first.id, second.id]


def test_no_conditions_are_none() -> None:
    assert replace(NO_CONDITIONS, volume_keys=False) == Conditions() == NO_CONDITIONS


async def test_an_instance_is_found_without_its_number_where_that_is_clear(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await shared(stage)
        assert (await stage.do(ShowConditions("shop/web"))).login == LOGIN
        with pytest.raises(NotFoundError, match="did you mean shop/web/1"):
            await stage.do(ShowConditions("shop/wep"))
        info = stage.inventory.instances()[0]
        both = (info, structs.replace(info, key=structs.replace(WEB, number=2), runtime_name="shop-web-2"))
        await stage.core.feed(Snapshot(source="docker", taken_at=1.0, instances=both))
        with pytest.raises(UsageError, match="may be shop/web/1 or shop/web/2: say which"):
            await stage.do(ShowConditions("shop/web"))


async def test_a_lockdown_is_told_also_when_hostd_is_away(tmp_path: Path) -> None:
    async with staged(tmp_path, lock_after=10) as stage:
        password = await shared(stage)
        stage.host.failure = HostError("hostd is away")
        for number in range(10):
            assert not await by_password(stage, "guess", f"198.51.100.{number}")
        page = await stage.core.journal.read(limit=50, instance=None, kinds=(), since=None, after=None)
        assert EventKind.LOCKED in [event.kind for _, event in page.events]
        refused = [event for _, event in page.events if event.kind is EventKind.REFUSED]
        assert sum(event.times for event in refused) == 10
        stage.host.failure = None
        assert not await by_password(stage, password)


async def test_a_session_nobody_knows_of_is_ended_as_soon_as_that_can_be(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage, trio.open_nursery() as nursery:
        await shared(stage)
        stage.host.sessions["f" * 32] = (LOGIN, (), 1)
        status = await stage.host.status()
        nursery.start_soon(stage.admission.run)
        await trio.testing.wait_all_tasks_blocked()
        stage.host.unendable = HostError("for a moment")
        await stage.admission.hostd_connected(status, 0.0)
        assert stage.host.ended == []
        stage.host.unendable = None
        with trio.fail_after(10):
            while stage.host.ended != ["f" * 32]:
                await trio.sleep(0.05)
        nursery.cancel_scope.cancel()


async def test_an_expired_key_is_not_even_offered(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage, trio.open_nursery() as nursery:
        await shared(stage)
        clock = 1000.0
        stage.core.now = lambda: clock
        pair = keys.generate_ed25519("added")
        until = 1000.5
        await stage.do(AddKey(instance=INSTANCE, public=pair.public, expires_at=until))
        assert await by_key(stage, pair.public)
        session = newest(stage)
        assert await by_key(stage, await own_key(stage))
        nursery.start_soon(stage.admission.run)
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert stage.host.ended == []
        clock = until
        with trio.fail_after(LOOK_EVERY_S / 2):
            while not stage.host.ended:
                await trio.sleep(0.01)
        assert stage.host.ended == [session]
        assert pair.public not in (await stage.ask("keys", login=LOGIN))[1]
        nursery.cancel_scope.cancel()


async def test_a_session_that_opens_has_its_expiry_waited_for(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage, trio.open_nursery() as nursery:
        password = await shared(stage)
        clock = 1000.0
        stage.core.now = lambda: clock
        await stage.do(SetConditions(instance=INSTANCE, expires_at=1000.5))
        nursery.start_soon(stage.admission.run)
        await trio.testing.wait_all_tasks_blocked(0.05)
        # It waits for nothing yet: there is no session.
        assert await by_password(stage, password)
        assert stage.host.ended == []
        clock = 1000.5
        with trio.fail_after(LOOK_EVERY_S / 2):
            while not stage.host.ended:
                await trio.sleep(0.01)
        nursery.cancel_scope.cancel()


async def test_what_is_no_login_has_no_guesses_of_its_own(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await shared(stage)
        fields = {"service": "hatchway-sshd", "rhost": "192.0.2.1", "connection": "a"}
        before = trio.current_time()
        for number in range(6):
            assert not (await stage.ask("auth", login=f"No Login {number}", **fields, password="x"))[0]
        assert trio.current_time() - before >= 6 * FAILURE_S + 0.5, "the sixth had to wait"


def test_of_connections_that_proved_a_password_the_latest_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "PROVED_MAX", 2)
    proved = Proved()
    for connection, credential in (("a", 1), ("b", 2), ("a", 3), ("c", 4)):
        proved.note(connection, credential)
    assert [proved.take(connection) for connection in ("a", "b", "c")] == [3, None, 4]
    assert proved.take("a") is None, "for one session"


def test_wrong_passwords_count_together_for_an_hour() -> None:
    flood = Flood(3)
    assert [flood.is_too_much("web", at) for at in (0.0, 1.0, 3599.0)] == [False, False, True]
    flood = Flood(3)
    assert [flood.is_too_much("web", at) for at in (0.0, 1.0, 3600.0, 3601.0, 3602.0)] == [False] * 4 + [True]
    assert not any(Flood(3).is_too_much(f"login-{number}", 0.0) for number in range(10))
    assert not any(Flood(0).is_too_much("web", 0.0) for _ in range(1000))


async def meanwhile(stage: Stage, change: Callable[[Registry], object]) -> bool:
    """Whether a client may enter, by a key, while whose turn it is makes `change`: as it opens its session."""
    key = await own_key(stage)
    fields = {"login": LOGIN, "service": "hatchway-sshd", "rhost": "192.0.2.1"}
    assert (await stage.ask("account", **fields))[0]
    let_in: list[bool] = []

    async def enter() -> None:
        let_in.append((await stage.ask("open", **fields, authinfo=f"publickey {key}\n"))[0])

    async with trio.open_nursery() as nursery, stage.core.turn(Login(LOGIN)):
        nursery.start_soon(enter)
        with trio.fail_after(5):
            while stage.core._turns[Login(LOGIN)].statistics().tasks_waiting == 0:
                await trio.sleep(0.01)
        await stage.core.db(change)
    return let_in == [True]


async def refusals(stage: Stage) -> list[tuple[str, str]]:
    """Logins that were refused, and why, as often as they were."""
    page = await stage.core.journal.read(limit=50, instance=None, kinds=(EventKind.REFUSED,), since=None, after=None)
    return [(event.login, event.what) for _, event in page.events for _ in range(event.times)]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda it: it.change_conditions(LOGIN, lambda before: replace(before, locked_at=1.0)), Denial.LOCKED),
        (lambda it: it.change_conditions(LOGIN, lambda before: replace(before, expires_at=1.0)), Denial.EXPIRED),
        (
            lambda it: it.change_conditions(LOGIN, lambda one: replace(one, allowed_from=("10.0.0.0/8",))),
            Denial.ADDRESS,
        ),
        (lambda it: [it.remove_credential(LOGIN, one.id) for one in it.credentials(LOGIN)], Denial.CREDENTIAL_GONE),
        (lambda it: it.disable(WEB, ("/data",), 1.0), Denial.NOTHING_SHARED),
        (lambda it: it.forget(WEB), Denial.UNKNOWN_LOGIN),
    ],
)
async def test_what_is_taken_away_while_a_session_opens_lets_nobody_in(
    tmp_path: Path, change: Callable[[Registry], object], why: Denial
) -> None:
    """Whoever took it away has looked for sessions to end by then, and found none."""
    async with staged(tmp_path) as stage:
        await shared(stage)
        assert not await meanwhile(stage, change)
        assert stage.host.sessions == {}
        assert await refusals(stage) == [(LOGIN, why)]


@pytest.mark.parametrize("login", ["shop-web-9", "No Login"])
async def test_a_login_there_is_not_is_refused_at_every_stage(tmp_path: Path, login: str) -> None:
    async with staged(tmp_path) as stage:
        await shared(stage)
        fields = {"login": login, "service": "hatchway-sshd", "rhost": "192.0.2.1", "connection": "a"}
        assert await stage.ask("keys", login=login) == (False, "")
        assert not (await stage.ask("account", **fields))[0]
        assert not (await stage.ask("open", **fields, authinfo=f"publickey {await own_key(stage)}\n"))[0]
        assert [why for _login, why in await refusals(stage)] == [Denial.UNKNOWN_LOGIN] * 2


@pytest.mark.parametrize(
    ("login", "address", "traces"),
    [
        ("nobody-0123456789ab", "", 0),
        ("nobody-0123456789ab", "192.0.2.1", 2),
        ("nobody-0123456789ab", "?", 2),
        ("nobody-0123456789abc", "", 2),
        ("nobody-0123456789aB", "", 2),
        ("nobody-", "", 2),
        (LOGIN, "", 1),
    ],
)
async def test_only_what_doctor_tries_leaves_no_trace(
    tmp_path: Path, login: str, address: str, traces: int, autojump_clock: trio.testing.MockClock
) -> None:
    async with staged(tmp_path) as stage:
        await shared(stage)
        fields = {"login": login, "service": "hatchway-sshd", "rhost": address, "connection": ""}
        with structlog.testing.capture_logs() as lines:
            assert not (await stage.ask("auth", **fields, password="guess"))[0]
            assert (await stage.ask("account", **fields))[0] == (login == LOGIN)
        assert len(await refusals(stage)) == traces
        assert len([line for line in lines if line["log_level"] != "debug"]) == traces


async def test_a_login_of_the_form_that_doctor_tries_is_recorded_if_there_is_one(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await stage.core.db(
            lambda registry: registry.enable(
                WEB,
                [(volume("/data"), Mode.READ_ONLY)],
                by="root",
                now=1.0,
                new=NewLogin(Login("nobody-0123456789ab"), Uid(70000)),
            )
        )
        fields = {"login": "nobody-0123456789ab", "service": "hatchway-sshd", "rhost": "", "connection": ""}
        assert not (await stage.ask("auth", **fields, password="guess"))[0]
        assert await refusals(stage) == [("nobody-0123456789ab", "wrong password")]


async def test_of_what_a_stranger_says_little_is_logged(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        fields = {"login": "x" * 1000, "service": "hatchway-sshd", "rhost": "y" * 1000}
        with structlog.testing.capture_logs() as lines:
            assert not (await stage.ask("account", **fields))[0]
        ((login, address),) = [(one["login"], one["address"]) for one in lines if one["event"] == "login refused"]
        assert (login, address) == ("x" * 64, "y" * 64)


async def test_a_volume_taken_away_while_a_session_opens_is_not_shown(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await shared(stage)
        await stage.do(Enable(instance=INSTANCE, volumes=("/logs",)))
        assert await meanwhile(stage, lambda registry: registry.disable(WEB, ("/logs",), 1.0))
        ((_login, views, _pid),) = stage.host.sessions.values()
        assert [view.path for view in views] == ["/data"]
