"""Our unix sockets: whether they are there, closed to others, and answered."""

from __future__ import annotations

import os
import secrets
import socket
import stat

from hatchway.cli.doctor.finding import Finding, failed, ok, warning
from hatchway.config import Config

TIMEOUT_S = 5.0
_START = "start 'hatchway run' again: it makes the sockets"


def modes(config: Config, running: bool, owner: int = 0) -> list[Finding]:
    """Whether each socket of a running Hatchway is there, root's (`owner`, a uid) and closed to everybody else."""
    if not running:
        return []
    paths = (config.admin_socket, config.auth_socket, config.hostd_socket, config.catalog_socket)
    return [_mode(path, owner) for path in paths]


def _mode(path: str, owner: int) -> Finding:
    name = os.path.basename(path)
    try:
        found = os.lstat(path)
    except OSError as exc:
        return failed(name, f"{path}: {exc.strerror}", _START)
    mode = stat.S_IMODE(found.st_mode)
    if not stat.S_ISSOCK(found.st_mode):
        return failed(name, f"{path} is no socket", f"remove it; {_START}")
    if found.st_uid != owner or mode & 0o007:
        return failed(name, f"{path} belongs to uid {found.st_uid} and has mode {mode:04o}: others may use it", _START)
    return ok(name, f"uid {found.st_uid}, gid {found.st_gid}, mode {mode:04o}")


def auth(config: Config, running: bool, timeout_s: float = TIMEOUT_S) -> list[Finding]:
    """Whether the core answers as the PAM helper asks: an unknown login may not enter."""
    return [_ask_for_stranger(config, timeout_s)] if running else []


def _ask_for_stranger(config: Config, timeout_s: float) -> Finding:
    name = "login decisions"
    login = f"nobody-{secrets.token_hex(6)}"
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
            sock.settimeout(timeout_s)
            sock.connect(config.auth_socket)
            sock.sendall(f"op=account\0login={login}\0service={config.sshd.pam_service}".encode())
            sock.shutdown(socket.SHUT_WR)
            reply = sock.recv(4096)
    except PermissionError:
        return warning(name, f"{config.auth_socket} may not be used by this user", "run 'hatchway doctor' as root")
    except OSError as exc:
        return failed(name, f"{config.auth_socket}: {exc.strerror or exc}", "see the log of 'hatchway run'")
    if reply == b"no\n":
        return ok(name, "the core answers, and lets no stranger in")
    return failed(name, f"the core did not refuse the unknown login {login} but said {reply[:40]!r}", "see its log")
