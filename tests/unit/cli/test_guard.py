"""How commands end: exit statuses, error messages, no tracebacks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from hatchway.cli import run as run_module
from hatchway.cli.main import cli
from hatchway.errors import BY_CODE, HatchwayError, HostError
from hatchway.wire.admin import DaemonStatus, Listing, ListInstances

if TYPE_CHECKING:
    from tests.unit.cli.conftest import Cli, FakeDaemon

SOURCE = Path(__file__).parents[3] / "src"


def test_every_error_has_its_exit_status(run: Cli, daemon: FakeDaemon) -> None:
    for code, cls in BY_CODE.items():
        daemon.answers[DaemonStatus] = cls("it is [red]so\x07")
        done = run("status")
        assert (done.exit_code, done.stdout) == (cls.exit_code, "")
        assert done.stderr == "hatchway: it is [red]so\\x07\n"
        assert run.json("status") == {"error": {"code": code, "text": "it is [red]so\x07"}}


def test_nobody_answers(run: Cli) -> None:
    done = run("ls")
    assert (done.exit_code, done.stdout) == (4, "")
    assert "does Hatchway run?" in done.stderr
    assert run.json("ls")["error"]["code"] == "not-running"


@pytest.mark.parametrize("reply", [b"", b"garbage-garbage", b"\0\0\0\1\xc1", b"\0\0"])
def test_an_answer_that_makes_no_sense(run: Cli, daemon: FakeDaemon, reply: bytes) -> None:
    daemon.answers[DaemonStatus] = reply
    done = run("status")
    assert done.exit_code in (4, 10)
    assert done.stderr.startswith("hatchway: ")
    assert "Traceback" not in done.stderr


def test_somebody_elses_socket(run: Cli, run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # As root every socket may be used, so what access(2) says is made up; nobody listens either way.
    (run_dir / "admin.sock").touch()
    real = os.access
    monkeypatch.setattr(os, "access", lambda path, mode, **more: mode != os.W_OK and real(path, mode, **more))
    done = run("ls")
    assert done.exit_code == 7
    assert "sudo" in done.stderr


def test_a_configuration_that_is_wrong(run: Cli) -> None:
    run.config.write_text("[sshd]\nprot = 1\n")
    done = run("ls")
    assert done.exit_code == 3
    assert "unknown key 'sshd.prot'" in done.stderr
    assert run("ls", "--help").exit_code == 0


@pytest.mark.parametrize(
    "arguments", [["enable"], ["nothing"], ["status", "x"], ["--nothing"], ["key"], ["key", "export", "a", "b"], []]
)
def test_mistyped_commands(run: Cli, arguments: list[str]) -> None:
    done = run(*arguments)
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr
    assert run.json(*arguments)["error"]["code"] == "usage"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["lss"], "Did you mean 'ls'? See 'hatchway --help'\n"),
        (["confi"], "'confirm'?) See 'hatchway --help'\n"),
        (["ls", "--jso"], "Did you mean '--json'? See 'hatchway ls --help'\n"),
        (["status", "x"], "(x). See 'hatchway status --help'\n"),
        (["nothing"], "No such command 'nothing'. See 'hatchway --help'\n"),
    ],
)
def test_one_stop_is_enough(run: Cli, arguments: list[str], words: str) -> None:
    told = run(*arguments).stderr
    assert told.endswith(words)
    assert not any(twice in told for twice in ("?.", "?).", "..", "!."))


def test_a_fault_of_ours(run: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    nothing: dict[str, int] = {}
    monkeypatch.setattr("hatchway.supervisor.run", lambda _config, _path: nothing["key"])
    done = run("run")
    assert done.exit_code == 70
    assert done.stderr == "hatchway: internal error, a fault of Hatchway: KeyError: 'key'\n"
    assert "Traceback" in run("run", env={"HATCHWAY_TRACEBACK": "1"}).stderr


def test_run_hands_over(run: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[tuple[Any, Any]] = []
    monkeypatch.setattr("hatchway.supervisor.run", lambda config, path: called.append((config, path)))
    assert (run("run").exit_code, run.json("run")) == (0, {"stopped": True})
    config, path = called[0]
    assert path == run.config
    assert config.paths.run_dir == str(run.config.parent / "run")
    assert run_module.run.name == "run"


def test_run_needs_root(run: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    done = run("run")
    assert done.exit_code == 7
    assert "needs root" in done.stderr


@pytest.mark.parametrize("error", [HostError("needs root"), KeyboardInterrupt()])
def test_run_ends(run: Cli, monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    def fail(_config: object, _path: object) -> None:
        raise error

    monkeypatch.setattr("hatchway.supervisor.run", fail)
    assert run("run").exit_code == (error.exit_code if isinstance(error, HatchwayError) else 130)


def test_run_tells_its_processes_where_the_configuration_is(run: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """They have another directory than the caller."""
    paths: list[Path | None] = []
    monkeypatch.setattr("hatchway.supervisor.run", lambda _config, path: paths.append(path))
    monkeypatch.chdir(run.config.parent)
    done = run.runner.invoke(cli, ["--config", run.config.name, "run"])
    assert done.exit_code == 0
    assert paths == [run.config]


def _program(*arguments: str, **options: Any) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "hatchway.cli.main", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(SOURCE), **options},
    )


def test_a_reader_that_leaves_is_no_error(run: Cli, daemon: FakeDaemon, make: Any) -> None:
    instances = tuple(make.instance(*[make.volume(f"/{'p' * 200}{n}") for n in range(2000)]) for _ in range(3))
    daemon.answers[ListInstances] = Listing(instances=instances, sources=())
    for more in ([], ["--json"]):
        process = _program("--config", str(run.config), "ls", *more)
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.read(10)
        process.stdout.close()
        assert process.stderr.read() == b""
        process.stderr.close()
        assert process.wait() == 141


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_every_encoding_will_do(run: Cli, daemon: FakeDaemon, make: Any, encoding: str) -> None:
    daemon.answers[ListInstances] = Listing(instances=(make.instance(make.volume("/日本ü")),), sources=())
    process = _program("--config", str(run.config), "ls", PYTHONIOENCODING=encoding)
    out, err = process.communicate()
    assert (process.returncode, err) == (0, b"")
    assert "/日本ü".encode(encoding, "backslashreplace") in out


def test_output_that_is_piped_has_no_colours(run: Cli, daemon: FakeDaemon, make: Any) -> None:
    daemon.answers[ListInstances] = Listing(instances=(make.instance(make.volume()),), sources=())
    process = _program("--config", str(run.config), "ls", TERM="xterm-256color")
    out, _ = process.communicate()
    assert b"\x1b" not in out


def test_version_and_help(run: Cli) -> None:
    assert run("--version").stdout.startswith("hatchway ")
    assert "Commands:" in run("-h").stdout
    assert json.loads(run("doctor", "--json").stdout)["findings"]
