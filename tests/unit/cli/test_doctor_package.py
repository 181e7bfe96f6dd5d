"""What `hatchway doctor` says of a Hatchway that Debian's package has installed: units, accounts, and what to do."""

from __future__ import annotations

import grp
import os
import pwd
import socket
from collections.abc import Sequence
from pathlib import Path

import pytest
from msgspec import structs

from hatchway.cli.doctor import advice, catalog, examine, files, leftovers, openssh, pam, sockets, unit_files, units
from hatchway.cli.doctor import daemon as daemon_check
from hatchway.cli.doctor.advice import PACKAGE, RUN
from hatchway.cli.doctor.catalog import Who
from hatchway.cli.doctor.command_line import Ran
from hatchway.cli.doctor.finding import Finding, Level
from hatchway.cli.doctor.stranger import login
from hatchway.config import Config, Engine, Ids, Paths, Sshd, Static
from hatchway.errors import NotRunningError, ProtocolError
from hatchway.host.orphans import InUse
from hatchway.model import is_probe
from hatchway.sshd import install, render
from hatchway.wire.admin import SourceStatus, Status
from hatchway.wire.host import Leftover, LeftoverKind, Leftovers

SYSTEMD = Path(__file__).parents[3] / "systemd"
OK, WARNING, FAILED = Level.OK, Level.WARNING, Level.FAILED


@pytest.fixture
def config(tmp_path: Path) -> Config:
    (tmp_path / "run").mkdir()
    (tmp_path / "pam.d").mkdir()
    paths = Paths(run_dir=f"{tmp_path}/run", state_dir=f"{tmp_path}/state", pam_dir=f"{tmp_path}/pam.d")
    return Config(paths=paths, engine=Engine(url=f"unix://{tmp_path}/engine.sock"))


def fix(finding: Finding) -> str:
    assert finding.fix is not None, finding
    return finding.fix


def test_the_login_that_is_tried_is_known_to_be_doctors() -> None:
    assert is_probe(login())
    assert login() != login()


# --- what to do ----------------------------------------------------------------------------------------------------


def test_each_has_its_own_words(config: Config) -> None:
    """Every finding whose fix depends on it, both ways."""

    def not_running() -> Status:
        raise NotRunningError("nothing answers")

    def broken() -> Status:
        raise ProtocolError("nonsense")

    def answers(*found: Leftover) -> Status:
        source = SourceStatus(source="docker", age_s=None, instances=0, problem=None)
        left = Leftovers(hostd_pid=4711, found=found)
        return Status(
            version="1", sources=(source,), logins=0, sessions=0, mounts=0, host_problem="away", leftovers=left
        )

    mount = Leftover(kind=LeftoverKind.MOUNT, path="/x")

    def everything(how: advice.Advice) -> list[Finding]:
        (Path(config.paths.pam_dir) / "hatchway-sshd").unlink(missing_ok=True)
        found = [
            *(finding for ask in (not_running, broken, answers) for finding in daemon_check.ask(ask, how)[0]),
            *sockets.modes(config, True, how=how),
            *sockets.auth(config, True, how=how),
            pam.service_file(config, True, how),
            openssh.helpers(config, lambda path: f"{path} is bad", how),
            leftovers.look(config, True, lambda: answers(mount), root=True, how=how),
            leftovers.look(config, True, broken, root=True, how=how),
            leftovers.look(config, False, not_running, root=True, find=_one, pause=lambda _: None, how=how),
        ]
        (Path(config.paths.pam_dir) / "hatchway-sshd").write_text("auth required pam_permit.so\n")
        could_not = Ran(2, "Module is unknown")
        found += [
            pam.service_file(config, True, how, flaw=lambda _: None),
            *pam.refuses_strangers(config, True, lambda _argv, _timeout: could_not, how=how),
        ]
        return [one for one in found if one.level is not OK]

    def _one(_config: Config, _in_use: InUse) -> Sequence[Leftover]:
        return [mount]

    packaged, run = everything(PACKAGE), everything(RUN)
    assert len(packaged) == len(run) == 17
    assert not [one for one in packaged if "hatchway run" in f"{one.text} {one.fix}"]
    assert not [one for one in run if any(word in f"{one.text} {one.fix}" for word in ("systemctl", "journalctl"))]


