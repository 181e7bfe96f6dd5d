"""`hatchway forget` and `hatchway prune`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from msgspec import structs

from hatchway.errors import NotFoundError
from hatchway.model import InstanceKey
from hatchway.wire.admin import Forget, Forgotten, GoneInstance, Prune, Pruned

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
        "  /data  is no longer shared by this login",
        "  /\\x1b[2Jlogs  is no longer shared by this login",
    ]


def test_what_a_rule_gives_again(run: Cli, daemon: FakeDaemon) -> None:
    daemon.answers[Forget] = structs.replace(ANSWER, again=True)
    assert "gives access again, by another login" in run("forget", "shop/web/1").stdout


def test_forget_as_json(run: Cli, daemon: FakeDaemon) -> None:
    daemon.answers[Forget] = ANSWER
    assert json.loads(run("forget", "shop/web/1", "--json").stdout)["login"] == "shop-web-1"


def test_what_was_never_shared(run: Cli, daemon: FakeDaemon) -> None:
    daemon.answers[Forget] = NotFoundError("shop/web/9 was never shared")
    done = run("forget", "shop/web/9")
    assert done.exit_code == 5
    assert "never shared" in done.stderr


def test_prune(run: Cli, daemon: FakeDaemon) -> None:
    gone = GoneInstance(key=InstanceKey("shop", "web", 1), login="shop-web-1", gone_s=40 * 86400.0)
    daemon.answers[Prune] = Pruned(instances=(gone,), dry_run=True)
    done = run("prune", "--days", "7", "--dry-run")
    assert daemon.requests == [Prune(gone_s=7 * 86400.0, dry_run=True)]
    assert done.stdout.splitlines()[0] == "1 instance would be forgotten:"
    assert "shop/web/1" in done.stdout
    assert "shop-web-1" in done.stdout
    daemon.answers[Prune] = Pruned(instances=(), dry_run=False)
    assert run("prune").stdout == "No instance has been gone for 30 days.\n"
    assert run("prune", "--days", "-1").exit_code == 2
