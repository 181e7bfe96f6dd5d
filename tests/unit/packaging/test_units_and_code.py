"""The units in systemd/: what they start, listen at and are allowed is what the code expects, and none is left out.

What `hatchway run` does is the measure (`provision.listening`, `supervisor.services`); the directory says which units
there are. So a daemon or a socket that is new, and forgotten somewhere, fails here.
"""

from __future__ import annotations

import importlib
import importlib.util
import re
import shlex
import socket
from pathlib import Path

import pytest
from tests.host import installed

from hatchway import provision, supervisor
from hatchway.cli.doctor import unit_files, units
from hatchway.config import PACKAGE_PREFIX, Config, Web
from hatchway.kernel import privileges
from hatchway.kernel.privileges import Cap
from hatchway.provision import Account
from hatchway.sshd import install

ROOT = Path(__file__).parents[3]
SYSTEMD = ROOT / "systemd"
CONFIG = Config(web=Web(enabled=True))
UMBRELLA, SESSIONS = units.UMBRELLA, units.SESSIONS
SERVICES = {path.name for path in SYSTEMD.glob("*.service")}
SOCKETS = {path.name for path in SYSTEMD.glob("*.socket")}
DAEMONS = SERVICES - {UMBRELLA, SESSIONS}

ROLES = {
    "root": "root",
    "core": CONFIG.ids.core_user,
    "catalog": CONFIG.ids.catalog_user,
    "keys": CONFIG.ids.keys_user,
    "web": CONFIG.ids.web_user,
}
ACCOUNTS = {role: Account(name, number, number) for number, (role, name) in enumerate(ROLES.items())}
LISTENING = provision.listening(CONFIG)
STARTED = {one.name: one for one in supervisor.services(CONFIG, None, ACCOUNTS, install.argv(CONFIG))}

CAPABILITIES: dict[str, frozenset[Cap]] = {
    UMBRELLA: frozenset(),
    SESSIONS: privileges.HOSTD_CAPS,
    "hatchway-hostd.service": privileges.HOSTD_CAPS,
    "hatchway-workers.service": privileges.ZYGOTE_CAPS,
    "hatchway-core.service": frozenset(),
    "hatchway-catalog.service": frozenset(),
    "hatchway-signin.service": privileges.SIGNIN_CAPS,
    "hatchway-web.service": frozenset(),
}
"""What the code keeps. sshd, whose code is not ours, is held by docs/security.md."""

STOPPED = {
    "hostd": ("SIGHUP", "mixed"),
    "signin": (None, "mixed"),
    "workers": (None, "process"),
    "sshd": (None, "process"),
}
"""KillSignal= and KillMode= of what must not take everything along when it is stopped: hostd ends alone after SIGHUP,
questions of the sign-in helper are answered, and workers and connections outlive the process that made them."""

REACHES = {
    "sshd": {"AF_UNIX", "AF_INET", "AF_INET6", "AF_NETLINK"},
    "signin": {"AF_UNIX", "AF_NETLINK"},
    "web": {"AF_UNIX", "AF_INET", "AF_INET6"},
}
"""RestrictAddressFamilies= of those that have more than Unix sockets."""


def unit_of(name: str) -> str:
    return f"hatchway-{name}.service"


def socket_of(name: str) -> str:
    return f"hatchway-{name}.socket"


def listed(unit: str, key: str, section: str = "Unit") -> list[str]:
    """The words of all lines that say `key`."""
    return [word for value in values(unit, key, section) for word in value.split()]


def values(unit: str, key: str, section: str) -> list[str]:
    return [value.text for value in unit_files.read(unit, (str(SYSTEMD),), section).get(key, [])]


def service(unit: str, key: str) -> str | None:
    """The setting of a service, None if it has none."""
    return next(reversed(values(unit, key, "Service")), None)


def commands(unit: str) -> list[tuple[str, list[str]]]:
    """The Exec lines of a service: key and words."""
    found = unit_files.read(unit, (str(SYSTEMD),))
    return [(key, shlex.split(one.text)) for key, many in found.items() if key.startswith("Exec") for one in many]


def modules(unit: str) -> list[tuple[str, str, list[str]]]:
    """What of ours a service runs: key, module, arguments."""
    found = []
    for key, words in commands(unit):
        if "-m" in words:
            place = words.index("-m")
            assert words[:place] == [f"{PACKAGE_PREFIX}/bin/python3", "-I"], words
            found.append((key, words[place + 1], words[place + 2 :]))
    return found


