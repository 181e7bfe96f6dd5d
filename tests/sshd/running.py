"""A whole Hatchway for tests: `hatchway run` with directories, uids, port and PAM service of its own, on loopback."""

from __future__ import annotations

import base64
import contextlib
import json
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec

import hatchway
from hatchway.errors import HatchwayError
from hatchway.wire.admin import Listing, ListInstances
from hatchway.wire.frames import call_blocking
from hatchway.wire.people import ListPeople, People

WAIT_S = 20.0
PAM_SERVICE = "hatchway-test"
# What a command of the command line asks the daemon, and what it is answered.
_QUESTIONS: dict[tuple[str, ...], tuple[object, type[Any]]] = {
    ("ls",): (ListInstances(), Listing),
    ("person", "ls"): (ListPeople(), People),
}
_CLIENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8", "HOME": "/nonexistent"}


def wait_until(condition: Callable[[], object], what: str, timeout_s: float = WAIT_S) -> None:
    """Wait until `condition()` is true. Raises AssertionError naming `what` after `timeout_s` seconds."""
    end = time.monotonic() + timeout_s
    while True:
        began = time.monotonic()
        if condition():
            return
        ended = time.monotonic()
        assert ended < end, f"waited {timeout_s:g} s in vain: {what}"
        # To ask may take a program, and others need the processor for what is waited for.
        time.sleep(max(0.02, ended - began))


def free_port() -> int:
    """A TCP port of loopback nobody listens on now."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def libexec_dir() -> str:
    """Where the login helpers are: installed, or in the checkout the package is run from."""
    installed = Path(sys.prefix) / "libexec" / "hatchway"
    return str(installed if installed.is_dir() else Path(hatchway.__file__).parents[1] / "libexec")


class Hatchway:
    """One running Hatchway. `directory` is on the disk its static volumes lie on."""

    def __init__(
        self,
        directory: Path,
        *,
        engine_url: str | None = None,
        engine_timeout_s: int = 20,
        volume_root: str | None = None,
        idle_unmount_s: int = 300,
        password_kind: str = "raw",
        labels: bool = False,
        volume_devices: tuple[str, ...] = (),
        worker_timeout_s: int = 60,
        container_users: bool = False,
        measure_every_s: int = 300,
        host: str = "127.0.0.1",
        key_kind: str = "ed25519",
        python: str = sys.executable,
        web: str = "",
        within: tuple[str, ...] = (),
    ) -> None:
        self.directory = directory
        self.port = free_port()
        self.volumes = directory / "volumes"
        self.volumes.mkdir()
        self.keys = directory / "keys"
        self.keys.mkdir()
        self.run_dir = Path(f"/run/hatchway-test-{secrets.token_hex(4)}")
        self.config_path = directory / "hatchway.toml"
        self.instances_path = directory / "instances.toml"
        self.log_path = directory / "log"
        self._instances: dict[tuple[str, str, int], list[dict[str, Any]]] = {}
        self.spare: dict[tuple[str, ...], list[tuple[int, dict[str, Path]]]] = {}
        """Instances that were made for nobody yet, by the paths of their volumes (see place)."""
        self.process: subprocess.Popen[bytes] | None = None
        self.engine_url = engine_url
        self.engine_timeout_s = engine_timeout_s
        self.volume_root = volume_root
        self.idle_unmount_s = idle_unmount_s
        self.password_kind = password_kind
        self.labels = labels
        # Not beneath `directory`: every directory above must be root's alone, as /run is.
        self.access_dir = Path(f"{self.run_dir}-access")
        self.volume_devices = volume_devices
        self.worker_timeout_s = worker_timeout_s
        self.container_users = container_users
        self.measure_every_s = measure_every_s
        # What clients are told, and the kind of the keys that are made.
        self.host = host
        self.key_kind = key_kind
        # The interpreter of `hatchway run`, and so of the daemons it starts.
        self.python = python
        # The section [web], and a command that is put in front of `hatchway run`.
        self.web = web
        self.within = within
        # What ssh itself prefers takes most of a client's time; test_login has that.
        self.kex: tuple[str, ...] = ("-o", "KexAlgorithms=curve25519-sha256")

    # Running

    def write_config(self) -> None:
        """Write the configuration as it is set now."""
        engine = f'enabled = true\nurl = "{self.engine_url}"' if self.engine_url else "enabled = false"
        roots = f'["{self.volume_root}"]' if self.volume_root else "[]"
        self.config_path.write_text(f"""
