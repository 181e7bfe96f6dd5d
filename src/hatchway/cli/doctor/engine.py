"""The container engine: whether it answers, and whether hostd may reach its volumes."""

from __future__ import annotations

import http.client
import json
import os
import socket
from collections.abc import Callable

from hatchway.cli.doctor.finding import Finding, failed, ok, warning
from hatchway.config import Config
from hatchway.errors import EngineError

TIMEOUT_S = 5.0
_ANSWER_MAX = 1 << 20


class _UnixConnection(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path: str, timeout_s: float) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def data_root(path: str, timeout_s: float = TIMEOUT_S) -> str:
    """Ask the engine at the unix socket `path` where it keeps its data. Raises EngineError.

    One reading call of the Docker Engine API, GET /info, which Podman answers as well. The SDK belongs to the
    catalog's process alone.
    """
    connection = _UnixConnection(path, timeout_s)
    try:
        connection.request("GET", "/info")
        response = connection.getresponse()
        body = response.read(_ANSWER_MAX)
        if response.status != 200:
            raise EngineError(f"{path} answers {response.status} {response.reason}")
        found = json.loads(body)["DockerRootDir"]
    except (OSError, http.client.HTTPException) as exc:
        raise EngineError(f"{path}: {getattr(exc, 'strerror', None) or str(exc) or type(exc).__name__}") from exc
    except (ValueError, KeyError, TypeError) as exc:
        raise EngineError(f"{path} gives an answer that is no engine's") from exc
    finally:
        connection.close()
    if not isinstance(found, str) or not found.startswith("/"):
        raise EngineError(f"{path} names no data directory")
    return found


def absent(config: Config) -> Finding | None:
    """What to say when the engine's socket is not there; does not ask it."""
    path = config.engine.url.removeprefix("unix://")
    if not config.engine.enabled or os.path.exists(path):
        return None
    return warning(
        "engine",
        f"there is no socket {path}: containers are shown as they were seen last, if they were",
        "install or start a container engine, set engine.url, or set engine.enabled = false",
    )


def check(config: Config, ask: Callable[[str], str] = data_root) -> Finding:
    """Whether the engine answers and keeps its volumes where hostd may open them."""
    name = "engine"
    if not config.engine.enabled:
        return ok(name, "switched off by engine.enabled")
    path = config.engine.url.removeprefix("unix://")
    if (nothing := absent(config)) is not None:
        return nothing
    if not os.access(path, os.W_OK):
        return warning(name, f"{path} may not be used by this user", "run 'hatchway doctor' as root")
    try:
        root = ask(path)
    except EngineError as exc:
        return failed(name, str(exc), "see whether the engine runs: systemctl status docker")
    if (volumes := config.volumes_elsewhere(root)) is not None:
        roots = ", ".join(config.host.volume_roots) or "none"
        return failed(
            name,
            f"keeps its volumes in {volumes}, which is not beneath host.volume_roots ({roots})",
            f'add "{volumes}" to host.volume_roots',
        )
    return ok(name, f"answers at {path}; volumes in {root.rstrip('/')}/volumes")
