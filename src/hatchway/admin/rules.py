"""What rules and labels want shared, held against what is granted. Pure.

A rule or label gives access by itself only where it cannot hand one owner's volumes to another's login: to an instance
that has no login yet, or is still in the same hands. All else waits to be confirmed: who writes a rule for a name has
not said that the name may change hands.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

from hatchway.admin import owners
from hatchway.errors import ConflictError
from hatchway.model import (
    ACCESS_LABEL,
    NO_LIMITS,
    UNSAID,
    VOLUMES_MAX,
    AccessRule,
    IdPair,
    InstanceInfo,
    InstanceKey,
    InstanceState,
    Limits,
    Mode,
    Origin,
    Ownership,
    VolumeInfo,
    VolumeKind,
    strictest,
)
from hatchway.registry.records import GrantRecord, InstanceRecord
from hatchway.wire.admin import ChangeKind

LABEL_BY = f"label {ACCESS_LABEL}"

LABEL_ENTRIES_MAX = 64


@dataclass(frozen=True, slots=True)
class Change:
    """What is to be done to one grant. `before` is its mode until now, None when there is none, `owned_before` its
    ownership, `limits_before` its limits. `owner_ids` are whom `ownership` means, as the host counts.

    `volume` is what stands at its path, None when that is of no interest.
    """

    kind: ChangeKind
    key: InstanceKey
    path: str
    origin: Origin
    mode: Mode
    by: str
    follows: bool = False
    reason: str = ""
    volume: VolumeInfo | None = None
    before: Mode | None = None
    ownership: Ownership = UNSAID
    owner_ids: IdPair | None = None
    owned_before: Ownership = UNSAID
    limits: Limits = NO_LIMITS
    limits_before: Limits = NO_LIMITS

    @property
    def takes_away(self) -> bool:
        """Whether somebody may do less after it."""
        narrows = self.before is Mode.READ_WRITE and self.mode is Mode.READ_ONLY
        narrows = narrows or strictest((self.limits_before, self.limits)) != self.limits_before
        return self.kind is ChangeKind.WITHDRAW or (self.kind is ChangeKind.ALTER and narrows)


@dataclass(frozen=True, slots=True)
class _Wish:
    read_only: bool
    follow: bool
    by: str
    ownership: Ownership = UNSAID
    limits: Limits = NO_LIMITS


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
        entries = label_entries(info.access_label) if labels and info is not None else []
        same = info is not None and same_hands(record, info)
        given = {one.path for one in record.grants} if record is not None else set()
        grants = {} if record is None else {(one.path, one.origin): one for one in record.grants}
        wished: set[tuple[str, Origin]] = set()
        for volume in info.volumes if info is not None else ():
            for origin, wish in _wishes(matching, entries, volume.path, volume.name):
                assert info is not None
                if info.provisional and (volume.path, origin) not in grants:
                    continue
                wished.add((volume.path, origin))
                steps = _toward(info, volume, origin, wish, grants.get((volume.path, origin)), key in fresh)
                changes += [_held_back(step, same, given) for step in steps]
            changes += _following(key, volume, grants.values(), key in fresh)
            if info is not None and key in fresh:
                changes += _noted(info, volume, grants.get((volume.path, Origin.COMMAND)))
        for (path, origin), grant in grants.items():
            if (path, origin) in wished:
                continue
            if _unwanted(grant, matching, entries, labels, info is not None and key in fresh):
                changes.append(_change(ChangeKind.WITHDRAW, key, grant))
            elif origin is Origin.FILE and (ruled := _of_rules(matching, path, grant.name)):
                changes += _narrowed(key, grant, ruled, read_only=ruled.read_only)
    return changes


def idle(rules: Iterable[AccessRule], labels: bool, instances: Sequence[InstanceInfo]) -> tuple[str, ...]:
    """What of `rules`, and with `labels` of what labels ask for, matches no volume of `instances`."""
    found = []
    for rule in rules:
        volumes = [one for info in instances if matches(rule, info.key) for one in info.volumes]
        vain = [text for text in rule.volumes if not any(_names([text], one.path, one.name) for one in volumes)]
        if len(vain) == len(rule.volumes):
            found.append(rule.where)
        else:
            found += [f"{rule.where}: {pattern}" for pattern in vain]
    for info in instances if labels else ():
        found += [
            f"{LABEL_BY} of {info.key}: {pattern}"
            for pattern, _ in label_entries(info.access_label)
            if not any(_names([pattern], one.path, one.name) for one in info.volumes)
        ]
    return tuple(found)


def matches(rule: AccessRule, key: InstanceKey) -> bool:
    """Whether the rule is for volumes of that instance."""
    return (
        fnmatchcase(key.environment, rule.project)
        and fnmatchcase(key.container, rule.service)
        and rule.replica in (None, key.number)
    )


def same_hands(record: InstanceRecord | None, info: InstanceInfo) -> bool:
    """Whether whoever has the instance's login is whom its volumes belong to now, as far as that can be told.

    The name alone does not tell: containers of one name, or with one project's and service's labels, can be anybody's.
    """
    if record is None or info.state is InstanceState.STATIC:
        return True
    if record.runtime_id and record.runtime_id == info.runtime_id:
        return True
    return not {grant.identity for grant in record.grants}.isdisjoint(volume.identity for volume in info.volumes)


def label_entries(label: str) -> list[tuple[str, bool]]:
    """What a label asks for: patterns of paths or names, each with whether only reading is."""
    entries = []
    for part in label.split(",")[:LABEL_ENTRIES_MAX]:
        pattern, _, mode = part.strip().rpartition(":")
        if pattern and mode in ("ro", "rw"):
            entries.append((pattern, mode == "ro"))
        elif part.strip():
            entries.append((part.strip(), False))
    return [(_without_sets(pattern), read_only) for pattern, read_only in entries]


def _without_sets(pattern: str) -> str:
    """`pattern` with "[" as itself: who writes labels shall not write what takes fnmatch long to read."""
    return pattern.replace("[", "[[]")


def _held_back(change: Change, same: bool, given: set[str]) -> Change:
    """`change`, or what stands in its way."""
    if change.kind is not ChangeKind.GRANT:
        return change
    if not same:
        reason = "this login was made for other volumes; is it still the same owner's?"
        return replace(change, kind=ChangeKind.CONFIRM, reason=reason)
    if change.path not in given and len(given) >= VOLUMES_MAX:
        return replace(change, kind=ChangeKind.REFUSED, reason=f"{VOLUMES_MAX} volumes of one login are allowed")
    given.add(change.path)
    return change


def _names(patterns: Iterable[str], path: str, name: str) -> bool:
    return any(
        fnmatchcase(path, pattern.rstrip("/") or "/") or (name != "" and fnmatchcase(name, pattern))
        for pattern in patterns
    )


def _wishes(
    matching: Sequence[AccessRule], entries: Sequence[tuple[str, bool]], path: str, name: str
) -> list[tuple[Origin, _Wish]]:
    wishes = [(Origin.FILE, _of_rules(matching, path, name)), (Origin.LABEL, _of_label(entries, path, name))]
    return [(origin, wish) for origin, wish in wishes if wish is not None]


def _of_rules(matching: Sequence[AccessRule], path: str, name: str) -> _Wish | None:
    """What the rules say together: one that allows writing, the first of these, decides; but the strictest limits."""
    found = [rule for rule in matching if _names(rule.volumes, path, name)]
    if not found:
        return None
    decides = min(found, key=lambda rule: rule.read_only)
    return _Wish(
        decides.read_only,
        any(rule.follow for rule in found),
        decides.where,
        decides.ownership,
        strictest(rule.limits for rule in found),
    )


def _of_label(entries: Sequence[tuple[str, bool]], path: str, name: str) -> _Wish | None:
    found = [only_reading for pattern, only_reading in entries if _names([pattern], path, name)]
    return _Wish(all(found), False, LABEL_BY) if found else None


def _toward(
    info: InstanceInfo, volume: VolumeInfo, origin: Origin, wish: _Wish, grant: GrantRecord | None, fresh: bool
) -> list[Change]:
    """What brings `grant` (None: there is none) to what is wished for `volume`, as far as that can be done now."""
    # What the container itself may not change, stays so over SFTP.
    mode = Mode.READ_ONLY if wish.read_only or volume.read_only else Mode.READ_WRITE
    follows = wish.follow and volume.anonymous
    key, ids, unowned = info.key, None, ""
    try:
        ids = owners.resolve(wish.ownership.owner, info)
    except ConflictError as exc:
        unowned = str(exc)

    def change(kind: ChangeKind, reason: str = "") -> Change:
        return Change(
            kind,
            key,
            volume.path,
            origin,
            mode,
            wish.by,
            follows,
            reason,
            volume,
            before=None if grant is None else grant.mode,
            ownership=wish.ownership,
            owner_ids=ids,
            owned_before=UNSAID if grant is None else grant.ownership,
            limits=wish.limits,
            limits_before=NO_LIMITS if grant is None else grant.limits,
        )

    if grant is not None and grant.identity == volume.identity and fresh and volume.refusal is None and not unowned:
        wished = (mode, follows, wish.by, wish.ownership, ids, wish.limits)
        is_now = (grant.mode, grant.follows, grant.granted_by, grant.ownership, grant.owner_ids, grant.limits)
        return [] if is_now == wished else [change(ChangeKind.ALTER)]
    changes = [] if grant is None else _narrowed(key, grant, wish, read_only=mode is Mode.READ_ONLY)
    if not fresh:
        return changes
    if problem := volume.refusal or unowned:
        return [*changes, change(ChangeKind.REFUSED, problem)]
    if grant is None:
        return [change(ChangeKind.GRANT)]
    if follows and _succeeds(volume, grant):
        return [*changes, change(ChangeKind.FOLLOW)]
    return [*changes, change(ChangeKind.CONFIRM, "another volume stands there than the one access was given to")]


def _narrowed(key: InstanceKey, grant: GrantRecord, wish: _Wish, *, read_only: bool) -> list[Change]:
    """What is taken away also where nothing is known of the volume, or another one stands there now."""
    mode = Mode.READ_ONLY if read_only else grant.mode
    limits = strictest((grant.limits, wish.limits))
    if (mode, limits) == (grant.mode, grant.limits):
        return []
    return [replace(_change(ChangeKind.ALTER, key, grant), mode=mode, limits=limits, by=wish.by)]


def _change(kind: ChangeKind, key: InstanceKey, grant: GrantRecord, volume: VolumeInfo | None = None) -> Change:
    return Change(
        kind,
        key,
        grant.path,
        grant.origin,
        grant.mode,
        grant.granted_by,
        grant.follows,
        volume=volume,
        before=grant.mode,
        ownership=grant.ownership,
        owner_ids=grant.owner_ids,
        owned_before=grant.ownership,
        limits=grant.limits,
        limits_before=grant.limits,
    )


def _following(key: InstanceKey, volume: VolumeInfo, grants: Iterable[GrantRecord], fresh: bool) -> list[Change]:
    """Grants by command that go over to `volume`."""
    return [
        _change(ChangeKind.FOLLOW, key, grant, volume)
        for grant in grants
        if fresh and grant.origin is Origin.COMMAND and grant.path == volume.path and _succeeds(volume, grant)
    ]


def _noted(info: InstanceInfo, volume: VolumeInfo, grant: GrantRecord | None) -> list[Change]:
    """What is to be known of a grant by command while nothing is known of its container: whom its owner means now, and
    that the container has the volume read-only."""
    if grant is None or grant.identity != volume.identity:
        return []
    try:
        ids = owners.resolve(grant.ownership.owner, info)
    except ConflictError:
        ids = grant.owner_ids
    mode = Mode.READ_ONLY if volume.read_only else grant.mode
    if (ids, mode) == (grant.owner_ids, grant.mode):
        return []
    return [replace(_change(ChangeKind.ALTER, info.key, grant), mode=mode, owner_ids=ids)]


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
    grant: GrantRecord,
    matching: Sequence[AccessRule],
    entries: Sequence[tuple[str, bool]],
    labels: bool,
    seen: bool,
) -> bool:
    """Whether the rule or label a grant came from is no more. `seen`: the container's label is known now."""
    match grant.origin:
        case Origin.COMMAND:
            return False
        case Origin.FILE:
            return _of_rules(matching, grant.path, grant.name) is None
        case Origin.LABEL:
            return not labels or (seen and _of_label(entries, grant.path, grant.name) is None)
