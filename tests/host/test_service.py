"""What administrators do to a running service, and what happens to it, while its users transfer files."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable

import pytest
from tests import figures
from tests.host.booted import HOST6, wait_until
from tests.host.installed import CONFIG, DAEMONS, IDLE_S, READY_S, Installed, User, first_login


@pytest.fixture(autouse=True)
def _started(site: Installed) -> None:
    """What one test has left stopped or failed is not the next one's."""
    if not site.all_run():
        site.host.run("systemctl", "reset-failed")
        site.host.run("systemctl", "start", "hatchway", timeout_s=120)
        site.wait_all_run()


def idle(site: Installed) -> None:
    """No session, no mount, no worker."""
    wait_until(
        lambda: site.sessions() == 0 and site.mounts() == [] and site.workers() == [],
        lambda: f"nothing is mounted any more: {site.sessions()} sessions\n{site.mounts()}\n{site.workers()}",
        IDLE_S + 20,
    )


def is_well(site: Installed) -> None:
    """Every unit is active, and no unit of the host has failed."""
    site.wait_all_run()
    failed = site.host.run("systemctl", "--failed", "--no-legend", "--plain").stdout
    assert failed == ""


def test_a_container_that_runs(site: Installed) -> None:
    """By key and by password, over both protocols; the container sees the file."""
    instance = site.container("running")
    login = first_login(site, instance)
    (site.client / "note").write_text("from outside\n")
    site.sftp(login, "put note /data/note\n")
    assert site.host.run("docker", "exec", "running", "cat", "/data/note").stdout == "from outside\n"
    site.host.run("docker", "exec", "running", "sh", "-c", "echo from inside >/data/answer")
    site.sftp(login, "get /data/answer answer\n")
    assert (site.client / "answer").read_text() == "from inside\n"


def test_a_container_that_does_not_run(site: Installed) -> None:
    """Never started, and stopped."""
    never = first_login(site, site.container("never", start=False))
    (site.client / "note").write_text("before it ran\n")
    site.sftp(never, "put note /data/note\n")
    site.host.run("docker", "start", "never")
    assert site.host.run("docker", "exec", "never", "cat", "/data/note").stdout == "before it ran\n"
    site.sftp(never, "ls /data\n")
    site.host.run("docker", "stop", "--time=0", "never")
    site.sftp(never, "get /data/note note\n", address=HOST6)


def systemctl(*arguments: str) -> Callable[[Installed], object]:
    """An action: a command of systemctl."""
    return lambda site: site.host.run("systemctl", *arguments)


def kill(name: str) -> Callable[[Installed], object]:
    """An action: SIGKILL to a daemon, until there is another one."""

    def action(site: Installed) -> None:
        unit = f"hatchway-{name}.service"
        before = site.host.main_pid(unit)
        site.host.run("kill", "-KILL", str(before))
        wait_until(
            lambda: site.host.main_pid(unit) not in (0, before) and site.host.state(unit) == "active",
            lambda: f"another {unit}\n{site.states()}",
            READY_S,
        )

    return action


ALL = frozenset(DAEMONS)
ACTIONS: dict[str, tuple[Callable[[Installed], object], frozenset[str]]] = {
    **{f"restart {name}": (systemctl("restart", f"hatchway-{name}"), frozenset({name})) for name in DAEMONS},
    **{f"kill {name}": (kill(name), frozenset({name})) for name in DAEMONS},
    "restart hatchway": (systemctl("restart", "hatchway"), ALL),
    "reload hatchway": (systemctl("reload", "hatchway"), ALL - {"sshd"}),
    "daemon-reload": (systemctl("daemon-reload"), frozenset()),
    "daemon-reexec": (systemctl("daemon-reexec"), frozenset()),
    "restart docker": (systemctl("restart", "docker"), frozenset()),
}
"""What is done, and which daemons are others afterwards."""


