"""The two programs of src/libexec, run as sshd and PAM run them, against a stand-in for the core."""

from __future__ import annotations

import os
import re
import signal
import socket
import stat
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.unit.sshd.conftest import FakeCore

LIBEXEC = Path(__file__).parents[3] / "src" / "libexec"
PYTHON = "/usr/bin/python3"

GARBAGE = [
    b"",
    b"ok",
    b"okay\n",
    b"OK\n",
    b" ok\n",
    b"yes\n",
    b"\n",
    b"\0",
    b"nok\n",
    b"no way\n",
    b"\xff\xfe\n",
    b"x" * 100_000,
]

pytestmark = pytest.mark.skipif(not os.access(PYTHON, os.X_OK), reason=f"no {PYTHON}")


@pytest.fixture
def hasty(tmp_path: Path) -> Path:
    """A directory with the helpers, but for a time-out of one second."""
    for name in ("authorized-keys", "pam"):
        text = (LIBEXEC / name).read_text()
        assert text.count("\nTIMEOUT_S = 20\n") == 1
        (tmp_path / name).write_text(text.replace("\nTIMEOUT_S = 20\n", "\nTIMEOUT_S = 1\n"))
        (tmp_path / name).chmod(0o755)
    return tmp_path


def keys(path: str, login: str = "shop-web-1", directory: Path = LIBEXEC) -> subprocess.CompletedProcess[bytes]:
    """Run authorized-keys as sshd does: with next to nothing in its environment."""
    return subprocess.run(
        [directory / "authorized-keys", path, login],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        env={},
        timeout=30,
    )


def pam(
    path: str,
    stage: str = "auth",
    password: bytes = b"sesame",
    directory: Path = LIBEXEC,
    more: dict[str, str | bytes] | None = None,
) -> subprocess.CompletedProcess[bytes]:
    """Run pam as pam_exec does."""
    environment: dict[str, str | bytes] = {
        "PAM_TYPE": stage,
        "PAM_USER": "shop-web-1",
        "PAM_RHOST": "192.0.2.7",
        "PAM_SERVICE": "hatchway-sshd",
        "SSH_CONNECTION": "192.0.2.7 40000 192.0.2.1 2022",
        **(more or {}),
    }
    return subprocess.run([directory / "pam", path], input=password, capture_output=True, env=environment, timeout=30)


def fields(request: bytes) -> dict[bytes, bytes]:
    return {part.split(b"=", 1)[0]: part.split(b"=", 1)[1] for part in request.split(b"\0")}


# --- both ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["authorized-keys", "pam"])
def test_is_run_by_the_systems_python_in_isolation(name: str) -> None:
    assert (LIBEXEC / name).read_text().splitlines()[0] == "#!/usr/bin/python3 -IS"
    assert stat.S_IMODE((LIBEXEC / name).stat().st_mode) == 0o755


