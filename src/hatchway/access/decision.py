"""The one decision: may this login enter now? Pure, and asked last for every method.

sshd asks several times, and each time more is known. Which keys may be used is asked before anybody has proved to hold
one, and nobody says from where. At the account stage it is known who wants in, and from where; only at the session
stage with which credential (SSH_AUTH_INFO_0 is empty before). Each of these decisions contains the one before, and so
does that about a session which is open and whose conditions have changed.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, replace

from hatchway.addresses import Address, Network, from_matches, within


class Denial(enum.StrEnum):
    """Why a login may not enter. For the log; the client hears only that it may not."""

    UNKNOWN_LOGIN = "unknown login"
    NOTHING_SHARED = "no volume is shared"
    WRONG_SERVICE = "not asked by Hatchway's own PAM service"
    LOCKED = "the login is locked"
    EXPIRED = "the login has expired"
    ADDRESS = "not from this address"
    SESSIONS = "as many sessions are open as may be"
    METHOD_UNKNOWN = "sshd names no authentication method we know"
    CREDENTIAL_GONE = "the credential used is no longer valid"
    CREDENTIAL_EXPIRED = "the credential used has expired"
    CREDENTIAL_ADDRESS = "the credential used is not valid from this address"


@dataclass(frozen=True, slots=True)
class LoginFacts:
    """What is known about a login and whoever wants in, at `now`, Unix seconds.

    `shares` is how many of its grants are in force now. `address` is where the client is, None when that is not known.
    `allowed_from` are networks, none: from anywhere. `sessions` of at most `sessions_max` are open, besides this one.
    """

    known: bool
    now: float
    shares: int = 0
    service_is_ours: bool = True
    locked: bool = False
    expires_at: float | None = None
    address: Address | None = None
    allowed_from: tuple[Network, ...] = ()
    sessions: int = 0
    sessions_max: int = 0


@dataclass(frozen=True, slots=True)
class CredentialFacts:
    """A credential that is valid now, but for what is said here: see registry.records.NewCredential."""

    expires_at: float | None = None
    sources: str = ""


@dataclass(frozen=True, slots=True)
class UsedCredential:
    """What sshd says was used ("publickey" or "password"), and what that is: nothing any more, or for one key several
    that each let it in, under conditions of their own."""

    method: str
    found: tuple[CredentialFacts, ...] = ()


METHODS = ("publickey", "password")


def decide_keys(facts: LoginFacts) -> Denial | None:
    """Whether any key may be used for the login. None means yes."""
    if not facts.service_is_ours:
        return Denial.WRONG_SERVICE
    if not facts.known:
        return Denial.UNKNOWN_LOGIN
    if facts.shares == 0:
        return Denial.NOTHING_SHARED
    if facts.locked:
        return Denial.LOCKED
    if has_passed(facts.expires_at, facts.now):
        return Denial.EXPIRED
    return None


def decide_login(facts: LoginFacts) -> Denial | None:
    """Whether the login may enter, whatever the credential. None means yes."""
    denial = decide_keys(facts)
    if denial is not None:
        return denial
    if not within(facts.allowed_from, facts.address):
        return Denial.ADDRESS
    if facts.sessions >= facts.sessions_max:
        return Denial.SESSIONS
    return None


def decide_sign_in(facts: LoginFacts) -> Denial | None:
    """Whether a person may sign in to the web pages, whatever is shared with them and open. None means yes."""
    return decide_login(replace(facts, shares=1, sessions=0, sessions_max=1))


def decide_session(login: LoginFacts, credential: UsedCredential) -> Denial | None:
    """Whether the login may enter with the credential it used. None means yes."""
    denial = decide_login(login)
    if denial is not None:
        return denial
    if credential.method not in METHODS:
        return Denial.METHOD_UNKNOWN
    denials = [_decide_credential(login, one) for one in credential.found]
    if None in denials:
        return None
    return denials[0] if denials else Denial.CREDENTIAL_GONE


def _decide_credential(login: LoginFacts, credential: CredentialFacts) -> Denial | None:
    if has_passed(credential.expires_at, login.now):
        return Denial.CREDENTIAL_EXPIRED
    if credential.sources and (login.address is None or not from_matches(credential.sources, login.address)):
        return Denial.CREDENTIAL_ADDRESS
    return None


def decide_open_session(login: LoginFacts, credential: UsedCredential) -> Denial | None:
    """Whether a session that is open may stay. None means yes.

    What it sees is not decided here, and it was one of those that might be when it was let in.
    """
    return decide_session(replace(login, shares=1, sessions=0, sessions_max=1), credential)


def has_passed(expires_at: float | None, now: float) -> bool:
    """Whether something has expired by `now`; both are Unix seconds."""
    return expires_at is not None and now >= expires_at
