"""The package, what installs and uses it on a booted host, and clients beside that host."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import secrets
import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.host.booted import HOST4, HOST6, SCRIPTS, Host, wait_until

PORT = 2022
CONFIG = "/etc/hatchway/hatchway.toml"
DROP_IN = "/etc/ssh/sshd_config.d/00-hatchway.conf"
"""There when the host's own sshd serves the port."""
UNITS = {path.name: path.read_text() for path in sorted((SCRIPTS.parent / "systemd").glob("hatchway*.*"))}
SERVICES = tuple(name for name in UNITS if name.endswith(".service"))
SOCKETS = tuple(name for name in UNITS if name.endswith(".socket"))
WEB_DAEMONS = ("signin", "web")
"""Units hatchway-….service that have a process only with web.enabled."""
DAEMONS = tuple(
    name.removeprefix("hatchway-").removesuffix(".service")
    for name in SERVICES
    if "\nType=oneshot\n" not in UNITS[name] and "\nExecCondition=" not in UNITS[name]
)
"""Units hatchway-….service that have one always."""

EXPOSURE = {
    "catalog": 0.4,
    "core": 0.6,
    "web": 1.1,
    "signin": 2.2,
    "workers": 2.6,
    "sessions": 4.0,
    "hostd": 4.1,
    "sshd": 4.6,
}
"""What `systemd-analyze security` finds of each (0 is best, 10 worst), on every release; docs/security.md says why."""

READY_S = 30.0
NUMBERS = {"bookworm": "12", "trixie": "13"}

DOCKER = {"bookworm": ("busybox-static", "docker.io"), "trixie": ("busybox-static", "docker-cli", "docker.io")}
"""Debian's own engine. Its client is a package apart from Debian 13 on."""
IMAGE = "hatchway-test:latest"

IDLE_S = 2
"""host.idle_unmount_s of hosts under test: none of them is to wait five minutes."""
OLD_NAME = "hatchway-old"
"""The name that processes of the previous package have (proc_pid_comm(5))."""

_CLIENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8", "HOME": "/nonexistent"}


@dataclass(frozen=True, slots=True)
class Packages:
    """Two packages for one release: what scripts/build-deb made, and one that is older."""

    new: Path
    old: Path


def built(release: str) -> Path | None:
    """The newest package for a release in the directory HATCHWAY_TEST_DEBS names."""
    place = os.environ.get("HATCHWAY_TEST_DEBS", "")
    return _newest(Path(place), release) if place else None


def built_before(release: str) -> Path | None:
    """The package that HATCHWAY_TEST_OLD_DEB names, if it is for a release; of a directory the newest one that is."""
    place = os.environ.get("HATCHWAY_TEST_OLD_DEB", "")
    if not place:
        return None
    if Path(place).is_dir():
        return _newest(Path(place), release)
    return Path(place) if f"+deb{NUMBERS[release]}_" in Path(place).name else None


def _newest(directory: Path, release: str) -> Path | None:
    found = directory.glob(f"hatchway_*+deb{NUMBERS[release]}_*.deb")
    return max(found, key=lambda path: path.stat().st_mtime, default=None)


def older(new: Path, before: Path | None, directory: Path) -> Path:
    """A package whose processes can be told apart by OLD_NAME: that of an earlier build, `before`.

    Without one it is the same build with a lower version.
    """
    tree = directory / "tree"
    _quiet("dpkg-deb", "--raw-extract", str(before or new), str(tree))
    control = tree / "DEBIAN/control"
    text = control.read_text()
    found = re.search(r"^Version: (.*)$", text, re.MULTILINE)
    assert found
    version = found[1]
    if before is None:
        version = "0.0.1~before"
        control.write_text(text.replace(found[0], f"Version: {version}"))
    else:
        done = subprocess.run(
            ["dpkg-deb", "--field", str(new), "Version"], capture_output=True, text=True, timeout=60, check=True
        )
        _quiet("dpkg", "--compare-versions", version, "lt", done.stdout.strip())
    (package,) = tree.glob("usr/lib/hatchway/lib/python3.*/site-packages/hatchway/__init__.py")
    with package.open("a") as file:
        file.write(f'\nwith open("/proc/self/comm", "w") as _file:\n    _file.write("{OLD_NAME}")\n')
    made = directory / f"hatchway_{version.partition(':')[2] or version}_{new.name.rpartition('_')[2]}"
    _quiet("dpkg-deb", "--root-owner-group", "-Zgzip", "-z1", "--build", str(tree), str(made))
    shutil.rmtree(tree)
    return made


