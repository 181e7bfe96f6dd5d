"""Each finding of `hatchway doctor`, with stand-ins for what it looks at."""

from __future__ import annotations

import errno
import functools
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from msgspec import structs
from tests.unit.cli.findings import FAILED, OK, WARNING, configuration, expect, only, says

from hatchway import rulefiles
from hatchway.cli.doctor import daemon as daemon_check
from hatchway.cli.doctor import engine, files, kernel, leftovers, names, pam, pam_probe, sockets
from hatchway.cli.doctor.command_line import Ran
from hatchway.cli.doctor.command_line import run as execute
from hatchway.cli.doctor.finding import Finding, Level, ok
from hatchway.config import DEFAULT_PATH, RESERVE_SIZE, Access, Config, Engine, Static
from hatchway.errors import EngineError, HostError, NotRunningError, ProtocolError, RefusedError
from hatchway.host import orphans
from hatchway.host.orphans import InUse
from hatchway.sshd import render
from hatchway.wire.admin import HOST_STARTING, DaemonStatus, SourceStatus, Status
from hatchway.wire.host import Leftover, LeftoverKind, Leftovers

if TYPE_CHECKING:
    from tests.unit.cli.conftest import Cli, FakeDaemon


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return configuration(tmp_path)


# --- running programs ----------------------------------------------------------------------------------------------


def test_programs_are_bounded() -> None:
    assert execute(["sh", "-c", "echo out; echo err >&2; exit 3"]) == Ran(3, "out\nerr")
    assert execute(["/none/such"]).status is None
    started = time.monotonic()
    assert execute(["sleep", "60"], 0.2) == Ran(None, "no answer within 0.2 s")
    assert time.monotonic() - started < 5


# --- kernel --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("release", "level"),
    [("6.1.0-13-amd64", OK), ("5.14.0", OK), ("5.13.19", FAILED), ("4.18.0-553.el8", FAILED), ("odd", WARNING)],
)
def test_kernel_version(release: str, level: Level) -> None:
    expect(kernel.version(release), level, release)


@pytest.mark.parametrize(("number", "level"), [(errno.ENOSYS, FAILED), (errno.EINVAL, FAILED)])
def test_containment_refused(number: int, level: Level) -> None:
    def probe() -> None:
        raise OSError(number, os.strerror(number))

    expect(kernel.containment(probe), level, os.strerror(number))


def test_containment_not_permitted(monkeypatch: pytest.MonkeyPatch) -> None:
    def probe() -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "geteuid", lambda: 0)
    expect(kernel.containment(probe), FAILED, "Operation not permitted")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    expect(kernel.containment(probe), WARNING, "only root")


def test_containment_works() -> None:
    expect(kernel.containment(lambda: None), OK)


@pytest.mark.skipif(os.geteuid() != 0, reason="not root: no mount can be made")
def test_containment_for_real() -> None:
    expect(kernel.containment(), OK)


def test_fuse_device(tmp_path: Path) -> None:
    expect(kernel.fuse_device(str(tmp_path / "none")), FAILED, "not there")
    (tmp_path / "file").write_text("")
    expect(kernel.fuse_device(str(tmp_path / "file")), FAILED, "no device")
    expect(kernel.fuse_device("/dev/null"), OK)


def test_fuse_library() -> None:
    expect(kernel.fuse_library(says(0, "3.5.0")), OK, "3.5.0")
    broken = "Traceback:\nImportError: libfuse3.so.4: cannot open shared object file"
    expect(kernel.fuse_library(says(1, broken)), FAILED, "libfuse3.so.4")
    expect(kernel.fuse_library(says(None, "no answer within 5 s")), FAILED, "no answer")
    expect(kernel.fuse_library(says(-11)), FAILED, "-11")


