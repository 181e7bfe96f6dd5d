"""Telling whoever started us that we are ready (sd_notify(3)): systemd, or `hatchway run`, which listens alike."""

from __future__ import annotations

import os
import socket


def ready() -> None:
    """Send READY=1 when $NOTIFY_SOCKET names a socket. Nobody listening is no error: then nobody waits for us."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
            sock.connect(address)
            sock.send(b"READY=1")
    except OSError:
        pass
