"""`hatchway key`, but for `export`, which is in test_show.py."""

from __future__ import annotations

import datetime
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from hatchway.errors import UsageError
from hatchway.wire.entry import (
    AddKey,
    AllowVolumeKeys,
    KeyOrigin,
    Keys,
    KeyStatus,
    ListKeys,
    RemoveKey,
    RenewKey,
    TakeKeyBack,
)

if TYPE_CHECKING:
    from tests.unit.cli.conftest import Cli, FakeDaemon

PUBLIC = "ssh-ed25519 AAAA alice@laptop"
EVIL = "[red]x\x1b]0;owned\x07\n\u202ey"
EVIL_SHOWN = "[red]x\\x1b]0;owned\\x07\\x0a\\u202ey"


def at(*fields: int) -> float:
    return datetime.datetime(*fields).timestamp()  # type: ignore[arg-type]


def one(letter: str, origin: KeyOrigin = KeyOrigin.ADDED, **more: Any) -> KeyStatus:
    fields: dict[str, Any] = {"algorithm": "ssh-ed25519", "comment": "", **more}
    return KeyStatus(origin=origin, fingerprint="SHA256:" + letter * 43, **fields)


def keys(*some: KeyStatus, volume_keys: bool = False, **more: Any) -> Keys:
    return Keys(login="shop-web-1", keys=some, volume_keys=volume_keys, **more)


GENERATED = one("k", KeyOrigin.GENERATED, comment="shop-web-1", created_at=at(2026, 1, 31, 14, 5))


def test_list(run: Cli, daemon: FakeDaemon) -> None:
    daemon.answers[ListKeys] = keys(
        GENERATED,
        one(
            "a",
            algorithm="ssh-rsa",
            bits=3072,
            comment="alice@laptop",
            created_at=at(2026, 2, 1),
            sources="10.0.0.0/8,!10.0.0.1",
            expires_at=at(2020, 1, 31, 23, 59, 59),
            verify_required=True,
        ),
        one("v", KeyOrigin.VOLUME, place="/home/work/.ssh/authorized_keys:3"),
        volume_keys=True,
        problems=("/home/work/.ssh/authorized_keys:4: no key",),
    )
    done = run("key", "list", "shop/web/1")
    assert (done.exit_code, done.stderr) == (0, "")
    years = int((time.time() - at(2020, 1, 31, 23, 59, 59)) / 86400 / 365.2425)
    assert (
        done.stdout
        == f"""\
shop-web-1  3 keys
  generated  shop-web-1
      ssh-ed25519  SHA256:{"k" * 43}
      made 2026-01-31 14:05:00
  added      alice@laptop
      ssh-rsa 3072  SHA256:{"a" * 43}
      added 2026-02-01 00:00:00
      only from 10.0.0.0/8,!10.0.0.1
      expired 2020-01-31 23:59:59, {years} years ago
      only after a PIN or the like
  volume     no comment
      ssh-ed25519  SHA256:{"v" * 43}
      in /home/work/.ssh/authorized_keys:3

Does not count
  /home/work/.ssh/authorized_keys:4: no key
"""
    )
    assert daemon.requests == [ListKeys("shop/web/1")]
    assert run.json("key", "list", "x")["keys"][1]["bits"] == 3072


def test_list_says_when_keys_in_volumes_do_not_count(run: Cli, daemon: FakeDaemon) -> None:
    daemon.answers[ListKeys] = keys(GENERATED)
    out = run("key", "list", "x").stdout
    assert "Keys in volumes of its own do not count; 'hatchway key volumes shop-web-1 --allow' changes that" in out
    assert "Does not count" not in out


def test_what_a_container_writes_does_nothing_to_the_terminal(run: Cli, daemon: FakeDaemon) -> None:
    evil = one("v", KeyOrigin.VOLUME, algorithm=EVIL, comment=EVIL, place=EVIL, sources=EVIL)
    daemon.answers[ListKeys] = keys(evil, volume_keys=True, problems=(EVIL,))
    out = run("key", "list", "x").stdout
    assert out.count(EVIL_SHOWN) == 5
    assert all(character.isprintable() for line in out.splitlines() for character in line)
    assert run.json("key", "list", "x")["keys"][0]["comment"] == EVIL


