"""Installed, used, removed and purged, as an administrator does it, on hosts of the test's own."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tests import figures
from tests.host.booted import Host, wait_until
from tests.host.installed import DOCKER, IDLE_S, READY_S, SERVICES, SOCKETS, Installed, Packages, first_login

MESSAGE = "What to type next:"


def test_from_nothing_to_the_first_login(boot: Callable[..., Host], packages: Packages, release: str) -> None:
    """A host with nothing but Debian, and the file: how long, and how much."""
    installed = Installed(boot())
    began = time.monotonic()
    installed.host.apt("update")
    updated = time.monotonic()
    said = installed.install(packages.new)
    ready = time.monotonic()
    assert MESSAGE in said, said
    assert installed.all_run(), installed.states()
    assert installed.host.run("systemctl", "is-system-running", check=False).stdout.strip() == "running"
    assert installed.host.run("systemctl", "is-enabled", "hatchway").stdout.strip() == "enabled"
    installed.directories("one")
    login = installed.enable("plain/one/1")
    installed.sftp(login, "cd /data\npwd\n")
    done = time.monotonic()
    packages_new = re.search(r"(\d+) newly installed", said)
    fetched = re.search(r"Need to get ([^\n]*?)(?:/[^\n]*)? of archives", said)
    used = re.search(r"After this operation, ([^\n]*?) of additional", said)
    assert packages_new and fetched and used, said
    figures.note(
        f"{release}: from nothing to the first login {done - began:.1f} s: apt update {updated - began:.1f},"
        f" apt install {ready - updated:.1f}, configured, enabled and logged in {done - ready:.1f};"
        f" {packages_new[1]} packages, {fetched[1]} to fetch, {used[1]} on disk"
    )
    first_login(installed, "plain/one/1")


def test_docker_installed_later(boot: Callable[..., Host], packages: Packages, release: str) -> None:
    """The catalog may read an engine that came after it, without anybody's help."""
    installed = Installed(boot())
    installed.host.apt("update")
    installed.install(packages.new)
    installed.wait_all_run()
    assert "docker" not in installed.host.run("id", "-nG", "hatchway-catalog").stdout.split()
    installed.host.apt("install", "--no-install-recommends", *DOCKER[release])
    assert "docker" in installed.host.run("id", "-nG", "hatchway-catalog").stdout.split()
    installed.make_image()
    installed.container("web")
    first_login(installed, "default/web/1")


class Snapshot:
    """Every file of a host with its kind, mode, owner, target of a link, and the contents of those in /etc."""

    # What changes by itself, and what apt and dpkg keep. All else must be as it was.
    PASSED = re.compile(
        r"/(proc|sys|dev)(/|$)|/run/(?!hatchway|userdb)|/run$|/root/hatchway_.*\.deb$|"
        r"/var/lib/(apt|dpkg)(/|$)|/var/cache/(apt|debconf|ldconfig)(/|$)|"
        r"/var/lib/systemd/(?!deb-systemd-helper)|/var/log/(apt|journal)(/|$)|"
        r"/var/log/(alternatives\.log|btmp|dpkg\.log|lastlog|wtmp)$|/var/(lib|log)$|"
        r"/etc/ld\.so\.cache$|/etc/(passwd|group|g?shadow)-$"
    )

    def __init__(self, host: Host) -> None:
        self.files = {}
        listing = host.shell(r"find / /run -xdev -printf '%p\t%y %m %u:%g %l\n'", timeout_s=120)
        for line in listing.splitlines():
            path, _, what = line.partition("\t")
            if not self.PASSED.match(path):
                self.files[path] = what
        sums = host.shell("find /etc -xdev -type f -exec sha256sum {} +", timeout_s=120)
        for line in sums.splitlines():
            digest, _, path = line.partition("  ")
            if path in self.files:
                self.files[path] += f" {digest[:12]}"

    def differences(self, other: Snapshot) -> list[str]:
        """What is here and not there, or otherwise."""
        return sorted(
            f"{path}: {self.files.get(path, 'nothing')} -> {other.files.get(path, 'nothing')}"
            for path in self.files.keys() | other.files.keys()
            if self.files.get(path) != other.files.get(path)
        )


def dependencies(installed: Installed, deb: Path) -> list[str]:
    """What apt would install with the package."""
    installed.host.put(deb, f"/root/{deb.name}")
    said = installed.host.apt("install", "--simulate", f"/root/{deb.name}").stdout
    return [name for name in re.findall(r"^Inst (\S+)", said, re.MULTILINE) if name != "hatchway"]


def nothing_runs(installed: Installed) -> None:
    """Nothing of ours is running, mounted, or published."""
    left = installed.host.shell("ps -eo pid=,user=,args= | grep -E 'hatchway|internal-sftp' | grep -v grep || true")
    assert left == ""
    assert installed.mounts() == []
    assert installed.host.shell("ls -A /run/userdb 2>/dev/null || true") == ""
    active = installed.host.run("systemctl", "is-active", *SERVICES, *SOCKETS, check=False).stdout.split()
    assert set(active) == {"inactive"}, installed.states()


