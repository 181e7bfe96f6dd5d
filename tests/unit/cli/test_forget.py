"""`hatchway forget`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from hatchway.errors import NotFoundError
from hatchway.model import InstanceKey
from hatchway.wire.admin import Forget, Forgotten

if TYPE_CHECKING:
    from tests.unit.cli.conftest import Cli, FakeDaemon

ANSWER = Forgotten(key=InstanceKey("shop", "web", 1), login="shop-web-1", paths=("/data", "/\x1b[2Jlogs"))


def test_forget(run: Cli, daemon: FakeDaemon) -> None:
    daemon.answers[Forget] = ANSWER
    done = run("forget", "shop/web/1")
    assert done.exit_code == 0
    assert daemon.requests == [Forget(instance="shop/web/1")]
    assert done.stdout.splitlines() == [
        "shop/web/1  Forgotten: login shop-web-1, key, password.",
        "  /data  is no longer shared",
        "  /\\x1b[2Jlogs  is no longer shared",
    ]


def test_forget_as_json(run: Cli, daemon: FakeDaemon) -> None:
    daemon.answers[Forget] = ANSWER
    assert json.loads(run("forget", "shop/web/1", "--json").stdout)["login"] == "shop-web-1"


def test_what_was_never_shared(run: Cli, daemon: FakeDaemon) -> None:
    daemon.answers[Forget] = NotFoundError("shop/web/9 was never shared")
    done = run("forget", "shop/web/9")
    assert done.exit_code == 5
    assert "never shared" in done.stderr
