"""What `hatchway doctor` says of sshd and what it is given, with stand-ins for what it looks at."""

from __future__ import annotations

import base64
import os
import socket
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest
from msgspec import structs
from tests.unit.cli.findings import FAILED, OK, WARNING, configuration, expect, only

from hatchway.cli.doctor import advice, openssh
from hatchway.cli.doctor.finding import Finding, Level
from hatchway.config import Config, Sshd
from hatchway.errors import HostError


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return configuration(tmp_path)


def test_sshd(config: Config) -> None:
    def none(_binary: str) -> tuple[int, int]:
        raise HostError("/usr/sbin/sshd -V: No such file")

    expect(openssh.installed(config, lambda _: (9, 2)), OK, "9.2")
    expect(openssh.installed(config, lambda _: (8, 4)), FAILED, "8.4", "8.7")
    expect(openssh.installed(config, none), FAILED, "No such file")


def test_the_directory_sshd_confines_its_unprivileged_half_in(tmp_path: Path) -> None:
    """Without it every connection is reset, and nothing else is wrong."""
    directory = tmp_path / "sshd"

    def look(running: bool = True, how: advice.Advice = advice.PACKAGE, owner: int | None = None) -> Finding:
        return openssh.privsep(running, str(directory), how, os.geteuid() if owner is None else owner)

    expect(look(running=False), OK, "made at the start")
    expect(look(), FAILED, f"{directory} is not there")
    make = f"install -d -m 0755 {directory}"
    again = "systemctl restart hatchway-sshd, which ends no session; if that does not make it: "
    assert (look().fix, look(how=advice.RUN).fix) == (f"{again}{make}", make)
    subprocess.run(make.split(), check=True)
    expect(look(), OK, "root's alone")
    expect(look(owner=os.geteuid() + 1), FAILED, f"belongs to uid {os.geteuid()}", "sshd does not accept that")
    for mode in (0o775, 0o757):
        directory.chmod(mode)
        # Where it does not run yet either: it will not start.
        expect(look(running=False), FAILED, f"mode {mode:04o}")
        assert look().fix == f"chown root:root {directory} && chmod 0755 {directory}"
    directory.rmdir()
    directory.touch()
    expect(look(), FAILED, "no directory")


def test_helpers(config: Config) -> None:
    expect(openssh.helpers(config, lambda _: None), OK)
    expect(openssh.helpers(config, lambda path: f"{path} is bad"), FAILED, "libexec/authorized-keys is bad")
    expect(openssh.helpers(config), FAILED)


def test_host_keys(config: Config) -> None:
    directory = Path(config.sshd.host_key_dir)
    expect(openssh.host_keys(config), OK, "none yet")
    directory.mkdir()
    expect(openssh.host_keys(config), OK, "none yet")
    (directory / "ssh_host_rsa_key.pub").touch()
    expect(openssh.host_keys(config), FAILED, "ssh_host_ed25519_key.pub")
    kinds = {"ssh_host_ed25519_key": b"ssh-ed25519", "ssh_host_rsa_key": b"ssh-rsa"}
    for name, kind in kinds.items():
        blob = base64.b64encode(len(kind).to_bytes(4, "big") + kind).decode()
        (directory / f"{name}.pub").write_text(f"{kind.decode()} {blob}\n")
    expect(openssh.host_keys(config), FAILED, "No such file")
    for name in kinds:
        (directory / name).touch(0o600)
    expect(openssh.host_keys(config), OK, "ssh-ed25519 SHA256:", "ssh-rsa SHA256:")
    (directory / "ssh_host_rsa_key").chmod(0o640)
    expect(openssh.host_keys(config), FAILED, "0640")


def _proc(root: Path, port: int, owner: bytes | None) -> str:
    """A proc(5) with one listening socket, and perhaps the process that holds it."""
    (root / "net").mkdir(parents=True)
    head = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"
    tail = "00000000:00000000 00:00000000 00000000     0        0"
    (root / "net" / "tcp").write_text(
        f"{head}   0: 00000000:{port:04X} 00000000:0000 0A {tail} 4711 1\n"
        f"   1: 0100007F:{port + 1:04X} 00000000:0000 0A {tail} 4712 1\n"
        f"   2: 0100007F:{port + 2:04X} 0100007F:0016 01 {tail} 4713 1\n"
    )
    if owner is not None:
        (root / "99" / "fd").mkdir(parents=True)
        (root / "99" / "fd" / "3").symlink_to("socket:[4711]")
        (root / "99" / "cmdline").write_bytes(owner)
    return str(root)