def test_remove_install_again_purge(boot: Callable[..., Host], packages: Packages) -> None:
    """Removing ends everything and keeps what somebody made; purging leaves nothing but the files in volumes."""
    installed = Installed(boot())
    host = installed.host
    host.apt("update")
    host.apt("install", *dependencies(installed, packages.new))
    host.run("mkdir", "-p", "/srv/shared/one", "/srv/shared/two")
    before = Snapshot(host)
    host.write("/srv/shared/one/theirs", "a file\n")

    installed.install(packages.new)
    installed.directories("one", "two")
    login = first_login(installed, "plain/one/1")
    installed.enable("plain/two/1")
    keys = host.shell("cat /etc/hatchway/ssh/*.pub")
    with installed.session(login) as session:
        wait_until(lambda: installed.sessions() == 1, "the session is counted", READY_S)
        removed = host.apt("remove", "hatchway")
        assert installed.is_over(session)
    assert "rror" not in removed.stderr, removed.stderr
    nothing_runs(installed)
    assert host.read("/srv/shared/one/theirs") == "a file\n"
    assert host.exists("/var/lib/hatchway/registry.sqlite") or host.shell("ls /var/lib/hatchway") != ""
    assert host.read("/etc/hatchway/instances.toml")
    assert not host.exists("/usr/lib/hatchway"), host.shell("find /usr/lib/hatchway | head")
    assert host.run("systemctl", "is-system-running", check=False).stdout.strip() == "running"

    # What was given before is there again.
    said = installed.install(packages.new)
    installed.wait_all_run()
    assert host.shell("cat /etc/hatchway/ssh/*.pub") == keys
    wait_until(lambda: installed.present("plain/one/1"), "the instance is there", READY_S)
    installed.sftp(login, "get /data/theirs theirs\n")
    (installed.client / "theirs").unlink()
    assert "dpkg: warning" not in said, said

    # Purged at once, while it runs and somebody is in.
    with installed.session(login) as session:
        host.apt("purge", "hatchway")
        assert installed.is_over(session)
    nothing_runs(installed)
    assert (
        host.run(
            "getent", "passwd", "hatchway", "hatchway-catalog", "hatchway-keys", "hatchway-web", check=False
        ).stdout
        == ""
    )
    assert host.run("getent", "group", "hatchway", "hatchway-sftp", check=False).stdout == ""
    assert host.read("/srv/shared/one/theirs") == "a file\n"
    host.shell("rm -r /srv/shared/*; mkdir /srv/shared/one /srv/shared/two")
    assert before.differences(Snapshot(host)) == []

    # And from the beginning.
    installed.install(packages.new)
    installed.directories("one")
    installed.learn_host_keys()
    assert host.shell("cat /etc/hatchway/ssh/*.pub") != keys
    first_login(installed, "plain/one/1")


def test_upgrade_during_a_transfer(boot: Callable[..., Host], packages: Packages) -> None:
    """No session ends, no byte is lost, and who comes in afterwards is served by the new code."""
    installed = Installed(boot())
    host = installed.host
    host.apt("update")
    installed.install(packages.old)
    installed.directories("one")
    login = first_login(installed, "plain/one/1")
    keys = host.shell("cat /etc/hatchway/ssh/*.pub")
    assert old_processes(host) >= 4, host.shell("ps -eo pid,comm,args")
    pids = installed.pids()
    with installed.transfers(login, "/srv/shared/one", seconds=60, mebibytes=64) as transfers:
        said = installed.install(packages.new)
        transfers.assert_going_on()
        transfers.assert_move()
        installed.wait_all_run()
        assert MESSAGE not in said, "that is for a first installation"
        assert all(now != pids[name] for name, now in installed.pids().items()), "every daemon was restarted"
        # The workers of the sessions that are open are all that is left of the old package.
        left = host.shell("ps -eo comm=,args= | grep '^hatchway-old' || true").splitlines()
        assert all("hatchway.host.zygote" in line for line in left), left
        installed.sftp(login, "ls /data\n")
        transfers.assert_going_on()
    wait_until(
        lambda: old_processes(host) == 0,
        lambda: f"no process of the old package is left\n{host.shell('ps -eo pid,ppid,comm,args')}",
        IDLE_S + 20,
    )
    assert host.shell("cat /etc/hatchway/ssh/*.pub") == keys
    installed.sftp(login, "ls /data\n")
    assert host.run("systemctl", "is-system-running", check=False).stdout.strip() == "running"


def old_processes(host: Host) -> int:
    """How many processes of the old package there are."""
    return int(host.shell("ps -eo comm= | grep -c '^hatchway-old' || true"))


@pytest.mark.parametrize("action", ["remove", "purge"])
def test_taken_away_with_docker_there(boot: Callable[..., Host], packages: Packages, release: str, action: str) -> None:
    """The engine's volumes, and its group, stay as they are."""
    installed = Installed(boot(*DOCKER[release]))
    host = installed.host
    host.apt("update")
    installed.install(packages.new)
    installed.make_image()
    installed.container("web")
    first_login(installed, "default/web/1")
    content = host.read(f"{installed.volume('web')}/hello")
    host.apt(action, "hatchway")
    nothing_runs(installed)
    assert host.read(f"{installed.volume('web')}/hello") == content
    assert host.run("docker", "ps", "--quiet").stdout != ""
    assert host.run("getent", "group", "docker").stdout.strip().split(":")[3] in ("", "hatchway-catalog")
    if action == "purge":
        assert "hatchway" not in host.read("/etc/group")