def test_words_of_the_package() -> None:
    assert PACKAGE.again() == "systemctl restart hatchway"
    assert PACKAGE.log() == "see journalctl -b -u 'hatchway*'"
    assert PACKAGE.log("hatchway-core") == "see journalctl -b -u hatchway-core"
    assert PACKAGE.reinstall("pip").startswith("apt install --reinstall hatchway ")
    assert RUN.reinstall("pip") == "pip"
    assert advice.HERE == RUN


# --- PAM -----------------------------------------------------------------------------------------------------------


def test_the_packages_pam_file(config: Config) -> None:
    path = Path(install.pam_path(config))

    def look(config: Config = config) -> Finding:
        return pam.service_file(config, False, PACKAGE, flaw=lambda _: None)

    assert look().level is FAILED
    assert "--force-confmiss" in fix(look())
    path.write_text(render.pam_service(config, render.PACKAGED_PAM))
    assert look().level is OK
    path.write_text(path.read_text() + "# a comment\n\n")
    assert look().level is OK
    path.write_text(path.read_text().replace("pam_exec.so quiet", "pam_exec.so debug", 1))
    assert look().level is FAILED
    assert fix(look()).startswith(f"rm {path}, then apt -o Dpkg::Options::=--force-confmiss ")
    other = structs.replace(config, sshd=Sshd(pam_service="other"))
    assert "take sshd.pam_service out" in fix(look(other))
    writable = pam.service_file(config, False, PACKAGE, flaw=lambda path: f"{path} is everybody's")
    assert (writable.level, "chown root:root" in fix(writable)) == (FAILED, True)


def test_another_packages_pam_file_with_our_rules_is_ours_to_use(config: Config) -> None:
    Path(install.pam_path(config)).write_text(render.pam_service(config, render.PACKAGED_PAM))
    assert pam.service_file(config, True, RUN).level is OK


# --- units ---------------------------------------------------------------------------------------------------------

GOOD = {
    "LoadState": "loaded",
    "ActiveState": "active",
    "SubState": "running",
    "Result": "success",
    "ExecMainStatus": "0",
    "UnitFileState": "static",
    "MainPID": "7",
    "NeedDaemonReload": "no",
    "NRestarts": "0",
}


def told(**changes: dict[str, str]) -> units.State:
    """What systemd says, each unit as GOOD but for `changes`, by the middle of its name."""
    blocks = []
    for name in units.NAMES:
        short = name.removeprefix("hatchway-").removesuffix(".service").replace(".", "_")
        more = {"UnitFileState": "enabled"} if name == units.UMBRELLA else {}
        lines = {"Id": name, **GOOD, **more, **changes.get(short, {})}
        blocks.append("\n".join(f"{key}={value}" for key, value in lines.items()))
    return units.ask(lambda _argv: Ran(0, "\n\n".join(blocks)))


def test_the_units_are_those_of_the_package() -> None:
    there = {path.name for path in SYSTEMD.iterdir() if path.suffix in (".service", ".socket")}
    assert set(units.NAMES) == there
    assert len(units.NAMES) == len(there)


def test_all_units_are_active() -> None:
    (found,) = units.active(told(), True)
    assert (found.level, found.text) == (OK, "all 12 are active")
    (found,) = units.active(told(), True, web=True)
    assert (found.level, found.text) == (OK, "all 16 are active")


def test_units_that_are_only_for_the_web_pages() -> None:
    """Off is how they are without web.enabled; failed they must not be in any case."""
    off = {"ActiveState": "inactive", "SubState": "dead", "Result": "exec-condition"}
    (found,) = units.active(told(web=off, signin=off), True)
    assert (found.level, found.text) == (OK, "all 12 are active")
    (found,) = units.active(told(web={**off, "LoadState": "masked"}, web_socket={**off, "LoadState": "masked"}), True)
    assert found.level is OK
    found, other = units.active(told(web=off, signin=off), True, web=True)
    assert (found.name, found.level, other.name) == (units.SIGNIN, FAILED, units.WEB)
    (found,) = units.active(told(web={"ActiveState": "failed", "Result": "exit-code"}), True)
    assert (found.name, found.level) == (units.WEB, FAILED)


