"""Our unix sockets: whether they are there, closed to others, and answered."""

from __future__ import annotations

import os
import socket
import stat

from hatchway.cli.doctor import stranger
from hatchway.cli.doctor.advice import HERE, Advice
from hatchway.cli.doctor.finding import Finding, failed, ok, warning
from hatchway.config import Config

TIMEOUT_S = 5.0


def modes(config: Config, running: bool, owner: int = 0, how: Advice = HERE) -> list[Finding]:
    """Whether each socket of a running Hatchway is there, root's (`owner`, a uid) and closed to everybody else."""
    if not running:
        return []
    paths = (
        config.admin_socket,
        config.auth_socket,
        config.hostd_socket,
        config.catalog_socket,
        config.workers_socket,
        *((config.web_socket, config.signin_socket) if config.web.enabled else ()),
    )
    return [_mode(path, owner, how) for path in paths]


def _mode(path: str, owner: int, how: Advice) -> Finding:
    name = os.path.basename(path)
    # With a unit's socket its daemon is restarted, too; no session ends.
    start = how.again(f"hatchway-{name.removesuffix('.sock')}.socket", "it makes the sockets")
    if how.packaged and name == "web.sock":
        # The core does without it, so it is not restarted with it.
        start = f"{start} hatchway-core.service"
    try:
        found = os.lstat(path)
    except OSError as exc:
        return failed(name, f"{path}: {exc.strerror}", start)
    mode = stat.S_IMODE(found.st_mode)
    if not stat.S_ISSOCK(found.st_mode):
        return failed(name, f"{path} is no socket", f"remove it; {start}")
    if found.st_uid != owner or mode & 0o007:
        return failed(name, f"{path} belongs to uid {found.st_uid} and has mode {mode:04o}: others may use it", start)
    return ok(name, f"uid {found.st_uid}, gid {found.st_gid}, mode {mode:04o}")


def auth(config: Config, running: bool, timeout_s: float = TIMEOUT_S, how: Advice = HERE) -> list[Finding]:
    """Whether the core answers as the PAM helper asks: an unknown login may not enter."""
    return [_ask_for_stranger(config, timeout_s, how)] if running else []


def _ask_for_stranger(config: Config, timeout_s: float, how: Advice) -> Finding:
    name = "login decisions"
    login = stranger.login()
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
        return failed(name, f"{config.auth_socket}: {exc.strerror or exc}", how.log("hatchway-core"))
    if reply == b"no\n":
        return ok(name, "the core answers, and lets no stranger in")
    return failed(
        name, f"the core did not refuse the unknown login {login} but said {reply[:40]!r}", how.log("hatchway-core")
    )