# --- names ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "missing"),
    [
        ("passwd: files systemd\ngroup: files [SUCCESS=merge] systemd\n", None),
        ("passwd: files\ngroup: files systemd\n", "passwd"),
        ("passwd: files systemd\ngroup: files # systemd\n", "group"),
        ("hosts: files dns\n", "passwd and group"),
    ],
)
def test_nsswitch(tmp_path: Path, text: str, missing: str | None) -> None:
    (tmp_path / "nsswitch.conf").write_text(text)
    finding = names.switch(str(tmp_path / "nsswitch.conf"))
    expect(finding, OK if missing is None else FAILED, *([f"in the {missing} line"] if missing else []))


def test_no_nsswitch(tmp_path: Path) -> None:
    expect(names.switch(str(tmp_path / "none")), FAILED, "No such file")


def test_nss_systemd(config: Config) -> None:
    asked: list[Sequence[str]] = []

    def getent(argv: Sequence[str]) -> Ran:
        asked.append(argv)
        return Ran(0, f"{argv[-1]}:x:1900100000:")

    expect(names.answers(config, getent), OK, "nothing is published")
    (Path(config.paths.userdb_dir) / "1900100000.user").touch()
    (Path(config.paths.userdb_dir) / "shop-web-1.user").touch()
    expect(names.answers(config, getent), OK, "finds shop-web-1")
    (Path(config.paths.userdb_dir) / "hatchway.user").touch()
    expect(names.answers(config, getent), OK, "finds hatchway")
    assert [argv[-1] for argv in asked] == ["root", "shop-web-1", "hatchway"]
    expect(names.answers(config, says(2)), FAILED, "does not find hatchway")
    expect(names.answers(config, says(None, "no answer within 5 s")), FAILED, "no answer")


# --- PAM -----------------------------------------------------------------------------------------------------------


def test_pam_service(config: Config) -> None:
    path = Path(config.paths.pam_dir) / "hatchway-sshd"
    expect(pam.service_file(config, False), OK, "not there yet")
    expect(pam.service_file(config, True), FAILED, "/etc/pam.d/other")
    path.write_text(render.pam_service(config))
    expect(pam.service_file(config, True), OK)
    path.write_text(render.MARKER + "\nauth required pam_permit.so\n")
    expect(pam.service_file(config, True), FAILED, "not what this configuration asks for")
    path.write_text("auth required pam_permit.so\n")
    expect(pam.service_file(config, True), FAILED, "not written by Hatchway")


def test_pam_login(config: Config) -> None:
    asked: list[Sequence[str]] = []

    def probe(status: int | None, output: str = "") -> Callable[[Sequence[str], float], Ran]:
        def run(argv: Sequence[str], _timeout_s: float) -> Ran:
            asked.append(argv)
            return Ran(status, output)

        return run

    assert pam.refuses_strangers(config, True, probe(0)) == []
    (Path(config.paths.pam_dir) / "hatchway-sshd").touch()
    assert pam.refuses_strangers(config, False, probe(0)) == []
    assert asked == []
    expect(only(pam.refuses_strangers(config, True, probe(1, "System error"))), OK, "a stranger is refused")
    expect(only(pam.refuses_strangers(config, True, probe(0))), FAILED, "was let in")
    expect(only(pam.refuses_strangers(config, True, probe(2, "Module is unknown"))), WARNING, "Module is unknown")
    expect(only(pam.refuses_strangers(config, True, probe(None, "no answer"))), WARNING, "no answer")
    assert list(asked[0][1:5]) == ["-I", "-m", "hatchway.cli.doctor.pam_probe", "hatchway-sshd"]
    assert asked[0][5] != asked[1][5]


@pytest.mark.parametrize(
    ("accepted", "code", "reason", "status"),
    [(True, 0, "Success", 0), (False, 4, b"System error", 1), (False, 28, "Module is unknown", 2)],
)
def test_pam_probe(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    accepted: bool,
    code: int,
    reason: str | bytes,
    status: int,
) -> None:
    class Authenticator:
        def __init__(self) -> None:
            self.code, self.reason = code, reason

        def authenticate(self, _login: str, password: str, service: str, resetcreds: bool) -> bool:
            assert service == "hatchway-sshd"
            assert len(password) > 20
            return accepted

    monkeypatch.setattr("pam.pam", Authenticator)
    assert pam_probe.main("hatchway-sshd", "nobody-1") == status
    words = reason.decode() if isinstance(reason, bytes) else reason
    assert capsys.readouterr().out == ("" if accepted else f"{words}\n")


