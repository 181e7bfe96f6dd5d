"""From inspect answers to instances: keys, volumes, refusals, and hostile or broken descriptions."""

from __future__ import annotations

import copy
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hatchway.catalog.docker_instances import Namespaces, as_listed, build, instances, read_container
from hatchway.model import (
    IdPair,
    IdRange,
    InstanceInfo,
    InstanceKey,
    InstanceState,
    VolumeInfo,
    VolumeKind,
    parse_instance_key,
)

HEX = "7887af6c8c72ad7bae8fa2d7cd5ec5739e0853390b0d6b2de7be63065e37258c"


def container(name: str = "web", **changes: Any) -> dict[str, Any]:
    """What Engine 20.10 answers to an inspect, as far as it is read. `changes`: labels, user, mounts, created, …"""
    return {
        "Id": changes.get("id", f"{hash(name) & (2**256 - 1):064x}"),
        "Created": changes.get("created", "2026-11-22T15:33:42.118143448Z"),
        "Path": "sleep",
        "State": {"Status": changes.get("state", "running"), "Running": True, "Pid": 19370, "ExitCode": 0},
        "Name": f"/{name}",
        "Mounts": changes.get("mounts", []),
        "Config": {
            "User": changes.get("user", ""),
            "Image": changes.get("image", "nginx:1"),
            "Env": None,
            "Labels": changes.get("labels", {}),
            "Volumes": changes.get("declared"),
        },
        "HostConfig": {
            "Mounts": changes.get("requests"),
            "Tmpfs": changes.get("tmpfs"),
            "Binds": changes.get("binds"),
            "VolumesFrom": changes.get("volumes_from"),
            "UsernsMode": changes.get("userns", ""),
        },
    }


def compose(project: str, service: str, number: str = "1", **more: str) -> dict[str, str]:
    labels = {"project": project, "service": service, "container-number": number} | more
    return {f"com.docker.compose.{name}": value for name, value in labels.items()}


def mount(path: str, name: str = "data", **changes: Any) -> dict[str, Any]:
    return {
        "Type": "volume",
        "Name": name,
        "Source": f"/var/lib/docker/volumes/{name}/_data",
        "Destination": path,
        "Driver": "local",
        "Mode": "z",
        "RW": True,
        "Propagation": "",
    } | changes


def volume(name: str = "data", **changes: Any) -> dict[str, Any]:
    return {
        "CreatedAt": "2026-11-22T15:33:42Z",
        "Driver": "local",
        "Labels": None,
        "Mountpoint": f"/var/lib/docker/volumes/{name}/_data",
        "Name": name,
        "Options": None,
        "Scope": "local",
    } | changes


def only(*raws: dict[str, Any]) -> InstanceInfo:
    (info,) = instances(raws, {})
    return info


def only_volume(raw_mount: dict[str, Any], *volumes: dict[str, Any], **changes: Any) -> VolumeInfo:
    ((found,),) = [
        info.volumes for info in instances([container(mounts=[raw_mount], **changes)], {v["Name"]: v for v in volumes})
    ]
    return found


def keys(*raws: dict[str, Any]) -> dict[str, str]:
    return {info.runtime_name: str(info.key) for info in instances(raws, {})}


def test_a_compose_container() -> None:
    raw = container("shop-web-2", labels=compose("shop", "web", "2"), user="1000:1000", state="paused")
    assert only(raw) == InstanceInfo(
        key=InstanceKey("shop", "web", 2),
        runtime_id=raw["Id"],
        runtime_name="shop-web-2",
        state=InstanceState.PAUSED,
        user="1000:1000",
        image="nginx:1",
        owner=IdPair(1000, 1000),
    )


def test_a_plain_container() -> None:
    assert str(only(container("db")).key) == "default/db/1"
    assert str(only(container("db", labels=None)).key) == "default/db/1"


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("3", 3),
        ("999999999", 999_999_999),
    ],
)
def test_numbers(text: str, number: int) -> None:
    assert only(container(labels=compose("shop", "web", text))).key.number == number