def test_renew(run: Cli, daemon: FakeDaemon) -> None:
    daemon.answers[RenewKey] = keys(GENERATED, one("a"), changed=(GENERATED.fingerprint,))
    assert (
        run("key", "renew", "x", "--type", "rsa3072").stdout
        == f"""\
shop-web-1  New key made; the old one is refused from now on.
  generated  shop-web-1
      ssh-ed25519  SHA256:{"k" * 43}
      made 2026-01-31 14:05:00
  hatchway key export shop-web-1 writes it to a file.
"""
    )
    run("key", "renew", "x", "--json")
    assert daemon.requests == [RenewKey(instance="x", kind="rsa3072"), RenewKey(instance="x")]
    assert run("key", "renew", "x", "--type", "dsa").exit_code == 2
    assert len(daemon.requests) == 2


def test_take_back_says_what_became_of_it(run: Cli, daemon: FakeDaemon) -> None:
    outcome = "/data/id_container: it was not there"
    daemon.answers[TakeKeyBack] = keys(taken_back=(outcome,))
    assert run("key", "take-back", "x").stdout == f"shop-web-1  The private key lies in no volume\n  {outcome}\n"
    daemon.answers[TakeKeyBack] = keys(
        taken_back=("x",), undelivered=("/data/id_container could not be taken away yet",)
    )
    assert run("key", "take-back", "x").stdout.endswith("\n  /data/id_container could not be taken away yet\n")


