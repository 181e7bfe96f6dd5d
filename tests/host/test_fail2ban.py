"""The jail of the documents, on a host with the package: fail2ban finds what the core writes into the journal."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from tests.host.booted import Host, wait_until
from tests.host.installed import READY_S, Installed, Packages

PAGE = Path(__file__).parents[2] / "docs" / "configure.md"


def test_wrong_passwords_are_counted(boot: Callable[..., Host], packages: Packages) -> None:
    installed = Installed(boot())
    host = installed.host
    host.apt("update")
    installed.install(packages.new)
    installed.directories("one")
    login = installed.enable("plain/one/1")
    jail = re.search(r"^\[hatchway\]\n.*?(?=^```)", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    assert jail is not None
    # Debian's own jail needs a file that there is only with rsyslog.
    host.run("mkdir", "-p", "/etc/fail2ban/jail.d")
    host.write("/etc/fail2ban/jail.d/hatchway.conf", f"[sshd]\nenabled = false\n{jail[0]}")
    host.apt("install", "--no-install-recommends", "fail2ban", "python3-systemd")
    host.run("systemctl", "restart", "fail2ban")
    wait_until(lambda: "Total failed" in status(host), lambda: f"the jail is there\n{status(host)}", READY_S)
    assert installed.sftp(login, "pwd\n", password="wrong", check=False).returncode != 0
    assert host.shell("ls /var/log/journal/*/user-1900000000.journal"), "the journal keeps the core's lines apart"
    wait_until(lambda: re.search(r"Total failed:\s+1\b", status(host)), lambda: f"it counts\n{status(host)}", READY_S)


def status(host: Host) -> str:
    """What fail2ban says of the jail."""
    return host.run("fail2ban-client", "status", "hatchway", check=False).stdout
