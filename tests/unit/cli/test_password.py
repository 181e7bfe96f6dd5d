"""`hatchway password`: nothing of a password is in arguments, errors or what is printed without being asked for."""

from __future__ import annotations

import os
import subprocess
import sys
import termios
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from msgspec import structs

from hatchway.errors import ConflictError, RefusedError, UsageError
from hatchway.wire.entry import (
    ImportPassword,
    Password,
    PasswordKind,
    RemovePassword,
    ResetPassword,
    SetPassword,
    ShowConditions,
    ShowPassword,
)

if TYPE_CHECKING:
    from tests.unit.cli.conftest import Cli, FakeDaemon

SOURCE = Path(__file__).parents[3] / "src"
SECRET = "correct horse [b]é"
RAW = Password(login="shop-web-1", kind=PasswordKind.RAW, hash="argon2id")
HASHED = Password(login="shop-web-1", kind=PasswordKind.HASHED, hash="argon2id")


def test_show_prints_it_alone(run: Cli, daemon: FakeDaemon) -> None:
    daemon.answers[ShowPassword] = Password(login="shop-web-1", password="[b]se same", kind=PasswordKind.RAW)
    done = run("password", "show", "shop/web/1")
    assert (done.stdout, done.stderr) == ("[b]se same\n", "")
    assert run.json("password", "show", "shop/web/1")["password"] == "[b]se same"


def test_an_answer_without_the_password_is_none(run: Cli, daemon: FakeDaemon) -> None:
    daemon.answers[ShowPassword] = RAW
    done = run("password", "show", "shop/web/1")
    assert (done.exit_code, done.stdout) == (10, "")


@pytest.mark.parametrize("kind", [PasswordKind.RAW, PasswordKind.HASHED])
def test_reset(run: Cli, daemon: FakeDaemon, kind: PasswordKind) -> None:
    daemon.answers[ResetPassword] = Password(login="shop-web-1", password="new", kind=kind)
    done = run("password", "reset", "shop/web/1")
    assert done.stdout == "new\n"
    assert ("cannot be shown again" in done.stderr) == (kind is PasswordKind.HASHED)
    assert daemon.requests == [ResetPassword(instance="shop/web/1")]


@pytest.mark.parametrize(
    ("options", "kind"), [([], None), (["--raw"], PasswordKind.RAW), (["--hashed"], PasswordKind.HASHED)]
)
def test_how_it_is_kept(run: Cli, daemon: FakeDaemon, options: list[str], kind: PasswordKind | None) -> None:
    daemon.answers |= {ResetPassword: Password(login="l", password="new", kind=PasswordKind.RAW), SetPassword: RAW}
    run("password", "reset", "x", *options)
    run("password", "set", "x", *options, given="secret12\n")
    assert daemon.requests == [
        ResetPassword(instance="x", kind=kind),
        SetPassword(instance="x", password="secret12", kind=kind),
    ]


@pytest.mark.parametrize("command", ["reset", "set"])
def test_not_both_ways(run: Cli, daemon: FakeDaemon, command: str) -> None:
    assert run("password", command, "x", "--raw", "--hashed", given="secret12\n").exit_code == 2
    assert daemon.requests == []


def test_what_is_said_when_it_is_set(run: Cli, daemon: FakeDaemon) -> None:
    daemon.answers[SetPassword] = RAW
    assert run("password", "set", "x", given="secret12\n").stdout == (
        "shop-web-1  Password set; the old one is refused from now on.\n"
        "  Kept sealed: hatchway password show shop-web-1 shows it.\n"
    )
    daemon.answers[SetPassword] = HASHED
    assert run("password", "set", "x", given="secret12\n").stdout.endswith("argon2id hash: it cannot be shown.\n")
    assert run.json("password", "set", "x", given="secret12\n") == {
        "type": "password",
        "login": "shop-web-1",
        "kind": "hashed",
        "hash": "argon2id",
        "password": None,
        "not_ended": "",
    }


