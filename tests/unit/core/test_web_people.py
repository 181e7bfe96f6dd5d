"""People at the door of the web pages, and what they may ask of the core: their own login, and nothing of anybody's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio
from structlog.testing import capture_logs
from tests.unit.core.stage import snapshot, volume
from tests.unit.core.test_web_socket import PASSWORD, THERE, Scene, scene

from hatchway import addresses
from hatchway.access.throttle import FREE_AT_LOGIN
from hatchway.admin import telling
from hatchway.admin.callers import Caller
from hatchway.admin.rights import MAY, OF_ONE_LOGIN, OPERATORS, may
from hatchway.credentials.keys import generate_ed25519
from hatchway.errors import (
    ConflictError,
    HatchwayError,
    HostError,
    NotFoundError,
    NotRunningError,
    RefusedError,
    SignedOutError,
    SignInError,
    SignInWaitError,
    UnfinishedError,
    UsageError,
)
from hatchway.model import PERSON, EventKind, InstanceKey
from hatchway.registry.reserve import NoRoomError
from hatchway.wire.admin import (
    Access,
    ConnectionInfo,
    Listing,
    ListInstances,
    Log,
    LogEntry,
    ReadLog,
    Server,
    Show,
    ShowServer,
)
from hatchway.wire.entry import (
    AddKey,
    ConditionsStatus,
    ExportKey,
    KeyExport,
    Keys,
    Kick,
    ListKeys,
    ListSessions,
    Lock,
    Password,
    PasswordKind,
    RenewKey,
    ResetPassword,
    Sessions,
    SetConditions,
)
from hatchway.wire.host import FolderState, VolumeSize
from hatchway.wire.people import AddPerson, GrantPerson, ListPeople, People, PersonChanged, PersonRemoved, RemovePerson
from hatchway.wire.web import ChangePassword, Viewer, ViewerKind


@pytest.fixture(autouse=True)
def _no_host_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hatchway.sshd.hostkeys.read", lambda _: ())


async def operator(web: Scene, request: object, answer: type[Any]) -> Any:
    """What root is answered."""
    found = await web.stage.requests[type(request)].handler(request, Caller("uid 0", "uid 0"))
    assert isinstance(found, answer)
    return found


async def made(web: Scene, login: str) -> str:
    """A new person. Their password."""
    await operator(web, AddPerson(login=login), PersonChanged)
    reset = await operator(web, ResetPassword(instance=login), Password)
    assert reset.password is not None
    return str(reset.password)


async def test_a_person_signs_in_by_their_password_and_sees_what_is_theirs(tmp_path: Path) -> None:
    async with scene(tmp_path) as web:
        password = await made(web, "berta")
        found = await web.sign_in("berta", password)
        assert (found.viewer.kind, found.viewer.name) == (ViewerKind.PERSON, "berta")
        assert (await web.who()).name == "berta"
        own = f"{PERSON}berta"
        info = await web.call(Show(instance=own), ConnectionInfo)
        assert (info.login, info.whose, info.instance) == ("berta", "berta", None)
        assert info.person is not None and info.person.volumes == ()
        assert (await web.call(ExportKey(own), KeyExport)).login == "berta"
        assert (await web.call(RenewKey(instance=own), Keys)).login == "berta"
        assert (await web.call(ListSessions(instance=own), Sessions)).sessions == ()
        assert isinstance(await web.call(ShowServer(), Server), Server)
        entries = (await web.call(ReadLog(instance=own), Log)).entries
        assert entries
        assert {entry.instance for entry in entries} == {"berta"}
        assert any(entry.who.startswith("you (web) from") for entry in entries)
        assert not web.helper.asked, "PAM has nothing to do with them"


@pytest.mark.parametrize("password", ["", "not-it-at-all", PASSWORD, "x" * 5000])
async def test_a_wrong_password(tmp_path: Path, password: str) -> None:
    async with scene(tmp_path) as web:
        await made(web, "berta")
        with capture_logs() as logs, pytest.raises(SignInError):
            await web.sign_in("berta", password)
        assert password == "" or password not in repr(logs)
        refused = [event for event in await web.told() if event.kind is EventKind.REFUSED]
        assert [event.login for event in refused] == ["berta"]
        # And an operator is an operator.
        assert (await web.sign_in()).viewer.kind is ViewerKind.OPERATOR


async def test_without_the_helper_nobody_is_told_who_is_a_person(tmp_path: Path) -> None:
    """People come in as always. Whoever is refused hears the same of every name, and as often."""
    async with scene(tmp_path) as web:
        password = await made(web, "berta")
        Path(web.stage.core.config.signin_socket).unlink()
        told: dict[str, list[str]] = {"berta": [], "nobody": []}
        for _ in range(FREE_AT_LOGIN + 2):
            for name, answers in told.items():
                try:
                    await web.sign_in(name, "wrong")
                except (NotRunningError, SignInError, SignInWaitError) as exc:
                    answers.append(f"{type(exc).__name__}: {exc}")
                web.clock[0] += 1000.0
        assert told["berta"] == told["nobody"]
        assert "NotRunningError: whether you may sign in cannot be looked at now" in told["berta"][0]
        assert (await web.sign_in("berta", password)).viewer.kind is ViewerKind.PERSON


async def test_wrong_passwords_count_where_they_lock_a_login_wherever_they_are_tried(tmp_path: Path) -> None:
    async with scene(tmp_path, lock_after=10) as web:
        password = await made(web, "berta")
        own = web.stage.core.registry.person

        def locked_why() -> str:
            found = own("berta")
            assert found is not None
            return found.conditions.locked_why

        await web.sign_in("berta", password)
        for number in range(4):
            with pytest.raises(SignInError):
                await web.sign_in("berta", "wrong", f"203.0.{number}.1")
            change = ChangePassword(token=web.token, address=THERE, current="wrong", password="another one")
            with pytest.raises(SignInError):
                await web.ask(change, Password)
        await web.stage.ask("auth", login="berta", rhost="198.51.100.1", password="wrong", service="hatchway-sshd")
        assert locked_why() == "", "once nothing is shared sshd asks with a password of its own"
        with pytest.raises(SignInError):
            await web.sign_in("nobody", "wrong", "203.0.113.1")
        with pytest.raises(SignInError):
            await web.sign_in("berta", "wrong", "203.0.113.2")
        assert locked_why() == ""
        assert (await web.who()).name == "berta"
        with pytest.raises(SignInError):
            await web.sign_in("berta", "wrong", "203.0.113.3")
        assert locked_why() == "10 wrong passwords within an hour"
        with pytest.raises(SignedOutError):
            await web.who()
        with pytest.raises(SignInError):
            await web.sign_in("berta", password, "203.0.113.4")
        assert [event.login for event in await web.told() if event.kind is EventKind.LOCKED] == ["berta"]


async def test_a_right_password_does_not_count_for_locking(tmp_path: Path) -> None:
    async with scene(tmp_path, lock_after=10) as web:
        password = await made(web, "berta")
        await operator(web, SetConditions(instance="berta", allowed_from=("192.0.2.0/24",)), ConditionsStatus)
        for number in range(12):
            with pytest.raises(SignInError):
                await web.sign_in("berta", password, f"203.0.{number}.1")
        assert (await web.sign_in("berta", password)).viewer.name == "berta"


async def test_how_a_name_is_written_does_not_tell_whose_it_is(tmp_path: Path) -> None:
    async with scene(tmp_path) as web:
        password = await made(web, "berta")
        told: dict[str, list[str]] = {}
        for number, name in enumerate(("berta", "nobody", "anna")):
            address = f"203.0.113.{number}"
            for written in (name, name.capitalize()) * FREE_AT_LOGIN:
                with pytest.raises((SignInError, SignInWaitError)) as refused:
                    await web.sign_in(written, "wrong", address)
                told.setdefault(name, []).append(type(refused.value).__name__)
        assert told["berta"] == told["nobody"] == told["anna"]
        assert told["berta"][-1] == "SignInWaitError"
        # Nor does somebody who is in guess more often than who is not.
        await web.sign_in("berta", password)
        for _ in range(FREE_AT_LOGIN // 2):
            change = ChangePassword(token=web.token, address="198.51.100.1", current="wrong", password="another one")
            with pytest.raises(SignInError):
                await web.ask(change, Password)
            with pytest.raises(SignInError):
                await web.sign_in("Berta", "wrong", "198.51.100.1")
        source, now = addresses.address("198.51.100.1"), trio.current_time()
        assert web.attempts.throttle.suspicion(source, "sign-in berta", now) == FREE_AT_LOGIN // 2 * 2


OTHERS = ["", "berta", "clara", f"{PERSON}clara", "shop/web/1", "shop-web-1", "web", f"{PERSON}shop-web-1", f"{PERSON}"]


@pytest.mark.parametrize("kind", sorted(OF_ONE_LOGIN, key=str), ids=str)
async def test_nothing_of_anybody_else(tmp_path: Path, kind: type[msgspec.Struct]) -> None:
    async with scene(tmp_path) as web:
        password = await made(web, "berta")
        await made(web, "clara")
        await web.sign_in("berta", password)
        for other in OTHERS:
            fields = {
                field.name: {"public": "ssh-ed25519 AAAA", "key": "x"}[field.name]
                for field in msgspec.structs.fields(kind)
                if field.required and field.name != "instance"
            }
            with capture_logs() as logs, pytest.raises(RefusedError, match="cannot be done from the web pages"):
                await web.call(kind(**{"instance": other, **fields}), Viewer)
            assert "request refused" in [log["event"] for log in logs]
        # What may be asked of all may not be left out either.
        if any(field.name == "instance" and not field.required for field in msgspec.structs.fields(kind)):
            with pytest.raises(RefusedError):
                await web.call(kind(), Viewer)


async def test_nothing_an_operator_may_and_a_person_may_not(tmp_path: Path) -> None:
    assert MAY[ViewerKind.PERSON] < OPERATORS
    async with scene(tmp_path) as web:
        await web.sign_in("berta", await made(web, "berta"))
        own = f"{PERSON}berta"
        for request in (ListInstances(), Lock(instance=own), AddPerson(login="dora"), RemovePerson("berta")):
            with pytest.raises(RefusedError):
                await web.call(request, Listing)
        with pytest.raises(RefusedError):
            await web.call(Kick(sessions=("a",)), Viewer)


async def test_who_is_removed_locked_or_has_another_password_is_out_at_once(tmp_path: Path) -> None:
    async with scene(tmp_path) as web:
        for login, change, answer in (
            ("berta", RemovePerson("berta"), PersonRemoved),
            ("clara", Lock(instance="clara"), ConditionsStatus),
            ("dora", ResetPassword(instance="dora"), Password),
        ):
            password = await made(web, login)
            await web.sign_in(login, password)
            await web.who()
            await operator(web, change, answer)
            for request in (Show(instance=f"{PERSON}{login}"), ListKeys(f"{PERSON}{login}")):
                with pytest.raises(SignedOutError):
                    await web.call(request, ConnectionInfo)
            with pytest.raises(SignInError):
                await web.sign_in(login, password)


async def test_a_person_who_is_gone_is_no_container_of_that_name(tmp_path: Path) -> None:
    """Between a look at who asks and its answer they may be removed."""
    async with scene(tmp_path) as web:
        await made(web, "berta")
        await web.stage.core.feed(snapshot(volume("/data"), key=InstanceKey("shop", "berta", 1)))
        await operator(web, RemovePerson("berta"), PersonRemoved)
        with pytest.raises(HatchwayError, match="there is no person"):
            await operator(web, Show(instance=f"{PERSON}berta"), ConnectionInfo)


async def test_a_key_that_a_person_adds_is_theirs(tmp_path: Path) -> None:
    async with scene(tmp_path) as web:
        await web.sign_in("berta", await made(web, "berta"))
        public = generate_ed25519("laptop").public
        await web.call(AddKey(instance=f"{PERSON}berta", public=public), Keys)
        stored = web.stage.core.registry.credentials("berta")
        assert [one.public for one in stored if one.public.endswith("laptop")] == [public]
        assert [event.login for event in await web.told() if event.what.startswith("key added")] == ["berta"]


# --- their own password ---------------------------------------------------------------------------------------------


NEW = "a better password"


async def change(web: Scene, current: str, password: str = NEW, kind: PasswordKind | None = None) -> Password:
    """As the page asks for it."""
    request = ChangePassword(token=web.token, address=THERE, current=current, password=password, kind=kind)
    return await web.ask(request, Password)


@pytest.mark.parametrize("kind", [PasswordKind.RAW, PasswordKind.HASHED])
async def test_who_changes_their_password_stays_and_their_other_visits_end(tmp_path: Path, kind: PasswordKind) -> None:
    async with scene(tmp_path) as web:
        password = await made(web, "berta")
        other = (await web.sign_in("berta", password)).token
        mine = (await web.sign_in("berta", password)).token
        with capture_logs() as logs:
            answer = await change(web, password, kind=kind)
        assert (answer.login, answer.kind, answer.password, answer.not_ended) == ("berta", kind, None, "")
        assert (await web.who()).name == "berta"
        web.token = other
        with pytest.raises(SignedOutError):
            await web.who()
        with pytest.raises(SignInError):
            await web.sign_in("berta", password)
        await web.sign_in("berta", NEW)
        web.token = mine
        assert (await web.who()).name == "berta"
        events = await web.told()
        changed = [event for event in events if event.what == "password changed"]
        assert [(event.instance, event.login, event.who) for event in changed] == [
            ("berta", "berta", f"person berta (web) from {THERE}")
        ]
        for secret in (NEW, password, mine):
            assert secret not in repr(logs) + repr(events)
        # What an operator does to it still ends this visit as any other.
        await operator(web, ResetPassword(instance="berta"), Password)
        with pytest.raises(SignedOutError):
            await web.who()


async def test_who_does_not_know_the_password_guesses_no_better_with_a_token(tmp_path: Path) -> None:
    async with scene(tmp_path) as web:
        password = await made(web, "berta")
        await web.sign_in("berta", password)
        with capture_logs() as logs:
            for guess in ["wrong", "", "x" * 5000, *("guess",) * FREE_AT_LOGIN]:
                with pytest.raises(SignInError, match="current password is wrong"):
                    await change(web, guess)
            with pytest.raises(SignInWaitError, match="try again in"):
                await change(web, password)
        # Signing in waits as well: it is counted together.
        with pytest.raises(SignInWaitError):
            await web.sign_in("berta", password)
        assert (await web.who()).name == "berta"
        refused = [event for event in await web.told() if event.kind is EventKind.REFUSED]
        assert {event.login for event in refused} == {"berta"}
        assert "wrong current password" in refused[0].what
        assert password not in repr(logs) and NEW not in repr(logs)


@pytest.mark.parametrize(
    "chosen", ["short", "with a\ttab in it", "x" * 3000, "$argon2id$v=19$m=65536,t=2,p=1$YWJj$ZGVm"]
)
async def test_what_can_be_no_password_is_none_here(tmp_path: Path, chosen: str) -> None:
    async with scene(tmp_path) as web:
        password = await made(web, "berta")
        await web.sign_in("berta", password)
        with pytest.raises(UsageError) as caught:
            await change(web, password, chosen)
        assert chosen not in str(caught.value)
        await web.sign_in("berta", password)


async def test_only_people_change_their_password_here(tmp_path: Path) -> None:
    async with scene(tmp_path) as web:
        await web.sign_in()
        with pytest.raises(RefusedError):
            await change(web, PASSWORD)
        web.token = "x" * 43
        with pytest.raises(SignedOutError):
            await change(web, PASSWORD)


async def test_a_reset_between_is_not_overwritten_and_a_full_disk_not_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with scene(tmp_path) as web:
        password = await made(web, "berta")
        await web.sign_in("berta", password)
        registry = web.stage.core.registry
        store = registry.replace_credential
        reset: list[str] = []

        def first(login: str, new: Any, now: float, instead_of: int | None = None) -> int:
            if instead_of is not None:
                store(login, new, now)
                reset.append(login)
            return store(login, new, now, instead_of)

        def full(*_: object) -> int:
            raise NoRoomError("nothing can be stored: /var/lib/hatchway/registry.db")

        monkeypatch.setattr(registry, "replace_credential", full)
        with pytest.raises(HostError, match="could not be done") as caught:
            await change(web, password)
        assert "/var/lib" not in str(caught.value)
        monkeypatch.setattr(registry, "replace_credential", first)
        with pytest.raises(ConflictError, match="changed meanwhile"):
            await change(web, password)
        assert reset == ["berta"]
        with pytest.raises(SignedOutError):
            await web.who()


# --- what they are told ---------------------------------------------------------------------------------------------


async def test_nothing_of_the_host_is_told(tmp_path: Path) -> None:
    async with scene(tmp_path) as web:
        password = await made(web, "berta")
        own = f"{PERSON}berta"
        await operator(web, GrantPerson(login="berta", instance="web", volumes=("/data",)), PersonChanged)
        source = volume("/data").source
        assert source is not None
        web.stage.host.sizes[source] = VolumeSize(problem=f"{source} cannot be read", used=None)
        await web.sign_in("berta", password)
        seen: Any = (await web.call(Show(instance=own), ConnectionInfo)).person
        assert [one.session_path for one in seen.volumes] == ["/shop-web-1/data"]
        assert seen.volumes[0].size.problem == "it could not be counted"
        assert (seen.volumes[0].granted_by, seen.volumes[0].driver) == ("", "")
        # Another volume comes to the path; the host is away.
        web.stage.host.born[source] = "inode:3:1.0"
        await web.stage.core.feed(snapshot(volume("/data")))
        web.stage.host.problem = f"{source} does not answer"
        info = await web.call(Show(instance=own), ConnectionInfo)
        assert info.person is not None and "another volume" in info.person.volumes[0].problem
        assert len(info.problems) == 2
        for text in (repr(info.person), repr(info.problems), repr(info.conditions)):
            assert "/var/lib" not in text and "hatchway " not in text and "does not answer" not in text
        kept = await operator(web, Show(instance=own), ConnectionInfo)
        assert "does not answer" in repr(kept.problems), "operators are told everything"


async def test_a_folder_that_is_not_there_is_told_of(tmp_path: Path) -> None:
    async with scene(tmp_path) as web:
        password, host = await made(web, "berta"), web.stage.host
        own, source = f"{PERSON}berta", volume("/data").source
        assert source is not None
        host.folder_states[source, "photos"] = FolderState.NOTHING
        grant = GrantPerson(login="berta", instance="web", volumes=("/data",), folder="photos")
        told = "there is no folder photos in it now"
        changed: PersonChanged = await operator(web, grant, PersonChanged)
        assert [one.refused for one in changed.person.volumes] == [told]
        assert changed.person.volumes[0].access is Access.READ_WRITE, "it is theirs as soon as it is there"
        [listed] = (await operator(web, ListPeople(), People)).people
        info = await operator(web, Show(instance=own), ConnectionInfo)
        await web.sign_in("berta", password)
        seen: Any = (await web.call(Show(instance=own), ConnectionInfo)).person
        for person in (listed, info.person, seen):
            assert [one.refused for one in person.volumes] == [told]
        for state, words in (
            (FolderState.FILE, "photos is no folder in it now"),
            (FolderState.LINK, "a link stands in the way of the folder photos in it"),
            (FolderState.UNKNOWN, ""),
            (FolderState.THERE, ""),
        ):
            host.folder_states[source, "photos"] = state
            seen = (await web.call(Show(instance=own), ConnectionInfo)).person
            assert [one.refused for one in seen.volumes] == [words]
        # Nothing else depends on what hostd says of it.
        host.folder_states[source, "photos"] = FolderState.NOTHING
        for host.unlooked, host.problem in ((HostError("it is an older one"), None), (None, "it is away")):
            person = (await operator(web, Show(instance=own), ConnectionInfo)).person
            assert [one.refused for one in person.volumes] == [""]


async def test_what_the_host_could_not_do_is_told_without_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with scene(tmp_path) as web:
        await web.sign_in("berta", await made(web, "berta"))
        public = generate_ed25519("laptop").public

        async def fails(*_: object) -> None:
            raise HostError("/run/hatchway/hostd.sock hung up")

        monkeypatch.setattr(web.stage.admission, "changed", fails)
        with capture_logs() as logs, pytest.raises(HostError) as caught:
            await web.call(AddKey(instance=f"{PERSON}berta", public=public), Keys)
        assert "/run" not in str(caught.value) and "hostd.sock" in repr(logs)
        renewed = await web.call(RenewKey(instance=f"{PERSON}berta"), Keys)
        assert renewed.not_ended and "/run" not in renewed.not_ended
        entries = (await web.call(ReadLog(instance=f"{PERSON}berta"), Log)).entries
        assert "/run" not in repr(entries)
        # And what was wrong with the request is said.
        with pytest.raises(UsageError, match="key"):
            await web.call(AddKey(instance=f"{PERSON}berta", public="nonsense"), Keys)


def entry(kind: EventKind, what: str, who: str = "", *, done: bool = True) -> LogEntry:
    """One of berta's."""
    return LogEntry(
        id=1, at=1.0, kind=kind, instance="berta", login="berta", address="", who=who, what=what, done=done, times=1
    )


