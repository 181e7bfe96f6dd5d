"""What each kind of viewer of the web pages may ask of the admin table. What is not listed is refused.

Seam: persons and links are to be looked at by the object as well, which is theirs or not: a set of types is not enough
for them, and is empty until then.
"""

from __future__ import annotations

from collections.abc import Mapping

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
        Lock,
        ReadLog,
        RemoveKey,
        RemovePassword,
        RemovePerson,
        RenewKey,
        ResetPassword,
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

MAY: Mapping[ViewerKind, frozenset[type]] = {
    ViewerKind.OPERATOR: OPERATORS,
    ViewerKind.PERSON: frozenset(),
    ViewerKind.LINK: frozenset(),
}