def test_it_is_said_that_sessions_go_on(run: Cli, daemon: FakeDaemon) -> None:
    daemon.answers[SetPassword] = structs.replace(HASHED, not_ended="hostd is away")
    done = run("password", "set", "x", given="secret12\n")
    assert done.exit_code == 0
    assert "go on until this is mended: hostd is away" in " ".join(done.stderr.split())


def test_import(run: Cli, daemon: FakeDaemon) -> None:
    daemon.answers[ImportPassword] = Password(login="shop-web-1", kind=PasswordKind.HASHED, hash="yescrypt")
    done = run("password", "import", "x", "--stdin", given="$y$hash\n")
    assert done.stdout == (
        "shop-web-1  Password imported; the old one is refused from now on.\n"
        "  Kept as yescrypt, from its first login on as argon2id: it cannot be shown.\n"
    )
    assert [repr(request) for request in daemon.requests] == ["<ImportPassword>"]
    assert daemon.requests == [ImportPassword(instance="x", encoded="$y$hash")]


def test_remove(run: Cli, daemon: FakeDaemon) -> None:
    daemon.answers[RemovePassword] = Password(login="shop-web-1", kind=PasswordKind.NONE)
    assert run("password", "remove", "x").stdout == "shop-web-1  Password removed: this login takes keys only.\n"
    assert run.json("password", "remove", "x")["kind"] == "none"
    assert daemon.requests == [RemovePassword("x")] * 2


@pytest.mark.parametrize(
    ("given", "password"),
    [
        (SECRET + "\n", SECRET),
        (SECRET, SECRET),
        (SECRET + "\r\n", SECRET),
        (SECRET + "\n\n", SECRET),
        ("secret12\nsecond line\n", "secret12"),
        ("  spaces count  \n", "  spaces count  "),
        ("x" * 4096 + "\r\n", "x" * 4096),
    ],
)
@pytest.mark.parametrize("options", [[], ["--stdin"]])
def test_standard_input_is_one_line(
    run: Cli, daemon: FakeDaemon, options: list[str], given: str, password: str
) -> None:
    daemon.answers[SetPassword] = RAW
    done = run("password", "set", "x", *options, given=given)
    assert (done.exit_code, done.stderr) == (0, "")
    # Without another request in front: what cannot be typed again is asked for once.
    assert daemon.requests == [SetPassword(instance="x", password=password)]
    assert password not in done.output


@pytest.mark.parametrize("given", [b"", b"\n", b"\r\n", b"\xff\xfesecret12\n", b"s" * 4097 + b"\n", b"s" * 100_000])
@pytest.mark.parametrize("command", ["set", "import"])
def test_what_is_no_line_of_text_is_refused(run: Cli, daemon: FakeDaemon, command: str, given: bytes) -> None:
    done = run("password", command, "x", "--stdin", given=given, env={"HATCHWAY_TRACEBACK": "1"})
    assert (done.exit_code, done.stdout) == (2, "")
    assert daemon.requests == []
    assert "ss" not in done.stderr.rpartition("hatchway: ")[2].replace("password", "")


@pytest.mark.parametrize("command", ["show", "reset", "set", "import", "remove"])
@pytest.mark.parametrize("more", [["hunter2"], ["--json", "hunter2", "more"]])
def test_a_password_is_no_argument(run: Cli, daemon: FakeDaemon, command: str, more: list[str]) -> None:
    done = run("password", command, "x", *more, given="secret12\n")
    assert done.exit_code == 2
    assert "hunter2" not in done.output + done.stderr
    assert "--stdin" in done.stderr
    assert daemon.requests == []


@pytest.mark.parametrize("error", [UsageError("too short"), ConflictError("no")])
@pytest.mark.parametrize("more", [[], ["--json"]])
def test_a_refused_password_is_not_repeated(
    run: Cli, daemon: FakeDaemon, error: UsageError | ConflictError, more: list[str]
) -> None:
    daemon.answers[SetPassword] = error
    done = run("password", "set", "x", *more, given=f"{SECRET}\n", env={"HATCHWAY_TRACEBACK": "1"})
    assert done.exit_code == error.exit_code
    assert "correct horse" not in done.output + done.stderr