@pytest.mark.parametrize("text", ["", "x", "0", "-1", "1e3", "²", "9" * 30, " 2", "2\n"])
def test_what_is_no_number_is_nobodys_replica(text: str) -> None:
    assert only(container(labels=compose("shop", "web", text))).key.environment == "default"


def test_a_missing_number_is_one() -> None:
    labels = compose("shop", "web")
    del labels["com.docker.compose.container-number"]
    assert str(only(container(labels=labels)).key) == "shop/web/1"


def test_one_off_containers_go_by_their_name() -> None:
    labels = compose("shop", "web", oneoff="True")
    assert str(only(container("shop-web-run-1f2e", labels=labels)).key) == "default/shop-web-run-1f2e/1"
    assert str(only(container(labels=compose("shop", "web", oneoff="False"))).key) == "shop/web/1"


def test_the_oldest_keeps_the_key() -> None:
    # As text the first time would sort behind the second: Go cuts trailing zeros.
    old = container("old", labels=compose("shop", "web"), created="2026-11-22T15:33:42.1Z")
    new = container("new", labels=compose("shop", "web"), created="2026-11-22T15:33:42.12Z")
    expected = {"old": "shop/web/1", "new": "default/new/1"}
    assert keys(old, new) == keys(new, old) == expected


def test_time_zones_and_unusable_times() -> None:
    first = container("first", labels=compose("shop", "web"), created="2026-11-22T16:00:00+02:00")
    second = container("second", labels=compose("shop", "web"), created="2026-11-22T15:00:00.000000001Z")
    never = container("never", labels=compose("shop", "web"), created="2026-99-99T99:99:99Z")
    missing = container("missing", labels=compose("shop", "web"), created="")
    assert keys(never, second, missing, first)["first"] == "shop/web/1"
    assert len(keys(never, second, missing, first)) == 4


def test_a_fallback_that_is_taken() -> None:
    first = container("web", created="2026-01-01T00:00:00Z")
    plain = container("web", created="2026-01-02T00:00:00Z", id="ab" * 32)
    twin = container("web", created="2026-01-03T00:00:00Z", id="ab" * 32)
    found = instances([twin, plain, first], {})
    assert [str(info.key) for info in found] == [
        "default/web/1",
        "default/web-abababababab/1",
        "default/web-abababababab/2",
    ]
    assert [info.provisional for info in found] == [False, True, True]


def test_a_project_that_is_called_as_what_is_in_none() -> None:
    made = container("x", labels=compose("default", "web"))
    assert keys(made, container("web")) == {"x": "default (compose)/web/1", "web": "default/web/1"}


def test_what_is_not_to_last_is_provisional() -> None:
    assert not only(container(labels=compose("shop", "web"))).provisional
    assert only(container(labels=compose("shop", "web", oneoff="True"))).provisional
    # The label by which Compose marks a replacement stays on it for good.
    replacing = compose("shop", "web") | {"com.docker.compose.replace": "shop-web-1"}
    assert not only(container(labels=replacing)).provisional
    old = container("web", labels=compose("shop", "web"), created="2026-01-01T00:00:00Z")
    new = container("0123456789ab_web", labels=replacing, created="2026-01-02T00:00:00Z")
    both = {info.runtime_name: info.provisional for info in instances([new, old], {})}
    assert both == {"web": False, "0123456789ab_web": True}


@pytest.mark.parametrize(
    ("label", "asked"),
    [("/data, x:ro", "/data, x:ro"), ("/da\x1bta", "/data"), ("x" * 1025, ""), ("x" * 1024, "x" * 1024)],
)
def test_what_a_container_asks_for(label: str, asked: str) -> None:
    assert only(container(labels={"hatchway.volumes": label})).access_label == asked
    assert only(container()).access_label == ""