def test_a_unit_that_failed() -> None:
    (found,) = units.active(told(core={"ActiveState": "failed", "SubState": "failed", "Result": "exit-code"}), False)
    assert (found.name, found.level, found.text) == ("hatchway-core.service", FAILED, "has failed (exit-code)")
    assert "journalctl -b -n 50 -u hatchway-core.service" in fix(found)
    again = {"ActiveState": "activating", "SubState": "auto-restart", "Result": "watchdog"}
    (found,) = units.active(told(hostd=again), True)
    assert (found.level, "does not stay up (watchdog)" in found.text) == (FAILED, True)
    (found,) = units.active(told(hostd={"ActiveState": "activating", "SubState": "start"}), True)
    assert found.level is WARNING
    # It has just been started again, and nothing is known of that yet; an administrator's start counts from 0.
    starting = {"ActiveState": "activating", "SubState": "start", "Result": "success", "NRestarts": "41"}
    (found,) = units.active(told(hostd=starting), True)
    assert (found.level, found.text) == (FAILED, "does not stay up: it is started again and again")
    (found,) = units.active(told(hostd={**starting, "NRestarts": "1"}), True)
    assert found.level is WARNING
    (found,) = units.active(told(hostd={**starting, "NRestarts": "0", "Result": "exit-code"}), True)
    assert found.level is FAILED
    (found,) = units.active(told(auth_socket={"ActiveState": "inactive", "SubState": "dead"}), True)
    assert (found.name, found.level) == ("hatchway-auth.socket", FAILED)
    (found,) = units.active(told(sshd={"LoadState": "masked", "ActiveState": "inactive"}), True)
    assert "systemctl unmask hatchway-sshd.service" in fix(found)
    (found,) = units.active(told(sshd={"LoadState": "bad-setting", "ActiveState": "inactive"}), True)
    assert "bad-setting" in found.text


def test_what_does_not_stay_up_says_why_and_is_not_waited_for() -> None:
    asked: list[Sequence[str]] = []

    def journal(argv: Sequence[str]) -> Ran:
        asked.append(argv)
        return Ran(0, "Traceback:\nhatchwayd: registry.sqlite: belongs to uid 0\x1b[2J" + "x" * 1000)

    down = {"ActiveState": "activating", "SubState": "auto-restart", "Result": "exit-code", "NRestarts": "9"}
    state = told(core=down)
    (found,) = units.active(state, False, lambda name: units.last_line(name, journal))
    (command,) = asked
    assert command[0] == "journalctl"
    assert {"-b", "-n", "_SYSTEMD_UNIT=hatchway-core.service"} <= set(command)
    assert (
        "does not stay up (exit-code): it is started again and again. It said last: hatchwayd: registry.sq"
        in found.text
    )
    assert "uid 0\\x1b[2Jxxx" in found.text
    assert len(found.text) < 500
    assert state.in_the_way == units.CORE
    (found,) = units.active(state, False, lambda name: units.last_line(name, lambda _: Ran(1, "no journal files")))
    assert "said" not in found.text
    assert told(hostd=down).in_the_way == units.HOSTD
    assert told(catalog=down).in_the_way is None
    failed = {"ActiveState": "failed"}
    assert told(hostd=failed).in_the_way == units.HOSTD
    # Stopped by itself, while its socket listens: a command would wait for 90 s.
    stopped = {"ActiveState": "inactive", "SubState": "dead"}
    assert told(core=stopped).in_the_way == units.CORE
    assert told(hatchway=stopped, core=stopped).in_the_way is None
    # After a stop nothing listens: whoever asks is told so at once.
    assert told(hatchway={"ActiveState": "inactive"}, hostd=failed).in_the_way is None
    assert told().in_the_way is None
    assert units.State({}).in_the_way is None


