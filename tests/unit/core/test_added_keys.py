"""Keys that are added when they, or sessions by them, are there already."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.unit.core.logins import INSTANCE, LOGIN, newest, own_key, with_a_key
from tests.unit.core.stage import Stage, staged

from hatchway.credentials import keys
from hatchway.errors import ConflictError, HostError
from hatchway.model import Login
from hatchway.wire.admin import Enable
from hatchway.wire.entry import AddKey, RemoveKey


async def enter(stage: Stage, public: str, address: str = "192.0.2.1") -> str:
    """Come in by a key. Returns the session."""
    fields = {"login": LOGIN, "service": "hatchway-sshd", "rhost": address}
    assert (await stage.ask("account", **fields))[0]
    kind, blob = public.split()[:2]
    assert (await stage.ask("open", **fields, authinfo=f"publickey {kind} {blob}\n"))[0]
    return newest(stage)


async def test_other_restrictions_take_a_removal_that_ends_the_sessions(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await stage.do(Enable(instance=INSTANCE, volumes=("/data",)))
        public = keys.generate_ed25519("alice").public
        await stage.do(AddKey(instance=INSTANCE, public=public))
        session = await enter(stage, public)
        for one in (public, await own_key(stage)):
            with pytest.raises(ConflictError, match=r"has the key SHA256:.* already"):
                await stage.do(AddKey(instance=INSTANCE, public=one, sources="198.51.100.0/24"))
        assert stage.host.ended == []
        await stage.do(RemoveKey(instance=INSTANCE, key="alice"))
        assert stage.host.ended == [session]
        await stage.do(AddKey(instance=INSTANCE, public=public, sources="198.51.100.0/24"))


async def test_what_is_said_of_a_volumes_key_holds_for_its_sessions_at_once(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        public = (await with_a_key(stage)).public
        inside, outside = await enter(stage, public), await enter(stage, public, "198.51.100.1")
        await stage.do(AddKey(instance=INSTANCE, public=public, sources="192.0.2.0/24"))
        assert stage.host.ended == [outside]
        await stage.do(RemoveKey(instance=INSTANCE, key="in the volume"))
        assert inside in stage.host.ended


async def test_a_host_that_cannot_end_them_is_told_of(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        public = (await with_a_key(stage)).public
        session = await enter(stage, public)
        stage.host.unendable = HostError("hostd is away")
        with pytest.raises(HostError, match="the key is added, but its sessions are not ended yet"):
            await stage.do(AddKey(instance=INSTANCE, public=public, sources="198.51.100.0/24"))
        stage.host.unendable = None
        await stage.admission.changed(Login(LOGIN))
        assert stage.host.ended == [session]