def ours(text: str) -> set[str]:
    """The units of ours that a command names."""
    return set(re.findall(r"hatchway(?:-[a-z-]+)?\.(?:service|socket)", text))


# --- none is left out ----------------------------------------------------------------------------------------------


def test_a_unit_for_each_process_and_each_socket() -> None:
    assert {unit_of(name) for name in STARTED} == DAEMONS
    assert {socket_of(name) for name in LISTENING} == SOCKETS
    assert tuple(name for name in STARTED if name not in provision.WEB_SERVICES) == provision.SERVICES
    assert set(provision.WEB_SERVICES) == set(STARTED) - set(provision.SERVICES)
    assert {name for one in STARTED.values() for name in one.sockets} == set(LISTENING)
    assert set(CAPABILITIES) == SERVICES - {"hatchway-sshd.service"}


def test_the_umbrella_has_all_others() -> None:
    others = SERVICES - {UMBRELLA}
    assert {name for name in listed(UMBRELLA, "Wants") if name.endswith(".service")} == others
    assert {name for name in listed(UMBRELLA, "Before") if name.endswith(".service")} == others
    (stop,) = values(UMBRELLA, "ExecStop", "Service")
    assert ours(stop.partition("systemctl stop ")[2]) == others | SOCKETS
    check, *reload = values(UMBRELLA, "ExecReload", "Service")
    assert check.endswith("hatchway config check"), "a bad configuration changes nothing"
    assert [line for line in reload if "systemctl --no-block reload-or-restart " not in line] == []
    assert ours(" ".join(reload)) == DAEMONS
    assert [line for line in reload if SESSIONS in line] == [], "that would end all sessions"


def test_a_restart_of_the_umbrella_is_one_of_each_daemon_and_of_nothing_else() -> None:
    parts = {name for name in SERVICES | SOCKETS if UMBRELLA in listed(name, "PartOf")}
    assert parts == DAEMONS
    bound = {name for name in SERVICES | SOCKETS for key in ("BindsTo", "Requires") if UMBRELLA in listed(name, key)}
    assert bound == set()


def test_sessions_are_there_before_everything_and_end_after_it() -> None:
    assert set(listed(SESSIONS, "Before")) == DAEMONS | SOCKETS
    for name in SOCKETS | {"hatchway-hostd.service"}:
        assert SESSIONS in listed(name, "Requires"), name
        assert SESSIONS in listed(name, "After"), name
    assert ("ExecStop", "hatchway.host.main", ["--end"]) in modules(SESSIONS)
    assert (service(SESSIONS, "Type"), service(SESSIONS, "RemainAfterExit")) == ("oneshot", "yes")
    start = service(SESSIONS, "ExecStart") or ""
    assert f"--conflict-exit-code {units._TAKEN} " in start
    assert f" {CONFIG.paths.run_dir}/lock " in start


def test_the_tests_on_booted_hosts_have_all_of_them() -> None:
    assert set(installed.SERVICES) == SERVICES
    assert set(installed.SOCKETS) == SOCKETS
    assert {unit_of(name) for name in (*installed.DAEMONS, *installed.WEB_DAEMONS)} == DAEMONS
    assert installed.WEB_DAEMONS == provision.WEB_SERVICES
    assert {unit_of(name) for name in installed.EXPOSURE} == SERVICES - {UMBRELLA}


# --- sockets -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(LISTENING))
def test_a_socket(name: str) -> None:
    """Path, kind and who may connect; and that its process gets it, under the name that it looks for."""
    one, unit = LISTENING[name], socket_of(name)
    kinds = {socket.SOCK_STREAM: "ListenStream", socket.SOCK_SEQPACKET: "ListenSequentialPacket"}
    expected = {
        kinds[one.kind]: one.path,
        "FileDescriptorName": name,
        "SocketUser": "root",
        "SocketMode": "0600" if one.role is None else "0660",
        "Backlog": str(provision.BACKLOG),
        "RemoveOnStop": "yes",
    }
    if one.role is not None:
        expected["SocketGroup"] = ROLES[one.role]
    (expected["Service"],) = {unit_of(each.name) for each in STARTED.values() if name in each.sockets}
    found = unit_files.read(unit, (str(SYSTEMD),), "Socket")
    assert {key: [value.text for value in values] for key, values in found.items()} == {
        key: [value] for key, value in expected.items()
    }
    # See the comment in each: not before all services, but at shutdown stopped in time.
    assert values(unit, "DefaultDependencies", "Unit") == ["no"]
    assert "sysinit.target" in listed(unit, "After")
    assert listed(unit, "Conflicts") == listed(unit, "Before") == ["shutdown.target"]


