"""What rules and labels change, without doing it."""

from __future__ import annotations

import pytest
from msgspec import structs

from hatchway.admin import rules
from hatchway.model import (
    VOLUMES_MAX,
    AccessRule,
    InstanceInfo,
    InstanceKey,
    InstanceState,
    Login,
    Mode,
    Origin,
    Uid,
    VolumeInfo,
    VolumeKind,
)
from hatchway.registry.records import GrantRecord, InstanceRecord
from hatchway.wire.admin import ChangeKind

WEB = InstanceKey("shop", "web", 1)
DATA = VolumeInfo(path="/data", kind=VolumeKind.VOLUME, name="shop_data", driver="local", created="1", source="/v/1")
ANONYMOUS = VolumeInfo(
    path="/tmp/a",
    kind=VolumeKind.VOLUME,
    name="anonymous-1",
    driver="local",
    created="2",
    source="/v/2",
    anonymous=True,
)
NEXT = structs.replace(ANONYMOUS, name="anonymous-2", created="3", source="/v/3")


def info(*volumes: VolumeInfo, label: str = "", key: InstanceKey = WEB, runtime: str = "x") -> InstanceInfo:
    return InstanceInfo(
        key=key,
        runtime_id=runtime,
        runtime_name="x",
        state=InstanceState.RUNNING,
        access_label=label,
        volumes=volumes,
    )


def rule(*volumes: str, **fields: object) -> AccessRule:
    made = {"project": "shop", "service": "*", "where": "a.toml, rule 1", "volumes": volumes or ("*",), **fields}
    return AccessRule(**made)  # type: ignore[arg-type] # checked by the tests


def grant(
    volume: VolumeInfo,
    origin: Origin = Origin.FILE,
    mode: Mode = Mode.READ_WRITE,
    by: str = "a.toml, rule 1",
    follows: bool = False,
) -> GrantRecord:
    return GrantRecord(
        path=volume.path,
        name=volume.name,
        kind=volume.kind,
        driver=volume.driver,
        created=volume.created,
        source=volume.source,
        mode=mode,
        identity=volume.identity,
        granted_at=0.0,
        granted_by=by,
        origin=origin,
        follows=follows,
    )


def plan(
    ruled: list[AccessRule],
    *infos: InstanceInfo,
    grants: tuple[GrantRecord, ...] = (),
    labels: bool = False,
    fresh: bool = True,
    known: bool = False,
) -> list[tuple[ChangeKind, str, Origin, Mode]]:
    """`known`: the instance has a login, also without a grant."""
    records = [InstanceRecord(WEB, Login("shop-web-1"), Uid(1), 0.0, 0.0, grants, "x")] if grants or known else []
    keys = frozenset(one.key for one in infos) if fresh else frozenset()
    return [(c.kind, c.path, c.origin, c.mode) for c in rules.plan(ruled, labels, records, infos, keys)]


GIVE_DATA = (ChangeKind.GRANT, "/data", Origin.FILE, Mode.READ_WRITE)


@pytest.mark.parametrize(
    ("one", "matches"),
    [
        (rule("/data"), True),
        (rule("/d*"), True),
        (rule("shop_data"), True),
        (rule("*", project="sh?p", service="w[ae]b"), True),
        (rule("*", replica=1), True),
        (rule("*", replica=2), False),
        (rule("*", project="Shop"), False),
        (rule("*", service="we"), False),
        (rule("/dat"), False),
        (rule("data"), False),
    ],
)
def test_what_a_rule_matches(one: AccessRule, matches: bool) -> None:
    assert plan([one], info(DATA)) == ([GIVE_DATA] if matches else [])
    assert rules.idle([one], False, [info(DATA)]) == (() if matches else ("a.toml, rule 1",))


def test_what_is_as_it_should_be_is_left_alone() -> None:
    assert plan([rule()], info(DATA), grants=(grant(DATA),)) == []


def test_one_rule_that_allows_writing_decides() -> None:
    reading, writing = rule(read_only=True, where="b"), rule(where="a.toml, rule 1")
    assert plan([reading, writing], info(DATA)) == [GIVE_DATA]
    assert plan([reading], info(DATA)) == [(*GIVE_DATA[:3], Mode.READ_ONLY)]
    changed = plan([reading], info(DATA), grants=(grant(DATA),))
    assert changed == [(ChangeKind.ALTER, "/data", Origin.FILE, Mode.READ_ONLY)]


def test_a_volume_that_the_container_may_not_change_stays_so() -> None:
    assert plan([rule()], info(structs.replace(DATA, read_only=True))) == [(*GIVE_DATA[:3], Mode.READ_ONLY)]