@pytest.mark.parametrize("name", ["core", "hostd"])
def test_nobody_waits_for_a_daemon_that_does_not_stay_up(
    config: Config, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    down = {"ActiveState": "activating", "SubState": "auto-restart", "Result": "exit-code", "NRestarts": "9"}

    class App:
        def __init__(self) -> None:
            self.config, self.config_path = config, Path(config.paths.run_dir) / "hatchway.toml"

        def ask(self, request: object, *_: object) -> object:
            raise AssertionError(request)

    monkeypatch.setattr(examine, "HERE", PACKAGE)
    state = told(**{name: down})
    monkeypatch.setattr(units, "ask", lambda: state)
    monkeypatch.setattr(units, "last_line", lambda _name: "it said so")
    found = {one.name: one for one in examine.examine(App())}  # type: ignore[arg-type]
    unit = f"hatchway-{name}.service"
    assert (found[unit].level, "it said so" in found[unit].text) == (FAILED, True)
    assert (found["daemon"].level, unit in found["daemon"].text) == (WARNING, True)
    assert found["leftovers"].level is not FAILED


def test_units_that_are_starting_are_waited_for() -> None:
    """`systemctl start hatchway` returns before they are ready."""
    starting = {"ActiveState": "activating", "SubState": "start", "Job": "812"}
    waiting = {"ActiveState": "inactive", "SubState": "dead", "Job": "813"}
    again = {"ActiveState": "activating", "SubState": "auto-restart", "Result": "exit-code"}
    time_s = 0.0

    def pause(seconds: float) -> None:
        nonlocal time_s
        time_s += seconds

    def settle(*states: units.State) -> tuple[units.State, float]:
        """Which of `states`, the last of which stays, is judged, and after how many seconds."""
        nonlocal time_s
        time_s, left = 0.0, list(states)
        return units.settle(lambda: left.pop(0) if len(left) > 1 else left[0], pause, lambda: time_s), time_s

    good = told()
    every = units.SETTLE_EVERY_S
    assert settle(good) == (good, 0.0)
    assert settle(told(core=starting, sshd=waiting), told(core=starting), good) == (good, 2 * every)
    slow = told(hostd=starting)
    assert settle(slow) == (slow, units.SETTLE_S)
    (found,) = units.active(slow, True)
    assert (found.level, found.text) == (WARNING, "is activating now")
    # What does not stay up is not waited for, and neither is what is stopped, or systemd that says nothing.
    for state in (told(core=again), told(core={"ActiveState": "inactive"}), units.State({}, "no systemd")):
        assert settle(state) == (state, 0.0)


def test_stopped_is_one_finding() -> None:
    off = {"ActiveState": "inactive", "SubState": "dead", "MainPID": "0"}
    names = ["hatchway", *(one.removeprefix("hatchway-").partition(".")[0] for one in units.NAMES[1:] if "serv" in one)]
    names += [one.removeprefix("hatchway-").replace(".", "_") for one in units.NAMES if "socket" in one]
    every = {name.replace("hatchway.service", "hatchway"): off for name in names}
    (found,) = units.active(told(**every), False)
    assert (found.name, found.level, found.fix) == ("hatchway.service", WARNING, "systemctl start hatchway")
    every["hatchway"] = {**off, "UnitFileState": "disabled"}
    (found,) = units.active(told(**every), False)
    assert found.fix == "systemctl enable --now hatchway"
    (found,) = units.active(told(**every), True)
    assert (found.level, "'hatchway run'" in found.text) == (OK, True)
    every["sessions"] = {"ActiveState": "failed", "ExecMainStatus": "6"}
    stopped, beside = units.active(told(**every), False)
    assert (stopped.name, beside.name) == ("hatchway.service", "hatchway-sessions.service")
    assert "'hatchway run'" in beside.text


def test_what_is_not_as_it_should_be_though_all_runs() -> None:
    (found,) = units.active(told(hatchway={"UnitFileState": "disabled"}), True)
    assert (found.level, found.fix) == (WARNING, "systemctl enable hatchway")
    (found,) = units.active(told(sshd={"NeedDaemonReload": "yes"}), True)
    assert "1 unit changed since systemd read them: hatchway-sshd.service" in found.text
    (found,) = units.active(told(core={"LoadState": "not-found", "ActiveState": "inactive"}), True)
    assert (found.level, "apt install --reinstall" in fix(found)) == (FAILED, True)


def test_systemd_says_nothing() -> None:
    state = units.ask(lambda _argv: Ran(1, "System has not been booted with systemd as init system"))
    (found,) = units.active(state, True)
    assert (found.level, "not been booted" in found.text) == (WARNING, True)
    assert state.pid(units.SSHD) == 0


def _proc(root: Path, **namespaces: str) -> str:
    """A proc(5): pid 1 in `mnt:[1]`, others where `namespaces` says (p7="mnt:[2]")."""
    for pid, name in {"p1": "mnt:[1]", **namespaces}.items():
        (root / pid[1:] / "ns").mkdir(parents=True)
        (root / pid[1:] / "ns" / "mnt").symlink_to(name)
    return str(root)


def test_the_units_of_the_package_have_no_mount_name_space(tmp_path: Path) -> None:
    (found,) = units.namespaces(told(), _proc(tmp_path, p7="mnt:[1]"), (str(SYSTEMD),))
    assert found.level is OK


def test_a_drop_in_that_would_give_one(tmp_path: Path) -> None:
    proc = _proc(tmp_path / "proc", p7="mnt:[1]")
    etc, lib = tmp_path / "etc", tmp_path / "lib"
    (etc / "service.d").mkdir(parents=True)
    (lib / "hatchway-.service.d").mkdir(parents=True)
    (etc / "service.d" / "harden.conf").write_text("[Service]\nPrivateTmp=yes\nProtectSystem=no\n")
    found = units.namespaces(told(), proc, (str(etc), str(lib)))
    assert [one.level for one in found] == [FAILED] * 3
    assert "will have one of its own when it is started again" in found[1].text
    assert f"{etc}/service.d/harden.conf says PrivateTmp=yes" in found[1].text
    assert fix(found[1]).startswith(f"take PrivateTmp= out of {etc}/service.d/harden.conf, then: systemctl daemon-rel")
    # One of the same name that is nearer to the unit takes its place, and the last word counts.
    (lib / "hatchway-.service.d" / "harden.conf").write_text("[Service]\nPrivateTmp=\n")
    assert [one.level for one in units.namespaces(told(), proc, (str(etc), str(lib)))] == [OK]


@pytest.mark.parametrize("unit", ["sessions", "hostd", "sshd"])
def test_a_drop_in_is_told_of_though_the_unit_does_not_run(tmp_path: Path, unit: str) -> None:
    """It may be why: hostd does not start then."""
    proc = _proc(tmp_path / "proc", p7="mnt:[1]")
    directory = tmp_path / "etc" / f"hatchway-{unit}.service.d"
    directory.mkdir(parents=True)
    (directory / "harden.conf").write_text("[Service]\nPrivateTmp=yes\n")
    down = {"ActiveState": "activating", "SubState": "auto-restart", "Result": "exit-code", "MainPID": "0"}
    (found,) = units.namespaces(told(**{unit: down}), proc, (str(tmp_path / "etc"), str(SYSTEMD)))
    assert (found.level, found.name) == (FAILED, "mount name space")
    assert f"hatchway-{unit}.service is started in one of its own" in found.text
    assert f"{directory}/harden.conf says PrivateTmp=yes" in found.text


def test_a_process_that_is_elsewhere(tmp_path: Path) -> None:
    state = told(hostd={"MainPID": "8"})
    (found,) = units.namespaces(state, _proc(tmp_path, p7="mnt:[1]", p8="mnt:[2]"), ())
    assert (found.level, found.text.startswith("hatchway-hostd.service has one of its own")) == (FAILED, True)
    assert "systemctl cat hatchway-hostd.service" in fix(found)
    (found,) = units.namespaces(state, str(tmp_path / "none"), ())
    assert found.level is WARNING


@pytest.mark.parametrize("setting", ["PrivateNetwork=yes", "NetworkNamespacePath=/run/netns/dmz"])
def test_a_network_of_its_own_brings_a_mount_name_space(tmp_path: Path, setting: str) -> None:
    (tmp_path / "etc" / "hatchway-sshd.service.d").mkdir(parents=True)
    (tmp_path / "etc" / "hatchway-sshd.service.d" / "net.conf").write_text(f"[Service]\n{setting}\n")
    proc = _proc(tmp_path / "proc", p7="mnt:[1]")
    (found,) = units.namespaces(told(), proc, (str(tmp_path / "etc"), str(SYSTEMD)))
    assert (found.level, f"says {setting}" in found.text) == (FAILED, True)


@pytest.mark.parametrize("name", ["hostd", "sshd"])
@pytest.mark.parametrize("pid", ["0", "9"], ids=["stopped", "ended meanwhile"])
def test_nothing_is_well_with_what_does_not_run(tmp_path: Path, name: str, pid: str) -> None:
    state = told(**{name: {"MainPID": pid, "ActiveState": "failed"}})
    assert units.namespaces(state, _proc(tmp_path, p7="mnt:[1]"), (str(SYSTEMD),)) == []


def test_settings_of_a_unit(tmp_path: Path) -> None:
    etc, lib = tmp_path / "etc", tmp_path / "lib"
    for directory in (etc / "a-b.service.d", lib / "a-b.service.d"):
        directory.mkdir(parents=True)
    (lib / "a-b.service").write_text("[Unit]\nUser=x\n[Service]\n#User=y\nUser = me\nA=1 \\\n 2\nnonsense\n")
    (lib / "a-b.service.d" / "2.conf").write_text("[Service]\nB=lib\n")
    (etc / "a-b.service.d" / "1.conf").write_text("[Service]\nA=\nC=1\n")
    (etc / "a-b.service.d" / "2.conf").write_text("[Service]\nB=etc\n")
    (etc / "a-b.service.d" / "3.txt").write_text("[Service]\nB=none\n")
    directories = (str(etc), str(lib), str(tmp_path / "none"))
    found = unit_files.said("a-b.service", directories)
    assert {key: value.text for key, value in found.items()} == {"User": "me", "B": "etc", "C": "1"}
    assert found["B"].file == f"{etc}/a-b.service.d/2.conf"
    (etc / "a-b.service").write_text("[Service]\nUser=you\n")
    assert unit_files.said("a-b.service", directories)["User"].text == "you"


def test_lists_in_a_unit(tmp_path: Path) -> None:
    """All that was said since it was emptied; a comment stands between two lines of one, and has no second line."""
    (tmp_path / "a.service").write_text(
        "[Unit]\nAfter=x\n[Service]\nA=1\n# B=1 \\\nA=2 \\\n# of the second\n  3\n[Unit]\nAfter=y\n"
    )
    found = unit_files.read("a.service", (str(tmp_path),))
    assert {key: [value.text for value in values] for key, values in found.items()} == {"A": ["1", "2    3"]}
    assert [value.text for value in unit_files.read("a.service", (str(tmp_path),), "Unit")["After"]] == ["x", "y"]
    (tmp_path / "a.service.d").mkdir()
    (tmp_path / "a.service.d" / "more.conf").write_text("[Service]\nA=\n")
    assert unit_files.read("a.service", (str(tmp_path),)) == {"A": []}
    (tmp_path / "a.service.d" / "most.conf").write_text("[Service]\nA=4\nA=5\n")
    assert [value.text for value in unit_files.read("a.service", (str(tmp_path),))["A"]] == ["4", "5"]


# --- what the catalog must reach -----------------------------------------------------------------------------------

NOBODY = Who("nobody", 65534, 65534, ())
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="not root: nobody else can be asked as")


