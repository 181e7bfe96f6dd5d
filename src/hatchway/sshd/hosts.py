"""The host's own sshd: what it is set to, also with a drop-in that is not there yet, and how systemd runs it.

Needs root. Nothing here changes anything of the host.
"""

from __future__ import annotations

import fnmatch
import glob
import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from hatchway.errors import HostError
from hatchway.sshd import dropin

SSH_DIRECTORY = "/etc/ssh"
MAIN_FILE = f"{SSH_DIRECTORY}/sshd_config"

UNITS = ("ssh", "sshd")
"""What distributions call its unit: Debian, and others."""

TIMEOUT_S = 20.0

GENERATOR = "systemd/system-generators/sshd-socket-generator"
"""Where there is one (Ubuntu), systemd listens at what sshd's own configuration says."""

Settings = Mapping[str, Sequence[str]]
"""What sshd(8) -T prints: values by keyword, in lower case."""

# In a mount name space of its own, $1 takes the place of the directory $2.
_WITH_DIRECTORY = 'set -e; mount --bind "$1" "$2"; shift 2; exec "$@"'


def settings(binary: str, drop_in: str | None, *, user: str = "root", port: int = 22) -> Settings:
    """What the sshd at `binary` is set to for a connection of `user` to `port`, with the text `drop_in` in FILE, or
    without that file.

    Raises HostError with sshd's own words when it refuses its configuration.
    """
    # sshd will not answer without what is asked for in a Match block.
    connection = f"user={user},host=localhost,addr=127.0.0.1,laddr=127.0.0.1,lport={port}"
    with tempfile.TemporaryDirectory(prefix="hatchway-sshd.") as directory:
        for path in glob.glob(f"{dropin.DIRECTORY}/*"):
            if path != dropin.FILE and os.path.isfile(path):
                shutil.copy(path, directory)
        if drop_in is not None:
            Path(directory, os.path.basename(dropin.FILE)).write_text(drop_in, encoding="utf-8")
        separate = ["unshare", "--mount", "--propagation", "private", "sh", "-c", _WITH_DIRECTORY, "sh"]
        done = run([*separate, directory, os.path.realpath(dropin.DIRECTORY), binary, "-T", "-C", connection])
    if done.returncode != 0:
        raise HostError(f"the host's sshd refuses its configuration: {(done.stderr + done.stdout).strip()}")
    found: dict[str, list[str]] = {}
    for line in done.stdout.splitlines():
        keyword, _, value = line.partition(" ")
        found.setdefault(keyword.lower(), []).append(value)
    return found


def run(command: Sequence[str], timeout_s: float = TIMEOUT_S) -> subprocess.CompletedProcess[str]:
    """Run a program, not through a shell. Raises HostError when it cannot be run, or takes longer than `timeout_s`."""
    try:
        return subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", timeout=timeout_s
        )
    except subprocess.TimeoutExpired:
        raise HostError(f"{' '.join(command)}: no end within {timeout_s:g} s") from None
    except OSError as exc:
        raise HostError(f"{' '.join(command)}: {exc}") from exc


@dataclass(frozen=True, slots=True)
class Unit:
    """How systemd runs it. `name` is that of its service without ".service"; `socket` is whether systemd listens for it
    (`name`.socket), `each` whether there is a process of systemd's making for each connection then."""

    name: str
    active: bool
    socket: bool = False
    each: bool = False
    pid: int = 0


def unit() -> Unit | None:
    """The unit of the host's sshd; None when there is none that is loaded."""
    for name in UNITS:
        service = _show(f"{name}.service", "LoadState", "ActiveState", "MainPID")
        if service.get("LoadState") != "loaded":
            continue
        socket = _show(f"{name}.socket", "LoadState", "ActiveState", "Accept")
        by_socket = socket.get("LoadState") == "loaded" and socket.get("ActiveState") == "active"
        return Unit(
            name,
            active=service.get("ActiveState") in ("active", "reloading", "activating"),
            socket=by_socket,
            each=by_socket and socket.get("Accept") == "yes",
            pid=int(service.get("MainPID") or 0),
        )
    return None


def _show(name: str, *properties: str) -> dict[str, str]:
    done = run(["systemctl", "show", name, *(f"--property={each}" for each in properties)])
    return dict(line.partition("=")[::2] for line in done.stdout.splitlines())


def options(pid: int) -> list[str]:
    """The options that the listening sshd `pid` was started with.

    Its title is "sshd: PROGRAM OPTIONS [listener] …" (sshd.c, server_accept_loop). Empty when that cannot be read.
    """
    try:
        title = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
    except OSError:
        return []
    words = title.removeprefix("sshd: ").partition(" [listener]")[0].split()
    return words[1:]


def generated() -> bool:
    """Whether systemd listens at what sshd's own configuration says."""
    return any(os.path.exists(f"{place}/{GENERATOR}") for place in ("/usr/lib", "/lib"))


def match_before(main_file: str = MAIN_FILE) -> str | None:
    """Why a Match block may come before the drop-in's, so that it would count; None when none does."""
    try:
        for number, line in enumerate(Path(main_file).read_text(encoding="utf-8", errors="replace").splitlines(), 1):
            words = line.partition("#")[0].replace("=", " ").split()
            if not words:
                continue
            if words[0].lower() == "match":
                return f"line {number} of {main_file} begins a Match block before {dropin.DIRECTORY} is included"
            if words[0].lower() == "include" and any(_includes(pattern) for pattern in words[1:]):
                return _match_in_directory()
    except OSError as exc:
        raise HostError(f"{exc.filename}: {exc.strerror}") from exc
    return f"{main_file} does not include {dropin.DIRECTORY}/*.conf"


def _includes(pattern: str) -> bool:
    # Relative to /etc/ssh, and a pattern of glob(7) (sshd_config(5), Include).
    full = os.path.join(SSH_DIRECTORY, pattern.strip('"'))
    return os.path.dirname(full) == dropin.DIRECTORY and fnmatch.fnmatch(dropin.FILE, full)


def _match_in_directory() -> str | None:
    for path in sorted(glob.glob(f"{dropin.DIRECTORY}/*.conf")):
        if os.path.basename(path) >= os.path.basename(dropin.FILE):
            return None
        lines = Path(path).read_text(encoding="utf-8", errors="replace").splitlines()
        if any(line.replace("=", " ").lower().split()[:1] == ["match"] for line in lines):
            return f"{path} has a Match block and comes before {dropin.FILE}"
    return None