def test_a_path_that_is_too_deep_is_refused() -> None:
    deep = "/v" * 65
    raw = container()
    raw["Mounts"] = [{"Type": "bind", "Source": "/srv/x", "Destination": deep, "RW": True}]
    assert "too deep" in (only(raw).volumes[0].refusal or "")


def test_hostile_labels() -> None:
    labels = compose("../../etc\n", "we\u202eb/\x00x", "1")
    key = only(container(labels=labels)).key
    assert (key.environment[:-16], key.container[:-16], key.number) == (".._.._etc-", "web_x-", 1)
    assert str(only(container("a", labels=compose("\n", "web"))).key) == "default/a/1"
    assert str(only(container("a", labels=compose("shop", ""))).key) == "default/a/1"
    assert str(only(container("\n", id="cd" * 32)).key) == "default/cdcdcdcdcdcd/1"


def test_labels_that_become_alike_do_not_merge() -> None:
    one = container("one", labels=compose("shop/a", "web"), created="2026-01-01T00:00:00Z")
    two = container("two", labels=compose("shop_a", "web"), created="2026-01-02T00:00:00Z")
    long1 = container("l1", labels=compose("x" * 300, "web"))
    long2 = container("l2", labels=compose("x" * 301, "web"))
    found = keys(one, two, long1, long2)
    assert found["two"] == "shop_a/web/1"
    assert found["one"].startswith("shop_a-")
    assert found["l1"] != found["l2"]


@pytest.mark.parametrize(
    ("word", "state"),
    [
        *((state.value, state) for state in InstanceState if state is not InstanceState.STATIC),
        ("static", InstanceState.UNKNOWN),
        ("stopped", InstanceState.EXITED),
        ("", InstanceState.UNKNOWN),
        ("on fire", InstanceState.UNKNOWN),
    ],
)
def test_states(word: str, state: InstanceState) -> None:
    assert only(container(state=word)).state is state


def test_no_state_at_all() -> None:
    assert only(container() | {"State": None}).state is InstanceState.UNKNOWN


def test_a_volume() -> None:
    assert only_volume(mount("/data"), volume()) == VolumeInfo(
        path="/data",
        kind=VolumeKind.VOLUME,
        name="data",
        driver="local",
        created="2026-11-22T15:33:42Z",
        source="/var/lib/docker/volumes/data/_data",
    )


def test_read_only() -> None:
    assert only_volume(mount("/data", RW=False), volume()).read_only
    unsaid = mount("/data")
    del unsaid["RW"]
    assert only_volume(unsaid, volume()).read_only


@pytest.mark.parametrize(
    ("name", "changes"),
    [(HEX, {}), ("x", {"Labels": {"com.docker.volume.anonymous": ""}}), ("x", {"Anonymous": True})],
)
def test_anonymous_volumes_say_so(name: str, changes: dict[str, Any]) -> None:
    found = only_volume(mount("/data", name), volume(name, **changes))
    assert found.name == f"anonymous-{name}"
    assert found.refusal is None
    assert found.source is not None


def test_options_that_mount_nothing_are_fine() -> None:
    assert only_volume(mount("/data"), volume(Options={"size": "10G", "o": ""})).refusal is None


def test_volumes_are_sorted_by_path() -> None:
    raw = container(mounts=[mount("/z"), mount("/a/b"), mount("/a")])
    (info,) = instances([raw], {"data": volume()})
    assert [found.path for found in info.volumes] == ["/a", "/a/b", "/z"]


