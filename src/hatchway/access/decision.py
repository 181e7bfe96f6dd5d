"""The one decision: may this login enter now? Pure, and asked last for every method.

sshd asks twice. At the account stage it is known who wants in; only at the session stage is it known with which
credential (SSH_AUTH_INFO_0 is empty before). What concerns the login is therefore decided at both, what concerns the
credential at the session stage.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass


class Denial(enum.StrEnum):
    """Why a login may not enter. For the log; the client hears only that it may not."""

    UNKNOWN_LOGIN = "unknown login"
    NOTHING_SHARED = "no volume is shared"
    WRONG_SERVICE = "not asked by Hatchway's own PAM service"
    CREDENTIAL_GONE = "the credential used is no longer valid"
    METHOD_UNKNOWN = "sshd names no authentication method we know"


@dataclass(frozen=True, slots=True)
class LoginFacts:
    """What is known about a login. `shares` is how many of its grants are in force now."""

    known: bool
    shares: int
    service_is_ours: bool


@dataclass(frozen=True, slots=True)
class CredentialFacts:
    """What sshd says was used ("publickey" or "password"), and what is valid now.

    `key` is the fingerprint of the key used, None with a password; `valid_keys` those of the login's present keys.
    """

    method: str
    key: str | None
    valid_keys: frozenset[str]
    has_password: bool


def decide_login(facts: LoginFacts) -> Denial | None:
    """Whether the login may enter, whatever the credential. None means yes."""
    if not facts.service_is_ours:
        return Denial.WRONG_SERVICE
    if not facts.known:
        return Denial.UNKNOWN_LOGIN
    if facts.shares == 0:
        return Denial.NOTHING_SHARED
    return None


def decide_session(login: LoginFacts, credential: CredentialFacts) -> Denial | None:
    """Whether the login may enter with the credential it used. None means yes."""
    denial = decide_login(login)
    if denial is not None:
        return denial
    match credential.method:
        case "publickey":
            valid = credential.key is not None and credential.key in credential.valid_keys
        case "password":
            valid = credential.has_password
        case _:
            return Denial.METHOD_UNKNOWN
    return None if valid else Denial.CREDENTIAL_GONE
