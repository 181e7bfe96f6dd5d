"""`hatchway key export`."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from hatchway.errors import NotFoundError
from hatchway.wire.entry import ExportKey, KeyExport, KeyForm, ShowConditions

if TYPE_CHECKING:
    from tests.unit.cli.conftest import Cli, FakeDaemon

EXPORT = KeyExport(
    login="shop-web-1",
    private="-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n-----END OPENSSH PRIVATE KEY-----\n",
    public="ssh-ed25519 AAAA shop-web-1",
    fingerprint="SHA256:" + "k" * 43,
)


def test_export(run: Cli, daemon: FakeDaemon, make: Any, here: Path) -> None:
    daemon.answers |= {ExportKey: EXPORT, ShowConditions: make.conditions()}
    done = run("key", "export", "shop/web/1")
    assert (done.exit_code, done.stderr) == (0, "")
    assert done.stdout == (
        f"id_container-shop-web-1  SHA256:{'k' * 43}\n"
        "  Where it is copied to, ssh takes it only when nobody else can read it:\n"
        "  chmod 600 id_container-shop-web-1\n"
    )
    file = here / "id_container-shop-web-1"
    assert file.read_text() == EXPORT.private
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert os.listdir(here) == [file.name]
    assert "PRIVATE" not in done.stdout


def test_export_never_overwrites_unless_told(run: Cli, daemon: FakeDaemon, make: Any, here: Path) -> None:
    daemon.answers |= {ExportKey: EXPORT, ShowConditions: make.conditions()}
    (here / "mine").write_text("precious")
    (here / "mine").chmod(0o644)
    refused = run("key", "export", "shop/web/1", "-o", "mine")
    assert refused.exit_code == 6
    assert "--force" in refused.stderr
    assert (here / "mine").read_text() == "precious"
    assert daemon.requests == []
    assert run("key", "export", "shop/web/1", "-o", "mine", "--force").exit_code == 0
    assert (here / "mine").read_text() == EXPORT.private
    assert stat.S_IMODE((here / "mine").stat().st_mode) == 0o600
    assert os.listdir(here) == ["mine"]


def test_a_key_that_could_not_be_written_is_not_asked_for(run: Cli, daemon: FakeDaemon, make: Any, here: Path) -> None:
    daemon.answers |= {ExportKey: EXPORT, ShowConditions: make.conditions()}
    (here / "id_container-shop-web-1").write_text("precious")
    assert run("key", "export", "shop/web/1").exit_code == 6
    assert daemon.requests == [ShowConditions("shop/web/1")]


@pytest.mark.parametrize("force", [[], ["--force"]])
def test_export_replaces_files_only(run: Cli, daemon: FakeDaemon, make: Any, here: Path, force: list[str]) -> None:
    """No link, whose target might be anything, and no device."""
    daemon.answers |= {ExportKey: EXPORT, ShowConditions: make.conditions()}
    (here / "link").symlink_to(here / "target")
    os.mkfifo(here / "fifo")
    (here / "stdout").symlink_to("/proc/self/fd/1")
    for name in ("link", "fifo", "stdout", "/dev/null"):
        done = run("key", "export", "shop/web/1", "-o", name, *force)
        assert done.exit_code == 6
        assert "no file: name another one" in done.stderr
    assert daemon.requests == []
    assert not (here / "target").exists()
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)


def test_a_file_is_there_whole_or_not_at_all(
    run: Cli, daemon: FakeDaemon, make: Any, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    daemon.answers |= {ExportKey: EXPORT, ShowConditions: make.conditions()}
    seen = []

    def full(descriptor: int) -> None:
        seen.append(os.listdir(here))
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    assert run("key", "export", "shop/web/1").exit_code == 8
    (at_once,) = seen
    assert "id_container-shop-web-1" not in at_once
    assert os.listdir(here) == []


def test_on_a_file_system_without_hard_links(
    run: Cli, daemon: FakeDaemon, make: Any, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    daemon.answers |= {ExportKey: EXPORT, ShowConditions: make.conditions()}

    def refused(*_arguments: object, **_more: object) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", refused)
    assert run("key", "export", "shop/web/1").exit_code == 0
    assert os.listdir(here) == ["id_container-shop-web-1"]
    assert (here / "id_container-shop-web-1").read_text() == EXPORT.private
    assert stat.S_IMODE((here / "id_container-shop-web-1").stat().st_mode) == 0o600


def test_export_to_standard_output(run: Cli, daemon: FakeDaemon, make: Any, here: Path) -> None:
    daemon.answers |= {ExportKey: EXPORT, ShowConditions: make.conditions()}
    assert run("key", "export", "shop/web/1", "-o", "-").stdout == EXPORT.private
    assert run.json("key", "export", "shop/web/1", "-o", "-")["private"] == EXPORT.private
    assert os.listdir(here) == []


def test_export_json_names_the_file(run: Cli, daemon: FakeDaemon, make: Any, here: Path) -> None:
    daemon.answers |= {ExportKey: EXPORT, ShowConditions: make.conditions()}
    assert run.json("key", "export", "shop/web/1") == {
        "login": "shop-web-1",
        "file": "id_container-shop-web-1",
        "fingerprint": EXPORT.fingerprint,
        "public": EXPORT.public,
    }


def test_export_to_a_bad_place(run: Cli, daemon: FakeDaemon, make: Any, here: Path) -> None:
    daemon.answers |= {ExportKey: EXPORT, ShowConditions: make.conditions()}
    assert run("key", "export", "shop/web/1", "-o", ".").exit_code == 2
    assert run("key", "export", "shop/web/1", "-o", "none/key").exit_code == 8


def test_export_of_nobody(run: Cli, daemon: FakeDaemon, make: Any, here: Path) -> None:
    daemon.answers[ShowConditions] = NotFoundError("no instance 'x'")
    done = run("key", "export", "x")
    assert done.exit_code == 5
    assert os.listdir(here) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="not root: sudo's caller cannot be given a file")
def test_export_under_sudo_is_the_callers_where_they_could_write(
    run: Cli, daemon: FakeDaemon, make: Any, here: Path
) -> None:
    daemon.answers |= {ExportKey: EXPORT, ShowConditions: make.conditions()}
    sudo: dict[str, str | None] = {"SUDO_UID": "12345", "SUDO_GID": "12346"}
    assert run("key", "export", "shop/web/1", "-o", "roots", env=sudo).exit_code == 0
    os.chown(here, 12345, 0)
    assert run("key", "export", "shop/web/1", "-o", "theirs", env=sudo).exit_code == 0
    os.chown(here, 0, 0)
    here.chmod(0o1777)
    assert run("key", "export", "shop/web/1", "-o", "anybodys", env=sudo).exit_code == 0
    owners = {one.name: (one.stat().st_uid, one.stat().st_gid) for one in here.iterdir()}
    assert owners == {"roots": (0, 0), "theirs": (12345, 12346), "anybodys": (12345, 12346)}


PPK = KeyExport(
    login="shop-web-1", private="PuTTY-User-Key-File-3: …\n", public="ssh-ed25519 A", fingerprint="SHA256:k"
)


def test_in_puttys_format(run: Cli, daemon: FakeDaemon, make: Any, here: Path) -> None:
    daemon.answers |= {ExportKey: PPK, ShowConditions: make.conditions()}
    done = run("key", "export", "shop/web/1", "--ppk")
    assert (done.exit_code, done.stdout) == (0, "id_container-shop-web-1.ppk  SHA256:k\n")
    assert daemon.requests[-1] == ExportKey("shop/web/1", KeyForm.PPK)
    file = here / "id_container-shop-web-1.ppk"
    assert file.read_text() == PPK.private
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_with_a_passphrase_from_standard_input(run: Cli, daemon: FakeDaemon, make: Any, here: Path) -> None:
    daemon.answers |= {ExportKey: PPK, ShowConditions: make.conditions()}
    done = run("key", "export", "shop/web/1", "--ppk", "--passphrase", given="correct horse\n")
    assert done.exit_code == 0
    assert daemon.requests[-1] == ExportKey("shop/web/1", KeyForm.PPK, "correct horse")
    assert "correct" not in done.output
    assert run("key", "export", "x", "--ppk", "--passphrase", "-o", "other", given="").exit_code == 2
    assert os.listdir(here) == ["id_container-shop-web-1.ppk"]


def test_with_a_passphrase_that_is_typed(
    on_terminal: Any, daemon: FakeDaemon, make: Any, here: Path, tmp_path: Path
) -> None:
    daemon.answers |= {ExportKey: PPK, ShowConditions: make.conditions()}
    terminal = on_terminal("key", "export", "shop/web/1", "--ppk", "--passphrase", "-o", str(tmp_path / "key"))
    terminal.until(b"New passphrase for the key of shop/web/1: ")
    terminal.type("correct horse")
    terminal.until(b"Repeat for confirmation: ")
    terminal.type("correct horse")
    status, _, seen = terminal.end()
    assert status == 0
    assert "correct" not in seen
    assert daemon.requests[-1] == ExportKey("shop/web/1", KeyForm.PPK, "correct horse")


def test_a_passphrase_is_for_puttys_format(run: Cli, daemon: FakeDaemon, here: Path) -> None:
    done = run("key", "export", "shop/web/1", "--passphrase", given="correct horse\n")
    assert done.exit_code == 2
    assert "ssh-keygen -p -f FILE" in done.stderr
    assert daemon.requests == []