# --- engine --------------------------------------------------------------------------------------------------------


class FakeEngine:
    """One HTTP answer for every connection to a unix socket; None answers nothing."""

    def __init__(self, path: str, answer: bytes | None) -> None:
        self.requests: list[bytes] = []
        self._answer = answer
        self._end = threading.Event()
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(path)
        self._listener.listen()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        connection, _ = self._listener.accept()
        with connection:
            self.requests.append(connection.recv(4096))
            if self._answer is None:
                self._end.wait(20)
            else:
                connection.sendall(self._answer)

    def close(self) -> None:
        self._end.set()
        self._thread.join()
        self._listener.close()


@pytest.fixture
def serve(config: Config) -> Iterator[Callable[[bytes | None], FakeEngine]]:
    made: list[FakeEngine] = []

    def start(answer: bytes | None) -> FakeEngine:
        made.append(FakeEngine(config.engine.url.removeprefix("unix://"), answer))
        return made[-1]

    yield start
    for one in made:
        one.close()


def _http(body: bytes, status: bytes = b"200 OK") -> bytes:
    return b"HTTP/1.1 %s\r\nContent-Length: %d\r\n\r\n%s" % (status, len(body), body)


def test_engine_answers(config: Config, serve: Callable[[bytes | None], FakeEngine]) -> None:
    fake = serve(_http(b'{"DockerRootDir": "/var/lib/docker", "Name": "x"}'))
    expect(engine.check(config), OK, "/var/lib/docker/volumes")
    assert fake.requests[0].startswith(b"GET /info HTTP/1.1\r\n")


@pytest.mark.parametrize("root", ["/data/docker", "/var/lib/docker/100000.100000", "/var/lib/dockerx"])
def test_engine_elsewhere(config: Config, serve: Callable[[bytes | None], FakeEngine], root: str) -> None:
    serve(_http(b'{"DockerRootDir": "%s"}' % root.encode()))
    finding = engine.check(config)
    expect(finding, FAILED, f"{root}/volumes")
    assert finding.fix == f'add "{root}/volumes" to host.volume_roots'


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (_http(b"no", b"500 Oops"), "500 Oops"),
        (_http(b"{"), "no engine's"),
        (_http(b"[]"), "no engine's"),
        (_http(b"{}"), "no engine's"),
        (_http(b'{"DockerRootDir": 5}'), "no data directory"),
        (b"garbage\r\n\r\n", "garbage"),
        (b"", ""),
    ],
)
def test_engine_talks_nonsense(
    config: Config, serve: Callable[[bytes | None], FakeEngine], answer: bytes, words: str
) -> None:
    serve(answer)
    expect(engine.check(config), FAILED, words)


def test_engine_hangs(config: Config, serve: Callable[[bytes | None], FakeEngine]) -> None:
    serve(None)
    with pytest.raises(EngineError, match="timed out"):
        engine.data_root(config.engine.url.removeprefix("unix://"), 0.2)


def test_engine_is_not_there(config: Config, tmp_path: Path) -> None:
    expect(engine.check(config), WARNING, "no socket")
    off = Config(engine=Engine(enabled=False))
    expect(engine.check(off), OK, "switched off")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as dead:
        dead.bind(config.engine.url.removeprefix("unix://"))
    expect(engine.check(config), FAILED, "refused")


# --- files and sockets ---------------------------------------------------------------------------------------------


def test_configuration_file(tmp_path: Path) -> None:
    file = tmp_path / "hatchway.toml"
    file.write_text("")
    expect(files.configuration(file, lambda _: None), OK)
    expect(files.configuration(file, lambda path: f"{path} belongs to uid 5"), FAILED, "uid 5")
    if not DEFAULT_PATH.exists():
        expect(files.configuration(None), OK, "defaults")


