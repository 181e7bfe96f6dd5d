"""The web pages as the package serves them: switched on and off in the configuration, used, and what they may do."""

from __future__ import annotations

import re
import secrets
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.host import conftest
from tests.host.booted import CLIENT4, HOST4, wait_until
from tests.host.installed import CONFIG, READY_S, WEB_DAEMONS, Installed, Packages

PAGES = f"https://{HOST4}:8022"
PASSWORD = "correct horse, battery"
GROUP = "hatchway-operators"
PAM = "/etc/pam.d/hatchway-signin"
SECURITY = (Path(__file__).parents[2] / "docs" / "security.md").read_text()

CONNECT = """
import os, socket, sys
uid = int(sys.argv[1])
os.setgroups([])
os.setresgid(uid, uid, uid)
os.setresuid(uid, uid, uid)
for name in sys.argv[2:]:
    try:
        socket.socket(socket.AF_UNIX).connect(f"/run/hatchway/{name}.sock")
        print(name)
    except PermissionError:
        pass
"""


@pytest.fixture(scope="module")
def site(release: str, packages: Packages) -> Iterator[Installed]:
    """A host of these tests' own: no engine, one directory, an operator and somebody else; web.enabled as installed."""
    with conftest.listed(release) as host:
        made = Installed(host)
        host.apt("update")
        made.install(packages.new)
        made.directories("one")
        made.wait_all_run()
        host.run("groupadd", "--system", GROUP)
        for name, groups in (("anna", GROUP), ("berta", "users")):
            host.run("useradd", "--no-create-home", "--groups", groups, name)
        host.run("chpasswd", given=f"anna:{PASSWORD}\nberta:{PASSWORD}\n")
        yield made