@pytest.mark.parametrize(
    ("raw_mount", "raw_volume", "words"),
    [
        (mount("/d"), volume(Driver="rclone:latest"), "driver 'rclone:latest' are not supported yet"),
        (mount("/d"), volume(Options={"type": "nfs", "o": "addr=h,password=s3cret"}), "options type, o are not"),
        (mount("/d"), volume(Options={"device": "/dev/sdb1"}), "options device are not supported yet"),
        (mount("/d"), volume(Mountpoint=""), "no usable directory"),
        (mount("/d"), volume(Mountpoint="/a/../etc"), "no usable directory"),
        (mount("/d"), volume(Mountpoint="relative"), "no usable directory"),
        (mount("/d", "gone"), volume(), "does not know this volume"),
        (mount("/d", ""), volume(), "does not know this volume"),
        (mount("/"), volume(), "mount at /"),
        (mount("relative"), volume(), "not one a session could show"),
        (mount(""), volume(), "not one a session could show"),
        (mount("/a/../b"), volume(), "not one a session could show"),
        (mount("/a//b"), volume(), "not one a session could show"),
        (mount("/a\0b"), volume(), "not one a session could show"),
        (mount("/\udcff"), volume(), "not one a session could show"),
        (mount("/" + "x" * 256), volume(), "not one a session could show"),
    ],
)
def test_volumes_refused(raw_mount: dict[str, Any], raw_volume: dict[str, Any], words: str) -> None:
    found = only_volume(raw_mount, raw_volume)
    assert found.kind is VolumeKind.VOLUME
    assert found.refusal is not None
    assert words in found.refusal
    assert found.source is None
    assert "s3cret" not in repr(found)
    msgspec.msgpack.encode(found)


def test_a_volume_name_with_invisible_characters_is_refused() -> None:
    # Else the identity of "data\u200b" would be that of "data".
    found = only_volume(mount("/d", "data\u200b"), volume("data\u200b"))
    assert found.refusal == "the volume's name contains invisible characters"


@pytest.mark.parametrize(
    ("kind", "source", "expected", "words"),
    [
        ("bind", "relative", VolumeKind.BIND, "no usable directory"),
        ("bind", "/srv/../etc", VolumeKind.BIND, "no usable directory"),
        ("bind", "/", VolumeKind.BIND, "no usable directory"),
        ("bind", "/var/run/docker.sock", VolumeKind.BIND, "never shared"),
        ("tmpfs", "", VolumeKind.TMPFS, "a tmpfs has no contents on the host"),
        ("npipe", "", VolumeKind.OTHER, "'npipe' are not supported"),
        ("cluster", "", VolumeKind.OTHER, "'cluster' are not supported"),
        ("image", "", VolumeKind.OTHER, "'image' are not supported"),
        ("\x1b[2J", "", VolumeKind.OTHER, "'[2J' are not supported"),
    ],
)
def test_other_mounts_are_refused(kind: str, source: str, expected: VolumeKind, words: str) -> None:
    found = only_volume(mount("/d", "", Type=kind, Source=source))
    assert found.kind is expected
    assert found.source == (source if kind == "bind" else None)
    assert found.refusal is not None
    assert words in found.refusal


def test_a_bind_mount_is_the_hosts_directory() -> None:
    # Whether it may be shared is for the privileged half to say.
    found = only_volume(mount("/d", "", Type="bind", Source="/srv/www", RW=False))
    assert found == VolumeInfo(path="/d", kind=VolumeKind.BIND, source="/srv/www", read_only=True)


def test_tmpfs_by_its_own_option() -> None:
    (info,) = instances([container(tmpfs={"/cache": "size=10m"})], {})
    assert [(found.path, found.kind, found.read_only) for found in info.volumes] == [
        ("/cache", VolumeKind.TMPFS, False)
    ]


@pytest.mark.parametrize("target", ["/data", "/data/", "//data", "/x/../data"])
def test_a_subpath_shows_that_directory_only(target: str) -> None:
    request = {"Type": "volume", "Source": "data", "Target": target, "VolumeOptions": {"Subpath": "in/side"}}
    other = {"Type": "volume", "Source": "data", "Target": "/other", "VolumeOptions": {"NoCopy": True}}
    found = only_volume(mount("/data"), volume(), requests=[other, request])
    whole = only_volume(mount("/other"), volume(), requests=[other, request])
    assert found.refusal is None
    assert whole.source is not None
    assert found.source == f"{whole.source}/in/side"