def _quiet(*command: str, timeout_s: float = 120) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, check=False)
    assert done.returncode == 0, f"{' '.join(command)}: {done.returncode}\n{done.stdout}\n{done.stderr}"


class Installed:
    """A host on which the package is, or will be, installed, with its administrator's and its users' commands."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.client = host.directory / "client"
        self.client.mkdir(exist_ok=True)

    # The administrator

    def install(self, deb: Path, *options: str) -> str:
        """`apt install` of a package file. Returns what apt said."""
        self.host.put(deb, f"/root/{deb.name}")
        done = self.host.apt("install", *options, f"/root/{deb.name}")
        return done.stdout + done.stderr

    def hatchway(self, *arguments: str, check: bool = True) -> Any:
        """The command line with --json. Returns the document."""
        done = self.host.run("hatchway", "--json", *arguments, check=False, timeout_s=120)
        assert not check or done.returncode == 0, f"hatchway {arguments}: {done.returncode}\n{done.stdout}{done.stderr}"
        return json.loads(done.stdout)

    def configure(self, settings: dict[str, str]) -> None:
        """Set keys, "section.name", in the configuration file where they stand commented out, and have it read."""
        text = self.host.read(CONFIG)
        for key, value in settings.items():
            section, name = key.split(".")
            line = re.compile(rf"(^\[{section}\]$.*?)^#?{name} = [^\n]*$", re.MULTILINE | re.DOTALL)
            replacement = "\\g<1>" + f"{name} = {value}".replace("\\", "\\\\")
            text, number = line.subn(replacement, text, count=1)
            assert number == 1, f"no {key} in {CONFIG}"
        self.host.write(CONFIG, text)
        self.host.run("systemctl", "reload", "hatchway")

    def all_run(self) -> bool:
        """Whether every unit is active that is to be."""
        web = "\nenabled = true" in self.host.read(CONFIG).partition("\n[web]")[2].partition("\n[")[0]
        only = {f"hatchway-{name}.service" for name in WEB_DAEMONS}
        done = self.host.run("systemctl", "is-active", *SERVICES, *SOCKETS, check=False)
        states = dict(zip((*SERVICES, *SOCKETS), done.stdout.split(), strict=True))
        if self.host.exists(DROP_IN):
            states.pop("hatchway-sshd.service")
        return all(state == ("active" if web or name not in only else "inactive") for name, state in states.items())

    def wait_all_run(self) -> None:
        """Wait until every unit is active, and the core answers."""
        wait_until(self.all_run, lambda: f"every unit is active\n{self.states()}", READY_S)
        wait_until(
            lambda: self.host.run("hatchway", "status", check=False).returncode == 0,
            lambda: f"`hatchway status` succeeds\n{self.host.run('hatchway', 'status', check=False)}",
            READY_S,
        )

    def states(self) -> str:
        """What systemd says of our units."""
        done = self.host.run("systemctl", "list-units", "--all", "--plain", "--no-legend", "hatchway*", check=False)
        return done.stdout

    def pids(self) -> dict[str, int]:
        """Of each daemon the main process, in the host's numbers."""
        return {name: self.host.main_pid(f"hatchway-{name}.service") for name in DAEMONS}

    def workers(self, login: str | None = None) -> list[str]:
        """Volume workers (of any login): children or former children of hatchway-workers, but itself."""
        main = self.host.main_pid("hatchway-workers.service")
        found = self.host.shell("ps -eo pid=,comm=,args= | grep -F hatchway.host.zygote | grep -vF grep || true")
        return [line for line in found.splitlines() if int(line.split()[0]) != main]

    def mounts(self, pid: int | str = 1) -> list[str]:
        """FUSE mounts of ours in the mount namespace of a process of the host."""
        text = self.host.run("cat", f"/proc/{pid}/mountinfo").stdout
        return [line for line in text.splitlines() if " - fuse" in line and "hatchway" in line]

    def present(self, instance: str) -> bool:
        """Whether `ls` has the instance."""
        keys = [info["key"] for info in self.hatchway("ls")["instances"] if info["present"]]
        return instance in [f"{key['environment']}/{key['container']}/{key['number']}" for key in keys]

    def sessions(self) -> int:
        """How many sessions are open."""
        return int(self.hatchway("status")["sessions"])

    # Containers, and directories

    def make_image(self) -> None:
        """Have the image that containers are made of."""
        self.host.put(SCRIPTS / "private-dockerd", "/root/private-dockerd", mode=0o755)
        self.host.run("/root/private-dockerd", "image", "unix:///run/docker.sock", timeout_s=180)

    def container(self, name: str, *, start: bool = True) -> str:
        """A container with a volume at /data. Returns the instance."""
        # Its process is deaf to SIGTERM, as process 1 of most containers is: not ten seconds for each stop.
        volume = f"{name}-data:/data"
        self.host.run("docker", "create", "--stop-timeout=1", "--name", name, "-v", volume, IMAGE)
        if start:
            self.host.run("docker", "start", name)
        instance = f"default/{name}/1"
        wait_until(lambda: self.present(instance), f"`hatchway ls` has {instance}", READY_S)
        return instance

    def volume(self, name: str) -> str:
        """Where the files of that container's volume are on the host."""
        return f"/var/lib/docker/volumes/{name}-data/_data"

    def directories(self, *names: str) -> None:
        """Instances without an engine, one directory each at /data; the package's configuration points to them."""
        text = ""
        for name in names:
            self.host.run("mkdir", "-p", f"/srv/shared/{name}")
            text += f'[[instance]]\nenvironment = "plain"\ncontainer = "{name}"\nnumber = 1\n'
            text += f'[[instance.volume]]\npath = "/data"\ndirectory = "/srv/shared/{name}"\n'
        self.host.write("/etc/hatchway/instances.toml", text)
        self.configure(
            {
                "host.bind_prefixes": '["/srv/shared"]',
                "host.idle_unmount_s": str(IDLE_S),
                "static.file": '"/etc/hatchway/instances.toml"',
            }
        )

    # Users

    def ready(self, instance: str) -> bool:
        """Whether the core knows the instance, and hostd, which it asks about directories."""
        done = self.host.run("hatchway", "--json", "enable", instance, check=False)
        return json.loads(done.stdout).get("error", {}).get("code") not in ("host", "not-found")

    def enable(self, instance: str) -> str:
        """Give access to an instance's /data. Returns the login; its user then has the key."""
        # After a reload the core answers before it has heard of hostd and the catalog.
        wait_until(lambda: self.ready(instance), f"{instance} can be enabled", READY_S)
        login = str(self.hatchway("enable", instance, "/data")["changed"]["instance"]["login"])
        self.fetch_key(instance, login)
        return login

    def fetch_key(self, instance: str, login: str) -> None:
        """Give the user the key."""
        key = self.client / login
        key.unlink(missing_ok=True)
        key.touch(mode=0o600)
        key.write_text(self.host.run("hatchway", "key", "export", instance, "-o", "-").stdout)

    def password(self, instance: str) -> str:
        """The instance's password."""
        return str(self.hatchway("password", "show", instance)["password"])

    def learn_host_keys(self) -> None:
        """Tell clients the host keys there are now; they accept no others."""
        # The host's own, where its sshd serves our port.
        theirs = self.host.exists(DROP_IN)
        keys = self.host.shell(f"cat /etc/{'ssh/ssh_host_*_key.pub' if theirs else 'hatchway/ssh/*.pub'}").splitlines()
        names = (f"[{HOST4}]:{PORT}", f"[{HOST6}]:{PORT}")
        (self.client / "known_hosts").write_text("".join(f"{name} {key}\n" for name in names for key in keys))

    def _command(self, login: str, address: str, *options: str, key: bool) -> list[str]:
        if not (self.client / "known_hosts").exists():
            self.learn_host_keys()
        settings = [
            f"UserKnownHostsFile={self.client}/known_hosts", "GlobalKnownHostsFile=none", "StrictHostKeyChecking=yes",
            f"Port={PORT}", "IdentitiesOnly=yes", "IdentityAgent=none", "ConnectTimeout=20",
        ]  # fmt: skip
        if key:
            settings += [f"IdentityFile={self.client}/{login}", "PreferredAuthentications=publickey", "BatchMode=yes"]
        else:
            settings += ["PubkeyAuthentication=no", "PreferredAuthentications=password", "NumberOfPasswordPrompts=1"]
            settings += ["BatchMode=no"]  # which -b would set; what is said first counts (ssh_config(5))
        words = [word for setting in settings for word in ("-o", setting)]
        target = f"{login}@[{address}]" if ":" in address else f"{login}@{address}"
        return self.host.on_client("sftp", "-F", "none", *words, *options, "-b", "-", target)

    def sftp(
        self,
        login: str,
        batch: str,
        *,
        password: str | None = None,
        address: str = HOST4,
        check: bool = True,
        timeout_s: float = 60,
    ) -> subprocess.CompletedProcess[str]:
        """Run a batch of sftp(1) as a user of the client, by key or by password."""
        with contextlib.ExitStack() as stack:
            environment = dict(_CLIENT)
            if password is not None:
                asked = self.client / f"askpass-{secrets.token_hex(4)}"
                asked.touch(mode=0o700)
                asked.write_text(f"#!/bin/sh\nprintf '%s\\n' '{password}'\n")
                stack.callback(asked.unlink)
                environment |= {"SSH_ASKPASS": str(asked), "SSH_ASKPASS_REQUIRE": "force"}
            done = subprocess.run(
                self._command(login, address, key=password is None),
                input=batch, capture_output=True, text=True, errors="replace", timeout=timeout_s, env=environment,
                cwd=self.client, check=False,
            )  # fmt: skip
        if check:
            assert done.returncode == 0, f"sftp as {login}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    def login_again(self, login: str) -> float:
        """Log in; while connections are refused, again. Returns for how long they were, in seconds."""
        began = time.monotonic()
        refused_s = 0.0
        while (done := self.sftp(login, "ls /data\n", check=False, timeout_s=20)).returncode != 0:
            refused_s = time.monotonic() - began
            said = done.stdout + done.stderr
            assert "Connection refused" in said, f"{done.returncode}\n{said}"
            assert refused_s < READY_S, "nobody listens on the port any more"
            time.sleep(0.05)
        return refused_s

    def open_sftp(self, login: str, *options: str) -> subprocess.Popen[str]:
        """A session by key that stays open until its standard input is closed."""
        return subprocess.Popen(
            self._command(login, HOST4, *options, key=True),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=_CLIENT,
            cwd=self.client,
        )  # fmt: skip

    @contextlib.contextmanager
    def session(self, login: str) -> Iterator[subprocess.Popen[str]]:
        """An open session, ended at the end."""
        with self.open_sftp(login) as process:
            try:
                assert process.stdin is not None
                process.stdin.write("cd /data\npwd\n")
                process.stdin.flush()
                before = time.monotonic()
                assert process.stdout is not None
                while "Remote working directory" not in (line := process.stdout.readline()):
                    assert line and time.monotonic() < before + 30, "the session has ended"
                yield process
            finally:
                process.kill()

    def is_over(self, session: subprocess.Popen[str]) -> bool:
        """Whether an open session has been ended. sftp notices when it is told to do something."""
        session.communicate("ls /data\n", timeout=60)
        return session.returncode != 0

    @contextlib.contextmanager
    def transfers(self, login: str, volume: str, *, seconds: float = 12, mebibytes: int = 48) -> Iterator[Transfers]:
        """An upload and a download, each in a session of its own, that take `seconds` by sftp's own limit.

        `volume` is where the files are on the host. At the end both must still have been on their way, and end well.
        """
        made = Transfers(self, login, volume, seconds, mebibytes)
        try:
            made.start()
            yield made
            made.finish()
        finally:
            made.clean_up()


