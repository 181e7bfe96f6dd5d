"""OpenSSH's forms, each read by the program it is for."""

from __future__ import annotations

import shlex
import subprocess
from pathlib import Path

import pytest
from tests.unit.connect.infos import ED25519, HASHED, HIDDEN, HOSTILE, KEY_ONLY, PASSWORD_ONLY, info

from hatchway.connect import keyfiles, openssh
from hatchway.connect.logon import Logon
from hatchway.errors import UsageError
from hatchway.model import InstanceKey
from hatchway.wire.admin import HostKey, Server

SERVER = Server("sftp.example.org", 2022, (ED25519,))


def test_commands() -> None:
    assert openssh.sftp_with_key(HIDDEN) == (
        "sftp -P 2022 -o IdentitiesOnly=yes -i id_container-shop-web-1 shop-web-1@sftp.example.org"
    )
    assert openssh.sftp_with_password(HASHED) == ("sftp -P 2022 -o PubkeyAuthentication=no shop-web-1@sftp.example.org")
    assert openssh.sftp_with_password(KEY_ONLY) is None
    assert openssh.sftp_with_key(PASSWORD_ONLY) is None
    assert openssh.sftp_with_own_key(HIDDEN) is None
    for with_own in (info(keys=1), info(volume_keys=2)):
        assert openssh.sftp_with_own_key(with_own) == "sftp -P 2022 shop-web-1@sftp.example.org"


@pytest.mark.parametrize(
    ("host", "target"),
    [
        ("192.0.2.1", "shop-web-1@192.0.2.1"),
        ("2001:db8::1", "shop-web-1@[2001:db8::1]"),
    ],
)
def test_addresses(host: str, target: str) -> None:
    for command in (openssh.sftp_with_key(info(host=host)), openssh.sftp_with_password(info(host=host))):
        assert command is not None
        assert shlex.split(command)[-1] == target


def test_brackets_are_safe_from_the_shell() -> None:
    command = openssh.sftp_with_key(info(host="::1"))
    assert command is not None
    assert command.endswith(" 'shop-web-1@[::1]'")


def as_ssh_reads(text: str, tmp_path: Path) -> dict[str, str]:
    """What ssh(1) makes of a configuration for the host shop-web-1."""
    (tmp_path / "config").write_text(text)
    done = subprocess.run(
        ["ssh", "-T", "-G", "-F", tmp_path / "config", "shop-web-1"], check=True, capture_output=True, text=True
    )
    assert done.stderr == ""
    return {key: value for key, _, value in (line.partition(" ") for line in done.stdout.splitlines())}


@pytest.mark.parametrize("host", ["sftp.example.org", "192.0.2.1", "2001:db8::1"])
def test_config_block(tmp_path: Path, host: str) -> None:
    read = as_ssh_reads(openssh.config_block(info(host=host), Logon.KEY, "~/.ssh"), tmp_path)
    assert (read["hostname"], read["port"], read["user"]) == (host, "2022", "shop-web-1")
    assert read["identityfile"] == "~/.ssh/id_container-shop-web-1"
    assert read["identitiesonly"] == "yes"
    assert read["stricthostkeychecking"] in ("yes", "true")
    read = as_ssh_reads(openssh.config_block(info(host=host), Logon.ASK, "~/.ssh"), tmp_path)
    assert read["pubkeyauthentication"] in ("no", "false")
    assert read["preferredauthentications"] == "password"
    read = as_ssh_reads(openssh.config_block(info(host=host), Logon.OWN_KEY, "~/.ssh"), tmp_path)
    usual = as_ssh_reads("", tmp_path)
    for key in ("identityfile", "identitiesonly", "preferredauthentications", "pubkeyauthentication"):
        assert read.get(key) == usual.get(key), key


@pytest.mark.parametrize(
    "directory",
    [
        "/a b/c",
        "/100%/x",
        "C:/keys",
        r"C:\Users\anna",
        "/it's",
        r"\\server\share\keys",
        r"/a\'b",
        r"/a\\b",
        r"D:\'x'",
        "/a\\ b",
    ],
)
def test_where_the_key_is(tmp_path: Path, directory: str) -> None:
    read = as_ssh_reads(openssh.config_block(HIDDEN, Logon.KEY, directory), tmp_path)
    join = "\\" if keyfiles.is_of_windows(directory) and "/" not in directory else "/"
    # `ssh -G` shows tokens as they are written.
    assert read["identityfile"] == f"{directory.replace('%', '%%')}{join}id_container-shop-web-1"


def test_a_directory_that_ssh_would_expand() -> None:
    with pytest.raises(UsageError, match="variable"):
        openssh.config_block(HIDDEN, Logon.KEY, "/${HOME}")


@pytest.mark.parametrize("name", HOSTILE)
def test_no_name_adds_to_the_configuration(tmp_path: Path, name: str) -> None:
    usual = as_ssh_reads(openssh.config_block(HIDDEN, Logon.KEY, "~/.ssh"), tmp_path)
    hostile = info(f"/{name}", key=InstanceKey(name, name, 1), start_directory=f"/{name}")
    assert as_ssh_reads(openssh.config_block(hostile, Logon.KEY, "~/.ssh"), tmp_path) == usual


def test_known_hosts(tmp_path: Path) -> None:
    (tmp_path / "known_hosts").write_text(openssh.known_hosts(SERVER))
    found = subprocess.run(
        ["ssh-keygen", "-l", "-F", "[sftp.example.org]:2022", "-f", tmp_path / "known_hosts"],
        check=True,
        capture_output=True,
        text=True,
    )
    assert ED25519.fingerprint in found.stdout
    assert openssh.known_hosts(Server("h", 22, (ED25519,))) == f"h {ED25519.public}\n"
    assert openssh.known_hosts(Server("::1", 2022, (ED25519,))) == f"[::1]:2022 {ED25519.public}\n"
    assert openssh.known_hosts(Server("::1", 22, (ED25519,))) == f"::1 {ED25519.public}\n"
    assert openssh.known_hosts(Server("h", 22, ())) == ""


@pytest.mark.parametrize("kind", [("-t", "ed25519"), ("-t", "rsa", "-b", "2048")])
def test_sshfp_as_ssh_keygen_writes_it(tmp_path: Path, kind: tuple[str, ...]) -> None:
    subprocess.run(["ssh-keygen", "-q", *kind, "-N", "", "-f", tmp_path / "key"], check=True)
    public = " ".join((tmp_path / "key.pub").read_text().split()[:2])
    made = openssh.sshfp(Server("sftp.example.org", 2022, (HostKey(public.split()[0], "SHA256:…", public),)))
    written = subprocess.run(
        ["ssh-keygen", "-r", "sftp.example.org.", "-f", tmp_path / "key.pub"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    assert made in written.splitlines(keepends=True)


@pytest.mark.parametrize("address", ["192.0.2.1", "2001:db8::1"])
def test_sshfp_records_are_a_names(address: str) -> None:
    with pytest.raises(UsageError, match=r"set connect\.host"):
        openssh.sshfp(Server(address, 2022, (ED25519,)))