def test_port(config: Config, tmp_path: Path) -> None:
    ours = f"sshd: {tmp_path}/run/sshd/hatchway-sshd -D -e [listener]\0".encode()
    config = structs.replace(config, sshd=Sshd(listen=("0.0.0.0",)))

    def look(name: str, port: int, owner: bytes | None, root: bool = True) -> Finding:
        return only(openssh.port(config, _proc(tmp_path / name, port, owner), root=root))

    expect(look("a", 2022, ours), OK, "Hatchway's sshd listens at 0.0.0.0")
    expect(look("b", 2022, b"nginx\0-g\0"), FAILED, "0.0.0.0: taken by process 99 (nginx -g)")
    expect(look("c", 2022, None, root=False), WARNING, "something")
    expect(look("d", 2021, None, root=True), FAILED, "at 127.0.0.1, no process")
    expect(look("e", 2020, b"nginx\0"), OK, "free")


def test_the_port_for_real(config: Config) -> None:
    """This process holds it, and opens and closes descriptors while it looks."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        config = structs.replace(config, sshd=Sshd(port=server.getsockname()[1], listen=("127.0.0.1",)))
        expect(only(openssh.port(config)), FAILED, f"127.0.0.1: taken by process {os.getpid()} (", "at 127.0.0.1")


def test_the_port_at_each_address(config: Config, tmp_path: Path) -> None:
    """Of two sockets one may be another program's: whoever came first has the address."""
    ours = f"sshd: {tmp_path}/run/sshd/hatchway-sshd -D -e [listener]\0".encode()
    every, loopback, every6, local6 = "00000000", "0100007F", "0" * 32, "0" * 24 + "01000000"
    both = ("0.0.0.0", "::")

    def look(
        listen: Sequence[str],
        *sockets: tuple[str, bytes],
        absent: Sequence[str] = (),
        how: advice.Advice = advice.PACKAGE,
    ) -> list[tuple[Level, str]]:
        proc = tmp_path / f"proc{len(list(tmp_path.iterdir()))}"
        (proc / "net").mkdir(parents=True)
        tail = "00000000:00000000 00:00000000 00000000     0        0"
        tables = {"tcp": "head\n", "tcp6": "head\n"}
        for number, (address, command) in enumerate(sockets, 50):
            table = "tcp" if len(address) == 8 else "tcp6"
            tables[table] += f"  0: {address}:07E6 {address}:0000 0A {tail} {number} 1\n"
            (proc / str(number) / "fd").mkdir(parents=True)
            (proc / str(number) / "fd" / "3").symlink_to(f"socket:[{number}]")
            (proc / str(number) / "cmdline").write_bytes(command)
        for table, text in tables.items():
            (proc / "net" / table).write_text(text)
        one = structs.replace(config, sshd=Sshd(listen=tuple(listen)))
        why = dict.fromkeys(absent, "is no address of this host")
        return [(one.level, one.text) for one in openssh.port(one, str(proc), how, True, why.get)]

    assert look(both, (every, ours), (every6, ours)) == [(OK, "Hatchway's sshd listens at 0.0.0.0, ::")]
    taken = "taken by process 50 (nginx), which listens at"
    assert look(both, (every, b"nginx"), (every6, ours)) == [(FAILED, f"0.0.0.0: {taken} 0.0.0.0")]
    assert look(both, (loopback, b"nginx"), (every6, ours)) == [(FAILED, f"0.0.0.0: {taken} 127.0.0.1")]
    assert look(["10.0.0.1", "::"], (every, b"nginx"), (every6, ours)) == [(FAILED, f"10.0.0.1: {taken} 0.0.0.0")]
    assert look(both, (every6, b"nginx")) == [(FAILED, f"0.0.0.0 and ::: {taken} ::")]
    assert look(["::"], (local6, b"nginx")) == [(FAILED, f"::: {taken} ::1")]
    assert look(both, (every, ours)) == [(FAILED, "Hatchway's sshd does not listen at ::")]
    assert look(both, (every, ours), absent=["::"]) == [(OK, "Hatchway's sshd listens at 0.0.0.0")]
    assert look(["10.0.0.1"], (loopback, b"nginx")) == [(OK, "is free at sshd.listen")]
    assert [level for level, _ in look(both, (every, b"a"), (every6, b"b"))] == [FAILED, FAILED]
