"""What is shared: grants held against what the catalog sees."""

from __future__ import annotations

from hatchway.admin import shares
from hatchway.admin.inventory import Inventory
from hatchway.model import (
    InstanceInfo,
    InstanceKey,
    InstanceState,
    Login,
    Mode,
    Snapshot,
    Uid,
    VolumeInfo,
    VolumeKind,
)
from hatchway.registry.records import GrantRecord, InstanceRecord
from hatchway.wire.admin import Access
from hatchway.wire.host import View

KEY = InstanceKey("shop", "web", 1)


def volume(path: str = "/data", *, created: str = "2026-01-01", name: str = "shop_data") -> VolumeInfo:
    source = f"/var/lib/docker/volumes/{name}/_data"
    kind = VolumeKind.VOLUME
    return VolumeInfo(path=path, kind=kind, name=name, driver="local", created=created, source=source)


def grant(of: VolumeInfo, mode: Mode = Mode.READ_WRITE) -> GrantRecord:
    return GrantRecord(
        path=of.path,
        name=of.name,
        kind=of.kind,
        driver=of.driver,
        created=of.created,
        source=of.source,
        mode=mode,
        identity=of.identity,
        granted_at=0.0,
        granted_by="uid 0",
    )


def record(*grants: GrantRecord) -> InstanceRecord:
    return InstanceRecord(KEY, Login("shop-web-1"), Uid(1_900_100_000), 0.0, 0.0, grants)


def inventory(*volumes: VolumeInfo, present: bool = True, problem: str | None = None) -> Inventory:
    made = Inventory(lambda: 100.0)
    info = InstanceInfo(
        key=KEY, runtime_id="x", runtime_name="shop-web-1", state=InstanceState.RUNNING, volumes=volumes
    )
    instances = (info,) if present else ()
    made.feed(Snapshot(source="docker", taken_at=100.0, instances=instances, problem=problem))
    return made


def test_a_granted_volume_is_shown() -> None:
    data = volume()
    views = shares.host_views(record(grant(data, Mode.READ_ONLY)), inventory(data, volume("/other", name="other")))
    assert views == (View("/data", "/var/lib/docker/volumes/shop_data/_data", True, "2026-01-01"),)


def test_another_volume_at_the_path_suspends_the_grant() -> None:
    for other in (volume(created="2026-02-02"), volume(name="neighbour")):
        seen = inventory(other)
        assert shares.host_views(record(grant(volume())), seen) == ()
        status = shares.status(record(grant(volume())), seen.get(KEY), seen)
        assert [v.access for v in status.volumes] == [Access.SUSPENDED]


def test_a_volume_that_is_gone_is_not_shown() -> None:
    seen = inventory(volume("/other", name="other"))
    assert shares.host_views(record(grant(volume())), seen) == ()
    status = shares.status(record(grant(volume())), seen.get(KEY), seen)
    assert [(v.path, v.access, v.present) for v in status.volumes] == [
        ("/data", Access.SUSPENDED, False),
        ("/other", Access.OFF, True),
    ]


def test_an_instance_that_is_gone_shows_nothing() -> None:
    assert shares.host_views(record(grant(volume())), inventory(volume(), present=False)) == ()


def test_an_engine_that_was_never_reached_does_not_lock_users_out() -> None:
    never = inventory(present=False, problem="the engine does not answer")
    assert shares.host_views(record(grant(volume())), never) != ()
    assert shares.host_views(record(grant(volume())), Inventory()) != ()


def test_an_engine_that_went_away_keeps_what_it_said_last() -> None:
    seen = inventory(volume(created="2026-02-02"), problem="the engine does not answer")
    assert shares.host_views(record(grant(volume())), seen) == ()


def test_the_session_starts_in_the_only_volume() -> None:
    one, two = volume(), volume("/logs", name="logs")
    assert shares.start_directory(shares.host_views(record(grant(one)), inventory(one, two))) == "/data"
    both = shares.host_views(record(grant(one), grant(two)), inventory(one, two))
    assert shares.start_directory(both) == "/"


def test_the_static_file_wins_over_a_container_of_the_same_name() -> None:
    seen = inventory(volume())
    mine = InstanceInfo(key=KEY, runtime_id="", runtime_name="", state=InstanceState.STATIC)
    seen.feed(Snapshot(source="static", taken_at=1.0, instances=(mine,)))
    assert seen.get(KEY) is mine
    problems = {source.source: source.problem for source in seen.sources()}
    assert problems["static"] is None
    assert "shop/web/1" in (problems["docker"] or "")
