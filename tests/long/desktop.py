"""A desktop that nobody sees: X, a window manager, and the bus by which programs tell what they show."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

READER = Path(__file__).with_name("on_screen.py")
PYTHON = "/usr/bin/python3"
"""Debian's, which has the accessibility interface."""

PATIENCE_S = 60.0
SIZE = "1280x900x24"
PROGRAMS = ("Xvfb", "dbus-daemon", "openbox", "xdotool", "import", "/usr/libexec/at-spi-bus-launcher")


@dataclass(frozen=True, slots=True)
class Thing:
    """Something that is shown: what it is, what it is called, what it says, and where it is on the screen."""

    window: str
    role: str
    name: str
    text: str
    x: int
    y: int
    width: int
    height: int

    @property
    def said(self) -> str:
        return self.text or self.name


class Desktop:
    """`home` is the home directory of who sits there."""

    def __init__(self, home: Path, env: dict[str, str]) -> None:
        self.home = home
        self.env = env
        self._programs: list[subprocess.Popen[bytes]] = []

    def start(self, *command: str | Path) -> subprocess.Popen[bytes]:
        """Start a program; it is ended with the desktop."""
        log = (self.home / f"{Path(command[0]).name}.log").open("ab")
        with log:
            process = subprocess.Popen(
                command, env=self.env, cwd=self.home, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        self._programs.append(process)
        return process

    def end(self, process: subprocess.Popen[bytes]) -> None:
        """End a program."""
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        self._programs.remove(process)

    def end_all(self) -> None:
        """End all of them, the last first."""
        for process in reversed(self._programs.copy()):
            self.end(process)

    def _run(self, *command: str | Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command, env=self.env, cwd=self.home, capture_output=True, text=True, timeout=PATIENCE_S, check=False
        )

    # Looking

    def shown(self) -> list[Thing]:
        """All that is shown now."""
        done = self._run(PYTHON, "-I", READER, "show")
        return [Thing(*one) for one in json.loads(done.stdout)] if done.returncode == 0 else []

    def find(self, said: str, window: str | None = None) -> Thing | None:
        """The first thing that says exactly that."""
        for one in self.shown():
            if one.said == said and window in (None, one.window):
                return one
        return None

    def wait_for(self, said: str, window: str | None = None, timeout_s: float = PATIENCE_S) -> Thing:
        """Wait until something says exactly that."""
        end = time.monotonic() + timeout_s
        while (found := self.find(said, window)) is None:
            assert time.monotonic() < end, f"{said!r} is not shown:\n{self.told()}"
            time.sleep(0.3)
        return found

    def wait_for_window(self, title: str, timeout_s: float = PATIENCE_S) -> list[str]:
        """Wait for a window of that title; all that stands in it."""
        end = time.monotonic() + timeout_s
        while not (there := [one.said for one in self.shown() if one.window == title and one.said]):
            assert time.monotonic() < end, f"no window {title!r}:\n{self.told()}"
            time.sleep(0.3)
        return there

    def windows(self) -> set[str]:
        """The titles of all windows."""
        return {one.window for one in self.shown()}

    def told(self) -> str:
        """What is shown, for messages."""
        return "\n".join(
            f"{one.window}: {one.role} {one.said!r}" for one in self.shown() if one.said and "menu" not in one.role
        )

    def screenshot(self, window: str, path: Path) -> None:
        """A window, as it is on the screen, as a PNG file."""
        there = [one for one in self.shown() if one.window == window and one.width > 1 and one.x >= 0]
        place = max(there, key=lambda one: one.width * one.height)
        crop = f"{place.width}x{place.height}+{place.x}+{place.y}"
        assert self._run("import", "-window", "root", "-crop", crop, "+repage", path).returncode == 0

    # Doing

    def press(self, window: str, name: str) -> None:
        """Press a button, tick a box, choose an option."""
        end = time.monotonic() + PATIENCE_S
        while self._run(PYTHON, "-I", READER, "press", window, name).returncode != 0:
            assert time.monotonic() < end, f"no {name!r} in {window!r}:\n{self.told()}"
            time.sleep(0.3)

    def keys(self, *keys: str) -> None:
        """Press keys, one after the other, as xdotool(1) calls them."""
        assert self._run("xdotool", "key", "--delay", "100", *keys).returncode == 0

    def type(self, text: str) -> None:
        """Type text."""
        assert self._run("xdotool", "type", "--delay", "20", text).returncode == 0

    def click(self, x: int, y: int) -> None:
        """Click there."""
        assert self._run("xdotool", "mousemove", str(x), str(y), "click", "1").returncode == 0


def _server(command: Sequence[str], env: dict[str, str]) -> tuple[subprocess.Popen[bytes], str]:
    """Start a server that writes a line to the descriptor "{fd}" when it is up."""
    reading, writing = os.pipe()
    try:
        process = subprocess.Popen(
            [part.format(fd=writing) for part in command],
            env=env,
            pass_fds=(writing,),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
    finally:
        os.close(writing)
    with open(reading, encoding="ascii") as file:
        line = file.readline().strip()
    assert line, f"{command[0]} does not start"
    return process, line


@contextlib.contextmanager
def desktop(home: Path) -> Iterator[Desktop]:
    """One of its own, ended with all that runs on it."""
    absent = [name for name in PROGRAMS if shutil.which(name) is None]
    assert not absent, f"not installed: {', '.join(absent)}; scripts/test --long installs them"
    env = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8", "HOME": str(home), "XDG_RUNTIME_DIR": str(home)}
    # PuTTY's code asks the user database where its home is, not the environment.
    env["PUTTYDIR"] = str(home / ".putty")
    servers = []
    made = Desktop(home, env)
    try:
        process, number = _server(
            ["Xvfb", "-screen", "0", SIZE, "-nolisten", "tcp", "-noreset", "-displayfd", "{fd}"], env
        )
        servers.append(process)
        env["DISPLAY"] = f":{number}"
        process, address = _server(["dbus-daemon", "--session", "--nofork", "--print-address={fd}"], env)
        servers.append(process)
        env["DBUS_SESSION_BUS_ADDRESS"] = address
        made.start("/usr/libexec/at-spi-bus-launcher", "--launch-immediately")
        made.start("openbox")
        yield made
    finally:
        made.end_all()
        for process in reversed(servers):
            process.terminate()
            process.wait()