@pytest.fixture
def open_path(tmp_path: Path) -> Path:
    """A directory that everybody can go through."""
    for directory in (tmp_path, *tmp_path.parents):
        if directory.name.startswith(("pytest-", "test_")):
            directory.chmod(0o755)
    return tmp_path


@as_root
def test_who_can_read_what(open_path: Path) -> None:
    (open_path / "d").mkdir(0o755)
    file = open_path / "d" / "file"
    file.touch(0o644)
    (open_path / "link").symlink_to(file)
    assert catalog.barred(NOBODY, str(file)) is None
    assert catalog.barred(NOBODY, str(open_path / "link")) is None
    assert catalog.barred(NOBODY, str(file), "-w") == str(file)
    file.chmod(0o640)
    assert catalog.barred(NOBODY, str(file)) == str(file)
    os.chown(file, 0, 12345)
    assert catalog.barred(structs_of(groups=(12345,)), str(file)) is None
    file.chmod(0o644)
    (open_path / "d").chmod(0o700)
    assert catalog.barred(NOBODY, str(open_path / "link")) == str(open_path / "d")


def structs_of(groups: tuple[int, ...]) -> Who:
    return Who(NOBODY.name, NOBODY.uid, NOBODY.gid, groups)


@as_root
def test_a_list_that_only_root_can_read(open_path: Path) -> None:
    file = open_path / "instances.toml"
    file.touch(0o600)
    config = Config(static=Static(file=str(file)), ids=Ids(catalog_user="nobody"))
    found = files.static(config, lambda _: None)
    assert (found.level, found.text) == (FAILED, f"nobody cannot read {file}")
    assert f"chmod 644 {file}; or" in fix(found)
    open_path.chmod(0o700)
    found = files.static(config, lambda _: None)
    assert (found.level, found.text) == (FAILED, f"nobody cannot read {file}: it may not go through {open_path}")
    assert fix(found).startswith(f"chmod o+x {open_path}; or")
    open_path.chmod(0o755)
    file.chmod(0o644)
    assert files.static(config, lambda _: None).level is OK


