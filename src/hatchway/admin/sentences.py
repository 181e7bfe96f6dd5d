"""What the record says of requests of the admin socket, of what rules and labels do, and of sessions. Pure.

Phrases without full stop that never hold a secret: each names the fields it tells of.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from msgspec import UNSET

from hatchway.admin.rules import Change
from hatchway.localtime import zoned
from hatchway.model import Limits, Mode, NewLimits, Ownership
from hatchway.wire.admin import (
    Apply,
    ChangeKind,
    Confirm,
    DaemonStatus,
    Disable,
    Enable,
    Forget,
    ListInstances,
    Prune,
    ReadLog,
    Show,
    ShowServer,
)
from hatchway.wire.entry import (
    AddKey,
    AllowVolumeKeys,
    DeliverKey,
    ExportKey,
    ImportPassword,
    KeyForm,
    Kick,
    ListKeys,
    ListSessions,
    Lock,
    RemoveKey,
    RemovePassword,
    RenewKey,
    ResetPassword,
    RotateKey,
    SetConditions,
    SetPassword,
    ShowConditions,
    ShowPassword,
    TakeKeyBack,
    Unlock,
)
from hatchway.wire.links import ListLinks, MakeLink, RevokeLink
from hatchway.wire.people import AddPerson, GrantPerson, ListPeople, RemovePerson, RevokePerson

_DAY_S = 86400.0

UNSEEN = "while Hatchway, or its privileged half, was not running"
"""Why a session ended of which nobody knows more than that it is over."""

NOT_TOLD = "what it had mounted could not stay"
"""Why hostd ended a session that it was not told to end: its volumes changed, or one of them failed."""


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'s' * (number != 1)}"


def _volumes(volumes: tuple[str, ...], every: bool, none: str) -> str:
    return "all volumes" if every else ", ".join(volumes) or none


def _ownership(ownership: Ownership) -> list[str]:
    said = [] if ownership.owner is None else [f"owner {ownership.owner}"]
    return said if ownership.umask is None else [*said, f"umask {ownership.umask:03o}"]


def _limits(limits: NewLimits) -> list[str]:
    said = []
    if limits.size is not UNSET:
        said.append("no limit of size" if limits.size is None else f"at most {limits.size:,} bytes")
    if limits.files is not UNSET:
        said.append("no limit of files" if limits.files is None else f"at most {_count(limits.files, 'file')}")
    return said


def _limits_that_are(limits: Limits) -> list[str]:
    return _limits(NewLimits(UNSET if limits.size is None else limits.size, limits.files or UNSET))


def _enable(request: Enable) -> str:
    words = [f"enable {_volumes(request.volumes, request.every, 'nothing')}{' read-only' * request.read_only}"]
    words += ["following"] * request.follow
    return ", ".join([*words, *_ownership(request.ownership), *_limits(request.limits)])


def _disable(request: Disable) -> str:
    return f"disable {_volumes(request.volumes, request.every, 'nothing')}"


def _confirm(request: Confirm) -> str:
    return f"confirm {_volumes(request.volumes, False, 'all that waits')}"


def _apply(request: Apply) -> str | None:
    return None if request.dry_run else f"apply the access files: {_count(len(request.rules), 'rule')}"


def _add_person(request: AddPerson) -> str:
    return f"person added{f': {request.full_name}' if request.full_name else ''}"


def _remove_person(_request: RemovePerson) -> str:
    return "person removed, with all access"


def _grant_person(request: GrantPerson) -> str:
    folder = f", only {request.folder}" if request.folder else ""
    words = f"{_volumes(request.volumes, request.every, 'nothing')} shared{' read-only' * request.read_only}{folder}"
    return ", ".join([f"{words} with {request.login}", *_ownership(request.ownership)])


def _revoke_person(request: RevokePerson) -> str:
    return f"{_volumes(request.volumes, request.every, 'nothing')} no longer shared with {request.login}"


def _forget(_request: Forget) -> str:
    return "forget access, key and password"


def _prune(request: Prune) -> str | None:
    days = request.gone_s / _DAY_S
    return None if request.dry_run else f"forget what has been gone for {days:g} day{'s' * (days != 1)}"


def _show(request: Show) -> str | None:
    return "connection information with password shown" if request.secrets else None


def _export_key(request: ExportKey) -> str:
    form = " as .ppk" if request.form is KeyForm.PPK else ""
    return f"private key handed out{form}{' with a passphrase' if request.passphrase is not None else ''}"


def _show_password(_request: ShowPassword) -> str:
    return "password shown"


def _reset_password(_request: ResetPassword) -> str:
    return "password reset"


def _set_password(_request: SetPassword) -> str:
    return "password set"


def _import_password(_request: ImportPassword) -> str:
    return "password imported as a hash"


def _remove_password(_request: RemovePassword) -> str:
    return "password removed: key only"


def _renew_key(_request: RenewKey) -> str:
    return "key renewed"


def _add_key(request: AddKey) -> str:
    words = ["key added"]
    words += [f"from {request.sources}"] if request.sources else []
    words += [f"until {zoned(request.expires_at)}"] if request.expires_at is not None else []
    return ", ".join(words)


def _remove_key(request: RemoveKey) -> str:
    return f"key removed: {request.key}"


def _allow_volume_keys(request: AllowVolumeKeys) -> str:
    return f"keys in its own volumes {'count' if request.allow else 'do not count'} from now on"


def _deliver_key(request: DeliverKey) -> str:
    return f"private key put into {'/'.join(part for part in (request.volume, request.directory) if part)}"


def _take_key_back(_request: TakeKeyBack) -> str:
    return "private key taken back"


def _set_conditions(request: SetConditions) -> str:
    said = []
    if request.allowed_from is not UNSET:
        said.append(f"from {', '.join(request.allowed_from) or 'anywhere'}")
    if request.expires_at is not UNSET:
        said.append("never expires" if request.expires_at is None else f"expires at {zoned(request.expires_at)}")
    if request.sessions_max is not UNSET:
        most = request.sessions_max
        said.append("as many sessions as configured" if most is None else f"at most {_count(most, 'session')}")
    return f"conditions: {'; '.join(said) or 'unchanged'}"


def _lock(request: Lock) -> str:
    return f"locked: {request.why}" if request.why else "locked"


def _unlock(_request: Unlock) -> str:
    return "unlocked"


def _kick(request: Kick) -> str:
    return f"kick {', '.join(f'session {one}' for one in request.sessions) or 'all sessions'}"


def _make_link(request: MakeLink) -> str:
    words = [f"link made, until {zoned(request.expires_at)}", f"to be opened {_count(request.uses, 'time')}"]
    words += ["with a passphrase"] if request.passphrase is not None else []
    return ", ".join(words) + (f": {request.note}" if request.note else "")


def _revoke_link(request: RevokeLink) -> str:
    return f"link {request.link} taken back"


def _rotate_key(_request: RotateKey) -> str:
    return "sealing key rotated"


CHANGING: Mapping[type, Callable[[Any], str | None]] = {
    Enable: _enable,
    Disable: _disable,
    Confirm: _confirm,
    Apply: _apply,
    AddPerson: _add_person,
    RemovePerson: _remove_person,
    GrantPerson: _grant_person,
    RevokePerson: _revoke_person,
    Forget: _forget,
    Prune: _prune,
    Show: _show,
    ExportKey: _export_key,
    ShowPassword: _show_password,
    ResetPassword: _reset_password,
    SetPassword: _set_password,
    ImportPassword: _import_password,
    RemovePassword: _remove_password,
    RenewKey: _renew_key,
    AddKey: _add_key,
    RemoveKey: _remove_key,
    AllowVolumeKeys: _allow_volume_keys,
    DeliverKey: _deliver_key,
    TakeKeyBack: _take_key_back,
    SetConditions: _set_conditions,
    Lock: _lock,
    Unlock: _unlock,
    Kick: _kick,
    MakeLink: _make_link,
    RevokeLink: _revoke_link,
    RotateKey: _rotate_key,
}
"""What each request that changes something or reveals a secret asks for; None when this one does neither."""

READING = frozenset(
    {ListInstances, ListLinks, ListPeople, ShowServer, DaemonStatus, ReadLog, ListKeys, ListSessions, ShowConditions}
)
"""Requests that never do."""


def requested(request: object) -> str | None:
    """What `request` asks for, None when it only looks. One that is in neither list is told of by its name."""
    if type(request) in READING:
        return None
    describe = CHANGING.get(type(request))
    return type(request).__name__ if describe is None else describe(request)


def followed(change: Change) -> str | None:
    """What rules or labels did to a grant; None when nobody may do more or less than before."""
    mode = "read-only" if change.mode is Mode.READ_ONLY else "read-write"
    terms = ", ".join([mode, *_ownership(change.ownership), *_limits_that_are(change.limits)])
    match change.kind:
        case ChangeKind.GRANT | ChangeKind.CONFIRM:
            return f"access given to {change.path}: {terms}"
        case ChangeKind.FOLLOW:
            return f"access goes over to the new volume at {change.path}: {terms}"
        case ChangeKind.WITHDRAW:
            return f"access to {change.path} withdrawn"
        case _:
            before = (change.before, change.owned_before, change.limits_before)
            same = before == (change.mode, change.ownership, change.limits)
            return None if same else f"access to {change.path} changed: {terms}"


def entered(method: str, key: str | None) -> str:
    """How a session was let in: the key by its fingerprint, or sshd's word for another method."""
    return method if key is None else f"key {key}"


def lasted(seconds: float) -> str:
    """How long a session was: "after 12 s", "after 3 min 5 s", "after 2 h 14 min", "after 3 days 4 h"."""
    whole = max(0, int(seconds))
    for size, unit, below, part in ((86400, "days", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if whole >= size:
            count, rest = divmod(whole, size)
            unit = "day" if (unit, count) == ("days", 1) else unit
            return f"after {count} {unit} {rest // below} {part}"
    return f"after {whole} s"
