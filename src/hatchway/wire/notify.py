"""What a process tells whoever started it, and is given by it (sd_notify(3), sd_listen_fds(3)).

That is systemd, or `hatchway run`, which speaks alike: readiness, listening sockets, and descriptors kept for a
successor. Nobody listening is no error: then nobody waits for us, and nothing is kept.
"""

from __future__ import annotations

import os
import re
import socket

import trio

FIRST = 3
"""SD_LISTEN_FDS_START."""

_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")

SEND_S = 0.2
"""Longest wait, in seconds, for somebody who listens but does not read."""


def ready() -> None:
    """Say that we are ready."""
    _send(b"READY=1")


def well() -> None:
    """Say that we are well: whoever started us ends us when that is not said often enough (WATCHDOG_USEC)."""
    _send(b"WATCHDOG=1")


def watchdog_s() -> float | None:
    """How often, in seconds, to say that we are well; None when nobody wants to know (sd_watchdog_enabled(3))."""
    wanted = os.environ.get("WATCHDOG_USEC", "")
    if not wanted.isascii() or not wanted.isdigit() or int(wanted) == 0:
        return None
    # `hatchway run` cannot know the pid before it starts us and leaves it out, as it does LISTEN_PID.
    if os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    return int(wanted) / 1e6 / 3


async def stay_well() -> None:
    """Say that we are well, as often as whoever started us wants to hear it, until cancelled."""
    if (every := watchdog_s()) is None:
        return
    while True:
        well()
        await trio.sleep(every)


def valid_name(name: str) -> bool:
    """Whether a descriptor can be kept under `name`: 1 to 64 ASCII letters, digits, ".", "_" and "-".

    That is less than sd_pid_notify_with_fds(3) allows, FDNAME, so that all names fit into one variable.
    """
    return _NAME.fullmatch(name) is not None


def keep(name: str, descriptor: int) -> bool:
    """Leave a copy of `descriptor` with whoever started us, for our successor, under `name`.

    Whether it was taken. It is not when nobody listens, or who does has not read for a while. Raises ValueError when
    `name` is no valid name.
    """
    # FDPOLL=0: what is kept is dropped when we say so, not when its other end hangs up: the next hostd must hear of
    # a worker that died meanwhile.
    return _send(b"FDSTORE=1\nFDPOLL=0\nFDNAME=" + _checked(name), descriptor)


def forget(name: str) -> None:
    """Have everything kept under `name` closed. Raises ValueError when `name` is no valid name."""
    _send(b"FDSTOREREMOVE=1\nFDNAME=" + _checked(name))


def passed() -> list[tuple[str, int]]:
    """(name, descriptor) of each descriptor we were started with, in order; listening sockets and kept ones alike."""
    count = int(os.environ.get("LISTEN_FDS", "0"))
    # `hatchway run` cannot know the pid before it starts us and leaves LISTEN_PID out; systemd always sets it.
    if os.environ.get("LISTEN_PID", str(os.getpid())) != str(os.getpid()):
        return []
    names = os.environ.get("LISTEN_FDNAMES", "").split(":")
    return [(names[place] if place < len(names) else "", FIRST + place) for place in range(count)]


def _checked(name: str) -> bytes:
    if not valid_name(name):
        raise ValueError(f"{name!r} cannot name a descriptor")
    return name.encode()


_patience_s = SEND_S
_held: socket.socket | None = None


def hold() -> None:
    """From now on tell it by a socket that is connected now: for who will have another root. Raises OSError."""
    global _held
    if os.environ.get("NOTIFY_SOCKET"):
        _held = _connected()


def _connected() -> socket.socket:
    address = os.environ["NOTIFY_SOCKET"]
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
    try:
        sock.settimeout(_patience_s)
        sock.connect("\0" + address[1:] if address.startswith("@") else address)
    except BaseException:
        sock.close()
        raise
    return sock


def _send(message: bytes, descriptor: int | None = None) -> bool:
    global _patience_s
    if not os.environ.get("NOTIFY_SOCKET"):
        return False
    try:
        with _connected() if _held is None else _held.dup() as sock:
            sock.settimeout(_patience_s)
            if descriptor is None:
                sock.send(message)
            else:
                socket.send_fds(sock, [message], [descriptor])
    except OSError as exc:
        if isinstance(exc, TimeoutError | BlockingIOError):
            # Once: whoever does not read (it was stopped, its terminal was) must not make us wait each time.
            _patience_s = 0.0
        return False
    _patience_s = SEND_S
    return True
