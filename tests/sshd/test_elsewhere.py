"""Hatchway's logins are host-wide names. Everywhere but on our port they must be good for nothing."""

from __future__ import annotations

import ctypes
import pwd
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.sshd.running import Hatchway, free_port, running, wait_until

from hatchway.sshd import version


@pytest.fixture(scope="module")
def hatchway() -> Iterator[Hatchway]:
    with running("shop/web/1") as made:
        made.enable("shop/web/1")
        made.sftp("shop-web-1", "ls\n")
        yield made


@pytest.fixture(scope="module")
def host_sshd(hatchway: Hatchway) -> Iterator[int]:
    """The host's own sshd as Debian configures it, PAM and all, on a port of loopback instead of 22."""
    port = free_port()
    Path("/run/sshd").mkdir(exist_ok=True)
    config = Path("/etc/ssh/sshd_config")
    assert config.exists()
    # A host key of our own making: a fresh system may not have any.
    key = hatchway.directory / "host-keys" / "ssh_host_ed25519_key"
    command = ["/usr/sbin/sshd", "-D", "-e", "-f", str(config), "-o", f"Port={port}", "-o", "ListenAddress=127.0.0.1"]
    command += ["-o", f"HostKey={key}", "-o", "PidFile=none", "-o", "PasswordAuthentication=yes"]
    if version.of("/usr/sbin/sshd") >= (9, 8):
        # Its own penalties for the attempts of one test would answer the next one's.
        command += ["-o", "PerSourcePenalties=no"]
    with (hatchway.directory / "sshd.log").open("wb") as log:
        server = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        needle = f":{port:04X} "
        wait_until(lambda: needle in Path("/proc/net/tcp").read_text(), "sshd listens")
        yield port
    finally:
        server.terminate()
        server.wait(10)


def on_host(hatchway: Hatchway, port: int) -> list[str]:
    hosts = ["-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null"]
    # ssh takes the first value it sees for an option.
    return ["-F", "none", "-o", f"Port={port}", *hosts, *hatchway.options()[2:]]


@pytest.mark.parametrize(
    "arguments", [["-N", "-L", "45022:127.0.0.1:1"], ["id"], ["-s", "sftp"], ["-W", "127.0.0.1:1"]]
)
def test_the_hosts_sshd_refuses_the_key(hatchway: Hatchway, host_sshd: int, arguments: list[str]) -> None:
    """Also when an administrator's authorized_keys file happens to lie where the login's home would be."""
    home = Path(pwd.getpwnam("shop-web-1").pw_dir)
    assert home == Path("/data")
    planted = Path("/data/.ssh")
    assert not Path("/data").exists(), "this test makes /data on the host and removes it"
    planted.mkdir(parents=True)
    try:
        public = subprocess.run(
            ["ssh-keygen", "-y", "-f", str(hatchway.keys / "shop-web-1")], capture_output=True, text=True, check=True
        )
        (planted / "authorized_keys").write_text(public.stdout)
        base = ["ssh", *on_host(hatchway, host_sshd), *hatchway.key_options("shop-web-1")]
        if arguments[0] == "-s":
            command = [*base, "-s", "shop-web-1@127.0.0.1", "sftp"]
        elif arguments[0].startswith("-"):
            command = [*base, *arguments, "shop-web-1@127.0.0.1"]
        else:
            command = [*base, "shop-web-1@127.0.0.1", *arguments]
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=30, check=False
        )
        assert done.returncode != 0
        assert "uid=" not in done.stdout
        assert "ermission denied" in done.stderr or "Connection closed" in done.stderr, done
    finally:
        shutil.rmtree("/data")


def test_the_hosts_sshd_refuses_the_password(hatchway: Hatchway, host_sshd: int) -> None:
    password = hatchway.password("shop/web/1")
    with hatchway.password_environment(password) as environment:
        command = [
            "ssh",
            *on_host(hatchway, host_sshd),
            "-o",
            "PubkeyAuthentication=no",
            "-o",
            "NumberOfPasswordPrompts=1",
        ]
        done = subprocess.run(
            [*command, "shop-web-1@127.0.0.1", "id"],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=30, env=environment, check=False,
        )  # fmt: skip
    assert done.returncode == 255
    assert "Permission denied" in done.stderr


@pytest.mark.parametrize(
    "command",
    [
        ["su", "-", "shop-web-1", "-c", "id"],
        ["su", "-s", "/bin/sh", "shop-web-1", "-c", "id"],
        ["login", "-f", "shop-web-1"],
        ["runuser", "-l", "shop-web-1", "-c", "id"],
    ],
)
def test_not_even_root_becomes_it_by_the_usual_ways(hatchway: Hatchway, command: list[str]) -> None:
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode != 0, done
    assert "uid=" not in done.stdout


class _Conversation(ctypes.Structure):
    _fields_ = (("conversation", ctypes.c_void_p), ("data", ctypes.c_void_p))


def account_stage(service: str, user: str) -> int:
    """What PAM's account stage answers (pam_acct_mgmt(3)); 0 is PAM_SUCCESS, 13 PAM_ACCT_EXPIRED."""
    pam = ctypes.CDLL("libpam.so.0")
    handle, conversation = ctypes.c_void_p(), _Conversation(None, None)
    begun = pam.pam_start(service.encode(), user.encode(), ctypes.byref(conversation), ctypes.byref(handle))
    assert begun == 0
    try:
        return int(pam.pam_acct_mgmt(handle, 0))
    finally:
        pam.pam_end(handle, 0)


@pytest.mark.parametrize("service", ["cron", "atd", "other", "login", "su", "sshd"])
def test_every_other_pam_service_finds_the_account_expired(hatchway: Hatchway, service: str) -> None:
    """cron and atd ask the account stage before they run a job. A service without a file is asked as "other"."""
    assert account_stage(service, "root") == 0, "else this test would show nothing"
    assert account_stage(service, "shop-web-1") != 0


def test_the_record_says_that_it_is_locked_and_expired(hatchway: Hatchway) -> None:
    entry = pwd.getpwnam("shop-web-1")
    assert entry.pw_shell == "/usr/sbin/nologin"
    shadow = subprocess.run(["getent", "shadow", "shop-web-1"], capture_output=True, text=True, check=True).stdout
    fields = shadow.strip().split(":")
    assert fields[1].startswith("!")
    assert fields[7] == "1", "expired on 2 January 1970"
