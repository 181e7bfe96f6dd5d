"""What takes a processor and memory for a while, asked for by whoever is in at the web pages: nobody else waits for it,
least of all who logs in."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from tests.unit.core.stage import WEB, Stage
from tests.unit.core.test_share_links import make, opened, shared
from tests.unit.core.test_web_people import made
from tests.unit.core.test_web_socket import THERE, Scene

from hatchway.admin.relaying import COSTLY_MAX, is_costly
from hatchway.credentials import keys, passwords, ppk
from hatchway.credentials.secret import Secret
from hatchway.errors import ConflictError, PassphraseError, SignedOutError, SignInWaitError
from hatchway.wire.entry import (
    ExportKey,
    KeyExport,
    KeyForm,
    Keys,
    Password,
    RenewKey,
    ResetPassword,
    RotateKey,
    SetPassword,
    ShowPassword,
)
from hatchway.wire.links import MakeLink, RevokeLink
from hatchway.wire.people import AddPerson
from hatchway.wire.web import ChangePassword

KEY = str(WEB)
PPK = ExportKey(KEY, KeyForm.PPK, "12345678")


@pytest.fixture(autouse=True)
def _no_host_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hatchway.sshd.hostkeys.read", lambda _: ())


class Slow:
    """Something that takes as long as it is held, in threads. `most`: how often it was done at once."""

    def __init__(self, result: object = Secret("made")) -> None:
        self._result = result
        self.go_on = threading.Event()
        self.begun = self.most = self._now = 0
        self._lock = threading.Lock()

    def __call__(self, *_: object) -> Any:
        with self._lock:
            self.begun += 1
            self._now += 1
            self.most = max(self.most, self._now)
        self.go_on.wait(20)
        with self._lock:
            self._now -= 1
        return self._result

    async def is_doing(self, number: int) -> None:
        with trio.fail_after(20):
            while self.begun < number:
                await trio.sleep(0.01)


@contextmanager
def held(monkeypatch: pytest.MonkeyPatch, module: object, name: str, result: object = Secret("made")) -> Iterator[Slow]:
    slow = Slow(result)
    with monkeypatch.context() as patched:
        patched.setattr(module, name, slow)
        try:
            yield slow
        finally:
            slow.go_on.set()


@asynccontextmanager
async def no_threads_left() -> AsyncIterator[None]:
    """Somebody has all the threads that trio lends."""
    limiter = trio.to_thread.current_default_thread_limiter()
    for number in range(int(limiter.total_tokens)):
        limiter.acquire_on_behalf_of_nowait(number)
    try:
        yield
    finally:
        for number in range(int(limiter.total_tokens)):
            limiter.release_on_behalf_of(number)


async def enters(stage: Stage, password: str) -> bool:
    fields = {"login": "shop-web-1", "rhost": "198.51.100.1", "service": "hatchway-sshd"}
    with trio.fail_after(20):
        return (await stage.ask("auth", password=password, **fields))[0]


async def password_of(stage: Stage) -> str:
    return str((await stage.do(ShowPassword(KEY))).password)


async def export(web: Scene, token: str, request: ExportKey = PPK) -> KeyExport:
    web.token = token
    return await web.call(request, KeyExport)


async def test_passwords_are_checked_in_threads_of_their_own(tmp_path: Path) -> None:
    async with shared(tmp_path) as web:
        password, person = await password_of(web.stage), await made(web, "berta")
        link = await make(web, passphrase="correct-horse")
        async with no_threads_left():
            assert await enters(web.stage, password)
            with trio.fail_after(20):
                await web.sign_in("berta", person)
                with pytest.raises(PassphraseError):
                    await opened(web, link.token, "another-horse")
                await opened(web, link.token, "correct-horse")


async def test_files_of_keys_are_made_one_at_a_time_and_nobody_who_logs_in_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with shared(tmp_path) as web:
        password = await password_of(web.stage)
        tokens = [(await opened(web, (await make(web)).token)).token for _ in range(3)]
        with held(monkeypatch, ppk, "encode") as slow:
            async with trio.open_nursery() as nursery:
                for token in tokens:
                    nursery.start_soon(export, web, token)
                await slow.is_doing(1)
                assert await enters(web.stage, password)
                assert slow.begun == 1
                slow.go_on.set()
            assert (slow.begun, slow.most) == (3, 1)


async def test_hashes_for_others_are_made_one_at_a_time_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with shared(tmp_path) as web:
        expires_at = web.stage.core.now() + 1000
        with held(monkeypatch, passwords, "hash_password") as slow:
            async with trio.open_nursery() as nursery:
                for _ in range(3):
                    request = MakeLink(instance=KEY, expires_at=expires_at, passphrase="correct-horse")
                    nursery.start_soon(web.stage.do, request)
                await slow.is_doing(1)
                await trio.testing.wait_all_tasks_blocked(0.05)
                slow.go_on.set()
                nursery.cancel_scope.cancel()
            assert slow.most == 1


async def test_a_viewer_has_a_few_waiting_and_hears_at_once_that_there_are_too_many(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with shared(tmp_path) as web:
        link = await make(web, uses=2)
        tokens = [(await opened(web, link.token)).token for _ in range(2)]
        other = (await opened(web, (await make(web)).token)).token
        with held(monkeypatch, ppk, "encode") as slow:
            async with trio.open_nursery() as nursery:
                for number in range(COSTLY_MAX):
                    # The same viewer, in however many browsers.
                    nursery.start_soon(export, web, tokens[number % 2])
                await slow.is_doing(1)
                await trio.testing.wait_all_tasks_blocked(0.05)
                for token in tokens:
                    with pytest.raises(SignInWaitError, match="too much at once"):
                        await export(web, token)
                    assert (await export(web, token, ExportKey(KEY))).private, "what costs nothing is done"
                nursery.start_soon(export, web, other)
                await trio.testing.wait_all_tasks_blocked(0.05)
                slow.go_on.set()
            assert slow.begun == COSTLY_MAX + 1
        assert (await export(web, tokens[0])).private.startswith("PuTTY")


async def test_who_is_signed_out_while_they_wait_gets_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with shared(tmp_path) as web:
        link = await make(web)
        token = (await opened(web, link.token)).token
        outcomes = list[str]()

        async def ask() -> None:
            try:
                await export(web, token)
                outcomes.append("done")
            except SignedOutError:
                outcomes.append("signed out")

        with held(monkeypatch, ppk, "encode") as slow:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(ask)
                await slow.is_doing(1)
                nursery.start_soon(ask)
                await trio.testing.wait_all_tasks_blocked(0.05)
                await web.stage.do(RevokeLink(link.link.name))
                slow.go_on.set()
        assert outcomes == ["done", "signed out"]


async def test_a_person_renews_one_key_at_a_time(tmp_path: Path) -> None:
    async with shared(tmp_path) as web:
        await web.sign_in("berta", await made(web, "berta"), THERE)
        outcomes = list[str]()

        async def renew() -> None:
            try:
                await web.call(RenewKey(instance="person:berta"), Keys)
                outcomes.append("done")
            except SignInWaitError:
                outcomes.append("too many")

        await web.stage.core.sealing_turn.acquire()
        async with trio.open_nursery() as nursery:
            for _ in range(COSTLY_MAX + 3):
                nursery.start_soon(renew)
            await trio.testing.wait_all_tasks_blocked(0.1)
            assert outcomes == ["too many"] * 3
            web.stage.core.sealing_turn.release()
        assert outcomes == ["too many"] * 3 + ["done"] * COSTLY_MAX


async def test_nobody_waits_while_a_pair_of_keys_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with shared(tmp_path) as web:
        password = await made(web, "berta")
        for login in ("clara", "dora"):
            await made(web, login)
        pair = keys.generate_rsa(2048, "id_container berta")
        with held(monkeypatch, keys, "generate_rsa", pair) as slow:
            async with trio.open_nursery() as nursery:
                for login in ("berta", "clara"):
                    nursery.start_soon(web.stage.do, RenewKey(instance=login, kind="rsa4096"))
                await slow.is_doing(1)
                await trio.testing.wait_all_tasks_blocked(0.05)
                assert slow.begun == 1, "one at a time"
                with pytest.raises(ConflictError, match="is being renewed"):
                    await web.stage.do(RenewKey(instance="berta"))
                with trio.fail_after(20):
                    await web.stage.do(ResetPassword(instance=KEY))
                    await web.stage.do(RenewKey(instance="dora"))
                    await web.stage.do(AddPerson(login="emma"))
                    await web.stage.do(RotateKey())
                    await web.sign_in("berta", password)
                slow.go_on.set()
            assert (slow.begun, slow.most) == (2, 1)
        # Sealed with the key of now, not with the one there was when it was begun.
        assert (await web.stage.do(ExportKey("berta"))).fingerprint == pair.fingerprint
        await web.stage.do(RenewKey(instance="berta"))


@pytest.mark.parametrize(
    "request_", [ResetPassword(instance="clara"), SetPassword(instance="clara", password="another one")]
)
async def test_nobody_waits_while_a_password_is_hashed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request_: object
) -> None:
    async with shared(tmp_path) as web:
        encoded = passwords.hash_password(Secret("another one"))
        await web.sign_in("berta", current := await made(web, "berta"))
        await made(web, "clara")
        change = ChangePassword(token=web.token, address=THERE, current=current, password="another one")
        with held(monkeypatch, passwords, "hash_password", encoded) as slow:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(web.ask, change, Password)
                await slow.is_doing(1)
                nursery.start_soon(web.stage.do, request_)
                await trio.testing.wait_all_tasks_blocked(0.05)
                with trio.fail_after(20):
                    await web.stage.do(RenewKey(instance=KEY))
                    await web.stage.do(RotateKey())
                slow.go_on.set()
            assert (slow.begun, slow.most) == (2, 1)
        await web.sign_in("berta", "another one")


def test_what_is_costly() -> None:
    assert is_costly(ExportKey(KEY, KeyForm.PPK))
    assert not is_costly(ExportKey(KEY))
    assert is_costly(MakeLink(instance=KEY, expires_at=1.0, passphrase="correct-horse"))
    assert not is_costly(MakeLink(instance=KEY, expires_at=1.0))
    assert not is_costly(ShowPassword(KEY))