@pytest.mark.parametrize("name", sorted(STARTED))
def test_who_listens_needs_its_sockets(name: str) -> None:
    for each in STARTED[name].sockets:
        # Logins do not depend on the web pages.
        assert socket_of(each) in listed(unit_of(name), "Wants" if each == "web" else "Requires")
        assert socket_of(each) in listed(unit_of(name), "After")


@pytest.mark.parametrize(
    ("name", "asks"),
    [
        ("hostd", "workers"),
        ("core", "hostd"),
        ("core", "signin"),
        ("catalog", "catalog"),
        ("sshd", "auth"),
        ("web", "web"),
    ],
)
def test_who_asks_starts_after_the_socket(name: str, asks: str) -> None:
    unit = unit_of(name)
    assert socket_of(asks) in listed(unit, "Wants") + listed(unit, "Requires")
    assert socket_of(asks) in listed(unit, "After")


# --- services ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(STARTED))
def test_a_daemon(name: str) -> None:
    """It runs the same code as the same user as under `hatchway run`, and is watched over in the same way."""
    one, unit = STARTED[name], unit_of(name)
    if name == "sshd":
        # Under systemd without -e: it logs to syslog itself. Debian's sshd says that it is ready.
        assert shlex.split(service(unit, "ExecStart") or "") == [
            *(install.link_path(CONFIG), "-D", "-f", install.config_path(CONFIG))
        ]
        assert [module for key, module, _ in modules(unit) if key == "ExecStartPre"] == ["hatchway.sshd.main"]
        assert [module for key, module, _ in modules(unit) if key == "ExecReload"] == ["hatchway.sshd.main"]
    else:
        assert one.argv[1:3] == ("-I", "-m")
        wanted = [key for key, module, _ in modules(unit) if module == "hatchway.web_wanted"]
        assert wanted == ["ExecCondition"] * (name in provision.WEB_SERVICES)
        assert modules(unit)[len(wanted) :] == [("ExecStart", one.argv[3], [])]
    user = None if one.account.name == "root" else one.account.name
    assert (service(unit, "User"), service(unit, "Group")) == (user, user)
    assert service(unit, "Type") == "notify"
    watchdog = service(unit, "WatchdogSec")
    assert (watchdog and float(watchdog)) == (supervisor.WATCHDOG_S if one.notifies else None)
    assert (service(unit, "FileDescriptorStoreMax") is not None) == one.hands_over
    assert service(unit, "Restart") == "always"
    assert values(unit, "StartLimitIntervalSec", "Unit") == ["0"], "it is started again however often it ends"
    assert service(unit, "SyslogIdentifier") == f"hatchway-{name}"
    assert (service(unit, "KillSignal"), service(unit, "KillMode")) == STOPPED.get(name, (None, None))
    assert service(unit, "OOMPolicy") == ("continue" if name in STOPPED else None)


@pytest.mark.parametrize("unit", sorted(SERVICES - {UMBRELLA}))
def test_what_every_service_is_denied(unit: str) -> None:
    for key in ("NoNewPrivileges", "RestrictRealtime", "LockPersonality", "MemoryDenyWriteExecute"):
        assert service(unit, key) == "yes", key
    assert service(unit, "SystemCallArchitectures") == "native"
    assert service(unit, "RestrictNamespaces") == ("mnt net ipc uts" if unit == unit_of("workers") else "yes")
    assert service(unit, "LimitCORE") == ("1" if unit in (unit_of("sshd"), unit_of("signin")) else "0")
    name = unit.removeprefix("hatchway-").removesuffix(".service")
    assert set(listed(unit, "RestrictAddressFamilies", "Service")) == REACHES.get(name, {"AF_UNIX"})
    assert service(unit, "IPAddressDeny") == (None if "AF_INET" in REACHES.get(name, ()) else "any")
    allowed, denied = values(unit, "SystemCallFilter", "Service")
    assert allowed.split()[0] == "@system-service"
    assert denied.startswith("~")
    assert "@keyring" in denied


@pytest.mark.parametrize("unit", sorted(SERVICES))
def test_no_command_is_looked_for_by_name(unit: str) -> None:
    """systemd looks in /usr/local first, as a shell does."""
    found = commands(unit)
    assert found
    for key, words in found:
        assert words[0].startswith("/"), (key, words)
        if words[0].endswith("/sh"):
            assert not re.search(r"(?<![/\w-])(systemctl|hatchway)\s", words[2]), words[2]


