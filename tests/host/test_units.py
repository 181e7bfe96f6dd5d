"""The units as systemd sees them, and what the processes they start may do."""

from __future__ import annotations

import re

import pytest
from tests import figures
from tests.host.booted import CLIENT4, HOST4, wait_until
from tests.host.installed import DAEMONS, EXPOSURE, IDLE_S, PORT, READY_S, SERVICES, SOCKETS, Installed, User

OWN_MOUNTS = ("core", "catalog", "workers")
"""Daemons with a mount namespace of their own. sshd and hostd must share the host's."""


def test_verify_has_nothing_to_say(site: Installed) -> None:
    """No unknown setting, no missing program, no cycle."""
    paths = [site.host.properties(unit, "FragmentPath")["FragmentPath"] for unit in (*SERVICES, *SOCKETS)]
    done = site.host.run("systemd-analyze", "verify", "--man=no", *paths, check=False, timeout_s=120)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    # All that is started at boot: what stands in a cycle there is left out.
    done = site.host.run("systemd-analyze", "verify", "--man=no", "default.target", check=False, timeout_s=120)
    said = done.stdout + done.stderr
    assert [line for line in said.splitlines() if "cycle" in line or "hatchway" in line] == []


def test_exposure(site: Installed, release: str) -> None:
    """The scores of `systemd-analyze security`: none is given more than it had, unnoticed."""
    scores = {}
    for name in EXPOSURE:
        said = site.host.run("systemd-analyze", "security", "--no-pager", f"hatchway-{name}.service").stdout
        score = re.search(r"Overall exposure level for \S+: ([0-9.]+)", said)
        assert score, said
        scores[name] = float(score[1])
    figures.note(f"{release}: exposure (systemd-analyze security): {', '.join(f'{n} {s}' for n, s in scores.items())}")
    # systemd rounds, and weighs some settings a little otherwise from one version to the next.
    assert {name: score for name, score in scores.items() if score > round(EXPOSURE[name] + 0.1, 1)} == {}


def test_mount_namespaces(site: Installed) -> None:
    """What hostd mounts is for sshd to see, and for the host; the others have no business with it."""
    host = site.host
    first = host.run("readlink", "/proc/1/ns/mnt").stdout
    own = {name: host.run("readlink", f"/proc/{pid}/ns/mnt").stdout != first for name, pid in site.pids().items()}
    assert own == {name: name in OWN_MOUNTS for name in DAEMONS}


def test_who_runs_as_whom(site: Installed) -> None:
    """The accounts of the processes, and no capabilities where none are meant."""
    found = {}
    for name, pid in site.pids().items():
        status = site.host.read(f"/proc/{pid}/status")
        user = site.host.run("stat", "-c", "%U", f"/proc/{pid}").stdout.strip()
        capabilities = re.search(r"^CapBnd:\s*([0-9a-f]+)$", status, re.MULTILINE)
        privileges = re.search(r"^NoNewPrivs:\s*1$", status, re.MULTILINE)
        assert capabilities and privileges, f"{name}\n{status}"
        found[name] = (user, int(capabilities[1], 16) == 0)
    assert found == {
        "workers": ("root", False),
        "hostd": ("root", False),
        "core": ("hatchway", True),
        "catalog": ("hatchway-catalog", True),
        "sshd": ("root", False),
    }


def test_order_at_boot(site: Installed) -> None:
    """Behind the engine, which mounts what is shared; and behind local file systems."""
    after = site.host.properties("hatchway-hostd.service", "After")["After"].split()
    assert {"docker.service", "local-fs.target", "remote-fs.target"} <= set(after)
    times = {
        unit: int(site.host.properties(unit, "ActiveEnterTimestampMonotonic")["ActiveEnterTimestampMonotonic"])
        for unit in ("hatchway-sessions.service", "hatchway-workers.service", "hatchway-hostd.service")
    }
    assert all(times.values()), times


