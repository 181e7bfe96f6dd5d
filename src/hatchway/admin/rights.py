"""What each kind of viewer of the web pages may ask of the admin table. What is not listed is refused.

A person may ask of their own login only, and who opened a link of its instance only, which is looked at too.
"""

from __future__ import annotations

from collections.abc import Mapping

from hatchway.model import PERSON
from hatchway.wire.admin import (
    Apply,
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
from hatchway.wire.web import ViewerKind

ROOT_ONLY = frozenset(
    {
        Apply,  # the rules are those in files of root's: others would be gone at the next apply, and nobody see them
        Prune,  # forgets many instances for good; Forget does one, by name
        RotateKey,  # of the machine, and of no instance
    }
)
"""What belongs to root on the machine, by the admin socket."""

OPERATORS = frozenset(
    {
        AddKey,
        AddPerson,
        AllowVolumeKeys,
        Confirm,
        DaemonStatus,
        DeliverKey,
        Disable,
        Enable,
        ExportKey,
        Forget,
        GrantPerson,
        ImportPassword,
        Kick,
        ListInstances,
        ListKeys,
        ListPeople,
        ListSessions,
        ListLinks,
        Lock,
        MakeLink,
        ReadLog,
        RemoveKey,
        RemovePassword,
        RemovePerson,
        RenewKey,
        ResetPassword,
        RevokeLink,
        RevokePerson,
        SetConditions,
        SetPassword,
        Show,
        ShowConditions,
        ShowPassword,
        ShowServer,
        TakeKeyBack,
        Unlock,
    }
)

OF_ONE_LOGIN: frozenset[type] = frozenset(
    {AddKey, ExportKey, Kick, ListKeys, ListSessions, ReadLog, RemoveKey, RenewKey, Show, ShowConditions, ShowPassword}
)
"""What a person may ask of their own login, which each of these names in `instance`."""

PEOPLE = OF_ONE_LOGIN | {ShowServer}

OF_ONE_INSTANCE: frozenset[type] = frozenset({ExportKey, Show, ShowPassword})
"""What whoever opened a link may ask of its instance, which each of these names in `instance`."""

LINKS = OF_ONE_INSTANCE | {ShowServer}

MAY: Mapping[ViewerKind, frozenset[type]] = {
    ViewerKind.OPERATOR: OPERATORS,
    ViewerKind.PERSON: PEOPLE,
    ViewerKind.LINK: LINKS,
}


def may(kind: ViewerKind, name: str, request: object) -> bool:
    """Whether the viewer `name` of that kind may make `request`."""
    if type(request) not in MAY[kind]:
        return False
    if kind is ViewerKind.PERSON and type(request) in OF_ONE_LOGIN:
        if isinstance(request, RenewKey) and request.kind is not None:
            # Some kinds take long to make, and others wait meanwhile.
            return False
        if isinstance(request, ReadLog) and request.after is not None:
            # The number of an event tells how many there were on the host.
            return False
        # In so many words: nothing that means all, and no name that a container could have, should they be removed now.
        return getattr(request, "instance", None) == f"{PERSON}{name}"
    if kind is ViewerKind.LINK and type(request) in OF_ONE_INSTANCE:
        return getattr(request, "instance", None) == name
    return True
