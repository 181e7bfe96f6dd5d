"""`hatchway config`: what is wrong with a configuration, what will not work, and what it comes to."""

from __future__ import annotations

import errno
import functools
import os
import socket
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from hatchway import config as configuration
from hatchway import trust
from hatchway.cli.config import toml
from hatchway.cli.doctor import settings
from hatchway.cli.doctor.finding import Finding, Level
from hatchway.cli.main import cli
from hatchway.config import PACKAGE_PREFIX, Access, Config, Connect, Engine, Host, Ids, Paths, Sshd, Static

if TYPE_CHECKING:
    from tests.unit.cli.conftest import Cli

QUIET = "[engine]\nenabled = false\n[static]\nfile = '{0}/instances.toml'\n[host]\nbind_prefixes = ['{0}/srv']\n"


@pytest.fixture
def good(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A configuration about which there is nothing to say."""
    owners = (0, os.geteuid())
    # pytest's directories are its user's alone.
    monkeypatch.setattr(settings, "readable", lambda _name, _path: ())
    monkeypatch.setattr(trust, "flaw", functools.partial(trust.flaw, owners=owners, below=str(tmp_path)))
    (tmp_path / "srv").mkdir()
    (tmp_path / "instances.toml").write_text("")
    (tmp_path / "access.d").mkdir()
    file = tmp_path / "good.toml"
    more = f"[access]\ndir = '{tmp_path}/access.d'\n[connect]\nhost = 'sftp.example.org'\n"
    file.write_text(QUIET.format(tmp_path) + more)
    return file


# --- check ---------------------------------------------------------------------------------------------------------


def test_a_good_file_is_named(run: Cli, good: Path) -> None:
    done = run("config", "check", str(good))
    assert (done.exit_code, done.stdout) == (0, f"{good} is right\n")
    assert run.json("config", "check", str(good)) == {"file": str(good), "right": True, "problems": [], "warnings": []}


def test_the_file_of_the_option_is_checked(run: Cli) -> None:
    done = run("config", "check")
    assert done.exit_code == 0
    assert f"{run.config} is right" in done.stdout


def test_no_file(run: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hatchway.config.DEFAULT_PATH", tmp_path / "none.toml")
    done = run.runner.invoke(cli, ["config", "check"])
    assert done.exit_code == 0
    assert "built-in defaults are used" in done.stdout
    done = run("config", "check", str(tmp_path / "none.toml"))
    assert (done.exit_code, done.stderr) == (3, f"hatchway: {tmp_path}/none.toml: no such file\n")


def test_everything_wrong_is_named(run: Cli, tmp_path: Path) -> None:
    file = tmp_path / "wrong.toml"
    file.write_text("[sshd]\nport = 22\nlisten = ['here']\n[log]\nlevel = 'loud'\n")
    file.chmod(0o666)
    done = run("config", "check", str(file))
    assert done.exit_code == 3
    words = " ".join(done.stdout.split())
    assert f"{file} can be written by group or others (mode 0666)" in words
    assert "sshd.port = 22 is not allowed: expected any port but 22" in words
    assert "sshd.listen = 'here' is not allowed: expected IPv4 or IPv6 addresses" in words
    assert "log.level = 'loud' is not allowed: expected one of 'debug', 'info', 'warning', 'error'" in words
    assert done.stdout.endswith(f"{file} is not right: 4 problems\n")
    answer = run.json("config", "check", str(file))
    assert [(one["key"], one["value"]) for one in answer["problems"]] == [
        (None, ""),
        ("log.level", "'loud'"),
        ("sshd.port", "22"),
        ("sshd.listen", "'here'"),
    ]
    assert answer["right"] is False


def test_a_file_that_is_no_toml(run: Cli, tmp_path: Path) -> None:
    file = tmp_path / "wrong.toml"
    file.write_text("[sshd\n")
    done = run("config", "check", str(file))
    assert done.exit_code == 3
    assert "line 1" in done.stdout


def test_what_will_not_work_is_a_warning(run: Cli, good: Path, tmp_path: Path) -> None:
    (tmp_path / "instances.toml").write_text("[[instance]]\nenvironment = 'shop'\n")
    (tmp_path / "access.d" / "a.toml").write_text("[[access]]\n")
    (tmp_path / "srv").rmdir()
    done = run("config", "check", str(good))
    assert done.exit_code == 0
    words = " ".join(done.stdout.split())
    assert "instance[0].container is missing" in words
    assert "access.d/a.toml, rule 1: project is missing" in words
    assert f"host.bind_prefixes: there is no directory {tmp_path}/srv" in words
    assert done.stdout.endswith(f"{good} is right; 3 warnings\n")
    assert {one["level"] for one in run.json("config", "check", str(good))["warnings"]} == {"warning", "failed"}


# --- what will not work --------------------------------------------------------------------------------------------


def look(config: Config, **more: object) -> list[Finding]:
    more = {"flaw": lambda _: None, "hostname": lambda: "sftp.example.org", "no_address": lambda _: None, **more}
    return list(settings.examine(config, **more))  # type: ignore[arg-type]


def of(findings: list[Finding]) -> list[tuple[str, str]]:
    assert all(one.level is Level.WARNING and one.fix for one in findings)
    return [(one.name, one.text) for one in findings]


NO_ENGINE = Config(engine=Engine(enabled=False), static=Static(file="/x"), host=Host(bind_prefixes=("/usr/share",)))


def test_nothing_to_share() -> None:
    found = of(look(Config(engine=Engine(enabled=False, container_users=True), access=Access(labels=True))))
    assert [key for key, _ in found] == ["engine.enabled", "access.labels", "engine.container_users"]
    assert look(NO_ENGINE) == []
    found = of(look(structs.replace(NO_ENGINE, host=Host())))
    assert found == [("static.file", "no directory it lists can be shared: host.bind_prefixes is empty")]


def test_directories(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    missing = f"{tmp_path}/none"
    config = Config(
        engine=Engine(url=f"unix://{tmp_path}/file"),
        host=Host(volume_roots=(str(tmp_path), missing), bind_prefixes=(f"{tmp_path}/file", "/var/lib/hatchway/x")),
    )
    assert of(look(config)) == [
        ("host.volume_roots", f"there is no directory {missing}: nothing can be shared from there"),
        ("host.bind_prefixes", f"there is no directory {tmp_path}/file: nothing can be shared from there"),
        (
            "host.bind_prefixes",
            "nothing in /var/lib/hatchway/x is ever shared: it is in /var/lib/hatchway, Hatchway's own",
        ),
    ]
    assert all("make it" not in str(one.fix) for one in look(config) if one.name == "host.volume_roots")
    # An engine that is not there is one finding, and its own.
    away = structs.replace(config, engine=Engine(url=f"unix://{missing}"))
    assert not [key for key, _ in of(look(away)) if "roots" in key]
    # Without an engine nobody looks there.
    assert not [key for key, _ in of(look(structs.replace(config, engine=Engine(enabled=False)))) if "roots" in key]


def test_who_decides_where_a_prefix_leads() -> None:
    found = list(
        settings.examine(NO_ENGINE, flaw=lambda path: f"{path} is everybody's", hostname=lambda: "sftp.example.org")
    )
    assert of(found) == [
        ("host.bind_prefixes", "somebody but root decides where /usr/share leads: /usr is everybody's")
    ]


@pytest.mark.parametrize(
    ("listen", "texts"),
    [
        (("0.0.0.0", "::"), []),
        (("127.0.0.1", "::"), []),
        (("127.0.0.1", "0.0.0.0"), ["127.0.0.1 is one of 0.0.0.0, which is listed too"]),
        (("::", "0:0:0:0:0:0:0:1"), ["::1 is one of ::, which is listed too"]),
        (("192.0.2.1", "192.0.2.1"), ["192.0.2.1 is listed twice"]),
    ],
)
def test_addresses(listen: tuple[str, ...], texts: list[str]) -> None:
    found = of(look(structs.replace(NO_ENGINE, sshd=Sshd(listen=listen))))
    assert found == [("sshd.listen", f"{text}: sshd complains at each start") for text in texts]


def test_an_address_that_this_host_does_not_have() -> None:
    config = structs.replace(NO_ENGINE, sshd=Sshd(listen=("127.0.0.1", "192.0.2.1", "::")))
    (found,) = look(config, no_address={"192.0.2.1": "is no address of this host"}.get)
    assert of([found]) == [("sshd.listen", "192.0.2.1 is no address of this host: sshd does not listen there")]
    assert found.fix == "take 192.0.2.1 out, or have the network give this host the address before Hatchway starts"
    (found,) = look(config, no_address={"::": "cannot be used: this host has no IPv6"}.get)
    assert (found.text.startswith(":: cannot be used"), found.fix) == (True, "take :: out")


def test_which_addresses_a_host_has(monkeypatch: pytest.MonkeyPatch) -> None:
    assert settings.why_not("127.0.0.1") is None
    assert settings.why_not("0.0.0.0") is None
    # Of no host: for documentation (RFC 5737).
    assert settings.why_not("192.0.2.1") == "is no address of this host"

    def none(*_: object) -> socket.socket:
        raise OSError(errno.EAFNOSUPPORT, "Address family not supported by protocol")

    monkeypatch.setattr("socket.socket", none)
    assert settings.why_not("::") == "cannot be used: this host has no IPv6"


@pytest.mark.parametrize("host", ["", "sftp.example.org", "2001:db8::2022", "192.0.2.1", "::1"])
def test_a_host_without_a_port(host: str) -> None:
    assert look(structs.replace(NO_ENGINE, connect=Connect(host=host))) == []


def test_a_name_that_only_this_host_knows() -> None:
    found = look(NO_ENGINE, hostname=lambda: "web01")
    assert [key for key, _ in of(found)] == ["connect.host"]
    assert "this host's own name, web01," in found[0].text
    named = structs.replace(NO_ENGINE, connect=Connect(host="sftp"))
    assert look(named, hostname=lambda: "web01") == []


def test_a_host_with_a_port() -> None:
    found = look(structs.replace(NO_ENGINE, connect=Connect(host="sftp.example.org:2222")))
    assert [key for key, _ in of(found)] == ["connect.host"]
    assert "ends in a port" in found[0].text
    assert (found[0].fix or "").startswith('set connect.host = "sftp.example.org", and connect.port = 2222')


@pytest.fixture
def units(tmp_path: Path) -> Path:
    (tmp_path / "units" / "hatchway-hostd.service.d").mkdir(parents=True)
    (tmp_path / "units" / "hatchway-hostd.service").write_text("[Service]\nDeviceAllow=/dev/fuse rw\n")
    return tmp_path / "units"


def packaged(units: Path, config: Config) -> list[tuple[str, str]]:
    assert look(config, prefix="/opt/hatchway") == []
    return of(look(config, prefix=PACKAGE_PREFIX, units=(str(units), f"{units}/none")))


def test_what_the_package_has_decided(units: Path) -> None:
    config = structs.replace(
        NO_ENGINE,
        paths=Paths(run_dir="/run/other", pam_dir="/etc/other"),
        sshd=Sshd(pam_service="hatchway-other"),
        ids=Ids(core_user="mine", catalog_user="hatchway-catalog"),
    )
    usual = "the units run as that"
    assert packaged(units, config) == [
        ("paths.run_dir", "with the package it is /run/hatchway, not /run/other: the units have their sockets there"),
        ("paths.pam_dir", "with the package it is /etc/pam.d, not /etc/other: the PAM service is there"),
        (
            "sshd.pam_service",
            "with the package it is hatchway-sshd, not hatchway-other: the unit of sshd starts it under that name",
        ),
        ("ids.core_user", f"with the package it is hatchway, not mine: {usual}"),
    ]
    assert packaged(units, NO_ENGINE) == []


def test_accounts_that_nobody_makes(units: Path) -> None:
    config = structs.replace(NO_ENGINE, ids=Ids(keys_user="no-such-user", session_group="no-such-group"))
    assert packaged(units, config) == [
        ("ids.keys_user", "there is no no-such-user, and nobody makes it"),
        ("ids.session_group", "there is no no-such-group, and nobody makes it"),
    ]
    assert packaged(units, structs.replace(NO_ENGINE, ids=Ids(keys_user="nobody", session_group="nogroup"))) == []


def test_where_the_core_may_not_write(units: Path) -> None:
    config = structs.replace(NO_ENGINE, paths=Paths(state_dir="/srv/hatchway"))
    assert packaged(units, config) == [("paths.state_dir", "hatchway-core.service may not write there")]
    (units / "hatchway-core.service.d").mkdir()
    added = units / "hatchway-core.service.d" / "state.conf"
    for line in ("ReadWritePaths = /srv/hatchway ", "ReadWritePaths=/srv/other -/srv"):
        added.write_text(f"[Service]\n{line}\n")
        assert packaged(units, config) == []
    for text in (
        "[Unit]\nReadWritePaths=/srv/hatchway\n",
        "[Service]\nReadWritePaths=/srv/hatchway\nReadWritePaths=\n",
    ):
        added.write_text(text)
        assert len(packaged(units, config)) == 1


def test_more_connections_than_descriptors(units: Path) -> None:
    unit, more = units / "hatchway-sshd.service", units / "hatchway-sshd.service.d"
    unit.write_text("[Service]\nLimitNOFILE=4096\n")
    config = structs.replace(NO_ENGINE, sshd=Sshd(max_startups="400:30:5000"))
    text = "hatchway-sshd.service may have 4096 descriptors, too few for 5000 connections"
    assert packaged(units, config) == [("sshd.max_startups", text)]
    assert packaged(units, structs.replace(NO_ENGINE, sshd=Sshd(max_startups="4000"))) == []
    more.mkdir()
    for limit in ("8192:524288", "infinity"):
        (more / "limits.conf").write_text(f"[Service]\nLimitNOFILE={limit}\n")
        assert packaged(units, config) == []
    # What systemd reads last counts, though it is less; and what is said of all services does as well.
    (more / "more.conf").write_text("[Service]\nLimitNOFILE=4096\n")
    assert packaged(units, config) == [("sshd.max_startups", text)]
    (more / "more.conf").unlink()
    (more / "limits.conf").unlink()
    (units / "service.d").mkdir()
    (units / "service.d" / "all.conf").write_text("[Service]\nLimitNOFILE=8192\n")
    assert packaged(units, config) == []


def test_a_file_that_core_and_catalog_cannot_read(tmp_path: Path) -> None:
    directory, file = tmp_path / "etc", tmp_path / "etc" / "file"
    directory.mkdir()
    file.write_text("")
    (tmp_path / "link").symlink_to(file)

    def found() -> list[tuple[str, str]]:
        return of(list(settings.readable("configuration", f"{tmp_path}/link", within=str(directory))))

    assert found() == []
    why = f"core and catalog, which are not root, may not read {tmp_path}/link: "
    file.chmod(0o640)
    assert found() == [("configuration", f"{why}{file} has mode 0640")]
    directory.chmod(0o750)
    assert found() == [("configuration", f"{why}{directory} has mode 0750")]


def test_files_that_can_be_read() -> None:
    assert list(settings.readable("configuration", "/etc/passwd")) == []
    assert list(settings.readable("configuration", "/none/such")) == []


def devices(units: Path, *patterns: str, proc: str = "/proc") -> list[Finding]:
    config = structs.replace(NO_ENGINE, host=structs.replace(NO_ENGINE.host, volume_devices=patterns))
    return look(config, prefix=PACKAGE_PREFIX, units=(str(units), f"{units}/none"), proc=proc)


def test_devices_the_unit_may_not_open(units: Path) -> None:
    assert devices(units) == []
    found = devices(units, "/dev/vg0/data", "/dev/vg0/logs")
    assert of(found) == [("host.volume_devices", "hatchway-hostd.service may not open all of them")]
    fix = found[0].fix or ""
    assert "/etc/systemd/system/hatchway-hostd.service.d/devices.conf" in fix
    assert "the lines '[Service]', 'DeviceAllow=/dev/vg0/data rw', 'DeviceAllow=/dev/vg0/logs rw' to /etc" in fix
    more = units / "hatchway-hostd.service.d" / "devices.conf"
    more.write_text("[Service]\nDeviceAllow=/dev/vg0/data rw\nDeviceAllow=/dev/vg0/logs r\n")
    fix = devices(units, "/dev/vg0/data", "/dev/vg0/logs")[0].fix or ""
    assert "/dev/vg0/data" not in fix
    assert "/dev/vg0/logs" in fix
    more.write_text("[Service]\nDeviceAllow=/dev/vg0/data\nDeviceAllow=/dev/vg0/logs rwm\n")
    assert devices(units, "/dev/vg0/data", "/dev/vg0/logs") == []
    (more.parent / "none.conf").write_text("[Service]\nDeviceAllow=\nDeviceAllow=/dev/vg0/logs rw\n")
    fix = devices(units, "/dev/vg0/data", "/dev/vg0/logs")[0].fix or ""
    assert "/dev/vg0/data" in fix
    assert "/dev/vg0/logs" not in fix


def test_patterns_of_devices_that_are_not_there(units: Path, tmp_path: Path) -> None:
    fix = devices(units, f"{tmp_path}/none*")[0].fix or ""
    assert "'DeviceAllow=block-NAME rw' to" in fix
    assert fix.endswith("; NAME is the device's kind in /proc/devices")
    (units / "hatchway-hostd.service.d" / "devices.conf").write_text("[Service]\nDeviceAllow=block-loop rw\n")
    assert devices(units, f"{tmp_path}/none*") == []


@pytest.mark.skipif(os.geteuid() != 0, reason="not root: no device can be made")
def test_patterns_of_devices_become_their_kind(units: Path, tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc" / "devices").write_text("Character devices:\n  7 vcs\n\nBlock devices:\n  7 loop\n253 dm\n")
    os.mknod(tmp_path / "loop90", 0o600 | 0o060000, os.makedev(7, 90))
    fix = devices(units, f"{tmp_path}/loop*", proc=f"{tmp_path}/proc")[0].fix or ""
    assert "'DeviceAllow=block-loop rw' to" in fix


# --- show ----------------------------------------------------------------------------------------------------------


def test_what_is_shown_is_a_configuration_again(run: Cli, tmp_path: Path) -> None:
    text = (
        "[sshd]\nport = 2222\n[sizes]\nindex_reserve = 5\n[host]\nvolume_devices = ['/dev/vg0/t-*']\numask = '022'\n"
        "[engine]\nenabled = false\n[ids]\nlogin_uids = [100000, 200000]\n[connect]\nhost = 'sftp.example.org'\n"
    )
    run.config.write_text(text)
    done = run("config", "show")
    assert done.exit_code == 0
    assert configuration.parse(done.stdout) == configuration.parse(text)
    lines = done.stdout.splitlines()
    assert lines[0] == f"# {run.config}"
    assert "port = 2222  # set; default 2022" in lines
    assert "index_reserve = 5.0  # set; default 7.5" in lines
    assert 'umask = "022"  # set' in lines
    assert "login_grace_s = 30  # default" in lines
    shown = tmp_path / "shown.toml"
    shown.write_text(done.stdout)
    assert run("config", "check", str(shown)).exit_code == 0
    changed = run("config", "show", "--changed").stdout
    assert configuration.parse(changed) == configuration.parse(text)
    assert "umask" not in changed
    assert "[log]" not in changed


def test_what_is_shown_for_programs(run: Cli) -> None:
    run.config.write_text("[sshd]\nport = 2222\n[host]\numask = '022'\n")
    answer = run.json("config", "show")
    assert answer["file"] == str(run.config)
    assert answer["settings"]["sshd.port"] == {"value": 2222, "default": 2022, "given": True}
    assert answer["settings"]["host.umask"] == {"value": "022", "default": "022", "given": True}
    assert answer["settings"]["log.level"] == {"value": "info", "default": "info", "given": False}
    assert list(run.json("config", "show", "--changed")["settings"]) == ["sshd.port"]


def test_nothing_to_show(run: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hatchway.config.DEFAULT_PATH", tmp_path / "none.toml")
    done = run.runner.invoke(cli, ["config", "show", "--changed"])
    assert done.exit_code == 0
    assert "defaults" in done.stdout
    assert configuration.parse(done.stdout) == Config()
    run.config.write_text("[sshd]\nport = 22\n")
    assert run("config", "show").exit_code == 3


@given(st.text(max_size=40))
def test_any_text_is_shown_as_toml(text: str) -> None:
    shown = toml(("x", text))
    assert tomllib.loads(f"key = {shown}") == {"key": ["x", text]}
    assert shown.isprintable()


def test_neither_asks_a_daemon(tmp_path: Path, run: Cli) -> None:
    # There is no socket in the run directory of these tests.
    for command in ("check", "show"):
        assert run("config", command).exit_code == 0
    assert not list((tmp_path / "run").iterdir())
