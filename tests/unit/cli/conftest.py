"""A stand-in for the daemon's admin socket, and a way to run commands against it."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import select
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from hatchway.cli.main import cli
from hatchway.errors import HatchwayError
from hatchway.model import InstanceKey, InstanceState, Mode, VolumeKind
from hatchway.wire import admin, entry, links, people
from hatchway.wire.frames import Failure, decode, encode

SOURCE = Path(__file__).parents[3] / "src"

PATIENCE_S = 30.0
"""How long a command on a terminal may take: so that one that waits for ever fails."""

_REQUESTS = (
    admin.ListInstances
    | admin.Enable
    | admin.Disable
    | admin.Apply
    | admin.Confirm
    | admin.Forget
    | admin.Prune
    | admin.Show
    | admin.ShowServer
    | admin.DaemonStatus
    | admin.ReadLog
    | entry.ShowPassword
    | entry.ResetPassword
    | entry.SetPassword
    | entry.ImportPassword
    | entry.RemovePassword
    | entry.ExportKey
    | entry.RenewKey
    | entry.AddKey
    | entry.RemoveKey
    | entry.AllowVolumeKeys
    | entry.DeliverKey
    | entry.TakeKeyBack
    | entry.ListKeys
    | entry.ShowConditions
    | entry.SetConditions
    | entry.Lock
    | entry.Unlock
    | entry.ListSessions
    | entry.Kick
    | entry.RotateKey
    | people.AddPerson
    | people.RemovePerson
    | people.GrantPerson
    | people.RevokePerson
    | people.ListPeople
    | links.MakeLink
    | links.ListLinks
    | links.RevokeLink
)

Answer = object | Callable[[Any], object]


class FakeDaemon:
    """Answers each type of request with what `answers` holds for it: a message, an error, or a function of it.

    Several at once, each in a thread of its own.
    """

    def __init__(self, path: Path) -> None:
        self.answers: dict[type, Answer] = {}
        self.requests: list[object] = []
        self._path = str(path)
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(self._path)
        self._listener.listen()
        self._closing = False
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        with contextlib.ExitStack() as threads:
            while True:
                connection, _ = self._listener.accept()
                thread = threading.Thread(target=self._answer, args=(connection,))
                thread.start()
                threads.callback(thread.join)
                if self._closing:
                    return

    def _answer(self, connection: socket.socket) -> None:
        with connection, connection.makefile("rb") as file:
            header = file.read(4)
            if not header:
                return
            request = decode(file.read(int.from_bytes(header, "big")), _REQUESTS)
            self.requests.append(request)
            answer = self.answers[type(request)]
            if callable(answer):
                answer = answer(request)
            if isinstance(answer, HatchwayError):
                answer = Failure.of(answer)
            with contextlib.suppress(BrokenPipeError):  # who asked does not wait any more
                connection.sendall(answer if isinstance(answer, bytes) else encode(answer))

    def close(self) -> None:
        """End the threads."""
        self._closing = True
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as last:
            last.connect(self._path)
        self._thread.join()
        self._listener.close()


class Cli:
    """Runs commands with a configuration whose run directory is the test's own."""

    def __init__(self, config: Path) -> None:
        self.config = config
        self.runner = CliRunner()

    def __call__(
        self, *arguments: str, env: dict[str, str | None] | None = None, given: bytes | str | None = None
    ) -> Result:
        """Run it, with `given` on standard input."""
        return self.runner.invoke(
            cli,
            ["--config", str(self.config), *arguments],
            input=given,
            env={"HATCHWAY_TRACEBACK": None, **(env or {})},
        )

    def json(self, *arguments: str, given: bytes | str | None = None) -> Any:
        """Run with --json behind the command; the one document on standard output."""
        return json.loads(self(*arguments, "--json", given=given).stdout)


class OnTerminal:
    """A command on a terminal of its own, its standard output apart."""

    def __init__(self, run: Cli, *arguments: str) -> None:
        self.master, slave = pty.openpty()
        # As the program's own controlling terminal, since that is what a prompt without echo opens.
        start = (
            "import fcntl, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); from hatchway.cli import main; main.main()"
        )
        self.process = subprocess.Popen(
            [sys.executable, "-c", start, "--config", str(run.config), *arguments],
            stdin=slave,
            stdout=subprocess.PIPE,
            stderr=slave,
            start_new_session=True,
            env={"PATH": os.environ["PATH"], "PYTHONPATH": str(SOURCE)},
        )
        os.close(slave)
        self.seen = b""
        self._waited_for = 0

    def until(self, text: bytes) -> None:
        """Wait for `text` after what was waited for before."""
        while (place := self.seen.find(text, self._waited_for)) < 0:
            if not select.select([self.master], [], [], PATIENCE_S)[0]:
                pytest.fail(f"{text!r} does not come after {self.seen!r}")
            self.seen += os.read(self.master, 4096)
        self._waited_for = place + len(text)

    def type(self, text: str) -> None:
        """Type a line."""
        os.write(self.master, f"{text}\n".encode())

    def end(self) -> tuple[int, str, str]:
        """Exit status, standard output, and all that the terminal showed."""
        out, _ = self.process.communicate(timeout=PATIENCE_S)
        with contextlib.suppress(OSError):  # EIO: nobody has the other end any more
            while chunk := os.read(self.master, 4096):
                self.seen += chunk
        return self.process.returncode, out.decode(), self.seen.decode()

    def close(self) -> None:
        """End it, if it has not."""
        self.process.kill()
        self.process.communicate()
        os.close(self.master)


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    directory = tmp_path / "run"
    directory.mkdir()
    return directory


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current directory, without sudo's variables."""
    directory = tmp_path / "here"
    directory.mkdir()
    monkeypatch.chdir(directory)
    monkeypatch.delenv("SUDO_UID", raising=False)
    monkeypatch.delenv("SUDO_GID", raising=False)
    return directory


