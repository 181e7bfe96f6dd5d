"""By what a program is to log in that is told so in a file."""

from __future__ import annotations

import enum

from hatchway.errors import ConflictError
from hatchway.wire.admin import ConnectionInfo
from hatchway.wire.entry import PasswordKind


class Logon(enum.StrEnum):
    """`KEY`: the generated private key. `PASSWORD`: the file holds it. `ASK`: the program asks for it. `OWN_KEY`: a key
    that whoever connects has, of which the public half was added."""

    KEY = "key"
    PASSWORD = "password"
    ASK = "ask"
    OWN_KEY = "own-key"


def logon(info: ConnectionInfo, wanted: Logon | None, *, key_known: bool) -> Logon:
    """How `info` is to be used. `wanted` None: by its password if that is shown, else by the key if `key_known` says
    that its place is, else by whatever there is: password, generated key, keys of others.

    Raises ConflictError when it has nothing of what is wanted, or nothing at all.
    """
    found = _fitting(info, key_known=key_known) if wanted is None else wanted
    if found is Logon.OWN_KEY and not info.keys and not info.volume_keys:
        raise ConflictError(f"to {info.login} no key was added; 'hatchway key add {info.login} FILE' adds one")
    if wanted is not None:
        _require(info, wanted)
    return found


def _fitting(info: ConnectionInfo, *, key_known: bool) -> Logon:
    if info.password is not None:
        return Logon.PASSWORD
    has_password = info.password_kind is not PasswordKind.NONE
    if info.key_fingerprint is not None and (key_known or not has_password):
        return Logon.KEY
    return Logon.ASK if has_password else Logon.OWN_KEY


def _require(info: ConnectionInfo, wanted: Logon) -> None:
    """Raise ConflictError unless there is that key or password."""
    has_key, has_password = info.key_fingerprint is not None, info.password_kind is not PasswordKind.NONE
    if wanted is Logon.KEY and not has_key:
        raise ConflictError(f"{info.login} has no key of ours; 'hatchway key renew {info.login}' makes one")
    if wanted in (Logon.ASK, Logon.PASSWORD) and not has_password:
        raise ConflictError(f"{info.login} has no password; 'hatchway password reset {info.login}' makes one")
    if wanted is Logon.PASSWORD and info.password is None:
        if info.password_kind is PasswordKind.RAW:
            raise ConflictError(f"the password of {info.login} is written to a file with --secrets only")
        raise ConflictError(
            f"the password of {info.login} is kept as a hash and can be in no file: let the program ask, and type the "
            "password itself, not the hash"
        )