def test_a_list_is_looked_at_by_its_mode_where_there_is_no_account_yet(open_path: Path) -> None:
    file = open_path / "instances.toml"
    file.touch(0o600)
    config = Config(static=Static(file=str(file)), ids=Ids(catalog_user="nobody-that-there-is"))
    found = files.static(config, lambda _: None)
    assert (found.level, "has mode 0600" in found.text) == (WARNING, True)


@pytest.mark.parametrize("directory", ["/home/x", "/root", "/tmp"])
def test_a_list_that_the_catalogs_unit_does_not_see(tmp_path: Path, directory: str) -> None:
    file = f"{directory}/instances.toml"
    assert catalog.hidden(file, (str(SYSTEMD),)) == directory.removesuffix("/x")
    assert catalog.hidden("/etc/hatchway/instances.toml", (str(SYSTEMD),)) is None
    (tmp_path / "hatchway-catalog.service.d").mkdir()
    (tmp_path / "hatchway-catalog.service.d" / "a.conf").write_text("[Service]\nProtectHome=read-only\nPrivateTmp=no\n")
    assert catalog.hidden(file, (str(tmp_path), str(SYSTEMD))) is None


@pytest.fixture
def engine(config: Config) -> Path:
    path = Path(config.engine.url.removeprefix("unix://"))
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.bind(str(path))
    path.chmod(0o660)
    return path


