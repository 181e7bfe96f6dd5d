"""The lines of keys that sshd is given, for the sshd there is."""

from __future__ import annotations

from pathlib import Path

from tests.unit.core.stage import staged

from hatchway.credentials import keys
from hatchway.wire.admin import Enable
from hatchway.wire.entry import AddKey, SetConditions

INSTANCE, LOGIN = "shop/web/1", "shop-web-1"


async def test_an_sshd_that_misreads_when_a_key_expires_is_not_told(tmp_path: Path) -> None:
    """Its line would be none to it: nobody whose access is to end one day could enter until then."""
    async with staged(tmp_path, expiry_known=False) as stage:
        stage.core.now = lambda: clock[0]
        clock = [1_000_000.0]
        pair = keys.generate_ed25519("alice@laptop")
        await stage.do(Enable(instance=INSTANCE, volumes=("/data",)))
        await stage.do(AddKey(instance=INSTANCE, public=pair.public, sources="192.0.2.0/24", expires_at=1_000_500.0))
        await stage.do(SetConditions(instance=INSTANCE, expires_at=1_001_000.0))
        known, lines = await stage.ask("keys", login=LOGIN)
        assert known
        own, added = lines.splitlines()
        assert own.startswith("restrict ssh-ed25519 ")
        assert added == f'restrict,from="192.0.2.0/24" {" ".join(pair.public.split()[:2])}'
        # It is not offered what has expired.
        clock[0] = 1_000_500.0
        assert await stage.ask("keys", login=LOGIN) == (True, f"{own}\n")
        clock[0] = 1_001_000.0
        assert await stage.ask("keys", login=LOGIN) == (False, "")