def test_static_file(tmp_path: Path) -> None:
    file = tmp_path / "static.toml"
    config = Config(static=Static(file=str(file)))
    expect(files.static(Config()), OK, "none")
    expect(files.static(config, lambda _: None), FAILED, "No such file")
    file.write_text("= no")
    expect(files.static(config, lambda _: None), FAILED, "static.toml")
    file.write_text("")
    expect(files.static(config, lambda _: None, lambda _: None), OK)
    expect(files.static(config, lambda path: f"{path} is bad"), FAILED, "is bad")
    file.write_text('[[instance]]\nenvironment = "shop"\n')
    expect(files.static(config, lambda _: None), FAILED, "instance[0].container is missing")


def test_access_files(tmp_path: Path) -> None:
    directory = tmp_path / "access.d"
    config = Config(access=Access(dir=str(directory)))
    labelled = Config(access=Access(dir=str(directory), labels=True))
    trusted = functools.partial(files.access, flaw=lambda _: None)
    expect(trusted(config), OK, "given by command")
    assert "label" not in trusted(config).text
    expect(trusted(labelled), OK, "by command and by label")
    directory.mkdir()
    (directory / "a.toml").write_text("[[access]]\nproject = 'a'\nservice = 'b'\nvolumes = ['*']\n")
    rules = rulefiles.read(str(directory))
    expect(trusted(config), OK, "1 rule in")
    expect(trusted(config, rules), OK, "1 rule in")
    expect(trusted(config, ()), WARNING, "not what was applied last")
    expect(trusted(Config(access=Access(dir="/nowhere/at/all")), rules), WARNING, "still counts: 1 rule")
    expect(files.access(config, flaw=lambda path: "bad" if path.endswith("a.toml") else None), FAILED, "bad")
    (directory / "b.toml").write_text("[[access]]\n")
    expect(trusted(config), FAILED, "b.toml, rule 1: project is missing")


def test_secrets(config: Config) -> None:
    expect(files.secrets(config), OK, "none yet")
    for path in (config.registry_path, config.sealing_key_path):
        Path(path).touch(0o600)
    expect(files.secrets(config), OK, "owner's alone")
    new = Path(f"{config.sealing_key_path}.new")
    new.touch(0o604)
    expect(files.secrets(config), FAILED, "0604")
    new.unlink()
    Path(config.sealing_key_path).chmod(0o640)
    expect(files.secrets(config), FAILED, "0640")


def test_room(config: Config) -> None:
    def with_free(size: int, files_free: int = 1) -> Callable[[str], os.statvfs_result]:
        return lambda _: os.statvfs_result(
            (4096, 4096, 1 << 30, size >> 12, size >> 12, 9, files_free, files_free, 0, 255)
        )

    def found(size: int, files_free: int = 1) -> Finding:
        return files.room(config, with_free(size, files_free))

    expect(found(1 << 40), OK, "none yet")
    Path(config.registry_path).touch(0o600)
    expect(found(1 << 40), WARNING, "registry.sqlite-reserve, which keeps room")
    expect(found(1 << 20), FAILED, "the disk is full")
    reserve = Path(config.reserve_path)
    reserve.touch(0o600)
    os.truncate(reserve, RESERVE_SIZE)
    expect(found(1 << 40), OK, "free in")
    expect(found(100 << 20), WARNING, "nearly full")
    expect(found(1 << 20), FAILED, "the disk is full")
    expect(found(1 << 40, 0), FAILED, "the disk is full")
    os.truncate(reserve, RESERVE_SIZE - 1)
    expect(found(1 << 40), FAILED, "the disk was full")
    expect(files.room(config), FAILED, "the disk was full")