@as_root
def test_the_engines_group(config: Config, engine: Path, open_path: Path) -> None:
    config = structs.replace(config, ids=Ids(catalog_user="nobody"))
    (other,) = [one for one in grp.getgrall() if one.gr_name == "mail"]
    os.chown(engine, 0, other.gr_gid)
    found = catalog.uses_engine(config, PACKAGE)
    assert found is not None
    assert (found.level, found.fix) == (FAILED, "usermod -aG mail nobody && systemctl restart hatchway-catalog")
    assert "is not in the group mail" in found.text
    os.chown(engine, 0, pwd.getpwnam("nobody").pw_gid)
    found = catalog.uses_engine(config, PACKAGE)
    assert found is not None
    assert found.level is OK
    # A process that began before it was a member.
    (open_path / "9").mkdir()
    (open_path / "9" / "status").write_text("Name:\tpython\nGid:\t1\t1\t1\t1\nGroups:\t1 2 \n")
    found = catalog.uses_engine(config, PACKAGE, 9, str(open_path))
    assert found is not None
    assert (found.level, found.fix) == (FAILED, "systemctl restart hatchway-catalog")
    os.chown(engine, 0, 0)
    found = catalog.uses_engine(config, PACKAGE)
    assert found is not None
    assert (found.level, "a group other than root's" in fix(found)) == (FAILED, True)


def test_where_nothing_is_to_be_said_of_the_engine(config: Config, engine: Path) -> None:
    assert catalog.uses_engine(config, RUN) is None
    assert catalog.uses_engine(structs.replace(config, engine=Engine(enabled=False)), PACKAGE) is None
    found = catalog.uses_engine(config, PACKAGE, root=False)
    assert found is not None
    assert found.level is WARNING
    engine.unlink()
    assert catalog.uses_engine(config, PACKAGE) is None


# --- an sshd that was replaced -------------------------------------------------------------------------------------


@pytest.mark.parametrize("gone", [False, True])
def test_an_sshd_older_than_the_installed_one(config: Config, tmp_path: Path, gone: bool) -> None:
    proc = tmp_path / "proc"
    (proc / "net").mkdir(parents=True)
    tail = "00000000:00000000 00:00000000 00000000     0        0 4711 1"
    (proc / "net" / "tcp").write_text(f"head\n   0: 00000000:07E6 00000000:0000 0A {tail}\n")
    (proc / "99" / "fd").mkdir(parents=True)
    (proc / "99" / "fd" / "3").symlink_to("socket:[4711]")
    (proc / "99" / "cmdline").write_text(f"sshd: {install.link_path(config)} -D [listener]")
    (proc / "99" / "exe").symlink_to("/usr/sbin/sshd" + " (deleted)" * gone)
    found = openssh.in_use(config, PACKAGE, str(proc))
    assert [one.level for one in found] == [FAILED] * gone
    if gone:
        assert "(/usr/sbin/sshd)" in found[0].text
        assert fix(found[0]).startswith("systemctl restart hatchway-sshd")
        assert fix(*openssh.in_use(config, RUN, str(proc))).startswith("kill 99: ")
    (proc / "99" / "cmdline").write_text("nginx")
    assert openssh.in_use(config, PACKAGE, str(proc)) == []