@pytest.mark.parametrize("subpath", ["..", "a/../../b", "/etc", "a//b", "a/", "a\0b"])
def test_subpaths_that_may_lead_elsewhere_are_refused(subpath: str) -> None:
    request = {"Type": "volume", "Source": "data", "Target": "/data", "VolumeOptions": {"Subpath": subpath}}
    found = only_volume(mount("/data"), volume(), requests=[request])
    assert found.refusal == "the subpath is not one a session could show"
    assert found.source is None


def test_what_comes_from_another_container_may_be_a_part_only() -> None:
    """The engine does not tell the subpath it took over."""
    found = only_volume(mount("/data"), volume(), volumes_from=["other:rw"])
    assert found.refusal is not None
    assert "--volumes-from" in found.refusal
    assert found.source is None
    own: list[dict[str, Any]] = [
        {"requests": [{"Type": "volume", "Source": "data", "Target": "/data"}]},
        {"binds": ["data:/data:rw"]},
        {"binds": ["data:/data"]},
        {"declared": {"/data/": {}}},
    ]
    for described in own:
        assert only_volume(mount("/data"), volume(), volumes_from=["other"], **described).refusal is None


def test_two_mounts_at_one_path_are_refused() -> None:
    raw = container(mounts=[mount("/d", "data"), mount("/d", "more")])
    (info,) = instances([raw], {"data": volume(), "more": volume("more")})
    (found,) = info.volumes
    assert found.refusal == "the engine reports two different mounts at this path"


def _broken() -> list[Any]:
    def without(key: str) -> dict[str, Any]:
        raw = container("bad")
        del raw[key]
        return raw

    return [
        None,
        [],
        {},
        "text",
        *(without(key) for key in ("Id", "Name", "Mounts", "Config", "HostConfig")),
        container("bad") | {"Id": ""},
        container("bad") | {"Name": 5},
        container("bad") | {"Config": None},
        container("bad") | {"Mounts": {"a": 1}},
        container("bad", labels={"com.docker.compose.project": 7}),
        container("bad", mounts=[mount("/d", RW="yes")]),
        container("bad", mounts=[{"Type": "volume"}]),
        container("bad") | {"Created": 1700000000},
        container("bad") | {"\ud800": 1, "State": 1},
    ]


@pytest.mark.parametrize("raw", _broken(), ids=lambda raw: repr(raw)[:40])
def test_a_broken_description_loses_itself_only(raw: Any) -> None:
    good = container("good", mounts=[mount("/d")])
    found = instances([raw, good], {"data": volume(), "odd": 5, "worse": {"Name": []}})
    assert [info.runtime_name for info in found] == ["good"]
    assert found[0].volumes[0].refusal is None


def test_a_broken_volume_is_one_the_engine_does_not_know() -> None:
    (info,) = instances([container(mounts=[mount("/d")])], {"data": {"Name": "data"}})
    assert info.volumes[0].refusal is not None


any_text = st.text(alphabet=st.characters(exclude_categories=()), max_size=20) | st.sampled_from(
    ["shop", "web", "default", "/", "a/b", "a_b", "\n", "x" * 300, "\u202eweb", "1"]
)
json_like: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | any_text,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(any_text, inner, max_size=4),
    max_leaves=8,
)


