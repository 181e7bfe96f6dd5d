"""What hostd refuses to do for a broken core."""

from __future__ import annotations

import pytest

from hatchway.config import Config, Host, Paths
from hatchway.errors import ConflictError, RefusedError
from hatchway.host import policy
from hatchway.model import DEPTH_MAX, VOLUMES_MAX
from hatchway.wire.host import UserRecord, View

CONFIG = Config(
    paths=Paths(run_dir="/run/hatchway", state_dir="/srv/hatchway-state"),
    host=Host(volume_roots=("/var/lib/docker/volumes",), bind_prefixes=("/srv",)),
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