def capabilities(unit: str) -> set[str]:
    return set(listed(unit, "CapabilityBoundingSet", "Service"))


@pytest.mark.parametrize("unit", sorted(set(CAPABILITIES) - {UMBRELLA}))
def test_capabilities_are_those_the_code_keeps(unit: str) -> None:
    assert "CapabilityBoundingSet" in unit_files.read(unit, (str(SYSTEMD),))
    assert capabilities(unit) == {f"CAP_{cap.name}" for cap in CAPABILITIES[unit]}


def test_every_module_that_is_started_is_there() -> None:
    found = {(module, tuple(arguments)) for unit in SERVICES for _, module, arguments in modules(unit)}
    assert len(found) > len(STARTED)
    for module, _ in found:
        spec = importlib.util.find_spec(module)
        assert spec is not None and spec.origin is not None, f"there is no {module}"
        assert '\nif __name__ == "__main__":\n    main()\n' in Path(spec.origin).read_text()


@pytest.mark.parametrize(
    ("module", "arguments"),
    sorted({(module, tuple(arguments)) for unit in SERVICES for _, module, arguments in modules(unit)}),
)
def test_every_module_takes_its_arguments(
    module: str, arguments: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # What is to be found out is whether it gets that far: to the file, which is not there.
    monkeypatch.setattr("sys.argv", [module, *arguments, "--config", "/nonexistent/hatchway.toml"])
    with pytest.raises(SystemExit):
        importlib.import_module(module).main()
    assert "/nonexistent/hatchway.toml" in capsys.readouterr().err


# --- documents -----------------------------------------------------------------------------------------------------


def rows(document: str, heading: str) -> list[list[str]]:
    """The rows of the first table below a heading, its own heading left out."""
    below = (ROOT / "docs" / document).read_text().partition(f"\n{heading}\n")[2]
    table = re.search(r"(?:^\|.*\n)+", below, re.MULTILINE)
    assert table is not None, f"no table below {heading} in docs/{document}"
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table[0].splitlines()[2:]]


def test_the_table_of_units() -> None:
    table = {row[0].strip("`"): row for row in rows("install.md", "## What it starts")}
    assert set(table) == SERVICES | {"hatchway-*.socket"}
    for name, row in table.items():
        if number := re.search(r"(\d+) capabilities", row[2]):
            assert int(number[1]) == len(capabilities(name)), row


def test_the_table_of_exposure() -> None:
    table = {row[0].strip("`"): row[1:] for row in rows("security.md", "### The units")}
    assert table == {f"hatchway-{name}": [str(score)] * 2 for name, score in installed.EXPOSURE.items()}


def test_the_tree_of_processes() -> None:
    tree = (ROOT / "docs" / "security.md").read_text().partition("```\nsystemd ")[2].partition("```")[0]
    lines = {name: line for line in tree.splitlines() if (name := line[3:].partition(" ")[0]).startswith("hatchway-")}
    assert {f"{name}.service" for name in lines} == DAEMONS
    for name, line in lines.items():
        if number := re.search(r"with (\d+) capabilities", line):
            assert int(number[1]) == len(capabilities(f"{name}.service")), line


def test_what_sshd_is_given_is_what_the_document_says() -> None:
    text = (ROOT / "docs" / "security.md").read_text()
    (row,) = re.findall(r"^\| sshd \| the network.*$", text, re.MULTILINE)
    assert set(re.findall(r"CAP_[A-Z_]+", row)) == capabilities(unit_of("sshd"))


def test_what_the_sign_in_helper_is_given_is_what_the_document_says() -> None:
    text = (ROOT / "docs" / "security.md").read_text()
    (paragraph,) = re.findall(
        r"^The web process and the sign-in helper are there .*?\n\n", text, re.MULTILINE | re.DOTALL
    )
    assert set(re.findall(r"CAP_[A-Z_]+", paragraph)) == capabilities(unit_of("signin"))
    for called, name in (("sign-in helper", "signin"), ("web", "web")):
        (row,) = re.findall(rf"^\| {called} \| (?:\d+) \|.*$", text, re.MULTILINE)
        mask = sum(1 << cap for cap in CAPABILITIES[unit_of(name)])
        assert [int(cell.strip(" `"), 16) for cell in row.split("|")[3:6]] == [mask] * 3
