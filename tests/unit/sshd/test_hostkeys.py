"""Host keys: made once, kept, read as ssh-keygen reads them."""

from __future__ import annotations

import shutil
import stat
import subprocess
from pathlib import Path

import pytest

from hatchway.errors import HostError
from hatchway.sshd import hostkeys

needs_ssh_keygen = pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="ssh-keygen is not installed")

PUBLIC = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIP1skrKklOu3YgxS58k+CzFQjl++0dqXbeKPdV/K4i0q"


def test_a_public_key_line() -> None:
    key = hostkeys.parse(f"{PUBLIC} some comment\n")
    assert key.algorithm == "ssh-ed25519"
    assert key.fingerprint == "SHA256:0fk2vQ/tDQjsyByYTElgOVSS/L2H1+fsU1XAlCsEje0"
    assert key.public == PUBLIC


@pytest.mark.parametrize("line", ["", "ssh-ed25519", "ssh-ed25519 !!", "ssh-rsa " + PUBLIC.split()[1], "x AAAA"])
def test_what_is_no_public_key(line: str) -> None:
    with pytest.raises(ValueError):
        hostkeys.parse(line)


@needs_ssh_keygen
def test_keys_are_made_once_and_kept(tmp_path: Path) -> None:
    directory = tmp_path / "etc" / "ssh"
    made = hostkeys.ensure(str(directory))
    assert [key.algorithm for key in made] == ["ssh-ed25519", "ssh-rsa"]
    assert sorted(path.name for path in directory.iterdir()) == [
        "ssh_host_ed25519_key", "ssh_host_ed25519_key.pub", "ssh_host_rsa_key", "ssh_host_rsa_key.pub"
    ]  # fmt: skip
    for path in directory.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == (0o644 if path.suffix == ".pub" else 0o600)
    for key, name in zip(made, ("ssh_host_ed25519_key", "ssh_host_rsa_key"), strict=True):
        said = subprocess.run(["ssh-keygen", "-l", "-f", directory / name], capture_output=True, text=True).stdout
        assert key.fingerprint in said
    assert said.startswith("3072 ")
    assert hostkeys.ensure(str(directory)) == made
    assert hostkeys.read(str(directory)) == made

    (directory / "ssh_host_ed25519_key.pub").unlink()
    (directory / "ssh_host_rsa_key").chmod(0o640)
    assert hostkeys.ensure(str(directory)) == made
    assert stat.S_IMODE((directory / "ssh_host_rsa_key").stat().st_mode) == 0o600

    # A run that was cut short leaves a half-made pair beside; it is in nobody's way.
    (directory / "ssh_host_ed25519_key").unlink()
    (directory / ".ssh_host_ed25519_key.new").write_text("half")
    renewed = hostkeys.ensure(str(directory))
    assert renewed[0] != made[0]
    assert renewed[1] == made[1]


def test_keys_that_are_missing(tmp_path: Path) -> None:
    with pytest.raises(HostError, match=r"ssh_host_ed25519_key\.pub"):
        hostkeys.read(str(tmp_path))


def test_a_directory_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(HostError, match=r"Not a directory|File exists"):
        hostkeys.ensure(str(tmp_path / "file" / "ssh"))
