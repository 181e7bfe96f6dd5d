"""Who makes a request of the admin table, however it came: by the admin socket, or for whom the web process asks.

Handlers and the record know no other notion of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hatchway.model import EventKind
from hatchway.wire.service import Peer, Request, Table

_NO_LOGINUID = 2**32 - 1
"""Nobody has logged in: a service, or a kernel that does not keep it (proc_pid_loginuid(5))."""


@dataclass(frozen=True, slots=True)
class Caller:
    """`name` says who it is, in the log and wherever it is kept who did something; `origin` all that is known, for the
    record, where what they do is of `kind`."""

    name: str
    origin: str
    kind: EventKind = EventKind.CHANGE

    @classmethod
    def of(cls, peer: Peer) -> Caller:
        """The process at the other end of a socket: its uid, and whose log-in it comes from (sudo(8) does not change
        that), if known.

        Without names: whoever is asked for them may not answer (LDAP).
        """
        name = f"uid {peer.uid}"
        try:
            with open(f"/proc/{peer.pid}/loginuid", encoding="ascii") as file:
                uid = int(file.read())
        except (OSError, ValueError):
            return cls(name, name)
        return cls(name, name if uid in (_NO_LOGINUID, peer.uid) else f"{name}, logged in as uid {uid}")


Requests = Mapping[type, Request[Caller]]
"""A table, or part of one, whose handlers know Callers."""


def for_peers(requests: Requests) -> Table:
    """The table by which a socket serves `requests` to the processes that may make them."""
    return {kind: _for_peers(row) for kind, row in requests.items()}


def _for_peers(row: Request[Caller]) -> Request[Peer]:
    async def handler(request: Any, peer: Peer) -> object:
        # Now: when the answer is there, the process that asks may be gone.
        return await row.handler(request, Caller.of(peer))

    return Request(row.uids, handler, row.stream)