@pytest.mark.parametrize("what", ACTIONS)
def test_during_transfers(site: Installed, web: User, what: str) -> None:
    """No session is dropped and no byte lost; others can log in at once."""
    action, others = ACTIONS[what]
    is_well(site)
    before = site.pids()
    with site.transfers(web.login, web.volume) as transfers:
        action(site)
        transfers.assert_going_on()
        # The very next login, while daemons may still be starting: it waits. Only sshd itself is no socket's.
        away_s = site.login_again(web.login)
        if "sshd" not in others:
            assert away_s == 0, "a login was refused"
        elif what.startswith("restart"):
            figures.note(f"{site.host.release}: port closed for {away_s:.1f} s after 'systemctl {what}'")
        transfers.assert_going_on()
        transfers.assert_move()
    is_well(site)
    after = site.pids()
    assert frozenset(name for name in DAEMONS if after[name] != before[name]) == others
    idle(site)


def test_everything_in_a_row(site: Installed, web: User) -> None:
    """All daemons are killed at once, then restarted, then killed again, during one transfer."""
    is_well(site)
    with site.transfers(web.login, web.volume, seconds=25) as transfers:
        for _ in range(2):
            pids = " ".join(str(pid) for pid in site.pids().values())
            site.host.run("sh", "-c", f"kill -KILL {pids}")
            site.wait_all_run()
            transfers.assert_move()
            site.host.run("systemctl", "restart", "hatchway")
            site.wait_all_run()
            transfers.assert_going_on()
        site.sftp(web.login, "ls /data\n", timeout_s=20)
    is_well(site)
    idle(site)


def test_a_bad_configuration_changes_nothing(site: Installed, web: User) -> None:
    """`systemctl reload` says so and fails; what runs goes on."""
    before = site.pids()
    path = CONFIG
    text = site.host.read(path)
    try:
        site.host.write(path, text.replace("[host]\n", "[host]\nnonsense = 1\n"))
        done = site.host.run("systemctl", "reload", "hatchway", check=False)
        assert done.returncode != 0
        assert site.pids() == before
        site.sftp(web.login, "ls /data\n")
        assert "nonsense" in site.host.journal(30, "--unit=hatchway.service")
    finally:
        site.host.write(path, text)
    site.host.run("systemctl", "reload", "hatchway")
    is_well(site)


def test_a_daemon_that_is_masked_is_left_alone_by_a_reload(site: Installed, web: User) -> None:
    """And it is no reason for the others not to read the configuration."""
    site.host.run("systemctl", "mask", "--now", "hatchway-catalog.service")
    try:
        before = site.pids()
        site.host.run("systemctl", "reload", "hatchway")
        wait_until(
            lambda: all(site.pids()[name] not in (0, before[name]) for name in ALL - {"sshd", "catalog"}),
            lambda: f"all other daemons are new ones\n{site.states()}",
            READY_S,
        )
        site.sftp(web.login, "ls /data\n", timeout_s=20)
        assert site.host.run("systemctl", "is-active", "hatchway-catalog.service", check=False).returncode != 0
    finally:
        site.host.run("systemctl", "unmask", "hatchway-catalog.service")
        site.host.run("systemctl", "start", "hatchway-catalog.service")
    site.wait_all_run()
    is_well(site)


def test_stop_and_start(site: Installed, web: User) -> None:
    """`systemctl stop hatchway` ends everything, and nothing starts again by itself."""
    with site.session(web.login) as session:
        site.host.run("systemctl", "stop", "hatchway", timeout_s=120)
        assert site.is_over(session)
    assert "active" not in site.states().split()
    assert site.mounts() == []
    assert site.host.shell("ls -A /run/userdb 2>/dev/null || true") == ""
    left = site.host.shell("ps -eo pid=,user=,args= | grep -E 'hatchway|internal-sftp' | grep -v grep || true")
    assert left == ""
    refused = site.sftp(web.login, "ls\n", check=False)
    assert "Connection refused" in refused.stderr
    done = site.host.run("hatchway", "status", check=False)
    assert done.returncode != 0
    assert site.host.state("hatchway-core.service") == "inactive", "nobody is started by who connects"
    site.host.run("systemctl", "start", "hatchway", timeout_s=120)
    is_well(site)
    site.sftp(web.login, "ls /data\n")