@pytest.mark.parametrize("name", ["authorized-keys", "pam"])
def test_imports_only_what_is_built_in(name: str, tmp_path: Path) -> None:
    # sshd and PAM wait for these programs four times per login: `socket`, `os` or `re` would each be felt.
    done = subprocess.run(
        [PYTHON, "-IS", "-X", "importtime", LIBEXEC / name, tmp_path / "none"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    bare = subprocess.run([PYTHON, "-IS", "-X", "importtime", "-c", ""], capture_output=True, text=True)
    modules = set(re.findall(r"\| +(\S+)$", done.stderr, re.MULTILINE))
    assert modules - set(re.findall(r"\| +(\S+)$", bare.stderr, re.MULTILINE)) <= {"_socket"}


# --- authorized-keys -----------------------------------------------------------------------------------------------


def test_keys_are_asked_for_and_printed(core: FakeCore) -> None:
    core.says(b'ok\nrestrict,from="192.0.2.0/24" ssh-ed25519 AAAA one\nssh-rsa AAAA two\n')
    done = keys(core.path)
    assert done.stdout == b'restrict,from="192.0.2.0/24" ssh-ed25519 AAAA one\nssh-rsa AAAA two\n'
    assert (done.returncode, done.stderr) == (0, b"")
    assert core.requests == [b"op=keys\0login=shop-web-1"]


@pytest.mark.parametrize("reply", [b"no\n", b"no", b"ok\n"])
def test_no_keys_is_an_answer(core: FakeCore, reply: bytes) -> None:
    core.says(reply)
    done = keys(core.path)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_many_keys_are_printed_whole(core: FakeCore) -> None:
    lines = b"".join(b"ssh-ed25519 %s key-%d\n" % (b"A" * 68, number) for number in range(9000))
    core.says(b"ok\n" + lines)
    assert keys(core.path).stdout == lines


@pytest.mark.parametrize("reply", [*GARBAGE, b"ok\nssh-ed25519 AAAA cut", b"ok\nssh-ed25519 AA\0AA\n"])
def test_keys_of_a_senseless_answer_are_refused(core: FakeCore, reply: bytes) -> None:
    core.says(reply)
    done = keys(core.path)
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr.startswith(b"hatchway authorized-keys: ")
    assert done.stderr.count(b"\n") == 1


def test_keys_of_an_endless_answer_are_refused(core: FakeCore) -> None:
    core.says(b"ok\n" + b"ssh-ed25519 AAAA\n" * 200_000)
    done = keys(core.path)
    assert (done.returncode, done.stdout) == (1, b"")


def test_keys_without_a_core_are_refused(tmp_path: Path) -> None:
    done = keys(str(tmp_path / "none"))
    assert (done.returncode, done.stdout) == (1, b"")
    assert b"No such file" in done.stderr


def test_keys_do_not_wait_for_ever(core: FakeCore, hasty: Path) -> None:
    core.behaviour = lambda _connection: core.released.wait(20)  # type: ignore[assignment]
    started = time.monotonic()
    done = keys(core.path, directory=hasty)
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr == b"hatchway authorized-keys: no answer in time\n"
    assert 0.9 < time.monotonic() - started < 10


def test_an_answer_in_drops_is_bounded_too(core: FakeCore, hasty: Path) -> None:
    def drip(connection: socket.socket) -> None:
        while not core.released.wait(0.2):
            connection.sendall(b"o")

    core.behaviour = drip
    assert keys(core.path, directory=hasty).returncode == 1


def test_a_full_queue_is_waited_for(tmp_path: Path, hasty: Path) -> None:
    # A socket that were non-blocking would fail here at once with EAGAIN: logins come in bursts.
    path = str(tmp_path / "full.sock")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(path)
        listener.listen(0)
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as first:
            first.connect(path)
            assert keys(path, directory=hasty).stderr == b"hatchway authorized-keys: no answer in time\n"


@pytest.mark.parametrize("login", ["", "x" * 1025])
def test_keys_of_no_login_are_refused(core: FakeCore, login: str) -> None:
    done = keys(core.path, login)
    assert (done.returncode, done.stdout) == (1, b"")
    assert core.requests == []


def test_a_login_that_is_no_text_is_passed_as_it_is(core: FakeCore) -> None:
    core.says(b"no\n")
    path = os.fsencode(LIBEXEC / "authorized-keys")
    done = subprocess.run([path, core.path, b"a\xff=b"], stdin=subprocess.DEVNULL, capture_output=True, env={})
    assert done.returncode == 0
    assert core.requests == [b"op=keys\0login=a\xff=b"]


def test_keys_need_their_arguments() -> None:
    done = subprocess.run([LIBEXEC / "authorized-keys"], stdin=subprocess.DEVNULL, capture_output=True)
    assert (done.returncode, done.stdout) == (1, b"")


# --- pam -----------------------------------------------------------------------------------------------------------


def test_a_password_is_asked_about(core: FakeCore) -> None:
    done = pam(core.path)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    asked = fields(core.requests[0])
    assert list(asked) == [
        b"op", b"login", b"rhost", b"service", b"connection", b"authinfo", b"pid", b"password"
    ]  # fmt: skip
    assert asked.pop(b"pid").isdigit()
    assert asked == {
        b"op": b"auth",
        b"login": b"shop-web-1",
        b"rhost": b"192.0.2.7",
        b"service": b"hatchway-sshd",
        b"connection": b"192.0.2.7 40000 192.0.2.1 2022",
        b"authinfo": b"",
        b"password": b"sesame",
    }


@pytest.mark.parametrize(
    ("stage", "op"), [("account", b"account"), ("open_session", b"open"), ("close_session", b"close")]
)
def test_other_stages_carry_no_password(core: FakeCore, stage: str, op: bytes) -> None:
    info = "publickey ssh-ed25519 AAAA\npassword\n"
    assert pam(core.path, stage, more={"SSH_AUTH_INFO_0": info}).returncode == 0
    asked = fields(core.requests[0])
    assert asked[b"op"] == op
    assert asked[b"authinfo"] == info.encode()
    assert b"password" not in asked


@pytest.mark.parametrize(
    ("given", "sent"),
    [
        (b"sesame\0", b"sesame"),
        (b"", b""),
        (b"\0", b""),
        (b"a=b\n\xff\x01 ", b"a=b\n\xff\x01 "),
        (b"x" * 512, b"x" * 512),
        (b"x" * 512 + b"\0", b"x" * 512),
    ],
)
def test_a_password_is_passed_on_as_it_is(core: FakeCore, given: bytes, sent: bytes) -> None:
    assert pam(core.path, password=given).returncode == 0
    assert core.requests[0].partition(b"\0password=")[2] == sent


@pytest.mark.parametrize("given", [b"a\0b", b"a\0\0", b"\0a", b"x" * 513, b"x" * 513 + b"\0", b"x" * 100_000])
def test_an_impossible_password_is_refused(core: FakeCore, given: bytes) -> None:
    done = pam(core.path, password=given)
    assert (done.returncode, done.stdout, done.stderr) == (1, b"", b"")
    assert core.requests == []


@pytest.mark.parametrize("stage", ["auth", "account", "open_session", "close_session"])
def test_no_is_no(core: FakeCore, stage: str) -> None:
    core.says(b"no\n")
    done = pam(core.path, stage)
    assert (done.returncode, done.stdout, done.stderr) == (1, b"", b"")


MONITOR = "hatchway-sshd: shop-web-1 [priv]"


@pytest.mark.parametrize(
    ("parent", "stage", "reply", "ended"),
    [
        (MONITOR, "open_session", b"no\n", True),
        (MONITOR, "open_session", None, True),
        (MONITOR, "open_session", b"ok\n", False),
        (MONITOR, "account", b"no\n", False),
        ("hatchway-sshd: shop-web-1", "open_session", b"no\n", False),
    ],
)
def test_a_refused_session_ends_the_monitor_and_its_children(
    core: FakeCore, parent: str, stage: str, reply: bytes | None, ended: bool
) -> None:
    """And nothing else. None: there is no core. The parent stays a while, as sshd with a master connection does."""
    path = "/nonexistent" if reply is None else core.path
    core.says(reply or b"")
    shell = subprocess.Popen(
        [parent], executable="/bin/bash", stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env={"PAM_TYPE": stage, "PAM_USER": "shop-web-1"},
    )  # fmt: skip
    try:
        assert shell.stdin is not None
        assert shell.stdout is not None
        shell.stdin.write(f"/bin/sleep 30 & echo $!; {LIBEXEC}/pam {path}; echo $?; wait\n")
        shell.stdin.flush()
        child, status = int(shell.stdout.readline()), int(shell.stdout.readline())
        assert status == (0 if reply == b"ok\n" else 1)
        began = time.monotonic()
        if ended:
            assert shell.wait(5) == -signal.SIGKILL
            assert time.monotonic() - began > 0.9, "clients are told first"
            # Killed before, it may still be ending, and whoever inherits it may not have waited for it.
            deadline = time.monotonic() + 5
            while _state(child) not in ("Z", "X", "gone"):
                assert time.monotonic() < deadline
                time.sleep(0.01)
        else:
            with pytest.raises(subprocess.TimeoutExpired):
                shell.wait(1.5)
            os.kill(child, signal.SIGKILL)
    finally:
        shell.kill()
        shell.communicate()


def _state(pid: int) -> str:
    """A process's state as in proc_pid_stat(5), or "gone"."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0]
    except (FileNotFoundError, ProcessLookupError):
        return "gone"


@pytest.mark.parametrize("reply", [*GARBAGE, b"ok\n" + b"x" * 4096])
def test_a_senseless_answer_is_no(core: FakeCore, reply: bytes) -> None:
    core.says(reply)
    done = pam(core.path)
    assert (done.returncode, done.stdout, done.stderr) == (1, b"", b"")


def test_without_a_core_everybody_is_refused(tmp_path: Path) -> None:
    done = pam(str(tmp_path / "none"))
    assert (done.returncode, done.stdout, done.stderr) == (1, b"", b"")


def test_a_silent_core_is_no(core: FakeCore, hasty: Path) -> None:
    core.behaviour = lambda _connection: core.released.wait(20)  # type: ignore[assignment]
    done = pam(core.path, directory=hasty)
    assert (done.returncode, done.stdout, done.stderr) == (1, b"", b"")


def test_a_core_that_hangs_up_is_no(core: FakeCore) -> None:
    core.behaviour = lambda connection: connection.close()
    assert pam(core.path).returncode == 1


@pytest.mark.parametrize("stage", ["", "password", "setcred", "AUTH"])
def test_an_unknown_stage_is_refused(core: FakeCore, stage: str) -> None:
    done = pam(core.path, stage)
    assert (done.returncode, done.stdout, done.stderr) == (1, b"", b"")
    assert core.requests == []


@pytest.mark.parametrize("name", ["PAM_USER", "PAM_RHOST", "PAM_SERVICE", "SSH_CONNECTION", "SSH_AUTH_INFO_0"])
def test_values_are_bounded(core: FakeCore, name: str) -> None:
    most = 16384 if name == "SSH_AUTH_INFO_0" else 1024
    assert pam(core.path, more={name: "x" * most}).returncode == 0
    assert pam(core.path, more={name: "x" * (most + 1)}).returncode == 1
    assert len(core.requests) == 1


def test_values_that_are_no_text_are_passed_as_they_are(core: FakeCore) -> None:
    assert pam(core.path, more={"PAM_USER": b"\xff\xfe"}).returncode == 0
    assert fields(core.requests[0])[b"login"] == b"\xff\xfe"


def test_python_variables_of_the_environment_mean_nothing(core: FakeCore, tmp_path: Path) -> None:
    (tmp_path / "_socket.py").write_text("import posix; posix._exit(0)")
    (tmp_path / "sitecustomize.py").write_text("import posix; posix._exit(0)")
    core.says(b"no\n")
    more: dict[str, str | bytes] = {"PYTHONPATH": str(tmp_path), "PYTHONSTARTUP": str(tmp_path / "_socket.py")}
    assert pam(core.path, more=more).returncode == 1


def test_a_wrong_call_is_refused() -> None:
    for arguments in ([], ["a", "b"]):
        done = subprocess.run([LIBEXEC / "pam", *arguments], input=b"x", capture_output=True, env={"PAM_TYPE": "auth"})
        assert (done.returncode, done.stdout, done.stderr) == (1, b"", b"")