class Transfers:
    """See `Installed.transfers`."""

    def __init__(self, installed: Installed, login: str, volume: str, seconds: float, mebibytes: int) -> None:
        self._installed = installed
        self._login = login
        self._volume = volume
        self._seconds = seconds
        self._size = mebibytes * 2**20
        self._name = f"t-{secrets.token_hex(3)}"
        self._processes: dict[str, subprocess.Popen[str]] = {}

    def start(self) -> None:
        """Start both, and wait until both have moved something."""
        host, client, name = self._installed.host, self._installed.client, self._name
        with (client / f"{name}-up").open("wb") as file:
            for _ in range(self._size // 2**20):
                file.write(os.urandom(2**20))
        host.shell(f"head -c {self._size} /dev/urandom >{self._volume}/{name}-down")
        limit = str(int(self._size * 8 / 1024 / self._seconds))
        for batch in (f"put {name}-up /data/{name}-up", f"get /data/{name}-down {name}-down"):
            process = self._installed.open_sftp(self._login, "-l", limit)
            self._processes[batch] = process
            assert process.stdin is not None
            process.stdin.write(f"{batch}\n")
            process.stdin.close()
        wait_until(self._both_move, lambda: f"both transfers have begun: {self._sizes()}", READY_S)

    def _sizes(self) -> tuple[int, int]:
        there = self._installed.host.shell(f"stat -c %s {self._volume}/{self._name}-up 2>/dev/null || echo 0")
        here = self._installed.client / f"{self._name}-down"
        return int(there), here.stat().st_size if here.exists() else 0

    def _both_move(self) -> bool:
        self.assert_going_on()
        return min(self._sizes()) > 0

    def assert_going_on(self) -> None:
        """Both sessions are open, and neither is done."""
        for batch, process in self._processes.items():
            assert process.poll() is None, f"{batch}: ended with {process.returncode}\n{self._said(process)}"
        sizes = self._sizes()
        assert max(sizes) < self._size, f"a transfer was done too early to say anything: {sizes}"

    def assert_move(self) -> None:
        """Both get on."""
        before = self._sizes()
        wait_until(
            lambda: all(now > then for now, then in zip(self._sizes(), before, strict=True)),
            lambda: f"both transfers get on: {before}, then {self._sizes()}",
            READY_S,
        )

    def finish(self) -> None:
        """Wait for both; they must end well, and the files be the same."""
        for batch, process in self._processes.items():
            status = process.wait(self._seconds + 60)
            assert status == 0, f"{batch}: {status}\n{self._said(process)}"
        for name in (f"{self._name}-up", f"{self._name}-down"):
            there = self._installed.host.run("sha256sum", f"{self._volume}/{name}").stdout.split()[0]
            with (self._installed.client / name).open("rb") as file:
                here = hashlib.file_digest(file, "sha256").hexdigest()
            assert here == there, f"{name} differs"

    def _said(self, process: subprocess.Popen[str]) -> str:
        assert process.stdout is not None
        return process.stdout.read()

    def clean_up(self) -> None:
        """End what still runs, remove the files."""
        for process in self._processes.values():
            process.kill()
            process.wait()
            assert process.stdout is not None
            process.stdout.close()
        for path in self._installed.client.glob(f"{self._name}-*"):
            path.unlink()
        if self._installed.host.running():
            self._installed.host.shell(f"rm -f {self._volume}/{self._name}-*", check=False)


def first_login(installed: Installed, instance: str) -> str:
    """What every test of a login does: by key and by password, over IPv4 and IPv6. Returns the login."""
    login = installed.enable(instance)
    content = secrets.token_hex(1000)
    (installed.client / "hello").write_text(content)
    installed.sftp(login, "put hello /data/hello\nget /data/hello by-key\n")
    installed.sftp(login, "get /data/hello by-key-6\n", address=HOST6)
    installed.sftp(login, "get /data/hello by-password\n", password=installed.password(instance))
    for name in ("by-key", "by-key-6", "by-password"):
        assert (installed.client / name).read_text() == content
        (installed.client / name).unlink()
    wrong = installed.sftp(login, "pwd\n", password="wrong", check=False)
    assert wrong.returncode != 0
    assert "Permission denied" in wrong.stderr
    return login


class User:
    """Somebody with a login, and where the files of /data are on the host."""

    def __init__(self, site: Installed, instance: str) -> None:
        self.instance = instance
        self.login = site.enable(instance)
        self.volume = site.volume(instance.split("/")[1])