[paths]
run_dir = "{self.run_dir}"
state_dir = "{self.directory}/state"
libexec_dir = "{libexec_dir()}"
[sshd]
port = {self.port}
listen = ["127.0.0.1"]
host_key_dir = "{self.directory}/host-keys"
pam_service = "{PAM_SERVICE}"
[host]
bind_prefixes = ["{self.volumes}"]
volume_roots = {roots}
volume_devices = {json.dumps(self.volume_devices)}
idle_unmount_s = {self.idle_unmount_s}
worker_timeout_s = {self.worker_timeout_s}
[sizes]
measure_every_s = {self.measure_every_s}
[ids]
core_user = "hwtest"
catalog_user = "hwtest-catalog"
keys_user = "hwtest-keys"
web_user = "hwtest-web"
session_group = "hwtest-sftp"
service_uids = [1910000000, 1910000009]
login_uids = [1910100000, 1910199999]
worker_uids = [1910200000, 1910299999]
[engine]
{engine}
timeout_s = {self.engine_timeout_s}
container_users = {str(self.container_users).lower()}
[static]
file = "{self.instances_path}"
[access]
dir = "{self.access_dir}"
labels = {str(self.labels).lower()}
[connect]
host = "{self.host}"
[credentials]
password = "{self.password_kind}"
key = "{self.key_kind}"
[web]
{self.web}
[log]
level = "debug"
""")
        self.write_instances()

    def add_volume(
        self,
        path: str,
        *,
        environment: str = "shop",
        container: str = "web",
        number: int = 1,
        directory: Path | None = None,
    ) -> Path:
        """A volume of a static instance, and its directory on disk, which is made if missing: one of its own by
        default."""
        directory = directory or self.volumes / f"{environment}-{container}-{number}{path.replace('/', '-')}"
        directory.mkdir(exist_ok=True)
        volumes = self._instances.setdefault((environment, container, number), [])
        volumes.append({"path": path, "directory": str(directory)})
        return directory

    def take_instance(self, environment: str, container: str, number: int) -> list[dict[str, str]]:
        """Have a static instance no more. What it was, for `give_instance`."""
        return self._instances.pop((environment, container, number))

    def give_instance(self, environment: str, container: str, number: int, volumes: list[dict[str, str]]) -> None:
        """Have it again."""
        self._instances[environment, container, number] = volumes

    def remove_instance(self, *, environment: str = "shop", container: str = "web", number: int = 1) -> None:
        """Have a static instance no more; its directories stay."""
        del self._instances[environment, container, number]

    def break_instances(self) -> None:
        """Start, and never read the static catalog: it is no TOML."""
        instances, self._instances = self._instances, {}
        write, self.write_instances = self.write_instances, lambda: None  # type: ignore[method-assign]
        self.instances_path.write_text("= broken")
        try:
            self.start()
        finally:
            self._instances, self.write_instances = instances, write  # type: ignore[method-assign]

    def write_instances(self) -> None:
        """Write the static catalog."""
        lines = []
        for (environment, container, number), volumes in self._instances.items():
            lines += [
                "[[instance]]",
                f'environment = "{environment}"',
                f'container = "{container}"',
                f"number = {number}",
            ]
            for volume in volumes:
                lines += ["[[instance.volume]]", f'path = "{volume["path"]}"', f'directory = "{volume["directory"]}"']
        self.instances_path.write_text("\n".join(lines) + "\n")

    def start(self) -> None:
        """Start, and wait until logins are possible and every static instance is known."""
        self.write_config()
        with self.log_path.open("ab") as log:
            run = ("-I", "-m", "hatchway.cli.main", "--config", str(self.config_path), "run")
            command = [*self.within, self.python, *run]
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd="/")
        wait_until(lambda: self.process is None or self.process.poll() is not None or self._answers(), "start")
        assert self.process is not None
        assert self.process.poll() is None, self.log()

    def _answers(self) -> bool:
        if "event=running" not in self.log():
            return False
        try:
            return len(self.told("ls")["instances"]) >= len(self._instances)
        except HatchwayError:
            return False

    def stop(self) -> int:
        """Stop it as Ctrl-C does. Returns its exit status."""
        assert self.process is not None
        self.process.send_signal(signal.SIGINT)
        status = self.process.wait(60)
        self.process = None
        return status

    def log(self) -> str:
        """What all processes have logged so far."""
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    # Administering

    def cli(self, *arguments: str, given: str | None = None) -> subprocess.CompletedProcess[str]:
        """Run the command line. `given` is what it gets on standard input."""
        command = [sys.executable, "-I", "-m", "hatchway.cli.main", "--config", str(self.config_path), *arguments]
        return subprocess.run(command, input=given, capture_output=True, text=True, timeout=60, cwd="/", check=False)

    def command(self, *arguments: str, given: str | None = None) -> Any:
        """Run the command line with --json; it must succeed. Returns the document."""
        done = self.cli("--json", *arguments, given=given)
        assert done.returncode == 0, f"{arguments}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return json.loads(done.stdout)

    def told(self, *words: str) -> Any:
        """The document of `command(*words)`, one of _QUESTIONS, without a program to start: for what is asked again
        and again until it is so. Raises HatchwayError.
        """
        request, answer = _QUESTIONS[words]
        return msgspec.to_builtins(call_blocking(f"{self.run_dir}/admin.sock", request, answer), str_keys=True)

    def enable(self, instance: str, *volumes: str, read_only: bool = False) -> str:
        """Enable volumes (all without a name), fetch the key. Returns the login."""
        options = ["--read-only"] if read_only else []
        changed = self.command("enable", instance, *(volumes or ("--all",)), *options)["changed"]
        login = str(changed["instance"]["login"])
        key = self.keys / login
        if not key.exists():
            self.command("key", "export", instance, "-o", str(key))
        return login

    def password(self, instance: str) -> str:
        """The instance's raw password."""
        return str(self.command("password", "show", instance)["password"])

    def sessions(self) -> int:
        """How many sessions hostd counts."""
        return int(self.command("status")["sessions"])

    # Connecting

    def options(self, *, known_hosts: bool = True) -> list[str]:
        """ssh options that use nothing of the machine's or the user's, and trust only our host keys."""
        hosts = self.directory / "known_hosts"
        lines = [
            f"[127.0.0.1]:{self.port} {path.read_text().strip()}"
            for path in sorted((self.directory / "host-keys").glob("*.pub"))
        ]
        if not hosts.exists():  # not again: a client that runs meanwhile may be reading it
            hosts.write_text("\n".join(lines) + "\n")
        return [
            "-F", "none",
            "-o", f"UserKnownHostsFile={hosts}",
            "-o", "GlobalKnownHostsFile=none",
            "-o", f"StrictHostKeyChecking={'yes' if known_hosts else 'no'}",
            "-o", f"Port={self.port}",
            "-o", "IdentitiesOnly=yes",
            "-o", "IdentityAgent=none",
            "-o", "ConnectTimeout=20",
            *self.kex,
        ]  # fmt: skip

    def key_options(self, key: str) -> list[str]:
        """Log in with the key of login `key` only."""
        return ["-o", "PreferredAuthentications=publickey", "-i", str(self.keys / key), "-o", "BatchMode=yes"]

    @contextlib.contextmanager
    def password_environment(self, password: str) -> Iterator[dict[str, str]]:
        """An environment in which ssh gets `password` without a terminal."""
        program = self.directory / f"askpass-{secrets.token_hex(4)}"
        encoded = base64.b64encode(password.encode()).decode()
        program.write_text(f"#!/bin/sh\necho {encoded} | base64 -d\n")
        program.chmod(0o700)
        try:
            yield {**_CLIENT, "SSH_ASKPASS": str(program), "SSH_ASKPASS_REQUIRE": "force"}
        finally:
            program.unlink()

    @contextlib.contextmanager
    def credentials(self, key: str, password: str | None) -> Iterator[tuple[list[str], dict[str, str]]]:
        """Options and environment with which ssh uses `password`, or, when that is None, the key called `key`."""
        if password is None:
            yield self.key_options(key), dict(_CLIENT)
            return
        options = ["-o", "PreferredAuthentications=password", "-o", "PubkeyAuthentication=no"]
        options += ["-o", "NumberOfPasswordPrompts=1"]
        with self.password_environment(password) as environment:
            yield options, environment

    def sftp(
        self,
        login: str,
        batch: str,
        *,
        key: str | None = None,
        password: str | None = None,
        check: bool = True,
        options: tuple[str, ...] = (),
    ) -> subprocess.CompletedProcess[str]:
        """Run `batch`, lines of sftp(1), as `login`; a line beginning with "-" may fail."""
        with self.credentials(key or login, password) as (credentials, environment):
            # -b implies BatchMode, which asks for no password: what is said first counts (ssh_config(5)).
            asking = [] if password is None else ["-o", "BatchMode=no"]
            command = ["sftp", *self.options(), *asking, *credentials, *options, "-b", "-", f"{login}@127.0.0.1"]
            done = subprocess.run(
                command, input=batch, capture_output=True, text=True, errors="replace", timeout=120,
                env=environment, check=False,
            )  # fmt: skip
        if check:
            assert done.returncode == 0, f"sftp: {done.returncode}\n{done.stdout}\n{done.stderr}\n{self.log()[-4000:]}"
        return done

    def ssh(
        self, login: str, *arguments: str, key: str | None = None, timeout_s: float = 30
    ) -> subprocess.CompletedProcess[str]:
        """Run ssh as `login` with the key of `key` (its own by default)."""
        command = ["ssh", *self.options(), *self.key_options(key or login), *arguments]
        if f"{login}@127.0.0.1" not in command:
            command.append(f"{login}@127.0.0.1")
        return subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            env=_CLIENT,
            check=False,
        )

    def open_sftp(self, login: str, *, options: tuple[str, ...] = ()) -> subprocess.Popen[str]:
        """An sftp session that stays open until its standard input is closed."""
        command = ["sftp", *self.options(), *self.key_options(login), *options, "-b", "-", f"{login}@127.0.0.1"]
        return subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=_CLIENT
        )


@contextlib.contextmanager
def running(*instances: str, **options: Any) -> Iterator[Hatchway]:
    """A Hatchway with one volume /data per static instance "environment/container/number", stopped at the end."""
    # Not pytest's directories: the daemons' own users must be able to read the configuration there.
    directory = Path(tempfile.mkdtemp(prefix="hwtest-"))
    directory.chmod(0o755)
    made = Hatchway(directory, **options)
    for instance in instances:
        environment, container, number = instance.split("/")
        made.add_volume("/data", environment=environment, container=container, number=int(number))
    try:
        made.start()
        yield made
    finally:
        if made.process is not None:
            status = made.stop()
            assert status == 0, f"hatchway run ended with {status}\n{made.log()[-4000:]}"
        shutil.rmtree(directory)
        shutil.rmtree(made.access_dir, ignore_errors=True)
    assert not made.run_dir.exists(), "the run directory is left"
    assert not Path("/etc/pam.d", PAM_SERVICE).exists(), "the PAM service is left"
    userdb = Path("/run/userdb")
    left = [path.name for path in userdb.glob("*hwtest*")] if userdb.is_dir() else []
    assert left == [], "user records are left"