def test_sshd_is_as_we_set_it(site: Installed, web: User) -> None:
    """`sshd -T` on the host, for a login of ours, says of every line we wrote what the line says."""
    host = site.host
    where = f"user={web.login},host=client,addr={CLIENT4},laddr={HOST4},lport={PORT}"
    config = "/run/hatchway/sshd/sshd_config"
    said: dict[str, list[str]] = {}
    for line in host.run("/usr/sbin/sshd", "-T", "-f", config, "-C", where).stdout.splitlines():
        keyword, _, value = line.partition(" ")
        said.setdefault(keyword.lower(), []).append(value)
    text = host.read(config)
    included = re.search(r"^Include (\S+)$", text, re.MULTILINE)
    assert included
    written = [line.split(None, 1) for line in (text + host.read(included[1])).splitlines()]
    lines = [(pair[0].lower(), pair[1]) for pair in written if len(pair) == 2 and not pair[0].startswith("#")]
    assert len(lines) > 50
    differ = []
    for keyword, value in lines:
        if keyword in ("match", "include"):
            continue
        expected = {"listenaddress": f"[{value}]:{PORT}" if ":" in value else f"{value}:{PORT}"}.get(keyword, value)
        # -T writes some values otherwise than they may be given (sshd_config(5), servconf.c dump_config).
        alike = {expected.lower(), {"yes": "1", "no": "0"}.get(expected, expected)}
        values = {value.lower() for value in said.get(keyword, [])}
        if keyword == "persourcepenalties":  # numbers without "s", and what was not set as well
            alike = set(re.sub(r"(\d)s\b", r"\1", expected).split())
            values = alike if alike <= {word for value in values for word in value.split()} else values
        if not alike & values:
            differ.append(f"{keyword}: {value!r}, but {said.get(keyword)}")
    assert differ == []
    # The host's own sshd has nothing of it.
    theirs = host.run("/usr/sbin/sshd", "-T").stdout
    assert "hatchway" not in theirs
    assert f"port {PORT}" not in theirs


def test_a_login_leaves_no_warning(site: Installed, web: User) -> None:
    """Neither ours nor systemd's: from a restart of everything to the end of a session."""
    host = site.host
    # systemd warns of workers that outlive a restart, as they are meant to.
    wait_until(lambda: site.workers() == [], lambda: f"no worker is left: {site.workers()}", IDLE_S + 20)
    since = host.run("date", "+%s.%N").stdout.strip()
    host.run("systemctl", "restart", "hatchway")
    site.wait_all_run()
    site.sftp(web.login, "ls /data\n")
    site.sftp(web.login, "ls /data\n", password=site.password(web.instance))
    wait_until(lambda: site.sessions() == 0, "the sessions are over", READY_S)
    journal = host.journal(0, f"--since=@{since}", "--unit=hatchway*")
    # Both are there, so this is the journal in which a warning of ours would be, too.
    opened = re.findall(rf'event="session opened".* login={re.escape(web.login)} .*method=(\w+)', journal)
    assert sorted(opened) == ["password", "publickey"], journal
    # Lines of ours have their priority in the journal.
    grave = host.journal(0, f"--since=@{since}", "--unit=hatchway*", "--priority=warning")
    assert [line for line in grave.splitlines() if not line.startswith("-- ")] == []


def test_enabled_is_one(site: Installed) -> None:
    """Whoever disables `hatchway` has disabled it all."""
    host = site.host
    states = {
        unit: host.run("systemctl", "is-enabled", unit, check=False).stdout.strip() for unit in (*SERVICES, *SOCKETS)
    }
    assert states.pop("hatchway.service") == "enabled"
    assert set(states.values()) == {"static"}


@pytest.mark.parametrize("unit", ["hatchway-core.service", "hatchway-catalog.service"])
def test_no_network(site: Installed, unit: str) -> None:
    """The processes that decide and that read the engine have none."""
    pid = site.host.main_pid(unit)
    devices = site.host.read(f"/proc/{pid}/net/dev").splitlines()[2:]
    assert [line.split(":")[0].strip() for line in devices] == ["lo"]