class Browser:
    """curl on the client's side, with cookies of its own."""

    def __init__(self, site: Installed) -> None:
        self._site = site
        self._jar = site.client / f"cookies-{secrets.token_hex(4)}"

    def get(self, path: str, *options: str) -> tuple[int, str]:
        """Status and page."""
        command = ["curl", "--silent", "--show-error", "--insecure", "--max-time", "30", "--cookie", str(self._jar)]
        command += ["--cookie-jar", str(self._jar), "--header", "Sec-Fetch-Site: same-origin"]
        command += ["--write-out", "\n%{http_code}", *options, f"{PAGES}{path}"]
        done = subprocess.run(self._site.host.on_client(*command), capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, f"{path}: {done.returncode}\n{done.stderr}"
        page, _, status = done.stdout.rpartition("\n")
        return int(status), page

    def sign_in(self, name: str, password: str) -> tuple[int, str]:
        """Fill in the form."""
        _, form = self.get("/sign-in")
        token = re.search(r'name="csrf" value="([^"]+)"', form)
        assert token, form
        fields = (f"csrf={token[1]}", f"name={name}", f"password={password}", "next=/")
        return self.get("/sign-in", *(word for field in fields for word in ("--data-urlencode", field)))


def doctor(site: Installed) -> tuple[int, str]:
    """Exit status, and what it says, its lines joined."""
    done = site.host.run("hatchway", "doctor", check=False, timeout_s=120)
    return done.returncode, " ".join((done.stdout + done.stderr).split())


def web_pids(site: Installed) -> dict[str, int]:
    return {name: site.host.main_pid(f"hatchway-{name}.service") for name in WEB_DAEMONS}


def nothing_has_failed(site: Installed) -> None:
    assert site.host.run("systemctl", "--failed", "--no-legend", "--plain").stdout == ""
    assert site.host.run("systemctl", "is-system-running", check=False).stdout.strip() == "running"


def is_off(site: Installed) -> None:
    """Neither process is there, nor waits to be started; and that is no failure."""
    site.wait_all_run()
    for name in WEB_DAEMONS:
        found = site.host.properties(
            f"hatchway-{name}.service", "ActiveState", "SubState", "Result", "NRestarts", "Job"
        )
        assert (found["ActiveState"], found["SubState"], found["NRestarts"]) == ("inactive", "dead", "0"), found
        assert found["Result"] == "exec-condition"
        status = site.host.run("systemctl", "status", f"hatchway-{name}", check=False).stdout
        assert "web.enabled is off" in status
    processes = site.host.shell("ps -eo args=")
    assert "hatchway.web" not in processes
    assert "hatchway.signin" not in processes
    assert site.host.shell("ss -Hltn 'sport = :8022'") == ""
    nothing_has_failed(site)


def turn(site: Installed, text: str) -> None:
    """The one step there is: the configuration, and a reload."""
    site.configure({"web.enabled": text, "web.listen": f'["{HOST4}:8022"]'})
    site.wait_all_run()


def test_off_as_installed(site: Installed) -> None:
    is_off(site)
    grave = site.host.journal(0, "--unit=hatchway-web", "--unit=hatchway-signin", "--priority=warning")
    assert [line for line in grave.splitlines() if not line.startswith("-- ")] == []
    # Also after a restart, and when it is asked for by name.
    site.host.run("systemctl", "restart", "hatchway")
    site.host.run("systemctl", "start", "hatchway-web", "hatchway-signin")
    is_off(site)
    # Logins do not notice.
    login = site.enable("plain/one/1")
    site.sftp(login, "cd /data\n")


def test_an_operator_signs_in_and_nobody_else(site: Installed) -> None:
    turn(site, "true")
    nothing_has_failed(site)
    assert Browser(site).get("/")[0] == 303
    # Without the form's token, whatever the password.
    assert Browser(site).get("/sign-in", "--data", "name=anna", "--data-urlencode", f"password={PASSWORD}")[0] == 403
    for name, password in (("anna", "wrong"), ("berta", PASSWORD), ("root", PASSWORD), ("nobody-here", PASSWORD)):
        browser = Browser(site)
        status, page = browser.sign_in(name, password)
        assert status == 403, f"{name}\n{page}"
        assert browser.get("/")[0] == 303
    browser = Browser(site)
    assert browser.sign_in("anna", PASSWORD)[0] == 303
    status, page = browser.get("/")
    assert status == 200
    assert 'href="/instances/plain/one/1"' in page, page
    assert browser.get("/instances/plain/one/1")[0] == 200
    assert PASSWORD not in site.host.journal()
    # The core and the web process are others after a restart; systemd keeps the sockets.
    site.host.run("systemctl", "restart", "hatchway")
    site.wait_all_run()
    assert browser.sign_in("anna", PASSWORD)[0] == 303
    for name in WEB_DAEMONS:
        site.host.run("systemctl", "restart", f"hatchway-{name}")
    assert Browser(site).sign_in("anna", PASSWORD)[0] == 303
    grave = site.host.journal(0, "--unit=hatchway-web", "--unit=hatchway-signin", "--priority=warning")
    assert [line for line in grave.splitlines() if not line.startswith("-- ")] == []


def test_modules_that_count_failures(site: Installed) -> None:
    """pam_faillock writes for an account that is not root's, in the only place the unit lets it."""
    host = site.host
    before = host.read(PAM)
    line = "auth [success=1 default=ignore] pam_unix.so\nauth [default=die] pam_faillock.so authfail\n"
    line += "auth required pam_permit.so\n"
    assert "@include common-auth\n" in before
    try:
        host.write(PAM, before.replace("@include common-auth\n", line))
        assert Browser(site).sign_in("anna", "wrong")[0] == 403
        assert host.run("stat", "-c", "%U %s", "/run/faillock/anna").stdout.split()[1] != "0"
        assert Browser(site).sign_in("anna", PASSWORD)[0] == 303
    finally:
        host.write(PAM, before)
        host.run("rm", "-f", "/run/faillock/anna")


def test_rights_are_those_of_the_document(site: Installed) -> None:
    """/proc/<pid>/status against docs/security.md."""
    keys = ("Uid", "CapPrm", "CapEff", "CapBnd", "NoNewPrivs", "Seccomp")
    for name, called in (("web", "web"), ("signin", "sign-in helper")):
        row = re.search(rf"^\| {called} \|(.*)\|$", SECURITY, re.MULTILINE)
        assert row, called
        expected = [cell.strip(" `") for cell in row[1].split("|")]
        status = site.host.read(f"/proc/{web_pids(site)[name]}/status")
        found = [re.search(rf"^{key}:\s*(\S+)", status, re.MULTILINE) for key in keys]
        values = [one[1] if one else "" for one in found]
        values[1:4] = [value.lstrip("0") or "0" for value in values[1:4]]
        assert [int(a, 16) for a in values] == [int(b, 16) for b in expected], f"{called}: {values}"
    sockets = site.host.shell("stat -c '%n %a %U %G' /run/hatchway/web.sock /run/hatchway/signin.sock")
    assert sockets.splitlines() == [
        "/run/hatchway/web.sock 660 root hatchway-web",
        "/run/hatchway/signin.sock 660 root hatchway",
    ]


def test_what_the_web_process_sees(site: Installed) -> None:
    """Of the host's sockets Hatchway's, of which it may use one; no state of the core's, and no session."""
    pid = web_pids(site)["web"]
    root = f"/proc/{pid}/root"
    seen = site.host.shell(f"cd {root}/run && find . -xdev -type s; ls -A .")
    assert set(seen.split()) >= {"hatchway", "systemd"}
    assert not set(seen.split()) & {"dbus", "docker.sock", "user", "udev"}, seen
    for path in ("var/lib/hatchway", "etc/hatchway/ssh", "run/hatchway/mnt"):
        assert site.host.shell(f"stat -c %a {root}/{path}").strip() == "0", path
    uid = site.host.run("id", "-u", "hatchway-web").stdout.strip()
    names = ("admin", "auth", "catalog", "hostd", "signin", "web")
    assert site.host.run("python3", "-c", CONNECT, uid, *names).stdout.split() == ["web"]


def test_doctor(site: Installed) -> None:
    status, said = doctor(site)
    assert status == 0, said
    for line in ("sign-in helper: it answers", f"web.listen: {HOST4}:8022 answers", f"{PAM}", "all 16 are active"):
        assert line in said, said
    assert "operators_group" not in said
    site.host.run("gpasswd", "--delete", "anna", GROUP)
    site.host.run("systemctl", "stop", "hatchway-signin.socket", "hatchway-signin.service")
    try:
        status, said = doctor(site)
        assert status == 1, said
        assert f"nobody is in the group {GROUP}" in said
        assert "sign-in helper: no operator can sign in" in said
    finally:
        site.host.run("gpasswd", "--add", "anna", GROUP)
        site.host.run("systemctl", "start", "hatchway-signin.socket", "hatchway-signin.service")
    site.wait_all_run()


def test_a_certificate_in_files(site: Installed) -> None:
    """The web process reads the key by its group; doctor says when it cannot."""
    host = site.host
    text = host.read(CONFIG)
    host.run("install", "-d", "/etc/hatchway/web")
    for name in ("certificate", "key"):
        group = ("-g", "hatchway-web", "-m", "0640")
        host.run("install", *group, f"/var/lib/hatchway-web/{name}.pem", f"/etc/hatchway/web/{name}.pem")
    try:
        files = {name: f'"/etc/hatchway/web/{name}.pem"' for name in ("certificate", "key")}
        site.configure({"web.tls": '"files"', **{f"web.{name}": path for name, path in files.items()}})
        site.wait_all_run()
        assert Browser(site).sign_in("anna", PASSWORD)[0] == 303
        status, said = doctor(site)
        assert status == 0, said
        assert "/etc/hatchway/web/certificate.pem and its key can be read" in said
        host.run("chmod", "0600", "/etc/hatchway/web/key.pem")
        status, said = doctor(site)
        assert status == 1, said
        assert "hatchway-web cannot read /etc/hatchway/web/key.pem" in said
    finally:
        host.write(CONFIG, text)
        host.run("rm", "-r", "/etc/hatchway/web")
        host.run("systemctl", "reload", "hatchway")
    site.wait_all_run()


def test_a_drop_in_says_who_reaches_the_pages(site: Installed) -> None:
    host = site.host
    drop_in = "/etc/systemd/system/hatchway-web.service.d/who.conf"

    def apply() -> None:
        host.run("systemctl", "daemon-reload")
        host.run("systemctl", "restart", "hatchway-web")

    # What a client's side of a refused packet looks like: it waits.
    reached = ["curl", "--silent", "--insecure", "--max-time", "3", "--output", "/dev/null", PAGES]
    try:
        for allowed, status in ((CLIENT4, 0), ("localhost", 28)):
            host.write(drop_in, f"[Service]\nIPAddressAllow={allowed}\nIPAddressDeny=any\n")
            apply()
            done = subprocess.run(host.on_client(*reached), capture_output=True, text=True, timeout=30)
            assert done.returncode == status, f"{allowed}: {done.returncode}\n{done.stderr}"
    finally:
        host.run("rm", "-r", "/etc/systemd/system/hatchway-web.service.d")
        apply()
    assert subprocess.run(host.on_client(*reached), capture_output=True, timeout=30).returncode == 0
    site.wait_all_run()


def test_it_is_there_after_a_reboot(site: Installed) -> None:
    site.host.reboot()
    site.wait_all_run()
    assert Browser(site).sign_in("anna", PASSWORD)[0] == 303
    nothing_has_failed(site)


def test_a_wrong_configuration_is_no_reason_to_stay_away(site: Installed) -> None:
    """It is tried again, as all daemons are."""
    text = site.host.read(CONFIG)
    try:
        site.host.write(CONFIG, text.replace("[web]\n", "[web]\nnonsense = 1\n"))
        site.host.run("systemctl", "restart", "hatchway-web", check=False)
    finally:
        site.host.write(CONFIG, text)
    site.wait_all_run()


def test_turned_off_again(site: Installed) -> None:
    turn(site, "false")
    is_off(site)
    turn(site, "true")
    assert Browser(site).sign_in("anna", PASSWORD)[0] == 303


def test_stopped_and_purged(site: Installed) -> None:
    """While it runs. What is left is the operators' group, which is not the package's."""
    host = site.host
    host.run("systemctl", "stop", "hatchway", timeout_s=120)
    assert "active" not in site.states().split()
    host.run("systemctl", "start", "hatchway", timeout_s=120)
    site.wait_all_run()
    assert host.exists("/var/lib/hatchway-web/certificate.pem")
    host.apt("purge", "hatchway")
    wait_until(lambda: "hatchway" not in host.shell("ps -eo args="), "all processes have ended", READY_S)
    for path in ("/var/lib/hatchway-web", "/var/lib/hatchway", "/run/hatchway", "/etc/hatchway", "/run/faillock", PAM):
        assert not host.exists(path), path
    accounts = host.shell("cut -d: -f1 /etc/passwd /etc/group | grep hatchway")
    assert accounts.split() == [GROUP]
    nothing_has_failed(site)
