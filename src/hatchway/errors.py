"""Every failure Hatchway reports by name.

One root, one class per kind of failure. Each class has the exit code its command ends with (documented in
docs/cli.md) and a `code` that crosses our sockets. The text of a `HatchwayError` is written for the operator and may
be shown to a peer; any other exception stays in the log of the process it happened in.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import ClassVar


class HatchwayError(Exception):
    """Root of all errors made for people. `exit_code` is a process exit status (1-255)."""

    code: ClassVar[str] = "error"
    exit_code: ClassVar[int] = 1


class UsageError(HatchwayError):
    """The request itself is wrong: a bad name, a missing volume, an impossible combination."""

    code = "usage"
    exit_code = 2


class ConfigError(HatchwayError):
    """The configuration file, or a file it names, cannot be used."""

    code = "config"
    exit_code = 3


class NotRunningError(HatchwayError):
    """The daemon asked cannot be reached."""

    code = "not-running"
    exit_code = 4


class NotFoundError(HatchwayError):
    """No such instance, volume, login or credential."""

    code = "not-found"
    exit_code = 5


class ConflictError(HatchwayError):
    """The request contradicts what exists: a taken name, a volume that may not be shared."""

    code = "conflict"
    exit_code = 6


class RefusedError(HatchwayError):
    """The caller may not do this."""

    code = "refused"
    exit_code = 7


class HostError(HatchwayError):
    """The host could not do what was asked: a mount, a worker, a user record."""

    code = "host"
    exit_code = 8


class UnfinishedError(HostError):
    """What was asked for holds, but the host has not done its part yet: that is tried until it has."""

    code = "unfinished"
    exit_code = 15


class EngineError(HatchwayError):
    """The container engine cannot be reached or gave an unusable answer."""

    code = "engine"
    exit_code = 9


class ProtocolError(HatchwayError):
    """A peer sent something that is no frame or no known request."""

    code = "protocol"
    exit_code = 10


class SignInError(HatchwayError):
    """Name or password is wrong, or may not sign in. One text for all reasons."""

    code = "sign-in"
    exit_code = 11


class SignInWaitError(HatchwayError):
    """Too many attempts to sign in, or too much asked of the web pages at once; the text says how long to wait."""

    code = "sign-in-wait"
    exit_code = 12


class SignedOutError(HatchwayError):
    """The token of a session of the web pages is not, or no longer, valid."""

    code = "signed-out"
    exit_code = 13


class PassphraseError(HatchwayError):
    """A share link asks for a passphrase, and none was given, or a wrong one."""

    code = "passphrase"
    exit_code = 14


class InternalError(HatchwayError):
    """A fault of ours; the log of the process named has the traceback."""

    code = "internal"
    exit_code = 70


BY_CODE: dict[str, type[HatchwayError]] = {
    cls.code: cls
    for cls in (
        HatchwayError,
        UsageError,
        ConfigError,
        NotRunningError,
        NotFoundError,
        ConflictError,
        RefusedError,
        HostError,
        UnfinishedError,
        EngineError,
        ProtocolError,
        SignInError,
        SignInWaitError,
        SignedOutError,
        PassphraseError,
        InternalError,
    )
}


@contextmanager
def plain_errors() -> Iterator[None]:
    """Raise the HatchwayError itself where an exception group holds nothing else (trio's nurseries wrap it)."""
    try:
        yield
    except BaseExceptionGroup as group:
        first: BaseException = group
        while isinstance(first, BaseExceptionGroup):
            first = first.exceptions[0]
        if isinstance(first, HatchwayError) and group.split(HatchwayError)[1] is None:
            raise first from None
        raise