@pytest.fixture
def run(tmp_path: Path, run_dir: Path) -> Cli:
    config = tmp_path / "hatchway.toml"
    config.write_text(f'[paths]\nrun_dir = "{run_dir}"\n')
    return Cli(config)


@pytest.fixture
def on_terminal(run: Cli) -> Iterator[Callable[..., OnTerminal]]:
    """Starts a command on a terminal."""
    with contextlib.ExitStack() as ended:

        def start(*arguments: str) -> OnTerminal:
            terminal = OnTerminal(run, *arguments)
            ended.callback(terminal.close)
            return terminal

        yield start


@pytest.fixture
def daemon(run_dir: Path) -> Iterator[FakeDaemon]:
    fake = FakeDaemon(run_dir / "admin.sock")
    yield fake
    fake.close()


def volume(path: str = "/home/work", access: admin.Access = admin.Access.OFF, **more: Any) -> admin.VolumeStatus:
    """A named volume."""
    fields = {"name": "work", "kind": VolumeKind.VOLUME, "driver": "local", "read_only": False, **more}
    return admin.VolumeStatus(path=path, access=access, **fields)


def instance(*volumes: admin.VolumeStatus, **more: Any) -> admin.InstanceStatus:
    """An instance, shop/web/1 unless told otherwise."""
    fields = {
        "key": InstanceKey("shop", "web", 1),
        "state": InstanceState.RUNNING,
        "runtime_name": "shop-web-1",
        "image": "nginx",
        "user": "",
        "present": True,
        "login": None,
        **more,
    }
    return admin.InstanceStatus(volumes=volumes, **fields)


def conditions(**more: Any) -> entry.ConditionsStatus:
    """The conditions of shop-web-1: none, unless told otherwise."""
    fields: dict[str, Any] = {
        "login": "shop-web-1",
        "allowed_from": (),
        "expires_at": None,
        "sessions_max": None,
        "sessions_default": 32,
        "locked_at": None,
        "locked_why": "",
        **more,
    }
    return entry.ConditionsStatus(**fields)


def connection(**more: Any) -> admin.ConnectionInfo:
    """How to connect to shop/web/1, its password hidden."""
    fields: dict[str, Any] = {
        "instance": instance(
            volume(access=admin.Access.READ_WRITE, session_path="/home/work"),
            volume("/var/lib/db", name="db"),
            login="shop-web-1",
        ),
        "host": "sftp.example.org",
        "port": 2022,
        "login": "shop-web-1",
        "start_directory": "/home/work",
        "password_kind": entry.PasswordKind.RAW,
        "password": None,
        "key_fingerprint": "SHA256:" + "k" * 43,
        "key_public": "ssh-ed25519 AAAA",
        "host_keys": (admin.HostKey("ssh-ed25519", "SHA256:" + "h" * 43, "ssh-ed25519 AAAA"),),
        "conditions": conditions(),
        **more,
    }
    return admin.ConnectionInfo(**fields)


def person(*volumes: admin.PersonVolume, **more: Any) -> admin.PersonStatus:
    """Anna."""
    fields = {"login": "anna", "full_name": "Anna Berg", "created_at": 0.0, **more}
    return admin.PersonStatus(volumes=volumes, **fields)


def person_volume(path: str = "/home/work", **more: Any) -> admin.PersonVolume:
    """What a person has of shop/web/1."""
    fields: dict[str, Any] = {
        "key": InstanceKey("shop", "web", 1),
        "state": InstanceState.RUNNING,
        "present": True,
        "folder": "",
        "name": "work",
        "driver": "local",
        "kind": VolumeKind.VOLUME,
        "mode": Mode.READ_WRITE,
        "access": admin.Access.READ_WRITE,
        "session_path": f"/shop-web-1{path}",
        "granted_at": 0.0,
        "granted_by": "root",
        **more,
    }
    return admin.PersonVolume(path=path, **fields)


@pytest.fixture
def make() -> Any:
    """The makers of answers above, as attributes: test modules cannot import this one."""

    class Make:
        volume = staticmethod(volume)
        instance = staticmethod(instance)
        connection = staticmethod(connection)
        conditions = staticmethod(conditions)
        person = staticmethod(person)
        person_volume = staticmethod(person_volume)

    return Make
