"""What the core asks the helper that checks operators, on the socket "signin"; one request for each connection.

The helper decides by the configuration it has read itself, not by what it is told: the core cannot have another group
or another PAM service looked at.
"""

from __future__ import annotations

import msgspec

from hatchway.wire.entry import Confidential

REQUEST_MAX = 8192
"""Bytes of one request."""

NAME_MAX = 256
"""Characters of a name. Accounts from a directory may be called user@a.long.domain.example."""

PASSWORD_MAX = 512
"""Bytes of a password in UTF-8 (PAM_MAX_RESP_SIZE)."""


class CheckPassword(Confidential, frozen=True, kw_only=True, tag="check-password"):
    """Is this the password of an operator, who may enter now? `address` is the client's, "" when it is not known.
    Answer: Verdict."""

    name: str
    password: str
    address: str


class CheckStanding(msgspec.Struct, frozen=True, kw_only=True, tag="check-standing"):
    """Is the account `name`, which had this uid when it signed in, still an operator's who may enter?
    Answer: Verdict."""

    name: str
    uid: int


class Operator(msgspec.Struct, frozen=True):
    """An account of the host as its name services spell it."""

    name: str
    uid: int


class Verdict(msgspec.Struct, frozen=True, kw_only=True, tag="verdict"):
    """`operator` is None when it is no; then `reason` is a phrase for the log, not for whoever asked the core."""

    operator: Operator | None
    reason: str = ""
