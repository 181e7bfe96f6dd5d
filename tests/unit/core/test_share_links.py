"""Share links, on the core's side: what one opens, for how long, for whom, and what is known of it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import pytest
import trio
from tests.unit.core.stage import WEB, staged
from tests.unit.core.test_web_socket import Scene, scene

from hatchway.admin import share_links
from hatchway.config import Config, Connect, Web
from hatchway.errors import (
    ConflictError,
    NotFoundError,
    PassphraseError,
    RefusedError,
    SignedOutError,
    SignInError,
    SignInWaitError,
    UsageError,
)
from hatchway.model import EventKind
from hatchway.wire import frames
from hatchway.wire.admin import (
    ConnectionInfo,
    Disable,
    Enable,
    Forget,
    ListInstances,
    Log,
    ReadLog,
    Server,
    Show,
    ShowServer,
)
from hatchway.wire.entry import (
    ExportKey,
    KeyExport,
    ListKeys,
    Lock,
    Password,
    RenewKey,
    ResetPassword,
    ShowPassword,
    Unlock,
)
from hatchway.wire.links import LIFE_MAX_S, LinkMade, ListLinks, MakeLink, RevokeLink, ShareLinks
from hatchway.wire.web import OpenLink, SignedIn, SignedOut, SignOut, Viewer, ViewerKind, WhoIs

T = TypeVar("T")

HOUR_S = 3600.0
KEY = str(WEB)


@pytest.fixture(autouse=True)
def _no_host_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hatchway.sshd.hostkeys.read", lambda _: ())


@asynccontextmanager
async def shared(directory: Path) -> AsyncIterator[Scene]:
    """A scene with an instance that has a login."""
    async with scene(directory) as web:
        await web.stage.do(Enable(instance=KEY, every=True))
        yield web


async def make(web: Scene, **fields: Any) -> LinkMade:
    made = await web.stage.do(MakeLink(**{"instance": KEY, "expires_at": web.stage.core.now() + HOUR_S, **fields}))
    assert isinstance(made, LinkMade)
    return made


async def call(web: Scene, request: object, answer: type[T], token: str) -> T:
    web.token = token
    return await web.call(request, answer)


async def opened(web: Scene, token: str, passphrase: str = "", address: str = "192.0.2.7") -> SignedIn:
    request = OpenLink(token=token, passphrase=passphrase, address=address)
    return await frames.call(web.path, request, SignedIn, 10)


async def test_a_link_shows_how_to_connect_to_its_instance_and_nothing_else(tmp_path: Path) -> None:
    async with shared(tmp_path) as web:
        made = await make(web, note="for Berta")
        assert made.link.note == "for Berta"
        assert made.link.over == ""
        found = await opened(web, made.token)
        assert (found.viewer.kind, found.viewer.name) == (ViewerKind.LINK, KEY)
        assert found.token != made.token
        assert found.viewer.uses_left == 0
        info = await call(web, Show(instance=KEY, secrets=True), ConnectionInfo, found.token)
        assert (info.login, info.password is not None) == ("shop-web-1", True)
        assert (await call(web, ExportKey(KEY), KeyExport, found.token)).login == "shop-web-1"
        assert (await call(web, ShowPassword(KEY), Password, found.token)).login == "shop-web-1"
        await call(web, ShowServer(), Server, found.token)
        for request in (
            Show(instance="shop-web-1"),
            Show(instance="web"),
            Show(instance="shop/web"),
            Show(instance="shop/web/2"),
            ListInstances(),
            ListKeys(KEY),
            ListLinks(),
            RenewKey(instance=KEY),
            ResetPassword(instance=KEY),
            ReadLog(instance=KEY),
            Disable(instance=KEY, every=True),
            MakeLink(instance=KEY, expires_at=web.stage.core.now() + HOUR_S),
            RevokeLink(made.link.name),
        ):
            with pytest.raises(RefusedError):
                await call(web, request, ConnectionInfo, found.token)


async def test_who_opened_a_link_is_told_nothing_of_the_host_or_of_others(tmp_path: Path) -> None:
    async with shared(tmp_path) as web:
        await web.stage.do(Disable(instance=KEY, volumes=("/logs",)))
        found = await opened(web, (await make(web)).token)
        info = await call(web, Show(instance=KEY), ConnectionInfo, found.token)
        assert info.instance is not None
        assert [volume.path for volume in info.instance.volumes] == ["/data"]
        assert all(not volume.grants and not volume.people for volume in info.instance.volumes)
        assert (info.instance.image, info.instance.user, info.instance.runtime_name) == ("", "", "")


async def test_a_link_is_used_up(tmp_path: Path) -> None:
    async with shared(tmp_path) as web:
        made = await make(web, uses=2)
        first = await opened(web, made.token)
        second = await opened(web, made.token)
        with pytest.raises(SignInError, match="opens nothing"):
            await opened(web, made.token)
        # Who is in stays in.
        for one in (first, second):
            viewer = await frames.call(web.path, WhoIs(one.token), Viewer, 10)
            assert (viewer.kind, viewer.uses_left) == (ViewerKind.LINK, 0)
        assert (first.viewer.uses_left, second.viewer.uses_left) == (1, 0)
        (listed,) = (await web.stage.do(ListLinks(instance=KEY))).links
        assert (listed.uses, listed.over) == (2, "used up")


async def test_who_are_quick_do_not_open_it_more_often(tmp_path: Path) -> None:
    async with shared(tmp_path) as web:
        made, let_in = await make(web, uses=3), 0

        async def one(number: int) -> None:
            nonlocal let_in
            try:
                await opened(web, made.token, address=f"192.0.2.{number}")
            except SignInError:
                return
            let_in += 1

        async with trio.open_nursery() as nursery:
            for number in range(12):
                nursery.start_soon(one, number)
        assert let_in == 3


async def test_a_link_expires_and_who_is_in_by_it_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with shared(tmp_path) as web:
        made = await make(web, uses=5)
        found = await opened(web, made.token)
        now = web.stage.core.now()
        monkeypatch.setattr(web.stage.core, "now", lambda: now + HOUR_S)
        with pytest.raises(SignInError):
            await opened(web, made.token)
        with pytest.raises(SignedOutError):
            await call(web, Show(instance=KEY), ConnectionInfo, found.token)
        assert [one.over for one in (await web.stage.do(ListLinks())).links] == ["expired"]


async def test_a_link_that_is_taken_back_opens_nothing_and_ends_who_is_in(tmp_path: Path) -> None:
    async with shared(tmp_path) as web:
        made, other = await make(web, uses=5), await make(web)
        found = await opened(web, made.token)
        await web.stage.do(RevokeLink(made.link.name))
        with pytest.raises(SignedOutError):
            await call(web, Show(instance=KEY), ConnectionInfo, found.token)
        with pytest.raises(SignInError):
            await opened(web, made.token)
        assert [one.name for one in (await web.stage.do(ListLinks())).links] == [other.link.name]
        with pytest.raises(NotFoundError, match="there is no link"):
            await web.stage.do(RevokeLink(made.link.name))


async def test_what_is_forgotten_has_no_links_any_more_nor_has_what_comes_after_it(tmp_path: Path) -> None:
    async with shared(tmp_path) as web:
        made = await make(web, uses=5)
        found = await opened(web, made.token)
        await web.stage.do(Forget(instance=KEY))
        await web.stage.do(Enable(instance=KEY, every=True))
        with pytest.raises(SignedOutError):
            await call(web, Show(instance=KEY), ConnectionInfo, found.token)
        with pytest.raises(SignInError):
            await opened(web, made.token)
        assert await web.stage.do(ListLinks()) == ShareLinks(())


async def test_a_passphrase_is_asked_for_and_does_not_use_a_link_up(tmp_path: Path) -> None:
    async with shared(tmp_path) as web:
        made = await make(web, passphrase="two mice in the cellar")
        assert made.link.passphrase
        with pytest.raises(PassphraseError, match="asks for a passphrase"):
            await opened(web, made.token)
        with pytest.raises(PassphraseError, match="is wrong"):
            await opened(web, made.token, "two mice in the attic")
        await opened(web, made.token, "two mice in the cellar", address="192.0.2.8")
        with pytest.raises(SignInError):
            await opened(web, made.token, "two mice in the cellar", address="192.0.2.8")


async def test_who_guesses_at_a_passphrase_waits_and_in_the_end_the_link_is_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with shared(tmp_path) as web:
        made = await make(web, passphrase="two mice in the cellar")
        with pytest.raises(SignInWaitError):
            for _ in range(50):
                with pytest.raises(PassphraseError):
                    await opened(web, made.token, "wrong one")
        monkeypatch.setattr(share_links, "WRONG_MAX", 3)
        with pytest.raises(SignInError):
            await opened(web, made.token, "two mice in the cellar", address="198.51.100.1")
        assert [one.over for one in (await web.stage.do(ListLinks())).links] == ["too many wrong passphrases"]


@pytest.mark.parametrize("token", ["", "x", "\ud800", "a" * 5000, "' OR 1=1 --", "\0"])
async def test_what_is_no_token_opens_nothing(tmp_path: Path, token: str) -> None:
    async with shared(tmp_path) as web:
        made = await make(web)
        for one in (token, made.token[:-1], made.token.swapcase(), made.link.name, share_links.digest(made.token)):
            try:
                with pytest.raises((SignInError, SignInWaitError)):
                    await opened(web, one, address="")
            except UnicodeEncodeError:
                assert one == "\ud800"
        await opened(web, made.token)


async def test_a_link_is_no_operators_word_and_no_persons(tmp_path: Path) -> None:
    async with shared(tmp_path) as web:
        made = await make(web)
        for token in (made.token, made.link.name):
            with pytest.raises(SignedOutError):
                await call(web, Show(instance=KEY), ConnectionInfo, token)


async def test_the_record_tells_of_links_and_never_a_token(tmp_path: Path) -> None:
    async with shared(tmp_path) as web:
        made = await make(web, passphrase="two mice in the cellar", note="for Berta")
        found = await opened(web, made.token, "two mice in the cellar")
        await call(web, ExportKey(KEY), KeyExport, found.token)
        await web.stage.do(RevokeLink(made.link.name))
        await web.stage.core.journal.write()
        log = await web.stage.do(ReadLog(instance=KEY))
        assert isinstance(log, Log)
        told = [(entry.what, entry.who) for entry in log.entries]
        name = made.link.name
        assert any(what.startswith("link made, until ") and "for Berta" in what and name in what for what, _ in told)
        assert ("opened", f"link {name} (web) from 192.0.2.7") in told
        assert any("private key handed out" in what and who.startswith(f"link {name}") for what, who in told)
        assert any(what == f"link {name} taken back" for what, _ in told)
        assert made.token not in str(log)
        assert "mice" not in str(log)
        assert made.token not in repr(made)


@pytest.mark.parametrize(
    "fields",
    [
        {"uses": 0},
        {"uses": 1001},
        {"expires_at": 0.0},
        {"expires_at": float("nan")},
        {"expires_at": float("inf")},
        {"passphrase": "short"},
        {"passphrase": ""},
        {"note": "x" * 201},
        {"note": "two\nlines"},
        {"instance": "shop/web/9"},
    ],
)
async def test_what_cannot_be_is_refused_with_a_reason(tmp_path: Path, fields: dict[str, Any]) -> None:
    async with shared(tmp_path) as web:
        with pytest.raises((UsageError, NotFoundError)):
            await make(web, **fields)
        with pytest.raises(UsageError, match="90 days"):
            await make(web, expires_at=web.stage.core.now() + LIFE_MAX_S + HOUR_S)
        assert await web.stage.do(ListLinks()) == ShareLinks(())


async def test_without_web_pages_there_are_no_links(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await stage.do(Enable(instance=KEY, every=True))
        with pytest.raises(ConflictError, match=r"the web pages are off: set enabled = true below \[web\]"):
            await stage.do(MakeLink(instance=KEY, expires_at=stage.core.now() + HOUR_S))
        # Those that were made before can be looked at, and taken back.
        assert await stage.do(ListLinks()) == ShareLinks(())


@pytest.mark.parametrize(
    ("web", "host", "url"),
    [
        (Web(), "files.example.org", ""),
        (Web(listen=("0.0.0.0:8022",)), "", ""),
        (Web(listen=("127.0.0.1:8022", "0.0.0.0:8443")), "files.example.org", "https://files.example.org:8443"),
        (Web(listen=("[::]:443",)), "2001:db8::7", "https://[2001:db8::7]"),
        (Web(listen=("0.0.0.0:8022",), tls="proxy"), "files.example.org", ""),
        (Web(url="https://box.example.org/"), "files.example.org", "https://box.example.org"),
    ],
)
def test_the_address_is_what_the_pages_are_called_from_outside(web: Web, host: str, url: str) -> None:
    config = Config(web=web, connect=Connect(host=host))
    assert share_links.url(config, "TOKEN") == (f"{url}/link#TOKEN" if url else "")


async def test_guesses_that_wait_are_none_any_more_when_the_link_is_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All that arrive at once are no more guesses than there may be."""
    monkeypatch.setattr(share_links, "WRONG_MAX", 3)
    async with shared(tmp_path) as web:
        made, said = await make(web, passphrase="two mice in the cellar"), list[str]()

        async def guess(number: int) -> None:
            try:
                await opened(web, made.token, f"guess number {number}", f"192.0.2.{number}")
            except (PassphraseError, SignInError, SignInWaitError) as exc:
                said.append(exc.code)

        async with trio.open_nursery() as nursery:
            for number in range(12):
                nursery.start_soon(guess, number)
        # One more may be looked at beside the last.
        assert 3 <= said.count("passphrase") <= 4
        assert [one.over for one in (await web.stage.do(ListLinks())).links] == ["too many wrong passphrases"]