def test_another_volume_at_the_path_waits_for_confirmation() -> None:
    other = structs.replace(DATA, created="9")
    assert plan([rule()], info(other), grants=(grant(DATA),)) == [(ChangeKind.CONFIRM, *GIVE_DATA[1:])]
    assert plan([rule()], info(other, runtime="y"), grants=(grant(DATA),)) == [(ChangeKind.CONFIRM, *GIVE_DATA[1:])]
    gone = structs.replace(other, refusal="there is no directory")
    assert plan([rule()], info(gone), grants=(grant(DATA),)) == [(ChangeKind.REFUSED, *GIVE_DATA[1:])]


def test_grants_by_command_are_nobodys_business() -> None:
    by_command = grant(DATA, Origin.COMMAND, by="uid 0")
    assert plan([], info(DATA), grants=(by_command,)) == []
    assert plan([rule()], info(DATA), grants=(by_command,)) == [GIVE_DATA]


def test_what_no_rule_gives_any_more_ends_also_when_the_instance_is_gone() -> None:
    withdraw = [(ChangeKind.WITHDRAW, *GIVE_DATA[1:])]
    assert plan([], info(DATA), grants=(grant(DATA),)) == withdraw
    assert plan([], grants=(grant(DATA),)) == withdraw
    assert plan([rule("/logs")], info(DATA), grants=(grant(DATA),), fresh=False) == withdraw


def test_an_instance_that_is_gone_keeps_what_a_rule_gives() -> None:
    assert plan([rule()], grants=(grant(DATA),)) == []
    assert plan([rule("shop_data")], info(), grants=(grant(DATA),)) == []


def test_nothing_new_is_shared_while_the_source_cannot_be_read() -> None:
    assert plan([rule()], info(DATA), fresh=False) == []
    other = structs.replace(DATA, created="9")
    assert plan([rule()], info(other), grants=(grant(DATA),), fresh=False) == []


def test_labels_count_only_where_they_are_allowed() -> None:
    labelled = info(DATA, ANONYMOUS, label="/data:ro, nothing")
    give = (ChangeKind.GRANT, "/data", Origin.LABEL, Mode.READ_ONLY)
    assert plan([], labelled) == []
    assert plan([], labelled, labels=True) == [give]
    given = grant(DATA, Origin.LABEL, Mode.READ_ONLY, rules.LABEL_BY)
    assert plan([], labelled, labels=True, grants=(given,)) == []
    withdraw = (ChangeKind.WITHDRAW, *give[1:])
    assert plan([], labelled, grants=(given,)) == [withdraw]
    assert plan([], info(DATA), labels=True, grants=(given,)) == [withdraw]
    # What its label was is not known now, and it may come back with it.
    assert plan([], info(DATA), labels=True, grants=(given,), fresh=False) == []
    assert plan([], labels=True, grants=(given,)) == []


@pytest.mark.parametrize(
    ("label", "entries"),
    [
        ("", []),
        (" , ,", []),
        ("/data", [("/data", False)]),
        ("/data:ro,/logs:rw, x ", [("/data", True), ("/logs", False), ("x", False)]),
        ("/a:b", [("/a:b", False)]),
        (":ro", [(":ro", False)]),
        ("[ab]*", [("[[]ab]*", False)]),
        ("a," * 100, [("a", False)] * 64),
        ("*:ro", [("*", True)]),
    ],
)
def test_what_a_label_says(label: str, entries: list[tuple[str, bool]]) -> None:
    assert rules.label_entries(label) == entries


def test_a_grant_that_follows_goes_over_to_the_next_anonymous_volume() -> None:
    follow = [(ChangeKind.FOLLOW, "/tmp/a", Origin.COMMAND, Mode.READ_WRITE)]
    following = grant(ANONYMOUS, Origin.COMMAND, by="uid 0", follows=True)
    assert plan([], info(NEXT), grants=(following,)) == follow
    assert plan([], info(ANONYMOUS), grants=(following,)) == []
    assert plan([], info(NEXT), grants=(following,), fresh=False) == []
    assert plan([], info(structs.replace(NEXT, anonymous=False)), grants=(following,)) == []
    assert plan([], info(structs.replace(NEXT, refusal="no")), grants=(following,)) == []
    assert plan([], info(structs.replace(NEXT, path="/other")), grants=(following,)) == []
    assert plan([], info(NEXT), grants=(grant(ANONYMOUS, Origin.COMMAND),)) == []


