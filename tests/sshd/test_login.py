"""Who gets in, and in which words everybody else is turned away. Real sshd, real clients."""

from __future__ import annotations

import re
import shlex
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.sshd.running import Hatchway, free_port, running, wait_until


@pytest.fixture(scope="module")
def hatchway() -> Iterator[Hatchway]:
    with running("shop/web/1", "shop/web/2") as made:
        made.enable("shop/web/1")
        made.enable("shop/web/2")
        yield made


def test_key_and_password_put_and_get(hatchway: Hatchway, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also with the key exchange that ssh prefers."""
    monkeypatch.setattr(hatchway, "kex", ())
    content = bytes(range(256)) * 4096
    (tmp_path / "up").write_bytes(content)
    batch = f"pwd\nput {tmp_path}/up file\nget file {tmp_path}/down\nrm file\n"
    for password in (None, hatchway.password("shop/web/1")):
        done = hatchway.sftp("shop-web-1", batch, password=password)
        assert "Remote working directory: /data" in done.stdout
        assert (tmp_path / "down").read_bytes() == content
        (tmp_path / "down").unlink()


REFUSED = re.compile(r"(\S+)@127\.0\.0\.1: Permission denied \(publickey,password\)\.")


@pytest.mark.parametrize(
    ("login", "key", "password"),
    [
        ("root", "shop-web-1", None),
        ("daemon", "shop-web-1", None),
        ("no-such-login", "shop-web-1", None),
        ("shop-web-1", "shop-web-2", None),
        ("hwtest", "shop-web-1", None),
        ("root", None, "a guess"),
        ("daemon", None, "a guess"),
        ("no-such-login", None, "a guess"),
        ("shop-web-1", None, "a guess"),
        ("shop-web-1", None, ""),
        ("shop-web-1", None, "x" * 2000),
        ("hwtest", None, "a guess"),
    ],
)
def test_everybody_else_is_refused_in_the_same_words(
    hatchway: Hatchway, login: str, key: str | None, password: str | None
) -> None:
    done = hatchway.sftp(login, "ls\n", key=key, password=password, check=False)
    assert done.returncode == 255
    words = [line for line in done.stderr.splitlines() if "denied" in line]
    # With a password ssh itself first says "Permission denied, please try again."; the verdict is the last line.
    match = REFUSED.fullmatch(words[-1])
    assert match is not None, done.stderr
    assert match[1] == login


def test_another_instances_password_is_of_no_use(hatchway: Hatchway) -> None:
    password = hatchway.password("shop/web/2")
    assert hatchway.sftp("shop-web-2", "ls\n", password=password).returncode == 0
    assert hatchway.sftp("shop-web-1", "ls\n", password=password, check=False).returncode == 255


SFTP_ONLY = "This service allows sftp connections only."


def test_no_shell_and_no_command(hatchway: Hatchway) -> None:
    for arguments in ((), ("shop-web-1@127.0.0.1", "id")):
        done = hatchway.ssh("shop-web-1", *arguments)
        assert SFTP_ONLY in done.stdout + done.stderr, done
        assert done.returncode != 0
        assert "uid=" not in done.stdout


def test_ssh_typed_at_a_terminal_says_what_this_is(hatchway: Hatchway) -> None:
    command = ["ssh", *hatchway.options(), *hatchway.key_options("shop-web-1"), "shop-web-1@127.0.0.1"]
    # script(1) gives it a terminal, as a person's shell does, so that ssh asks for one.
    done = subprocess.run(
        ["script", "-qec", shlex.join(command), "/dev/null"],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    assert SFTP_ONLY in done.stdout, done
    assert done.returncode != 0


def test_no_legacy_scp(hatchway: Hatchway, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    command = ["scp", "-O", *hatchway.options(), *hatchway.key_options("shop-web-1")]
    done = subprocess.run(
        [*command, str(tmp_path / "file"), "shop-web-1@127.0.0.1:/data/scp"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0
    assert SFTP_ONLY in done.stdout + done.stderr
    assert not list(hatchway.volumes.glob("*/scp"))


def test_scp_over_sftp_works(hatchway: Hatchway, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("by scp")
    command = ["scp", *hatchway.options(), *hatchway.key_options("shop-web-1")]
    subprocess.run([*command, str(tmp_path / "file"), "shop-web-1@127.0.0.1:scp-sftp"], check=True, timeout=60)
    assert (hatchway.volumes / "shop-web-1-data" / "scp-sftp").read_text() == "by scp"


def test_no_forwarding(hatchway: Hatchway) -> None:
    to = "shop-web-1@127.0.0.1"
    stdio = hatchway.ssh("shop-web-1", "-W", f"127.0.0.1:{hatchway.port}", to)
    assert stdio.returncode != 0
    assert "SSH-2.0" not in stdio.stdout
    assert "administratively prohibited" in stdio.stderr
    remote = hatchway.ssh("shop-web-1", "-o", "ExitOnForwardFailure=yes", "-N", "-R", "0:127.0.0.1:1", to)
    assert remote.returncode != 0
    assert "remote port forwarding failed" in remote.stderr
    tunnel = hatchway.ssh("shop-web-1", "-o", "ExitOnForwardFailure=yes", "-N", "-w", "any:any", to)
    assert tunnel.returncode != 0
    agent = hatchway.ssh("shop-web-1", "-A", "-X", to, "env")
    assert "SSH_AUTH_SOCK" not in agent.stdout
    assert SFTP_ONLY in agent.stdout + agent.stderr


def ask_through(port: int, request: bytes) -> bytes:
    """What comes back through a forwarded port of ours for `request`."""
    wait_until(lambda: connects(port), "ssh listens")
    with socket.create_connection(("127.0.0.1", port), timeout=10) as sock:
        sock.sendall(request)
        try:
            return sock.recv(100)
        except ConnectionResetError:
            return b""


def connects(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


@pytest.mark.parametrize("option", ["-L", "-D"])
def test_a_port_forwarded_by_the_client_leads_nowhere(hatchway: Hatchway, option: str) -> None:
    port = free_port()
    where = f"127.0.0.1:{port}:127.0.0.1:{hatchway.port}" if option == "-L" else f"127.0.0.1:{port}"
    command = ["ssh", *hatchway.options(), *hatchway.key_options("shop-web-1"), "-N", option, where]
    with subprocess.Popen(
        [*command, "shop-web-1@127.0.0.1"], stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as ssh:
        try:
            if option == "-L":
                assert ask_through(port, b"SSH-2.0-x\r\n") == b""
            else:
                # SOCKS 4 (the protocol of `ssh -D`): connect to our own sshd, which would send its banner.
                request = b"\x04\x01" + hatchway.port.to_bytes(2, "big") + bytes((127, 0, 0, 1)) + b"\0"
                assert b"SSH-" not in ask_through(port, request)
        finally:
            ssh.terminate()
        assert ssh.stderr is not None
        assert "administratively prohibited" in ssh.stderr.read()


@pytest.mark.parametrize("client", ["psftp", "lftp", "rclone"])
def test_other_programs(hatchway: Hatchway, tmp_path: Path, client: str) -> None:
    """With the password, which every program takes; keys in their own formats come with the export."""
    password = hatchway.password("shop/web/1")
    (tmp_path / "file").write_text(client)
    name = f"by-{client}"
    fingerprint = hatchway.command("show", "shop/web/1")["host_keys"][0]["fingerprint"]
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "LANG": "C.UTF-8"}
    environment["PUTTYDIR"] = str(tmp_path / ".putty")
    batch = None
    if client == "psftp":
        (tmp_path / "batch").write_text(f"put {tmp_path}/file {name}\nquit\n")
        command = ["psftp", "-batch", "-P", str(hatchway.port), "-pw", password, "-hostkey", fingerprint]
        command += ["-b", str(tmp_path / "batch"), "shop-web-1@127.0.0.1"]
    elif client == "lftp":
        program = "ssh -a -x " + " ".join(hatchway.options())
        script = f"set sftp:connect-program '{program}'; open -u shop-web-1,{password} -p {hatchway.port} "
        command = ["lftp", "-c", f"{script}sftp://127.0.0.1; put {tmp_path}/file -o {name}"]
    else:
        obscured = subprocess.run(["rclone", "obscure", password], capture_output=True, text=True, check=True)
        remote = f":sftp,host=127.0.0.1,port={hatchway.port},user=shop-web-1,pass={obscured.stdout.strip()}"
        command = ["rclone", "copyto", f"{tmp_path}/file", f"{remote},shell_type=none:{name}"]
    done = subprocess.run(
        command, input=batch, capture_output=True, text=True, timeout=60, env=environment, check=False
    )
    assert done.returncode == 0, done
    assert (hatchway.volumes / "shop-web-1-data" / name).read_text() == client


def test_ten_connections_at_once(hatchway: Hatchway) -> None:
    """A FileZilla with ten transfers, behind one address."""
    sessions = [hatchway.open_sftp("shop-web-1") for _ in range(10)]
    results = [session.communicate("ls\nbye\n", timeout=60) for session in sessions]
    assert [session.returncode for session in sessions] == [0] * 10, results