async def test_who_locks_a_login_closes_its_links(tmp_path: Path) -> None:
    async with shared(tmp_path) as web:
        made = await make(web, uses=5)
        found = await opened(web, made.token)
        await web.stage.do(Lock(instance=KEY, why="stolen"))
        with pytest.raises(SignedOutError):
            await call(web, ExportKey(KEY), KeyExport, found.token)
        with pytest.raises(SignInError):
            await opened(web, made.token)
        await web.stage.do(Unlock(KEY))
        await opened(web, made.token)


async def test_what_is_done_by_a_link_is_apart_from_what_operators_did(tmp_path: Path) -> None:
    async with shared(tmp_path) as web:
        made = await make(web)
        token = (await opened(web, made.token)).token
        await web.stage.do(Disable(instance=KEY, volumes=("/data",)))
        for _ in range(5):
            await call(web, ExportKey(KEY), KeyExport, token)
        await web.ask(SignOut(token), SignedOut)
        told = await web.told()
        assert [one.what.partition(",")[0] for one in told if one.kind is EventKind.CHANGE] == [
            "enable all volumes: /data",
            "link made",
            "disable /data",
        ]
        of_guests = [(one.what, one.instance) for one in told if one.kind is EventKind.GUEST for _ in range(one.times)]
        assert sorted(of_guests) == sorted(
            [("opened", KEY), *[("private key handed out", KEY)] * 5, ("signed out", KEY)]
        )
        assert {one.kind for one in told} == {EventKind.CHANGE, EventKind.GUEST}