def test_the_hosts_own_sshd_stopped_and_started(site: Installed, web: User) -> None:
    """Debian's ssh.service takes /run/sshd with it when it stops, which every sshd needs (sshd(8))."""
    host = site.host
    try:
        host.run("systemctl", "stop", "ssh.service")
        site.sftp(web.login, "ls /data\n")
        site.sftp(web.login, "ls /data\n", password=site.password(web.instance))
        host.run("systemctl", "restart", "hatchway-sshd")
        site.sftp(web.login, "ls /data\n")
    finally:
        host.run("systemctl", "start", "ssh.service")
    site.sftp(web.login, "ls /data\n")
    host.run("systemctl", "restart", "ssh.service")
    site.sftp(web.login, "ls /data\n")
    is_well(site)


@pytest.mark.parametrize("setting", ["PrivateTmp=yes", "PrivateMounts=yes", "ProtectSystem=strict"])
def test_a_service_with_mounts_of_its_own(site: Installed, web: User, setting: str) -> None:
    """It is started while a session is open, and so gets a copy of all mounts. It keeps nothing of ours alive."""
    idle(site)
    host = site.host
    unit = f"private-{setting.split('=')[0].lower()}.service"
    try:
        with site.session(web.login):
            assert site.mounts() != []
            # Started is one that has become its program, and so has its mounts (systemd.service(5), Type=exec).
            command = ("--property=Type=exec", f"--property={setting}", "sleep", "1000")
            host.run("systemd-run", f"--unit={unit}", *command)
            pid = host.main_pid(unit)
            assert host.run("readlink", f"/proc/{pid}/ns/mnt").stdout != host.run("readlink", "/proc/1/ns/mnt").stdout
        idle(site)
        assert site.mounts(pid) == []
        # The volume itself: the engine can take it away, and nobody holds a file in it.
        site.sftp(web.login, "ls /data\n")
    finally:
        host.run("systemctl", "stop", unit, check=False)
    idle(site)


def test_reboot(site: Installed, web: User) -> None:
    """The same key, the same host key, by itself; and containers that do not start are reached as well."""
    login = web.login
    (site.client / "kept").write_text("before the reboot\n")
    site.sftp(login, "put kept /data/kept\n")
    keys = site.host.shell("cat /etc/hatchway/ssh/*.pub")
    with site.session(login) as session:
        site.host.reboot()
        assert site.is_over(session)
    assert site.all_run(), site.states()
    assert site.host.shell("cat /etc/hatchway/ssh/*.pub") == keys
    wait_until(lambda: site.present(web.instance), "the catalog sees the container", READY_S)
    site.sftp(login, "get /data/kept kept-again\n")
    assert (site.client / "kept-again").read_text() == "before the reboot\n"
    site.sftp(login, "ls /data\n", password=site.password(web.instance))
    times = {
        unit: int(site.host.properties(unit, "ActiveEnterTimestampMonotonic")["ActiveEnterTimestampMonotonic"])
        for unit in ("docker.service", "hatchway-hostd.service")
    }
    # sshd waits for neither: who logs in meanwhile waits in a socket's queue.
    assert times["docker.service"] < times["hatchway-hostd.service"], times
    # Going down, sessions ended before the engine did.
    journal = site.host.run("journalctl", "--boot=-1", "--no-pager", "--output=short-monotonic", check=False).stdout
    ends = re.findall(r"Stopped (hatchway-sessions|docker)\.service", journal)
    assert ends[-2:] == ["hatchway-sessions", "docker"], journal[-12000:]
    is_well(site)


def test_power_is_cut(site: Installed, web: User) -> None:
    """As a reboot, but nothing was ended: what the run directory held is gone, and what is on disk is right."""
    with site.session(web.login) as session:
        site.host.power_cycle()
        session.kill()
    assert site.all_run(), site.states()
    wait_until(lambda: site.present(web.instance), "the catalog sees the container", READY_S)
    site.sftp(web.login, "ls /data\n")
    is_well(site)


def test_doctor_finds_nothing(site: Installed) -> None:
    """`hatchway doctor` on an installed host."""
    done: subprocess.CompletedProcess[str] = site.host.run("hatchway", "doctor", check=False)
    assert done.returncode == 0, done.stdout + done.stderr