def test_add_a_file(run: Cli, daemon: FakeDaemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.time", lambda: at(2026, 1, 1))
    added = one("a", comment="alice", created_at=at(2026, 1, 1), expires_at=at(2026, 1, 31, 23, 59, 59))
    daemon.answers[AddKey] = keys(GENERATED, added, one("a", KeyOrigin.VOLUME), changed=(added.fingerprint,))
    file = tmp_path / "id.pub"
    file.write_text(PUBLIC + "\n")
    more = ["--from", "10.0.0.0/8,!10.0.0.1", "--from", "::1", "--expires", "2026-01-31", "--verify-required"]
    assert (
        run("key", "add", "x", str(file), *more).stdout
        == f"""\
shop-web-1  Key added.
  added  alice
      ssh-ed25519  SHA256:{"a" * 43}
      added 2026-01-01 00:00:00
      expires 2026-01-31 23:59:59, in 31 days
"""
    )
    assert daemon.requests == [
        AddKey(
            instance="x",
            public=PUBLIC + "\n",
            sources="10.0.0.0/8,!10.0.0.1,::1",
            expires_at=at(2026, 1, 31, 23, 59, 59),
            verify_required=True,
        )
    ]


@pytest.mark.parametrize("file", [[], ["-"]])
def test_add_from_standard_input(run: Cli, daemon: FakeDaemon, file: list[str]) -> None:
    daemon.answers[AddKey] = keys(GENERATED)
    done = run("key", "add", "x", *file, given=PUBLIC)
    assert (done.exit_code, done.stderr) == (0, "")
    assert daemon.requests == [AddKey(instance="x", public=PUBLIC)]


def test_add_what_is_pasted_into_a_terminal(on_terminal: Any, daemon: FakeDaemon) -> None:
    daemon.answers[AddKey] = keys(GENERATED)
    terminal = on_terminal("key", "add", "x", "--json")
    terminal.until(b"The public key, one line")
    terminal.type(PUBLIC)
    status, out, _ = terminal.end()
    assert (status, out[0]) == (0, "{")
    assert daemon.requests == [AddKey(instance="x", public=PUBLIC)]


def test_no_more_is_read_than_any_key_has(run: Cli, daemon: FakeDaemon, tmp_path: Path) -> None:
    daemon.answers[AddKey] = keys(GENERATED)
    (tmp_path / "large").write_text("x" * (16 * 1024))
    assert run("key", "add", "x", str(tmp_path / "large")).exit_code == 0
    (tmp_path / "larger").write_text("x" * (16 * 1024 + 1))
    for arguments, given in (
        ([str(tmp_path / "larger")], None),
        (["/dev/zero"], None),
        (["-"], "x" * (16 * 1024 + 1)),
    ):
        done = run("key", "add", "x", *arguments, given=given)
        assert done.exit_code == 2
        assert "larger than 16 KiB" in done.stderr
    assert len(daemon.requests) == 1


def test_what_cannot_be_read(run: Cli, daemon: FakeDaemon, tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    for name, text in (("none", "No such file"), ("", "Is a directory"), ("binary", "not UTF-8")):
        done = run("key", "add", "x", os.path.join(tmp_path, name))
        assert done.exit_code == 2
        assert text in done.stderr
    assert daemon.requests == []


def test_a_private_key_by_mistake_is_not_repeated(run: Cli, daemon: FakeDaemon) -> None:
    daemon.answers[AddKey] = UsageError("this is a private key")
    private = "-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXktdjEA\n-----END OPENSSH PRIVATE KEY-----\n"
    done = run("key", "add", "x", given=private, env={"HATCHWAY_TRACEBACK": "1"})
    assert done.exit_code == 2
    assert "b3Blbn" not in done.output + done.stderr


@pytest.mark.parametrize(
    "options",
    [
        ["--from", ""],
        ["--from", "10.0.0.0/8,"],
        ["--from", "10.0.0.0/8", "--from", " "],
        ["--expires", ""],
        ["--expires", "2020-01-31"],
        ["--expires", "soon"],
        ["--expires", "Never"],
    ],
)
def test_no_restriction_is_dropped(run: Cli, daemon: FakeDaemon, options: list[str]) -> None:
    """As with a variable that is not set."""
    assert run("key", "add", "x", *options, given=PUBLIC).exit_code == 2
    assert daemon.requests == []


def test_remove(run: Cli, daemon: FakeDaemon) -> None:
    daemon.answers[RemoveKey] = keys(GENERATED, changed=("SHA256:" + "a" * 43,))
    assert run("key", "remove", "x", "alice").stdout == f"shop-web-1  Key removed.\n  SHA256:{'a' * 43}\n"
    assert daemon.requests == [RemoveKey(instance="x", key="alice")]


def test_remove_says_when_the_key_still_counts(run: Cli, daemon: FakeDaemon) -> None:
    still = one("a", KeyOrigin.VOLUME, place="/w/.ssh/authorized_keys:1")
    daemon.answers[RemoveKey] = keys(GENERATED, still, volume_keys=True, changed=(still.fingerprint,))
    assert "  It still counts: it is in /w/.ssh/authorized_keys:1\n" in run("key", "remove", "x", "alice").stdout


def test_volumes(run: Cli, daemon: FakeDaemon) -> None:
    there = one("v", KeyOrigin.VOLUME, comment="deploy", place="/w/.ssh/authorized_keys:1")

    def answer(request: AllowVolumeKeys) -> Keys:
        return keys(
            GENERATED, *([there] if request.allow else []), volume_keys=request.allow, problems=("/w/.ssh: no",)
        )

    daemon.answers[AllowVolumeKeys] = answer
    assert (
        run("key", "volumes", "x", "--allow").stdout
        == f"""\
shop-web-1  Keys in volumes of its own count from now on:
  volume  deploy
      ssh-ed25519  SHA256:{"v" * 43}
      in /w/.ssh/authorized_keys:1

Does not count
  /w/.ssh: no
"""
    )
    denied = "shop-web-1  Keys in volumes of its own do not count from now on.\n"
    assert run("key", "volumes", "x", "--deny").stdout == denied
    assert daemon.requests == [AllowVolumeKeys(instance="x", allow=allow) for allow in (True, False)]


def test_volumes_without_keys(run: Cli, daemon: FakeDaemon) -> None:
    daemon.answers[AllowVolumeKeys] = keys(GENERATED, volume_keys=True)
    assert "  there are none now\n" in run("key", "volumes", "x", "--allow").stdout


@pytest.mark.parametrize("options", [(), ("--allow", "--deny")])
def test_volumes_must_be_told(run: Cli, daemon: FakeDaemon, options: tuple[str, ...]) -> None:
    done = run("key", "volumes", "x", *options)
    assert done.exit_code == 2
    assert "either --allow or --deny" in done.stderr
    assert daemon.requests == []
