"""`hatchway apply`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from hatchway.model import AccessRule, InstanceKey, Mode, Origin
from hatchway.sshd import trust
from hatchway.wire.admin import AccessChange, Applied, Apply, ChangeKind, SourceStatus

if TYPE_CHECKING:
    from tests.unit.cli.conftest import Cli, FakeDaemon

RULES = '[[access]]\nproject = "shop"\nservice = "*"\nvolumes = ["/data"]\n'


@pytest.fixture
def access_dir(tmp_path: Path, run: Cli, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An access directory that counts as root's alone, although it lies beneath a test's."""
    directory = tmp_path / "access.d"
    directory.mkdir()
    run.config.write_text(f'{run.config.read_text()}[access]\ndir = "{directory}"\n')
    monkeypatch.setattr(trust, "flaw", lambda path, **_: "is everybody's" if "bad" in path else None)
    return directory


def change(kind: ChangeKind, path: str = "/data", **more: Any) -> AccessChange:
    fields = {
        "key": InstanceKey("shop", "web", 1),
        "origin": Origin.FILE,
        "mode": Mode.READ_WRITE,
        "by": "shop.toml, rule 1",
        **more,
    }
    return AccessChange(kind=kind, path=path, **fields)


def test_the_files_are_sent_and_the_answer_is_shown(run: Cli, daemon: FakeDaemon, access_dir: Path) -> None:
    (access_dir / "shop.toml").write_text(RULES)
    daemon.answers[Apply] = Applied(
        changes=(
            change(ChangeKind.GRANT),
            change(ChangeKind.WITHDRAW, "/\x1b[2Jold"),
            change(ChangeKind.CONFIRM, "/other"),
            change(ChangeKind.REFUSED, "/tmp", reason="a tmpfs has no contents on the host"),
        ),
        idle=("shop.toml, rule 9",),
        sources=(
            SourceStatus(source="docker", age_s=9.0, instances=3, problem="the engine does not answer"),
            SourceStatus(source="static", age_s=1.0, instances=3, problem=None),
        ),
        dry_run=True,
    )
    done = run("apply", "--dry-run")
    assert done.exit_code == 0, done.stderr
    where = f"{access_dir}/shop.toml, rule 1"
    rule = AccessRule(where=where, project="shop", service="*", volumes=("/data",))
    assert daemon.requests == [Apply(rules=(rule,), dry_run=True)]
    assert done.stdout.splitlines() == [
        f"1 rule in {access_dir}; 2 changes would be made",
        "shop/web/1",
        "  give       rw  /data        shop.toml, rule 1",
        "  take away  rw  /\\x1b[2Jold  shop.toml, rule 1",
        "",
        "Waiting for --confirm: another volume stands there than the one access was given to",
        "shop/web/1",
        "  confirm  rw  /other  shop.toml, rule 1",
        "",
        "Cannot be shared",
        "  shop/web/1 /tmp: a tmpfs has no contents on the host",
        "",
        "Nothing new is shared from what cannot be read now",
        "  docker  3 instances  seen 9 s ago  the engine does not answer",
        "",
        "Match no volume now",
        "  shop.toml, rule 9",
    ]


def test_confirmed(run: Cli, daemon: FakeDaemon, access_dir: Path) -> None:
    daemon.answers[Apply] = Applied(changes=(change(ChangeKind.CONFIRM),), idle=(), sources=(), dry_run=False)
    assert run("apply", "--confirm").stdout.splitlines()[0] == f"0 rules in {access_dir}; 1 change made"
    assert daemon.requests == [Apply(rules=(), confirm=True)]
    assert run.json("apply")["changes"][0]["kind"] == "confirm"


def test_a_file_that_others_can_change_is_not_read(run: Cli, daemon: FakeDaemon, access_dir: Path) -> None:
    (access_dir / "bad.toml").write_text(RULES)
    done = run("apply", "--json")
    assert done.exit_code != 0
    assert "bad.toml cannot be trusted: is everybody's" in json.loads(done.stdout)["error"]["text"]
    assert daemon.requests == []


def test_a_mistake_in_a_file_changes_nothing(run: Cli, daemon: FakeDaemon, access_dir: Path) -> None:
    (access_dir / "a.toml").write_text(RULES)
    (access_dir / "b.toml").write_text("[[access]]\nprojekt = 'shop'\n")
    done = run("apply")
    assert done.exit_code != 0
    assert "unknown key 'access[0].projekt'; did you mean 'project'?" in done.stderr
    assert daemon.requests == []


def test_no_directory_is_a_mistake(run: Cli, daemon: FakeDaemon, access_dir: Path) -> None:
    access_dir.rmdir()
    done = run("apply")
    assert done.exit_code == 5
    assert "No such file or directory" in done.stderr
    assert daemon.requests == []