def test_a_rule_that_follows_needs_no_confirmation() -> None:
    one = rule(follow=True)
    given = grant(ANONYMOUS, follows=True)
    assert plan([one], info(NEXT), grants=(given,)) == [
        (ChangeKind.FOLLOW, "/tmp/a", Origin.FILE, Mode.READ_WRITE),
    ]
    without = plan([rule()], info(NEXT), grants=(given,))
    assert without == [(ChangeKind.CONFIRM, "/tmp/a", Origin.FILE, Mode.READ_WRITE)]
    (change,) = rules.plan([one], False, [], [info(DATA)], frozenset({WEB}))
    assert not change.follows  # it has a name: there is nothing to follow


LOGS = VolumeInfo(path="/logs", kind=VolumeKind.VOLUME, name="logs", driver="local", created="7", source="/v/7")
GIVE_LOGS = (ChangeKind.GRANT, "/logs", Origin.FILE, Mode.READ_WRITE)


def test_a_login_is_given_nothing_of_whoever_has_its_name_next() -> None:
    """Container and volume are gone; another's container of that name has its volume at another path."""
    held = [(ChangeKind.CONFIRM, *GIVE_LOGS[1:])]
    for grants in ((grant(DATA),), (grant(DATA, Origin.COMMAND, by="uid 0"),), ()):
        assert (
            plan([rule("/logs")] + [rule("/data")] * bool(grants), info(LOGS, runtime="y"), grants=grants, known=True)
            == held
        )
    asked = info(LOGS, runtime="y", label="/logs")
    assert [one[0] for one in plan([], asked, labels=True, known=True)] == [ChangeKind.CONFIRM]


def test_in_the_same_hands_more_is_given_without_asking() -> None:
    # The same container, or one that has a volume that is granted already.
    assert plan([rule()], info(LOGS), known=True) == [GIVE_LOGS]
    assert plan([rule()], info(DATA, LOGS, runtime="y"), grants=(grant(DATA),)) == [GIVE_LOGS]
    static = structs.replace(info(LOGS, runtime=""), state=InstanceState.STATIC)
    assert plan([rule()], static, known=True) == [GIVE_LOGS]


def test_a_provisional_container_gets_nothing_by_rule_or_label() -> None:
    passing = structs.replace(info(DATA, label="*"), provisional=True)
    assert plan([rule()], passing, labels=True) == []
    assert plan([], passing, grants=(grant(DATA),)) == [(ChangeKind.WITHDRAW, *GIVE_DATA[1:])]


def test_writing_is_taken_away_whatever_is_known_of_the_volume() -> None:
    narrow = [(ChangeKind.ALTER, "/data", Origin.FILE, Mode.READ_ONLY)]
    reading = [rule(read_only=True)]
    assert plan(reading, grants=(grant(DATA),)) == narrow, "the instance is gone"
    assert plan(reading, info(DATA), grants=(grant(DATA),), fresh=False) == narrow, "the engine is down"
    other = structs.replace(DATA, created="9")
    assert plan(reading, info(other), grants=(grant(DATA),)) == [*narrow, (ChangeKind.CONFIRM, *narrow[0][1:])]
    gone = structs.replace(DATA, refusal="there is no directory")
    assert plan(reading, info(gone), grants=(grant(DATA),)) == [*narrow, (ChangeKind.REFUSED, *narrow[0][1:])]
    # What may be written again waits until it is known.
    reads = (grant(DATA, mode=Mode.READ_ONLY),)
    assert plan([rule()], info(DATA), grants=reads, fresh=False) == []


def test_no_login_is_given_more_volumes_than_it_can_have() -> None:
    many = [structs.replace(DATA, path=f"/v{number:03}") for number in range(VOLUMES_MAX + 2)]
    kinds = [one[0] for one in plan([rule()], info(*many))]
    assert kinds.count(ChangeKind.GRANT) == VOLUMES_MAX
    assert kinds.count(ChangeKind.REFUSED) == 2


def test_what_a_label_asks_for_in_vain_is_told() -> None:
    labelled = info(DATA, label="/data, /nope")
    assert rules.idle([], True, [labelled]) == ("label hatchway.volumes of shop/web/1: /nope",)
    assert rules.idle([], False, [labelled]) == ()


def test_a_path_may_be_written_with_a_slash_at_its_end() -> None:
    assert plan([rule("/data/")], info(DATA)) == [GIVE_DATA]


def test_a_pattern_that_matches_nothing_is_told_though_others_of_its_rule_match() -> None:
    assert rules.idle([rule("/data", "shop_dta")], False, [info(DATA)]) == ("a.toml, rule 1: shop_dta",)
