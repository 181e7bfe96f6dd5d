"""The process: wiring, exit statuses, SIGTERM, and that it never runs as root."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import trio

from hatchway.catalog import main as main_module
from hatchway.config import Config, Engine, Paths, Static
from hatchway.model import Snapshot
from hatchway.wire.feed import Alive, Fed
from hatchway.wire.frames import Channel

NOBODY = 65534


async def test_run_feeds_from_both_sources(tmp_path: Path, nursery: trio.Nursery) -> None:
    file = tmp_path / "static.toml"
    file.write_text('[[instance]]\nenvironment = "e"\ncontainer = "c"\n')
    file.chmod(0o644)
    config = Config(
        paths=Paths(run_dir=str(tmp_path)),
        engine=Engine(url=f"unix://{tmp_path}/no-engine.sock"),
        static=Static(file=str(file)),
    )
    sock = trio.socket.socket(trio.socket.AF_UNIX)
    await sock.bind(config.catalog_socket)
    sock.listen()
    async with trio.SocketListener(sock) as listener:
        nursery.start_soon(lambda: main_module.run(config, now=lambda: 5.0))
        with trio.fail_after(10):
            async with await listener.accept() as stream:
                channel = Channel(stream)
                found: dict[str, Snapshot] = {}
                while len(found) < 2:
                    message = await channel.receive(Fed | Alive)
                    assert isinstance(message, Fed)
                    found[message.snapshot.source] = message.snapshot
    assert str(found["static"].instances[0].key) == "e/c/1"
    assert found["static"].taken_at == 5.0
    assert found["docker"].problem == (
        f"the engine at unix://{tmp_path}/no-engine.sock does not answer: No such file or directory"
    )
    nursery.cancel_scope.cancel()


async def test_sources_that_are_not_configured_are_not_spoken_for(tmp_path: Path) -> None:
    config = Config(paths=Paths(run_dir=str(tmp_path)), engine=Engine(enabled=False))
    with trio.move_on_after(0.1):
        await main_module.run(config)


def test_never_as_root(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    config = tmp_path / "hatchway.toml"
    config.write_text("")
    monkeypatch.setattr(sys, "argv", ["hatchway-catalog", "--config", str(config)])
    monkeypatch.setattr("hatchway.log.configure", lambda *_: None)
    monkeypatch.setattr(os, "getresuid", lambda: (1000, 1000, 0))
    with pytest.raises(SystemExit) as caught:
        main_module.main()
    assert caught.value.code == 7
    assert "must not run as root" in capsys.readouterr().err


def test_a_bad_configuration(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(sys, "argv", ["hatchway-catalog", "--config", str(tmp_path / "none")])
    with pytest.raises(SystemExit) as caught:
        main_module.main()
    assert caught.value.code == 3
    assert "no such file" in capsys.readouterr().err


def _as_nobody() -> Callable[[], None] | None:
    if os.geteuid() != 0:
        return None

    def become() -> None:
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)

    return become


def _readable_by_nobody(*paths: str | None) -> bool:
    for path in paths:
        for directory in [Path(path or "/"), *Path(path or "/").parents]:
            if os.geteuid() == 0 and not directory.stat().st_mode & 0o001:
                return False
    return True


@pytest.mark.parametrize("engine", ["absent", "silent"])
def test_sigterm_ends_it_well_and_soon(engine: str, tmp_path: Path) -> None:
    source = str(Path(main_module.__file__).parents[2])
    if not _readable_by_nobody(source, sys.executable, os.path.realpath(sys.executable)):
        pytest.skip("an unprivileged user cannot read this Python or the sources")
    for directory in [tmp_path, *list(tmp_path.parents)[:2]]:
        directory.chmod(0o755)
    config = tmp_path / "hatchway.toml"
    config.write_text(f'[paths]\nrun_dir = "{tmp_path}"\n[engine]\nurl = "unix://{tmp_path}/engine.sock"\n')
    with (
        contextlib.ExitStack() as waiting,
        socket.socket(socket.AF_UNIX) as silent,
        socket.socket(socket.AF_UNIX) as core,
    ):
        if engine == "silent":
            silent.bind(f"{tmp_path}/engine.sock")
            os.chmod(f"{tmp_path}/engine.sock", 0o666)
            silent.listen()
        core.bind(f"{tmp_path}/catalog.sock")
        os.chmod(f"{tmp_path}/catalog.sock", 0o666)
        core.listen()
        core.settimeout(20)
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "hatchway.catalog.main", "--config", str(config)],
            env={"PYTHONPATH": source, "PATH": os.defpath},
            cwd="/",
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=_as_nobody(),
        )
        try:
            core.accept()[0].close()
            if engine == "silent":
                silent.settimeout(20)
                silent.accept()[0].close()  # the first connection only tries,
                waiting.enter_context(silent.accept()[0])  # the second waits for an answer
            time.sleep(0.3)
            process.send_signal(signal.SIGTERM)
            before = time.monotonic()
            _, errors = process.communicate(timeout=10)
            assert time.monotonic() - before < 5
            assert process.returncode == 0, errors
        finally:
            if process.poll() is None:
                process.kill()
                process.communicate()