def test_their_log_names_no_operator() -> None:
    own, other = "person berta (web) from 192.0.2.7", "operator anna (web) from 10.0.0.5"
    told = telling.to_person(
        Log(
            entries=(
                entry(EventKind.CHANGE, "locked: she left, says anna", other),
                entry(EventKind.CHANGE, "kick all sessions: /run/hatchway/x hung up", "uid 0", done=False),
                entry(EventKind.GUEST, "key added: SHA256:x", own),
                entry(EventKind.GUEST, "key renewed: /run/hatchway/x hung up", own, done=False),
                entry(EventKind.GUEST, "key renewed", "person berta2 (web)", done=False),
                entry(EventKind.CHANGE, "key renewed", "person berta2 (web)"),
                entry(EventKind.END, "session ended after 3 s: kicked by operator anna (web)", "key SHA256:x"),
                entry(EventKind.LOGIN, "logged in", "password"),
                entry(EventKind.REFUSED, "wrong password (3); not let in: /srv/x is away (1)", done=False),
            ),
            last=8,
        ),
        "berta",
    ).entries
    assert [(one.what, one.who) for one in told] == [
        ("locked", "the operator"),
        ("key added", "you (web) from 192.0.2.7"),
        ("key renewed", "you (web) from 192.0.2.7"),
        ("key renewed", "the operator"),
        ("session ended after 3 s", "key SHA256:x"),
        ("logged in", "password"),
        ("wrong password (3); not let in", ""),
    ]
    assert [one.done for one in told] == [True, True, False, True, True, True, False]


