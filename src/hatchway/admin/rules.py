"""What rules and labels want shared, held against what is granted. Pure.

A rule or label gives access to a volume when it is seen first. When another volume turns up at its path, its grant is
suspended like one given by command: who writes a rule for a name has not said that the name may change hands.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from hatchway.model import ACCESS_LABEL, AccessRule, InstanceInfo, InstanceKey, Mode, Origin, VolumeInfo, VolumeKind
from hatchway.registry.records import GrantRecord, InstanceRecord
from hatchway.wire.admin import ChangeKind

LABEL_BY = f"label {ACCESS_LABEL}"


@dataclass(frozen=True, slots=True)
class Change:
    """What is to be done to one grant. `volume` is what stands at its path, None when that is of no interest."""

    kind: ChangeKind
    key: InstanceKey
    path: str
    origin: Origin
    mode: Mode
    by: str
    follows: bool = False
    reason: str = ""
    volume: VolumeInfo | None = None


@dataclass(frozen=True, slots=True)
class _Wish:
    read_only: bool
    follow: bool
    by: str


def plan(
    rules: Sequence[AccessRule],
    labels: bool,
    records: Iterable[InstanceRecord],
    instances: Iterable[InstanceInfo],
    fresh: frozenset[InstanceKey],
) -> list[Change]:
    """What is to be done so that grants are what `rules`, and labels if `labels`, say; in the order of the instances.

    `instances` are those there are, `fresh` the keys of those whose source can be read now: of others nothing new is
    shared, and what their labels were is not known. An instance that is gone keeps what it has as long as a rule
    matches it; its label may come back with it.
    """
    granted = {record.key: record for record in records}
    present = {info.key: info for info in instances}
    changes: list[Change] = []
    for key in sorted(granted.keys() | present.keys()):
        info, record = present.get(key), granted.get(key)
        matching = [rule for rule in rules if matches(rule, key)]
        grants = {} if record is None else {(one.path, one.origin): one for one in record.grants}
        wished: set[tuple[str, Origin]] = set()
        for volume in info.volumes if info is not None else ():
            for origin, wish in _wishes(matching, info if labels else None, volume.path, volume.name):
                wished.add((volume.path, origin))
                change = _toward(key, volume, origin, wish, grants.get((volume.path, origin)), key in fresh)
                changes += [change] if change is not None else []
            changes += _following(key, volume, grants.values(), key in fresh)
        for (path, origin), grant in grants.items():
            if (path, origin) not in wished and _unwanted(grant, matching, labels, info, key in fresh):
                changes.append(Change(ChangeKind.WITHDRAW, key, path, origin, grant.mode, grant.granted_by))
    return changes


def idle(rules: Iterable[AccessRule], instances: Sequence[InstanceInfo]) -> tuple[str, ...]:
    """Those of `rules` that match no volume of `instances`."""
    return tuple(
        rule.where
        for rule in rules
        if not any(
            matches(rule, info.key) and any(_names(rule.volumes, one.path, one.name) for one in info.volumes)
            for info in instances
        )
    )


def matches(rule: AccessRule, key: InstanceKey) -> bool:
    """Whether the rule is for volumes of that instance."""
    return (
        fnmatchcase(key.environment, rule.project)
        and fnmatchcase(key.container, rule.service)
        and rule.replica in (None, key.number)
    )


def label_entries(label: str) -> list[tuple[str, bool]]:
    """What a label asks for: patterns of paths or names, each with whether only reading is."""
    entries = []
    for part in label.split(","):
        pattern, _, mode = part.strip().rpartition(":")
        if pattern and mode in ("ro", "rw"):
            entries.append((pattern, mode == "ro"))
        elif part.strip():
            entries.append((part.strip(), False))
    return entries


def _names(patterns: Iterable[str], path: str, name: str) -> bool:
    return any(fnmatchcase(path, pattern) or (name != "" and fnmatchcase(name, pattern)) for pattern in patterns)


def _wishes(
    matching: Sequence[AccessRule], labelled: InstanceInfo | None, path: str, name: str
) -> list[tuple[Origin, _Wish]]:
    wishes = []
    if (wish := _of_rules(matching, path, name)) is not None:
        wishes.append((Origin.FILE, wish))
    if labelled is not None and (wish := _of_label(labelled, path, name)) is not None:
        wishes.append((Origin.LABEL, wish))
    return wishes


def _of_rules(matching: Sequence[AccessRule], path: str, name: str) -> _Wish | None:
    """What the rules say together: one that allows writing, the first of these, decides."""
    found = [rule for rule in matching if _names(rule.volumes, path, name)]
    if not found:
        return None
    decides = min(found, key=lambda rule: rule.read_only)
    return _Wish(decides.read_only, any(rule.follow for rule in found), decides.where)


def _of_label(info: InstanceInfo, path: str, name: str) -> _Wish | None:
    found = [
        only_reading for pattern, only_reading in label_entries(info.access_label) if _names([pattern], path, name)
    ]
    return _Wish(all(found), False, LABEL_BY) if found else None


def _toward(
    key: InstanceKey, volume: VolumeInfo, origin: Origin, wish: _Wish, grant: GrantRecord | None, fresh: bool
) -> Change | None:
    """What brings `grant` (None: there is none) to what is wished for `volume`; None when it is there, or not now."""
    # What the container itself may not change, stays so over SFTP.
    mode = Mode.READ_ONLY if wish.read_only or volume.read_only else Mode.READ_WRITE
    follows = wish.follow and volume.anonymous

    def change(kind: ChangeKind, reason: str = "") -> Change:
        return Change(kind, key, volume.path, origin, mode, wish.by, follows, reason, volume)

    if not fresh:
        return None
    if volume.refusal is not None:
        return change(ChangeKind.REFUSED, volume.refusal)
    if grant is None:
        return change(ChangeKind.GRANT)
    if grant.identity != volume.identity:
        if follows and _succeeds(volume, grant):
            return change(ChangeKind.FOLLOW)
        return change(ChangeKind.CONFIRM, "another volume stands there than the one access was given to")
    if (grant.mode, grant.follows, grant.granted_by) != (mode, follows, wish.by):
        return change(ChangeKind.ALTER)
    return None


def _following(key: InstanceKey, volume: VolumeInfo, grants: Iterable[GrantRecord], fresh: bool) -> list[Change]:
    """Grants by command that go over to `volume`."""
    return [
        Change(
            ChangeKind.FOLLOW, key, volume.path, grant.origin, grant.mode, grant.granted_by, follows=True, volume=volume
        )
        for grant in grants
        if fresh and grant.origin is Origin.COMMAND and grant.path == volume.path and _succeeds(volume, grant)
    ]


def _succeeds(volume: VolumeInfo, grant: GrantRecord) -> bool:
    """Whether the grant follows, and `volume` is the anonymous one that came for the one it is for."""
    return (
        grant.follows
        and grant.kind is VolumeKind.VOLUME
        and volume.anonymous
        and volume.refusal is None
        and grant.identity != volume.identity
    )


def _unwanted(
    grant: GrantRecord, matching: Sequence[AccessRule], labels: bool, info: InstanceInfo | None, fresh: bool
) -> bool:
    """Whether the rule or label a grant came from is no more."""
    match grant.origin:
        case Origin.COMMAND:
            return False
        case Origin.FILE:
            return _of_rules(matching, grant.path, grant.name) is None
        case Origin.LABEL:
            if not labels:
                return True
            return info is not None and fresh and _of_label(info, grant.path, grant.name) is None
