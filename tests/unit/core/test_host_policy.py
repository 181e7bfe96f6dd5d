"""What hostd refuses to do for a broken core."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec import structs

from hatchway.config import Config, Host, Paths
from hatchway.errors import ConflictError, RefusedError
from hatchway.host import policy
from hatchway.model import DEPTH_MAX, VOLUMES_MAX, IdPair
from hatchway.volumefs.delivery import KEY_MAX
from hatchway.wire.host import HASHES_MAX, UserRecord, View

CONFIG = Config(
    paths=Paths(run_dir="/run/hatchway", state_dir="/srv/hatchway-state"),
    host=Host(
        volume_roots=("/var/lib/docker/volumes",),
        bind_prefixes=("/srv",),
        volume_devices=("/dev/vg0/data-*", "/dev/loop[0-7]", "/dev/sd*"),
    ),
)
UID = CONFIG.ids.login_uids[0]


@pytest.mark.parametrize(
    "source",
    [
        "/etc",
        "/",
        "",
        "etc",
        "/var/lib/docker/volumes",
        "/var/lib/docker/volumes/shop",
        "/var/lib/docker/volumes/shop/_datasub",
        "/var/lib/docker/volumes/shop/other",
        "/var/lib/docker/volumes/_data",
        "/var/lib/docker/volumes/../../../etc",
        "/var/lib/docker/volumesx/shop/_data",
        "/srvx/data",
        "/srv/../etc",
        "/srv/hatchway-state",
        "/srv/hatchway-state/registry.sqlite",
        "/srv",  # holds the state directory
        "/run/hatchway/mnt/shop-web-1",
        "/srv/a\0b",
    ],
)
def test_sources_that_are_refused(source: str) -> None:
    with pytest.raises(RefusedError):
        policy.check_source(CONFIG, source)


def test_sources_that_are_accepted() -> None:
    assert policy.check_source(CONFIG, "/var/lib/docker/volumes/shop_data/_data") == (
        "/var/lib/docker/volumes",
        "shop_data/_data",
    )
    assert policy.check_source(CONFIG, "/var/lib/docker/volumes/shop_data/_data/in/side") == (
        "/var/lib/docker/volumes",
        "shop_data/_data/in/side",
    )
    assert policy.check_source(CONFIG, "/srv/www/site") == ("/srv", "www/site")


@pytest.mark.parametrize(
    ("login", "uid"),
    [("root", 0), ("root!", UID), ("..", UID), ("a/b", UID), ("shop-web-1", 0), ("shop-web-1", 1000), ("", UID)],
)
def test_logins_that_are_refused(login: str, uid: int) -> None:
    with pytest.raises(RefusedError):
        policy.check_login(CONFIG, login, uid)


def test_the_hosts_own_names_are_refused() -> None:
    with pytest.raises(ConflictError, match="root"):
        policy.check_record(CONFIG, UserRecord("root", UID, "/"), {})
    with pytest.raises(ConflictError, match="own accounts"):
        policy.check_record(CONFIG, UserRecord(CONFIG.ids.core_user, UID, "/"), {})


def test_a_uid_of_another_login_is_refused() -> None:
    with pytest.raises(ConflictError, match="another login"):
        policy.check_record(CONFIG, UserRecord("shop-web-2", UID, "/"), {"shop-web-1": UID})
    with pytest.raises(ConflictError, match="another login"):
        policy.check_record(CONFIG, UserRecord("shop-web-1", UID + 1, "/"), {"shop-web-1": UID})


@pytest.mark.parametrize("home", ["", "x", "/a/../b", "/a\n/b\0", "//x"])
def test_a_home_must_be_a_path(home: str) -> None:
    with pytest.raises(RefusedError):
        policy.check_record(CONFIG, UserRecord("shop-web-1", UID, home), {})


@pytest.mark.parametrize(
    "paths",
    [
        ["/etc"],
        ["/etc/ssh"],
        ["/usr/lib"],
        ["/volumes"],
        ["/"],
        ["/data/../etc"],
        ["/data", "/data"],
        ["/a" * (DEPTH_MAX + 1)],
        ["relative"],
        [f"/v{number}" for number in range(VOLUMES_MAX + 1)],
    ],
)
def test_views_that_are_refused(paths: list[str]) -> None:
    with pytest.raises(RefusedError):
        policy.check_views(CONFIG, tuple(View(path, "/srv/www", False) for path in paths))


def test_views_that_are_accepted() -> None:
    policy.check_views(CONFIG, tuple(View(path, "/srv/www", True) for path in ("/data", "/database", "/volumes/etc")))
    policy.check_views(CONFIG, tuple(View(path, "/srv/www", True) for path in ("/data", "/data/sub")))


@pytest.mark.parametrize("device", ["/dev/vg0/data-", "/dev/vg0/data-1", "/dev/loop7", "/dev/sda1", "/dev/sd"])
def test_devices_that_are_accepted(device: str) -> None:
    policy.check_device(CONFIG, device)


@pytest.mark.parametrize(
    "device",
    ["", "/", "/dev", "/dev/", "/dev/vg0", "/dev/vg0/data", "/dev/vg0/data-1/x", "/dev/sd/a", "/dev/loop8",
     "/dev/LOOP1", "/dev/loop[0-7]", "/dev/shm/sda", "/srv/dev/sda", "dev/sda"],
)  # fmt: skip
def test_devices_that_are_refused(device: str) -> None:
    with pytest.raises(RefusedError, match="is none of"):
        policy.check_device(CONFIG, device)


def test_without_any_volume_devices_none_is_accepted() -> None:
    with pytest.raises(RefusedError, match="there are none"):
        policy.check_device(Config(), "/dev/loop0")


def test_a_directory_named_by_a_volume_is_held_to_the_rules_for_bind_mounts() -> None:
    config = Config(
        paths=CONFIG.paths, host=Host(volume_roots=CONFIG.host.volume_roots, bind_prefixes=("/srv", "/var/lib"))
    )
    assert policy.check_directory(config, "/srv/www") == ("/srv", "www")
    for device, words in {
        "/usr": "lies beneath none of",
        "/srv/hatchway-state/x": "Hatchway itself",
        "/srv": "Hatchway itself",
        "/var/lib/docker/volumes/shop/_data": "the engine's volumes",
        "/var/lib/docker": "the engine's volumes",
    }.items():
        with pytest.raises(RefusedError, match=words):
            policy.check_directory(config, device)


@pytest.mark.parametrize(
    "wrong",
    [
        {"owner": IdPair(-1, 0)},
        {"owner": IdPair(0, -1)},
        {"owner": IdPair(2**32 - 1, 0)},
        {"owner": IdPair(0, 2**32 - 1)},
        {"umask": -1},
        {"umask": 0o1000},
    ],
)
def test_owners_and_umasks_that_are_none(wrong: dict[str, Any]) -> None:
    view = View("/data", "/var/lib/docker/volumes/shop_data/_data", False)
    policy.check_views(CONFIG, (structs.replace(view, owner=IdPair(0, 2**32 - 2), umask=0o777),))
    with pytest.raises(RefusedError):
        policy.check_views(CONFIG, (structs.replace(view, **wrong),))


@pytest.mark.parametrize(
    "directory",
    [
        "/",
        "/etc",
        "..",
        "a/..",
        "a/../b",
        "./a",
        ".",
        "a//b",
        "a/",
        "a\0b",
        "a/" * DEPTH_MAX + "a",
        "x" * 256,
        "\ud800",
    ],
)
def test_directories_of_a_volume_that_are_refused(directory: str) -> None:
    with pytest.raises(RefusedError):
        policy.check_within(directory)


def test_directories_of_a_volume() -> None:
    assert policy.check_within("") == ()
    assert policy.check_within(".ssh") == (b".ssh",)
    assert policy.check_within("home/wörk/.ssh") == (b"home", "wörk".encode(), b".ssh")
    policy.check_within("/".join("a" * DEPTH_MAX))


@pytest.mark.parametrize("hashes", [(b"",), (b"x" * 31,), (b"x" * 33,), (b"x" * 32,) * (HASHES_MAX + 1)])
def test_what_is_no_digest(hashes: tuple[bytes, ...]) -> None:
    with pytest.raises(RefusedError):
        policy.check_hashes(hashes)


def test_digests_and_keys() -> None:
    policy.check_hashes(())
    policy.check_hashes((b"x" * 32,) * HASHES_MAX)
    policy.check_private(b"x" * KEY_MAX)
    for data in (b"", b"x" * (KEY_MAX + 1)):
        with pytest.raises(RefusedError):
            policy.check_private(data)
    for owner in (IdPair(-1, 0), IdPair(0, 2**32 - 1)):
        with pytest.raises(RefusedError):
            policy.check_owner(owner)
    with pytest.raises(RefusedError):
        policy.check_birth("")