def test_it_is_asked_for_twice_without_echo(on_terminal: Any, daemon: FakeDaemon, make: Any) -> None:
    daemon.answers |= {ShowConditions: make.conditions(), SetPassword: RAW}
    terminal = on_terminal("password", "set", "shop/web/1", "--json")
    terminal.until(b"New password for shop-web-1: ")
    assert not termios.tcgetattr(terminal.master)[3] & termios.ECHO
    terminal.type(SECRET)
    terminal.until(b": ")
    terminal.type("another")
    terminal.until(b"do not match")
    for _ in range(2):
        terminal.until(b": ")
        terminal.type(SECRET)
    status, out, seen = terminal.end()
    assert status == 0
    assert out.startswith("{")
    assert "correct" not in seen + out
    assert daemon.requests == [ShowConditions("shop/web/1"), SetPassword(instance="shop/web/1", password=SECRET)]


def test_a_hash_is_asked_for_once(on_terminal: Any, daemon: FakeDaemon, make: Any) -> None:
    daemon.answers |= {ShowConditions: make.conditions(), ImportPassword: HASHED}
    terminal = on_terminal("password", "import", "x")
    terminal.until(b"New password hash for shop-web-1: ")
    terminal.type("$y$hash")
    status, _, seen = terminal.end()
    assert status == 0
    assert "$y$hash" not in seen
    assert daemon.requests[-1] == ImportPassword(instance="x", encoded="$y$hash")


def test_who_may_not_is_told_before_typing(on_terminal: Any, daemon: FakeDaemon) -> None:
    daemon.answers[ShowConditions] = RefusedError("not you")
    status, out, seen = on_terminal("password", "set", "x").end()
    assert (status, out, seen) == (7, "", "hatchway: not you\r\n")


@pytest.mark.parametrize("key", ["\x03", "\x04"])
def test_no_password_after_all(on_terminal: Any, daemon: FakeDaemon, make: Any, key: str) -> None:
    daemon.answers[ShowConditions] = make.conditions()
    terminal = on_terminal("password", "set", "x")
    terminal.until(b": ")
    os.write(terminal.master, key.encode())
    assert terminal.end()[:2] == (130, "")
    assert daemon.requests == [ShowConditions("x")]


def test_from_standard_input_although_there_is_a_terminal(on_terminal: Any, daemon: FakeDaemon) -> None:
    daemon.answers[SetPassword] = RAW
    terminal = on_terminal("password", "set", "x", "--stdin")
    terminal.type("secret12")
    assert terminal.end()[0] == 0
    assert daemon.requests == [SetPassword(instance="x", password="secret12")]


def test_standard_input_that_is_closed(run: Cli, daemon: FakeDaemon) -> None:
    closing = 'exec "$0" -m hatchway.cli.main --config "$1" password set x <&-'
    done = subprocess.run(
        ["sh", "-c", closing, sys.executable, str(run.config)],
        capture_output=True,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(SOURCE)},
    )
    assert (done.returncode, done.stderr) == (2, b"hatchway: standard input is closed\n")


@pytest.mark.skipif(os.geteuid() != 0, reason="not root: nobody else may ask the daemon")
def test_no_core_dump_has_a_secret(run: Cli) -> None:
    # PR_GET_DUMPABLE, from linux/prctl.h.
    ask = (
        "import atexit, ctypes; from hatchway.cli.main import main; "
        "atexit.register(lambda: print('dumpable:', ctypes.CDLL(None).prctl(3, 0, 0, 0, 0))); main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", ask, "--config", str(run.config), "password", "show", "x"],
        capture_output=True,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(SOURCE)},
    )
    assert done.stdout == b"dumpable: 0\n"