@pytest.fixture
def all_sockets(config: Config) -> Iterator[list[str]]:
    paths = [config.admin_socket, config.auth_socket, config.hostd_socket, config.catalog_socket, config.workers_socket]
    made = []
    for path in paths:
        made.append(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
        made[-1].bind(path)
        Path(path).chmod(0o660)
    yield paths
    for one in made:
        one.close()


def test_sockets(config: Config, all_sockets: list[str]) -> None:
    assert sockets.modes(config, False) == []
    owner = os.geteuid()
    assert [finding.level for finding in sockets.modes(config, True, owner)] == [OK] * len(all_sockets)
    Path(config.admin_socket).chmod(0o666)
    Path(config.auth_socket).unlink()
    Path(config.hostd_socket).unlink()
    Path(config.hostd_socket).touch(0o600)
    findings = sockets.modes(config, True, owner)
    expect(findings[0], FAILED, "0666")
    expect(findings[1], FAILED, "No such file")
    expect(findings[2], FAILED, "no socket")
    assert all(finding.level is FAILED for finding in sockets.modes(config, True, owner + 1))


def _answering(path: str, reply: bytes | None) -> tuple[threading.Thread, list[bytes]]:
    requests: list[bytes] = []
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(path)
    listener.listen()

    def serve() -> None:
        with listener:
            connection, _ = listener.accept()
            with connection:
                requests.append(connection.recv(4096))
                if reply is None:
                    time.sleep(0.5)
                else:
                    connection.sendall(reply)

    thread = threading.Thread(target=serve)
    thread.start()
    return thread, requests


@pytest.mark.parametrize(
    ("reply", "level"),
    [(b"no\n", OK), (b"no", FAILED), (b"ok\n", FAILED), (b"?", FAILED), (b"", FAILED), (None, FAILED)],
)
def test_login_decisions(config: Config, reply: bytes | None, level: Level) -> None:
    thread, requests = _answering(config.auth_socket, reply)
    expect(only(sockets.auth(config, True, 0.2)), level)
    thread.join()
    assert requests[0].startswith(b"op=account\0login=nobody-")


def test_login_decisions_of_nobody(config: Config) -> None:
    assert sockets.auth(config, False) == []
    expect(only(sockets.auth(config, True)), FAILED, "No such file")


# --- the daemon ----------------------------------------------------------------------------------------------------


def _status(*sources: SourceStatus, host_problem: str | None = None) -> Status:
    return Status(version="0.1.0", sources=sources, logins=1, sessions=2, mounts=3, host_problem=host_problem)


def test_the_daemon_runs() -> None:
    answer = _status(
        SourceStatus(source="docker", age_s=1.0, instances=2, problem=None),
        SourceStatus(source="static", age_s=1.0, instances=2, problem="no such file"),
        SourceStatus(source="old", age_s=3600.0, instances=2, problem=None),
        SourceStatus(source="new", age_s=None, instances=0, problem=None),
        host_problem="hostd does not answer",
    )
    assert [one.name for one in daemon_check.ask(lambda: answer, known={"static"})[0] if "static" in one.name] == []
    findings, running = daemon_check.ask(lambda: answer)
    assert running
    assert [finding.level for finding in findings] == [OK, FAILED, OK, WARNING, WARNING, WARNING]
    assert daemon_check.ask(_status)[0][1] == ok("hostd", "answers")
    starting = daemon_check.ask(lambda: _status(host_problem=HOST_STARTING))[0][1]
    expect(starting, WARNING, "has not answered yet")


def test_what_waits_for_somebody_to_look_at_it() -> None:
    waiting = tuple(f"shop/web/{number} /data" for number in range(1, 8))
    findings, _ = daemon_check.ask(lambda: structs.replace(_status(), waiting=waiting))
    expect(
        only([one for one in findings if one.name == "access"]), WARNING, "7 volumes: shop/web/1 /data", "5 /data, …"
    )
    assert [one for one in daemon_check.ask(_status)[0] if one.name == "access"] == []
    # What cannot be shared cannot be confirmed.
    findings, _ = daemon_check.ask(lambda: structs.replace(_status(), unshareable=waiting[:1]))
    found = only([one for one in findings if one.name == "access"])
    expect(found, WARNING, "1 volume that cannot be shared any more: shop/web/1 /data")
    assert "allow the directory again" in str(found.fix)
    assert "confirm" not in str(found.fix)


def test_the_sealing_key() -> None:
    def found(**changes: object) -> Finding:
        return only([one for one in _asked(**changes) if one.name == "sealing key"])

    def _asked(**changes: object) -> list[Finding]:
        return daemon_check.ask(lambda: structs.replace(_status(), **changes))[0]

    assert [one for one in _asked() if one.name == "sealing key"] == []
    wrong = found(unopened=("shop-web-1", "shop-db-1"))
    expect(wrong, FAILED, "secrets of 2 logins do not open with it: shop-web-1, shop-db-1")
    assert "password reset" in str(wrong.fix)
    missing = found(unopened=("shop-web-1",), sealing_lost=True)
    expect(missing, FAILED, "is missing: secrets of 1 login cannot be shown: shop-web-1; nor can new ones be made")
    # Before there is a key to seal them with, there are no new ones.
    assert "password reset" not in str(missing.fix)
    expect(found(sealing_lost=True), FAILED, "is missing: none are kept; nor")


def test_who_may_not_ask_is_told_to_become_root() -> None:
    def refused() -> Status:
        raise RefusedError("admin.sock is root's alone")

    findings, running = daemon_check.ask(refused)
    assert running
    expect(only(findings), WARNING, "root's alone")


def test_the_daemon_does_not_run() -> None:
    def absent() -> Status:
        raise NotRunningError("nothing answers")

    def odd() -> Status:
        raise ProtocolError("not a known message")

    findings, running = daemon_check.ask(absent)
    assert not running
    expect(only(findings), WARNING, "does not run")
    findings, running = daemon_check.ask(odd)
    assert running
    expect(only(findings), FAILED, "not a known message")


# --- leftovers -----------------------------------------------------------------------------------------------------

MOUNT = Leftover(kind=LeftoverKind.MOUNT, path="/run/hatchway/mnt/one/a b; c", login="one")
SESSION = Leftover(kind=LeftoverKind.SESSION, pid=12, uid=1_900_100_001, login="one")
WORKER = Leftover(kind=LeftoverKind.WORKER, pid=13, uid=1_901_000_001)
FOREIGN = Leftover(
    kind=LeftoverKind.RECORD, path="/run/userdb/two.user", uid=1_900_100_002, login="two", owner="/run/old one"
)


def unasked() -> Status:
    raise AssertionError("nobody answers")


def unlooked(_config: Config, _in_use: InUse) -> list[Leftover]:
    raise AssertionError("hostd knows better")


def told(*found: Leftover) -> Callable[[], Status]:
    return lambda: structs.replace(_status(), leftovers=Leftovers(found, 99))


def test_leftovers_as_hostd_tells_them(config: Config) -> None:
    expect(leftovers.look(config, True, told(), root=True, find=unlooked), OK, "none")
    found = leftovers.look(config, True, told(SESSION, WORKER, MOUNT), root=True, find=unlooked)
    expect(found, WARNING)
    assert found.text == (
        "session process 12 (uid 1900100001) of one; worker process 13 (uid 1901000001); "
        "mount '/run/hatchway/mnt/one/a b; c'"
    )
    assert found.fix is not None
    assert found.fix.startswith("kill -HUP 99: ")


def test_a_record_of_another_hatchway_is_for_a_person_to_judge(config: Config) -> None:
    found = leftovers.look(config, True, told(FOREIGN), root=True)
    expect(found, WARNING, "(user two, 1900100002, made by the Hatchway in '/run/old one')")
    assert found.fix == (
        "if no Hatchway runs in '/run/old one' any more: rm /run/userdb/two.user /run/userdb/1900100002.user"
    )
    both = leftovers.look(config, True, told(WORKER, FOREIGN), root=True)
    assert both.fix is not None
    assert "kill -HUP 99" in both.fix
    assert "rm /run/userdb/two.user" in both.fix


def test_leftovers_that_cannot_be_told(config: Config) -> None:
    def refused() -> Status:
        raise HostError("no")

    expect(leftovers.look(config, True, refused, root=True), WARNING, "cannot be told: no")
    silent = _status(host_problem="hostd does not answer")
    expect(leftovers.look(config, True, lambda: silent, root=True), WARNING, "hostd does not answer")
    expect(leftovers.look(config, True, unasked, root=False, find=unlooked), WARNING, "only root")
    expect(leftovers.look(config, False, unasked, root=False, find=unlooked), WARNING, "only root")


def test_leftovers_while_nothing_runs(config: Config) -> None:
    answers = [[SESSION, WORKER, MOUNT], [MOUNT, WORKER], []]
    paused: list[float] = []

    def find(_config: Config, in_use: InUse) -> list[Leftover]:
        assert in_use == InUse()
        return answers.pop(0)

    found = leftovers.look(config, False, unasked, root=True, find=find, pause=paused.append)
    expect(found, WARNING, "worker process 13", "mount")
    assert "session" not in found.text, "it was just ending"
    assert found.fix is not None
    assert "hatchway run" in found.fix
    assert paused == [orphans.PAUSE_S]
    expect(leftovers.look(config, False, unasked, root=True, find=find, pause=paused.append), OK, "none")
    assert len(paused) == 1


def test_leftovers_are_not_guessed_while_hostd_has_them(config: Config) -> None:
    """A core that does not answer is no reason to call every session nobody's."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(config.hostd_socket)
        sock.listen()
        expect(leftovers.look(config, False, unasked, root=True, find=unlooked), WARNING, "cannot be told")
    expect(leftovers.look(config, False, unasked, root=True, find=lambda *_: []), OK, "none")


# --- the command ---------------------------------------------------------------------------------------------------


def test_a_check_that_breaks_spoils_no_other(run: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> Finding:
        raise RuntimeError("[red]boom\x1b")

    monkeypatch.setattr(kernel, "version", broken)
    document = run.json("doctor")
    found = {finding["name"]: finding for finding in document["findings"]}
    assert found["kernel"]["level"] == "failed"
    assert "RuntimeError: [red]boom" in found["kernel"]["text"]
    assert {"daemon", "nsswitch", "sshd", "engine"} <= set(found)
    assert document["failed"] >= 1
    assert "[red]boom\\x1b" in run("doctor").stdout


def test_exit_status_and_text(run: Cli, daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch) -> None:
    daemon.answers[DaemonStatus] = _status()
    good = [ok("kernel", "Linux 6.1")]
    monkeypatch.setattr("hatchway.cli.doctor.examine.examine", lambda _app: iter(good))
    done = run("doctor")
    assert done.exit_code == 0
    assert done.stdout == "ok       kernel: Linux 6.1\n\n0 failed, 0 warnings\n"
    good.append(Finding("sshd", FAILED, "is not there", "apt install openssh-server"))
    done = run("doctor")
    assert done.exit_code == 1
    assert "failed   sshd: is not there\n         -> apt install openssh-server\n" in done.stdout
    assert run.json("doctor")["failed"] == 1


def test_a_bad_configuration_is_the_finding(run: Cli) -> None:
    run.config.write_text("[sshd]\nport = 22\n")
    done = run("doctor")
    assert done.exit_code == 1
    assert "sshd.port = 22 is not allowed" in " ".join(done.stdout.split())


def test_the_command_line_does_not_load_the_engines_library() -> None:
    code = "import sys, hatchway.cli.main, hatchway.cli.doctor.examine; sys.exit('docker' in sys.modules)"
    source = str(Path(__file__).parents[3] / "src")
    assert subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": source}).returncode == 0


def test_a_command_that_asks_loads_no_event_loop() -> None:
    code = "import sys, hatchway.cli.main, hatchway.wire.frames; sys.exit('trio' in sys.modules)"
    source = str(Path(__file__).parents[3] / "src")
    assert subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": source}).returncode == 0
