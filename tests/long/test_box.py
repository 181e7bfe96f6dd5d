"""The box of vagrant/build-box, booted by qemu as on foreign hardware, made a test host of, and used from outside."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

TREE = Path(__file__).parents[2]
RELEASES = {"bookworm": "12", "trixie": "13"}
KEYS = "usr/share/rubygems-integration/all/gems/vagrant-*/keys/vagrant"
# Emulated, on a machine that may have other things to do.
BOOT_S, PROVISION_S, COMMAND_S = 1200, 3600, 300

_missing = [name for name in ("qemu-system-x86_64", "debootstrap", "vagrant") if shutil.which(name) is None]
pytestmark = pytest.mark.skipif(bool(_missing), reason=f"not installed: {' '.join(_missing)}")


def run(*command: str, timeout_s: float, given: bytes | None = None) -> str:
    done = subprocess.run(command, input=given or b"", capture_output=True, timeout=timeout_s, check=False)
    text = done.stdout.decode(errors="replace")
    assert done.returncode == 0, f"{command}: {done.returncode}\n{text}\n{done.stderr.decode(errors='replace')}"
    return text


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


class Machine:
    """The box under qemu, with ports of loopback that lead to it."""

    def __init__(self, release: str, image: Path, directory: Path) -> None:
        self.release = release
        self.directory = directory
        self.ssh_port, self.port, self.web_port = free_port(), free_port(), free_port()
        # Vagrant's own pair, from Vagrant's package.
        (found,) = Path("/").glob(KEYS)
        self._key = directory / "vagrant"
        self._key.write_bytes(found.read_bytes())
        self._key.chmod(0o600)
        ports = ((self.ssh_port, 22), (self.port, 2022), (self.web_port, 8022))
        forward = ",".join(f"hostfwd=tcp:127.0.0.1:{here}-:{there}" for here, there in ports)
        self.console = directory / "console"
        self.process = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", "qemu-system-x86_64", "-accel", "tcg", "-smp", "2", "-m", "1536",
             "-nographic", "-monitor", "none", "-serial", f"file:{self.console}", "-snapshot",
             "-drive", f"file={image},if=virtio", "-device", "virtio-net-pci,netdev=n",
             "-netdev", f"user,id=n,{forward}"],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip

    def options(self) -> list[str]:
        settings = ("StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "IdentitiesOnly=yes", "LogLevel=ERROR")
        return ["-F", "none", *(word for setting in settings for word in ("-o", setting)), "-o", "ConnectTimeout=20"]

    def ssh(self, command: str, *, timeout_s: float = COMMAND_S, given: bytes | None = None) -> str:
        words = ["ssh", *self.options(), "-i", str(self._key), "-p", str(self.ssh_port), "vagrant@127.0.0.1", command]
        return run(*words, timeout_s=timeout_s, given=given)

    def boot_id(self) -> str:
        return self.ssh("cat /proc/sys/kernel/random/boot_id")

    def wait(self, *, but: str = "") -> None:
        """Wait until it answers, in another boot than `but`, and everything has started."""
        end = time.monotonic() + BOOT_S
        while True:
            assert self.process.poll() is None, self.console.read_text(errors="replace")[-3000:]
            with contextlib.suppress(AssertionError, subprocess.TimeoutExpired):
                if self.boot_id() != but:
                    break
            assert time.monotonic() < end, self.console.read_text(errors="replace")[-3000:]
            time.sleep(2)
        assert self.ssh("systemctl is-system-running --wait", timeout_s=BOOT_S).strip() == "running"

    def sftp(self, login: str, batch: str, *, key: Path | None = None, password: str = "") -> None:
        words = ["sftp", *self.options(), "-P", str(self.port)]
        environment = dict(os.environ)
        if key is not None:
            words += ["-i", str(key), "-o", "PreferredAuthentications=publickey"]
        else:
            words += ["-o", "PubkeyAuthentication=no", "-o", "NumberOfPasswordPrompts=1", "-o", "BatchMode=no"]
            asked = self.directory / "askpass"
            asked.write_text(f"#!/bin/sh\necho '{password}'\n")
            asked.chmod(0o700)
            environment |= {"SSH_ASKPASS": str(asked), "SSH_ASKPASS_REQUIRE": "force"}
        words += ["-b", "-", f"{login}@127.0.0.1"]
        done = subprocess.run(
            words, input=batch, env=environment, capture_output=True, text=True, timeout=COMMAND_S, check=False
        )
        assert done.returncode == 0, f"{login}: {done.stdout}\n{done.stderr}"


@pytest.fixture(params=RELEASES)
def machine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Machine]:
    release: str = request.param
    run(str(TREE / "vagrant/build-box"), release, str(tmp_path), timeout_s=1800)
    made = Machine(release, tmp_path / f"hatchway-{release}.qcow2", tmp_path)
    try:
        yield made
    finally:
        made.process.kill()
        made.process.wait()


def test_box_becomes_a_host(machine: Machine) -> None:
    debs = [Path(place) for place in os.environ.get("HATCHWAY_TEST_DEBS", "").split()]
    found = [path for place in debs for path in place.glob(f"hatchway_*+deb{RELEASES[machine.release]}_amd64.deb")]
    machine.wait()
    assert f"VERSION_CODENAME={machine.release}" in machine.ssh("cat /etc/os-release").splitlines()
    assert machine.ssh("sudo passwd --status vagrant").split()[1] == "L"
    tar = ["tar", "-C", str(TREE), "--exclude=.git", "--exclude=./dist", "--exclude=./vagrant/boxes", "-czf", "-", "."]
    packed = subprocess.run(tar, capture_output=True, check=True, timeout=120).stdout
    machine.ssh("sudo mkdir /hatchway && sudo tar -C /hatchway --no-same-owner -xzf -", given=packed)
    if found:
        newest = max(found, key=lambda path: path.stat().st_mtime)
        there = f"/hatchway/dist/{newest.name}"
        machine.ssh(f"sudo mkdir /hatchway/dist && sudo tee {there} >/dev/null", given=newest.read_bytes())
    told = machine.ssh(
        f"sudo HATCHWAY_MACHINE=box HATCHWAY_PORT={machine.port} HATCHWAY_WEB_PORT={machine.web_port}"
        " /hatchway/vagrant/provision",
        timeout_s=PROVISION_S,
    )
    assert f"sftp -P {machine.port} sample-web-1@127.0.0.1" in told
    assert 'vagrant ssh box -c "sudo hatchway key export sample/web/1 -o -" -- -T >' in told
    use(machine)
    before = machine.boot_id()
    with contextlib.suppress(AssertionError):
        machine.ssh("sudo systemctl reboot")
    machine.wait(but=before)
    use(machine)


def use(machine: Machine) -> None:
    """By key and by password, every sample, from outside."""
    for name, path in (("web", "/home/work/uploads"), ("archive", "/data"), ("shared", "/data")):
        instance = f"sample/{name}/1"
        info = json.loads(machine.ssh(f"sudo hatchway --json show {instance} --secrets"))
        key = machine.directory / f"key-{name}"
        key.unlink(missing_ok=True)
        key.touch(mode=0o600)
        key.write_text(machine.ssh(f"sudo hatchway key export {instance} -o -"))
        batch = f"get {path}/hello.txt {machine.directory}/got\nput {machine.directory}/got {path}/put\nrm {path}/put\n"
        machine.sftp(info["login"], batch, key=key)
        machine.sftp(info["login"], batch, password=info["password"])


def test_vagrantfile_is_valid(tmp_path: Path) -> None:
    shutil.copy(TREE / "vagrant/Vagrantfile", tmp_path)
    environment = {
        "PATH": "/usr/bin:/bin",
        "HOME": str(tmp_path),
        "VAGRANT_HOME": str(tmp_path / "home"),
        "LANG": "C.UTF-8",
    }
    # VirtualBox is not in Debian: its part is only read.
    for provider, options in (("libvirt", ()), ("virtualbox", ("--ignore-provider",))):
        done = subprocess.run(
            ["vagrant", "validate", *options], cwd=tmp_path, capture_output=True, text=True, timeout=120,
            env=environment | {"VAGRANT_DEFAULT_PROVIDER": provider}, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