@settings(deadline=None)
@given(st.lists(st.tuples(any_text, any_text, any_text, st.sampled_from(["True", "False", ""]), any_text), max_size=8))
def test_every_container_has_one_key_that_can_be_written_and_read(rows: list[tuple[str, str, str, str, str]]) -> None:
    raws = [
        container(name, labels=compose(project, service, number, oneoff=one_off), id=f"{index:064x}")
        for index, (project, service, number, one_off, name) in enumerate(rows)
    ]
    found = instances(raws, {})
    assert {info.runtime_id for info in found} == {raw["Id"] for raw in raws}
    assert len({str(info.key) for info in found}) == len(raws)
    for info in found:
        assert parse_instance_key(str(info.key)) == info.key
    msgspec.msgpack.encode(found)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_nothing_an_engine_could_say_raises(data: st.DataObject) -> None:
    raw = container(
        data.draw(any_text),
        labels=data.draw(st.none() | st.dictionaries(any_text, any_text, max_size=3)),
        user=data.draw(any_text),
        image=data.draw(any_text),
        mounts=[mount(data.draw(any_text), data.draw(any_text), Type=data.draw(any_text | st.just("volume")))],
        tmpfs=data.draw(st.none() | st.dictionaries(any_text, any_text, max_size=2)),
        created=data.draw(any_text),
    )
    name = raw["Mounts"][0]["Name"]
    described = {name: volume(name, Driver=data.draw(any_text | st.just("local")), CreatedAt=data.draw(any_text))}
    spoilt = copy.deepcopy(raw)
    spoilt[data.draw(st.sampled_from(sorted(raw)))] = data.draw(json_like)
    found = instances([raw, spoilt, data.draw(json_like)], described | {"more": data.draw(json_like)})
    assert 1 <= len(found) <= 2
    msgspec.msgpack.encode(found)


@pytest.mark.parametrize("names", [["/new"], ["/other/alias", "/new"]])
def test_a_line_of_the_list_tells_name_and_state(names: list[str]) -> None:
    before = read_container(container("old", labels={"a": "b"}))
    after = read_container(container("old", labels={"a": "b"}) | {"Name": "/new", "State": {"Status": "paused"}})
    assert before is not None
    assert as_listed(before, {"Id": "of no interest", "Names": names, "State": "paused", "Labels": {}}) == after


@pytest.mark.parametrize(
    "line",
    [
        {"Names": [], "State": "running"},
        {"Names": None, "State": "running"},
        {"Names": ["/one", "/two"], "State": "running"},
        {"Names": ["/other/alias"], "State": "running"},
        {"Names": ["no slash"], "State": "running"},
        {"Names": ["/new"]},
        {"Names": ["/new"], "State": None},
        {"Names": "/new", "State": "running"},
        5,
    ],
)
def test_a_line_that_does_not_tell(line: object) -> None:
    before = read_container(container())
    assert before is not None
    assert as_listed(before, line) is None


REMAPPED = Namespaces((IdRange(0, 300000, 65536),), (IdRange(0, 400000, 65536),))


def owned(raw: dict[str, Any], users: dict[str, IdPair | str], namespaces: Namespaces = REMAPPED) -> InstanceInfo:
    parsed = read_container(raw)
    assert parsed is not None
    (found,) = build([parsed], {}, users, namespaces)
    return found


def test_who_the_containers_user_is() -> None:
    raw = container(user="app")
    found = owned(raw, {raw["Id"]: IdPair(1000, 50)})
    assert (found.owner, found.owner_problem) == (IdPair(1000, 50), "")
    assert (found.uid_map, found.gid_map) == REMAPPED[:2]
    found = owned(raw, {raw["Id"]: "the container has no user 'app'"})
    assert (found.owner, found.owner_problem) == (None, "the container has no user 'app'")
    assert "engine.container_users" in owned(raw, {}).owner_problem
    assert owned(container(user=""), {}).owner == IdPair(0, 0)


def test_namespaces_of_containers() -> None:
    host = owned(container(user="7:8", userns="host"), {})
    assert (host.owner, host.uid_map, host.gid_map) == (IdPair(7, 8), (), ())
    own = owned(container(user="7:8", userns="keep-id"), {})
    assert own.owner is None
    assert "namespace of its own (keep-id)" in own.ids_problem
    rootless = owned(container(user="7:8"), {}, Namespaces(problem="rootless"))
    assert (rootless.owner, rootless.ids_problem) == (None, "rootless")
