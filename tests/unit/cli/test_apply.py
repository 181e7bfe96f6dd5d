"""`hatchway apply`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from hatchway import trust
from hatchway.model import AccessRule, InstanceKey, Mode, Origin
from hatchway.wire.admin import Access, AccessChange, Applied, Apply, Changed, ChangeKind, Confirm, SourceStatus

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
            change(ChangeKind.ALTER, "/logs", before=Mode.READ_WRITE, mode=Mode.READ_ONLY),
        ),
        waiting=(
            change(ChangeKind.CONFIRM, "/other", reason="another volume stands there"),
            change(ChangeKind.CONFIRM, "/other", reason="another volume stands there", by="label"),
            change(ChangeKind.REFUSED, "/tmp", reason="a tmpfs has no contents on the host"),
        ),
        pending=2,
        problems=("nobody can enter as shop-web-1: taken",),
        idle=("shop.toml, rule 9",),
        sources=(
            SourceStatus(source="docker", age_s=9.0, instances=3, problem="the engine does not answer"),
            SourceStatus(source="static", age_s=1.0, instances=3, problem=None),
        ),
        dry_run=True,
    )
    done = run("apply", "--dry-run")
    assert done.exit_code == 1, done.stderr
    where = f"{access_dir}/shop.toml, rule 1"
    rule = AccessRule(where=where, project="shop", service="*", volumes=("/data",))
    assert daemon.requests == [Apply(rules=(rule,), dry_run=True)]
    assert done.stdout.splitlines() == [
        f"1 rule in {access_dir}; 3 changes would be made",
        "shop/web/1",
        "  give       rw        /data        shop.toml, rule 1",
        "  take away  rw        /\\x1b[2Jold  shop.toml, rule 1",
        "  change     rw -> ro  /logs        shop.toml, rule 1",
        "2 of them are still being made: 'hatchway ls' shows how far that is",
        "nobody can enter as shop-web-1: taken",
        "",
        "Held back: look whose these are, then 'hatchway confirm INSTANCE'",
        "  shop/web/1 /other: another volume stands there",
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


def test_nothing_to_do(run: Cli, daemon: FakeDaemon, access_dir: Path) -> None:
    daemon.answers[Apply] = Applied(changes=(), waiting=(), pending=0, problems=(), idle=(), sources=(), dry_run=False)
    done = run("apply")
    assert (done.exit_code, done.stdout.splitlines()[0]) == (0, f"0 rules in {access_dir}; 0 changes made")
    assert daemon.requests == [Apply(rules=())]
    assert run.json("apply")["changes"] == []


def test_confirm(run: Cli, daemon: FakeDaemon, make: Any) -> None:
    volume = make.volume(access=Access.READ_ONLY, session_path="/home/work")
    daemon.answers[Confirm] = Changed(instance=make.instance(volume), changed=("/home/work",))
    done = run("confirm", "shop/web/1", "work")
    assert daemon.requests == [Confirm(instance="shop/web/1", volumes=("work",))]
    assert done.stdout.splitlines() == ["shop/web/1  Access confirmed.", "  ro  /home/work  work"]


def test_a_file_that_others_can_change_is_not_read(run: Cli, daemon: FakeDaemon, access_dir: Path) -> None:
    (access_dir / "bad.toml").write_text(RULES)
    done = run("apply", "--json")
    assert done.exit_code != 0
    assert "is everybody's: what gives access must be root's alone" in json.loads(done.stdout)["error"]["text"]
    assert daemon.requests == []


def test_a_mistake_in_a_file_changes_nothing(run: Cli, daemon: FakeDaemon, access_dir: Path) -> None:
    (access_dir / "a.toml").write_text(RULES)
    (access_dir / "b.toml").write_text("[[access]]\nprojekt = 'shop'\n")
    done = run("apply")
    assert done.exit_code != 0
    assert "b.toml, rule 1: unknown key 'projekt'; did you mean 'project'?" in done.stderr
    assert daemon.requests == []


def test_no_directory_is_a_mistake(run: Cli, daemon: FakeDaemon, access_dir: Path) -> None:
    access_dir.rmdir()
    done = run("apply")
    assert done.exit_code == 3
    assert "there is none; make it" in done.stderr
    assert daemon.requests == []