async def test_their_log_does_not_tell_how_much_happens_on_the_host(tmp_path: Path) -> None:
    async with scene(tmp_path) as web:
        await web.sign_in("berta", await made(web, "berta"))
        own = f"{PERSON}berta"
        await web.stage.core.journal.write()
        await web.call(ExportKey(own), KeyExport)
        await web.call(ExportKey(own), KeyExport)
        found = await web.call(ReadLog(instance=own), Log)
        assert found.last == 0
        assert {one.id for one in found.entries} == {0, None}, "written, and still counted"
        for after in (0, 1, 2**63):
            with pytest.raises(RefusedError):
                await web.call(ReadLog(instance=own, after=after), Log)
        seen = await operator(web, ReadLog(instance=own), Log)
        assert seen.last > 0
        assert len(seen.entries) == len(found.entries)


@pytest.mark.parametrize("exc", [HostError("/run/x"), UnfinishedError("done, but /run/x"), HatchwayError("/var/lib")])
def test_failures_of_the_host(exc: HatchwayError) -> None:
    assert "/" not in str(telling.failure(exc))
    mine = NotFoundError("there is no key 'x'")
    assert telling.failure(mine) is mine


async def test_who_is_in_goes_when_they_may_not_come_from_there_any_more(tmp_path: Path) -> None:
    """An allow-list is narrowed, and a token was taken elsewhere."""
    async with scene(tmp_path) as web:
        password = await made(web, "berta")
        await operator(web, SetConditions(instance="berta", allowed_from=("192.0.2.0/24",)), ConditionsStatus)
        own = f"{PERSON}berta"
        await web.sign_in("berta", password, "192.0.2.7")
        assert (await web.call(Show(instance=own), ConnectionInfo, "192.0.2.9")).login == "berta"
        with pytest.raises(SignedOutError):
            await web.call(Show(instance=own), ConnectionInfo, "198.51.100.1")
        with pytest.raises(SignedOutError):
            await web.call(Show(instance=own), ConnectionInfo, "192.0.2.9")


async def test_the_log_of_an_instance_tells_that_somebody_was_removed(tmp_path: Path) -> None:
    async with scene(tmp_path) as web:
        await made(web, "berta")
        await operator(web, GrantPerson(login="berta", instance="shop/web/1", every=True), PersonChanged)
        await operator(web, RemovePerson("berta"), PersonRemoved)
        told = [(event.instance, event.what) for event in await web.told()]
        assert ("shop/web/1", "/data, /logs no longer shared with berta, who was removed") in told
        assert any(whose == "berta" and what.startswith("person removed") for whose, what in told)


def test_people_renew_a_key_of_the_kind_that_is_configured() -> None:
    own = f"{PERSON}berta"
    assert may(ViewerKind.PERSON, "berta", RenewKey(instance=own))
    assert not may(ViewerKind.PERSON, "berta", RenewKey(instance=own, kind="rsa4096"))
    assert may(ViewerKind.OPERATOR, "anna", RenewKey(instance=own, kind="rsa4096"))
