"""People at the door of the web pages, and what they may ask of the core: their own login, and nothing of anybody's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
from structlog.testing import capture_logs
from tests.unit.core.stage import snapshot, volume
from tests.unit.core.test_web_socket import PASSWORD, Scene, scene

from hatchway.admin.callers import Caller
from hatchway.admin.rights import MAY, OF_ONE_LOGIN, OPERATORS
from hatchway.credentials.keys import generate_ed25519
from hatchway.errors import HatchwayError, RefusedError, SignedOutError, SignInError
from hatchway.model import PERSON, EventKind, InstanceKey
from hatchway.wire.admin import ConnectionInfo, Listing, ListInstances, Log, ReadLog, Server, Show, ShowServer
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
    RenewKey,
    ResetPassword,
    Sessions,
)
from hatchway.wire.people import AddPerson, PersonChanged, PersonRemoved, RemovePerson
from hatchway.wire.web import Viewer, ViewerKind


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
        assert any(entry.who.startswith("person berta (web) from") for entry in entries)
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
