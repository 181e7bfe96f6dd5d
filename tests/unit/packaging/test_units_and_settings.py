"""What `hatchway config check` says that the units have decided is what they say, and what the defaults are."""

from __future__ import annotations

import secrets
from pathlib import Path

from hatchway.cli.doctor import settings, unit_files, units
from hatchway.config import Config
from hatchway.host.handover import session_name, worker_names

SYSTEMD = Path(__file__).parents[3] / "systemd"


def said(unit: str, key: str) -> list[str]:
    return [value.text for value in unit_files.read(unit, (str(SYSTEMD),)).get(key, [])]


def test_users_and_directories() -> None:
    config = Config()
    assert said(settings.CORE_UNIT, "User") == [config.ids.core_user]
    assert said(settings.CATALOG_UNIT, "User") == [config.ids.catalog_user]
    assert said(units.WEB, "User") == [config.ids.web_user]
    assert [f"/var/lib/{name}" for name in said(units.WEB, "StateDirectory")] == [config.web_dir]
    assert [f"/var/lib/{name}" for name in said(settings.CORE_UNIT, "StateDirectory")] == [config.paths.state_dir]
    assert said(settings.CORE_UNIT, "ProtectSystem") == ["strict"]
    (command,) = said(settings.SSHD_UNIT, "ExecStart")
    assert command.startswith(f"{config.paths.run_dir}/sshd/{config.sshd.pam_service} ")


def test_what_is_hidden_from_the_catalog() -> None:
    assert said(settings.CATALOG_UNIT, "ProtectHome") == ["yes"]
    assert said(settings.CATALOG_UNIT, "PrivateTmp") == ["yes"]


def test_limits() -> None:
    assert said(settings.HOSTD_UNIT, "DevicePolicy") == ["closed"]
    assert said(settings.HOSTD_UNIT, "DeviceAllow") == ["/dev/fuse rw"]
    (limit,) = said(settings.SSHD_UNIT, "LimitNOFILE")
    most = int(Config().sshd.max_startups.rpartition(":")[2])
    assert most + settings.OWN_DESCRIPTORS <= int(limit)


def test_all_that_hostd_leaves_fits_into_what_the_next_one_is_started_with() -> None:
    """The names of all descriptors are one variable of its environment, of 131,072 bytes at most (execve(2))."""
    (kept,) = said(settings.HOSTD_UNIT, "FileDescriptorStoreMax")
    names = [session_name(secrets.token_hex(16)), *worker_names(Config().ids.worker_uids[1])]
    longest = max(len(name) for name in names)
    assert len("LISTEN_FDNAMES=hostd:") + int(kept) * (longest + 1) < 131_072
    (limit,) = said(settings.HOSTD_UNIT, "LimitNOFILE")
    assert 2 * int(kept) < int(limit)


def test_the_defaults_are_right_with_these_units() -> None:
    found = settings.examine(Config(), prefix="/usr/lib/hatchway", units=(str(SYSTEMD),), flaw=lambda _: None)
    assert {one.name for one in found} <= {"host.volume_roots", "connect.host"}
