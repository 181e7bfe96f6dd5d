"""The programs that people use, each with what `hatchway export` and `show` give it, and nothing else."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import select
import shlex
import struct
import subprocess
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import asyncssh
import paramiko
import pytest
from tests.sshd.computer import PATIENCE_S, Computer
from tests.sshd.running import Hatchway, running, wait_until

INSTANCE, LOGIN = "shop/web/1", "shop-web-1"
PASSPHRASE = "correct horse 'battery\""


class Desk(Computer):
    """The computer of somebody who was given files, and Hatchway at the other end."""

    def __init__(self, hatchway: Hatchway, home: Path, volume: Path) -> None:
        super().__init__(home)
        self.hatchway = hatchway
        self.volume = volume
        self.given("export", "known-hosts", "-o", str(self.known_hosts))
        self.key = self.ssh / f"id_container-{LOGIN}"
        self.given("key", "export", INSTANCE, "-o", str(self.key))
        self.ppk = home / f"id_container-{LOGIN}.ppk"
        self.given("key", "export", INSTANCE, "--ppk", "-o", str(self.ppk))
        self.locked_ppk = home / "locked.ppk"
        self.given(
            "key", "export", INSTANCE, "--ppk", "--passphrase", "-o", str(self.locked_ppk), given=f"{PASSPHRASE}\n"
        )
        self.numbers = itertools.count()
        self.up = ""
        self.info: dict[str, Any] = hatchway.command("show", INSTANCE, "--secrets")
        self.url: str = self.info["directions"]["url"]

    def given(self, *arguments: str, given: str | None = None) -> Any:
        return self.hatchway.command(*arguments, given=given)

    def exported(self, form: str, *options: str) -> str:
        """What `hatchway export` prints."""
        return str(self.given("export", form, INSTANCE, *options)["text"])

    @property
    def fingerprint(self) -> str:
        return str(self.info["host_keys"][0]["fingerprint"])


@pytest.fixture(scope="module", params=["ed25519", "rsa3072"])
def desk(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    with running(key_kind=request.param) as made:
        volume = made.add_volume("/home/work")
        made.write_instances()
        wait_until(lambda: made.told("ls")["instances"], "the instance is known")
        made.enable(INSTANCE)
        yield Desk(made, tmp_path_factory.mktemp("home"), volume)


@pytest.fixture(autouse=True)
def _fresh(desk: Desk) -> None:
    for file in desk.volume.iterdir():
        file.unlink()
    (desk.volume / "hello.txt").write_text("hello\n")
    # Another name each time: of what is removed on the host a session learns within a second only.
    desk.up = f"up-{next(desk.numbers)}"
    (desk.home / desk.up).write_bytes(bytes(range(256)) * 4096)


def assert_came(desk: Desk, name: str = "") -> None:
    """The file `desk.up` is in the volume under that name."""
    assert (desk.volume / (name or desk.up)).read_bytes() == (desk.home / desk.up).read_bytes()


@contextlib.contextmanager
def other_host_keys(desk: Desk) -> Iterator[None]:
    """As if somebody stood between: known_hosts has other keys than are shown."""
    right = desk.known_hosts.read_text()
    made = desk.home / "other"
    lines = []
    for kind in ("ed25519", "rsa"):
        subprocess.run(["ssh-keygen", "-q", "-t", kind, "-N", "", "-f", made], check=True)
        lines.append(f"{right.split()[0]} {' '.join(made.with_name('other.pub').read_text().split()[:2])}\n")
        made.unlink()
    desk.known_hosts.write_text("".join(lines))
    try:
        yield
    finally:
        desk.known_hosts.write_text(right)


# --- PuTTY ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("locked", [False, True], ids=["plain", "passphrase"])
def test_psftp(desk: Desk, locked: bool) -> None:
    assert desk.run("puttygen", desk.ppk, "-O", "fingerprint").stdout.split()[2] == desk.info["key_fingerprint"]
    (desk.home / "commands").write_text(f"ls\nput {desk.up}\n")
    key = desk.locked_ppk if locked else desk.ppk
    # With -batch it asks for nothing, a passphrase neither.
    asks = () if locked else ("-batch",)
    command = ("psftp", *asks, "-P", str(desk.info["port"]), "-i", key, "-hostkey", desk.fingerprint, "-b", "commands")
    done = desk.run(*command, f"{LOGIN}@{desk.info['host']}", given=f"{PASSPHRASE}\n" if locked else "")
    assert "hello.txt" in done.stdout
    assert_came(desk)
    if locked:
        wrong = desk.run(*command, f"{LOGIN}@{desk.info['host']}", given="wrong horse\n", check=False)
        assert wrong.returncode != 0
        assert "Wrong passphrase" in wrong.stdout + wrong.stderr


@pytest.mark.parametrize("locked", [False, True], ids=["plain", "passphrase"])
def test_plink(desk: Desk, locked: bool) -> None:
    """It speaks no SFTP itself: it is asked for the subsystem, and a first packet sent through it."""
    key, asks = (desk.locked_ppk, ()) if locked else (desk.ppk, ("-batch",))
    process = subprocess.Popen(
        [
            "plink", *asks, "-P", str(desk.info["port"]), "-i", str(key), "-hostkey", desk.fingerprint, "-s",
            f"{LOGIN}@{desk.info['host']}", "sftp",
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=desk.env,
        start_new_session=True,
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    with process:
        try:
            if locked:
                process.stdin.write(f"{PASSPHRASE}\n".encode())
                process.stdin.flush()
            # What comes with the passphrase is lost.
            wait_until(lambda: desk.hatchway.sessions() == 1, "plink is in")
            # draft-ietf-secsh-filexfer-02: SSH_FXP_INIT 3, answered by SSH_FXP_VERSION.
            process.stdin.write(struct.pack(">IBI", 5, 1, 3))
            process.stdin.flush()
            assert select.select([process.stdout], [], [], PATIENCE_S)[0]
            answer = os.read(process.stdout.fileno(), 9)
            process.stdin.close()
        finally:
            process.kill()
    assert struct.unpack(">IBI", answer)[1:] == (2, 3)


# --- OpenSSH -------------------------------------------------------------------------------------------------------


def test_openssh_with_the_block(desk: Desk) -> None:
    config = desk.home / "config"
    config.write_text(desk.exported("ssh-config", "--key-dir", str(desk.ssh)))
    command = ("sftp", "-F", config, "-o", f"UserKnownHostsFile={desk.known_hosts}", "-b", "-", LOGIN)
    done = desk.run(*command, given=f"pwd\nput {desk.up}\n")
    assert "Remote working directory: /home/work" in done.stdout
    assert_came(desk)
    # It is strict: without the lines for known_hosts nobody is trusted, and nothing asked.
    strange = desk.run(*command[:3], "-o", "UserKnownHostsFile=none", *command[5:], given="pwd\n", check=False)
    assert strange.returncode == 255
    assert "Host key verification failed" in strange.stderr


def test_openssh_with_the_block_that_asks(desk: Desk) -> None:
    config = desk.home / "config"
    config.write_text(desk.exported("ssh-config", "--logon", "ask"))
    with desk.hatchway.password_environment(desk.info["password"]) as environment:
        desk.run(
            "sftp", "-F", config, "-o", f"UserKnownHostsFile={desk.known_hosts}", "-o", "BatchMode=no", "-b", "-",
            LOGIN, given=f"put {desk.up}\n", env=environment,
        )  # fmt: skip
    assert_came(desk)


def test_the_commands_of_show(desk: Desk) -> None:
    trust = ["-F", "none", "-o", f"UserKnownHostsFile={desk.known_hosts}", "-o", "StrictHostKeyChecking=yes"]
    command = shlex.split(desk.info["directions"]["sftp_with_key"])
    os.link(desk.key, desk.home / desk.info["directions"]["key_file"])
    desk.run(command[0], *trust, "-b", "-", *command[1:], given=f"put {desk.up} by-key\n")
    (desk.home / desk.info["directions"]["key_file"]).unlink()
    assert_came(desk, "by-key")
    command = shlex.split(desk.info["directions"]["sftp_with_password"])
    with desk.hatchway.password_environment(desk.info["password"]) as environment:
        asks = ("-o", "BatchMode=no", "-b", "-")
        desk.run(command[0], *trust, *asks, *command[1:], given=f"put {desk.up} by-password\n", env=environment)
    assert_came(desk, "by-password")


# --- programs with a URL -------------------------------------------------------------------------------------------


def test_curl_with_the_url(desk: Desk) -> None:
    assert "hello.txt" in desk.run("curl", "-sS", desk.url).stdout
    assert desk.run("curl", "-sS", f"{desk.url}hello.txt").stdout == "hello\n"
    desk.run("curl", "-sS", "-T", desk.up, desk.url)
    assert_came(desk)
    with other_host_keys(desk):
        refused = desk.run("curl", "-sS", desk.url, check=False)
    assert refused.returncode == 60, refused.stderr  # CURLE_PEER_FAILED_VERIFICATION


def test_lftp_with_the_url(desk: Desk) -> None:
    ssh = f"ssh -a -x -F none -o UserKnownHostsFile={desk.known_hosts} -o StrictHostKeyChecking=yes"
    script = f'set sftp:connect-program "{ssh}"; set cmd:fail-exit true; open {desk.url}; pwd; cls -1; put {desk.up}'
    done = desk.run("lftp", "-c", script)
    assert "hello.txt" in done.stdout
    assert "/home/work" in done.stdout
    assert_came(desk)


# --- rclone and sshfs ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [(), ("--secrets", "--logon", "password")], ids=["key", "password"])
def test_rclone(desk: Desk, options: tuple[str, ...]) -> None:
    config = desk.home / "rclone.conf"
    config.write_text(desk.exported("rclone", "--key-dir", str(desk.ssh), *options))
    rclone = ("rclone", "--config", config, "--retries", "1", "--low-level-retries", "1")
    assert desk.run(*rclone, "lsf", f"{LOGIN}:/home/work").stdout == "hello.txt\n"
    done = desk.run(*rclone, "-vv", "copy", desk.up, f"{LOGIN}:/home/work")
    assert_came(desk)
    assert desk.info["password"] not in done.stderr
    with other_host_keys(desk):
        refused = desk.run(*rclone, "lsf", f"{LOGIN}:/home/work", check=False)
    assert refused.returncode != 0
    assert "knownhosts: key mismatch" in refused.stderr


def test_sshfs_with_the_block(desk: Desk, tmp_path: Path) -> None:
    config = desk.home / "config"
    config.write_text(desk.exported("ssh-config", "--key-dir", str(desk.ssh)))
    place = tmp_path / "mnt"
    place.mkdir()
    desk.run("sshfs", "-F", config, "-o", f"UserKnownHostsFile={desk.known_hosts}", f"{LOGIN}:/home/work", place)
    try:
        assert (place / "hello.txt").read_text() == "hello\n"
        (place / desk.up).write_bytes((desk.home / desk.up).read_bytes())
    finally:
        desk.run("fusermount3", "-u", place)
    assert_came(desk)


# --- libraries -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("by", ["key", "password"])
def test_paramiko(desk: Desk, by: str) -> None:
    client = paramiko.SSHClient()
    client.load_host_keys(str(desk.known_hosts))
    client.set_missing_host_key_policy(paramiko.RejectPolicy())
    how: dict[str, Any] = {"key_filename": str(desk.key)} if by == "key" else {"password": desk.info["password"]}
    before = threading.active_count()
    with client:
        client.connect(
            desk.info["host"],
            desk.info["port"],
            LOGIN,
            **how,
            look_for_keys=False,
            allow_agent=False,
            timeout=PATIENCE_S,
        )
        with client.open_sftp() as sftp:
            assert sftp.normalize(".") == desk.info["start_directory"]
            sftp.put(str(desk.home / desk.up), desk.up)
    assert_came(desk)
    wait_until(lambda: threading.active_count() <= before, "its thread has ended")


@contextlib.asynccontextmanager
async def _asyncssh(desk: Desk, by: str) -> AsyncIterator[asyncssh.SFTPClient]:
    how: dict[str, Any] = {"client_keys": [str(desk.key)]} if by == "key" else {"password": desk.info["password"]}
    if by == "password":
        how["client_keys"] = None
    async with (
        asyncssh.connect(
            desk.info["host"],
            desk.info["port"],
            username=LOGIN,
            known_hosts=str(desk.known_hosts),
            agent_path=None,
            config=None,
            **how,
        ) as connection,
        connection.start_sftp_client() as sftp,
    ):
        yield sftp


@pytest.mark.parametrize("by", ["key", "password"])
def test_asyncssh(desk: Desk, by: str) -> None:
    async def upload() -> None:
        async with _asyncssh(desk, by) as sftp:
            assert await sftp.getcwd() == desk.info["start_directory"]
            await sftp.put(desk.home / desk.up, desk.up)

    asyncio.run(upload())
    assert_came(desk)
