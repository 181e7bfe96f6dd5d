"""`hatchway drop-in`: the host's own sshd serves Hatchway's port, and its port 22 is as it was, attempt by attempt."""

from __future__ import annotations

import contextlib
import re
import secrets
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from tests import figures
from tests.host.booted import CLIENT4, HOST4, HOST6, Host, wait_until
from tests.host.conftest import listed
from tests.host.installed import DROP_IN, PORT, Installed, Packages

PAM = "/etc/pam.d/sshd"
OTHERS = "/etc/ssh/sshd_config.d/50-of-the-host.conf"
PASSWORD = "a password of that host"
SHOP, OTHER = "plain/shop/1", "plain/other/1"
KEYBOARD = ("-o", "PreferredAuthentications=keyboard-interactive")
FORWARD = ("-o", "ExitOnForwardFailure=yes", "-N")


@pytest.fixture(scope="module")
def dropped(release: str, packages: Packages) -> Iterator[Installed]:
    """A host with Hatchway and two instances, without an engine; an account `anna` of the host."""
    with listed(release) as host:
        made = Installed(host)
        host.apt("update")
        made.install(packages.new)
        made.directories("shop", "other")
        made.wait_all_run()
        for instance in (SHOP, OTHER):
            made.enable(instance)
        for name in ("anna", "root"):
            subprocess.run(
                ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", f"{made.client}/{name}"], check=True, timeout=60
            )
            home = "/root" if name == "root" else f"/home/{name}"
            if name == "anna":
                host.run("useradd", "--create-home", "--shell", "/bin/bash", name)
            host.run("install", "-d", "-m", "0700", "-o", name, f"{home}/.ssh")
            host.write(f"{home}/.ssh/authorized_keys", (made.client / f"{name}.pub").read_text())
            host.run("chpasswd", given=f"{name}:{PASSWORD}\n")
        # Of itself it would refuse an address that fails on purpose (PerSourcePenalties, from 9.8 on). And rights of
        # ours must not depend on whom the host lets in elsewhere.
        penalties = "PerSourcePenalties no\n" if release != "bookworm" else ""
        host.write(OTHERS, f"{penalties}AllowUsers root anna plain-shop-1 no-such-one\nMaxAuthTries 4\n")
        host.run("systemctl", "reload", "ssh")
        yield made


@pytest.fixture(autouse=True)
def _dedicated(dropped: Installed) -> Iterator[None]:
    """What a test has left is not the next one's."""
    dropped.learn_host_keys()
    before = state_of(dropped.host)
    yield
    dropped.host.run("hatchway", "drop-in", "disable", check=False, timeout_s=120)
    dropped.wait_all_run()
    assert state_of(dropped.host) == before


def state_of(host: Host) -> dict[str, str]:
    """The files and units that a drop-in changes, as they are."""
    places = ("/etc/ssh", "/etc/pam.d", "/etc/systemd/system")
    names = host.run("find", *places, "-printf", "%M %u %g %p %l\\n").stdout
    sums = host.shell(f"find {' '.join(places)} -type f | sort | xargs sha256sum")
    states = {unit: host.state(unit) for unit in ("ssh.service", "ssh.socket", "hatchway-sshd.service")}
    return {"files": sums, "names": "\n".join(sorted(names.splitlines())), **states}


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a client was told, without what differs each time."""

    status: int
    out: str
    told: str

    def without(self, word: str) -> Outcome:
        """As it would be for everybody."""
        return Outcome(self.status, self.out.replace(word, "WHO"), self.told.replace(word, "WHO"))


def attempt(
    site: Installed,
    port: int,
    login: str,
    *,
    key: str = "",
    password: str | None = None,
    options: tuple[str, ...] = (),
    command: tuple[str, ...] | None = None,
    subsystem: str = "sftp",
    address: str = HOST4,
) -> Outcome:
    """Try to get in with ssh: for a subsystem (one may say hello to sftp), or with `options` and for `command`."""
    # Its own file for each, that nothing is learned: which host key is right is not what is looked at.
    settings = [
        "UserKnownHostsFile=/dev/null", "GlobalKnownHostsFile=none", "StrictHostKeyChecking=no", "LogLevel=ERROR",
        f"Port={port}", "IdentitiesOnly=yes", "IdentityAgent=none", "ConnectTimeout=20", "NumberOfPasswordPrompts=1",
    ]  # fmt: skip
    environment = {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "HOME": "/nonexistent"}
    with contextlib.ExitStack() as stack:
        if key:
            settings += [f"IdentityFile={site.client}/{key}", "PreferredAuthentications=publickey", "BatchMode=yes"]
        else:
            settings += ["PubkeyAuthentication=no"]
            asked = site.client / f"askpass-{port}"
            asked.touch(mode=0o700)
            asked.write_text(f"#!/bin/sh\nprintf '%s\\n' '{password}'\n")
            stack.callback(asked.unlink)
            environment |= {"SSH_ASKPASS": str(asked), "SSH_ASKPASS_REQUIRE": "force"}
        words = [word for setting in settings for word in ("-o", setting)]
        rest: tuple[str, ...] = ("-s", f"{login}@{address}", subsystem)
        if command is not None or options:
            rest = (*options, f"{login}@{address}", *(command or ()))
        hello = "\0\0\0\5\1\0\0\0\3" if rest[0] == "-s" else ""
        done = subprocess.run(
            site.host.on_client("ssh", "-F", "none", *words, *rest),
            input=hello, capture_output=True, text=True, errors="replace", timeout=60, env=environment,
            cwd=site.client, check=False,
        )  # fmt: skip
    told = re.sub(r"\bport \d+", "port N", done.stderr)
    return Outcome(done.returncode, re.sub(r"pts/\d+", "pts/N", done.stdout), told)


def sftp(site: Installed, login: str, batch: str, **how: str) -> Outcome:
    """Run a batch of sftp, on our port, with whatever host key there is."""
    done = site.sftp(login, batch, check=False, **how)  # type: ignore[arg-type]
    return Outcome(done.returncode, done.stdout, re.sub(r"\bport \d+", "port N", done.stderr))


def ours(site: Installed, took: dict[str, float]) -> dict[str, Outcome]:
    """Attempts on our port: who gets in, and what they get. `took` is told how long some of them took, in seconds."""
    site.learn_host_keys()
    login, other = "plain-shop-1", "plain-other-1"
    password = site.password(SHOP)
    found = {
        "by key": sftp(site, login, "ls -1 /\n"),
        "by key, IPv6": sftp(site, login, "ls -1 /\n", address=HOST6),
        "by password": sftp(site, login, "ls -1 /\n", password=password),
        "by password, IPv6": sftp(site, login, "ls -1 /\n", password=password, address=HOST6),
        "whom the host does not let in": sftp(site, other, "ls -1 /\n"),
        "up and down": sftp(site, login, "put known_hosts /data/up\nget /data/up down\nrm /data/up\nls -1a /\n"),
        "out of the root": sftp(
            site, login, "-ls /..\n-ls /etc\n-get /etc/passwd\n-symlink /etc/passwd /data/p\n-get /data/p\nrm /data/p\n"
        ),
    }

    def tried(name: str, who: str = login, **how: object) -> None:
        began = time.monotonic()
        found[name] = attempt(site, PORT, who, **how)  # type: ignore[arg-type]
        took[name] = time.monotonic() - began

    tried("wrong password", password="wrong")
    tried("empty password", password="")
    tried("another's password", password=site.password(OTHER))
    tried("another's key", key=other)
    tried("nobody's login", "no-such-one", password="wrong")
    tried("nobody's login, by key", "no-such-one", key=login)
    tried("a name that is none", "Not A Login", password="wrong")
    for account in ("root", "anna"):
        tried(f"{account} by password", account, password=PASSWORD)
        tried(f"{account} by key", account, key=account)
    tried("shell", key=login, command=())
    tried("shell with a terminal", key=login, options=("-tt",), command=("id",))
    tried("command", key=login, command=("id",))
    tried("another subsystem", key=login, subsystem="netconf")
    tried("scp of old", key=login, command=("scp", "-f", "/data"))
    tried("-R", key=login, options=(*FORWARD, "-R", "45022:127.0.0.1:22"))
    tried("-W", key=login, options=("-W", "127.0.0.1:22"))
    tried("tunnel", key=login, options=(*FORWARD, "-w", "any"))
    tried("agent and X11", key=login, options=("-A", "-X"), command=("id",))

    host = site.host
    host.run("hatchway", "lock", SHOP)
    tried("locked, by key", key=login)
    tried("locked, by password", password=password)
    host.run("hatchway", "unlock", SHOP)
    host.run("hatchway", "access", "set", SHOP, "--from", "192.0.2.0/24")
    tried("from elsewhere, by key", key=login)
    tried("from elsewhere, by password", password=password)
    host.run("hatchway", "access", "set", SHOP, "--from", CLIENT4)
    tried("from where it may be, by password", password=password)
    host.run("hatchway", "access", "set", SHOP, "--from-anywhere")
    host.run("hatchway", "enable", SHOP, "/data", "--read-only")
    found["read-only"] = sftp(site, login, "ls -1 /data\nput known_hosts /data/up\n")
    host.run("hatchway", "enable", SHOP, "/data")
    who = f"dora{secrets.token_hex(3)}"
    host.run("hatchway", "person", "add", who)
    host.run("hatchway", "person", "grant", who, SHOP, "/data")
    found["a person"] = sftp(site, who, "ls -1 /\nls -1 /plain-shop-1\n", password=site.password(who))
    host.run("hatchway", "person", "remove", who)
    tried("a person who was removed", who, password="whatever")
    return {name: one.without(who) for name, one in found.items()}


IN = (
    "by key", "by key, IPv6", "by password", "by password, IPv6", "whom the host does not let in", "up and down",
    "out of the root", "from where it may be, by password", "a person",
)  # fmt: skip
"""What is to work on our port. Everything else is refused."""


REFUSED = ("wrong password", "nobody's login", "root by password", "anna by password")
"""They are not to be told from each other."""


def theirs(site: Installed) -> dict[str, Outcome]:
    """Attempts on the host's own port."""
    found: dict[str, Outcome] = {}

    def tried(name: str, who: str, **how: object) -> None:
        found[name] = attempt(site, 22, who, **how)  # type: ignore[arg-type]

    for address in (HOST4, HOST6):
        tried(f"anna by password, {address}", "anna", password=PASSWORD, command=("id",), address=address)
        tried(f"anna by key, {address}", "anna", key="anna", command=("id",), address=address)
    tried("anna, shell with a terminal", "anna", key="anna", options=("-tt",), command=("tty",))
    tried("anna, sftp", "anna", key="anna")
    tried("anna, forwarding", "anna", key="anna", options=("-W", f"127.0.0.1:{PORT}"))
    tried("anna, wrong password", "anna", password="wrong")
    tried("anna, empty password", "anna", password="")
    tried("anna, another's key", "anna", key="root")
    tried("anna, keyboard-interactive", "anna", password=PASSWORD, options=KEYBOARD, command=("id",))
    tried("root by password", "root", password=PASSWORD, command=("id",))
    tried("root by key", "root", key="root", command=("id",))
    tried("nobody's name", "no-such-one", password="wrong")
    for login in ("plain-shop-1", "plain-other-1"):
        tried(f"{login} by password", login, password=site.password(SHOP if "shop" in login else OTHER))
        tried(f"{login} by key", login, key=login)
        tried(f"{login}, forwarding only", login, key=login, options=(*FORWARD, "-L", "127.0.0.1:45022:127.0.0.1:22"))
        tried(f"{login}, keyboard-interactive", login, password="wrong", options=KEYBOARD)
    return found


def test_the_same_table_in_both_modes(dropped: Installed, release: str) -> None:
    """Who gets in, in which words not, and what they get: on our port, and on the host's."""
    host = dropped.host
    tables, logs = [], []
    for drop_in in (False, True):
        if drop_in:
            said = host.run("hatchway", "drop-in", "enable", timeout_s=120).stdout
            assert "The host's own sshd serves port 2022" in said
            assert host.state("hatchway-sshd.service") == "inactive"
        since = host.run("date", "+%s.%N").stdout.strip()
        elsewhere = theirs(dropped)
        # What the host's own log has of these, once it is all there.
        time.sleep(2)
        logs.append(said_of(host, since))
        took: dict[str, float] = {}
        tables.append((ours(dropped, took), elsewhere))
        times = [f"{name} {took[name]:.2f} s" for name in REFUSED]
        figures.note(f"{release}, {'drop-in' if drop_in else 'dedicated'}: refused after: {', '.join(times)}")
    (ours_before, theirs_before), (ours_after, theirs_after) = tables
    assert {name for name, one in ours_before.items() if one.status == 0} == set(IN)
    assert ours_after == ours_before
    assert theirs_after == theirs_before
    assert theirs_before["anna by password, 198.51.100.2"].out.startswith("uid=")
    assert (logs[0] - logs[1], logs[1] - logs[0]) == (Counter(), Counter())
    figures.note(f"{release}: {len(ours_before)} attempts on our port and {len(theirs_before)} on the host's are alike")


def said_of(host: Host, since: str) -> Counter[str]:
    """What sshd and PAM wrote down since then, without numbers, and how often."""
    text = host.journal(
        0, f"--since=@{since}", "--output=cat", "_COMM=sshd", "+", "_COMM=sshd-session", "+", "_COMM=sshd-auth"
    )
    lines = [
        re.sub(r"\b(port|pid|user child is on pid) \d+|SHA256:\S+|\[\d+\]", "N", line) for line in text.splitlines()
    ]
    # Who hangs up first is as it happens. What comes from the host is to our port, or looks whether sshd answers.
    passing = re.compile(r"127\.0\.0\.1| ::1 |isconnect|Connection (closed|reset)|kex_exchange_identification")
    return Counter(line for line in lines if line.strip() and not passing.search(line))


def test_dry_run_says_every_line_and_changes_none(dropped: Installed) -> None:
    host = dropped.host
    before = state_of(host)
    said = host.run("hatchway", "drop-in", "enable", "--dry-run", timeout_s=120).stdout
    assert state_of(host) == before
    host.run("hatchway", "drop-in", "enable", timeout_s=120)
    for path in (DROP_IN, PAM):
        assert path in said
        new = [line for line in host.read(path).splitlines() if path == DROP_IN or line not in before["files"]]
        assert len(new) > 20
    ours = host.read(PAM).partition("# --- Hatchway: end.")[0].splitlines()
    for line in [*host.read(DROP_IN).splitlines(), *ours]:
        assert f"+{line}" in said.splitlines(), line
    assert "systemctl reload-or-restart ssh.service" in said
    again = host.run("hatchway", "drop-in", "enable", timeout_s=120).stdout
    assert "Nothing is to be done" in again
    said = host.run("hatchway", "drop-in", "disable", "--dry-run", timeout_s=120).stdout
    assert [line for line in ours if f"-{line}" not in said.splitlines()] == []
    assert host.exists(DROP_IN)


@pytest.mark.parametrize(
    ("path", "text", "because"),
    [
        (OTHERS, "Nonsense yes\n", "Bad configuration option: Nonsense"),
        (
            "/etc/ssh/sshd_config.d/00-a.conf",
            "Match LocalPort 2022\n    AllowGroups root\n",
            "00-a.conf has a Match block",
        ),
        (OTHERS, "UsePAM no\n", "needs 'UsePAM yes'"),
        (OTHERS, f"Port 22\nPort {PORT}\n", f"listens at port {PORT} for itself"),
    ],
)
def test_what_is_in_the_way_is_said_and_nothing_changed(dropped: Installed, path: str, text: str, because: str) -> None:
    host = dropped.host
    kept = host.read(OTHERS)
    host.write(path, text)
    try:
        before = state_of(host)
        done = host.run("hatchway", "drop-in", "enable", check=False, timeout_s=120)
        assert done.returncode in (6, 8), done
        assert because in done.stderr
        assert state_of(host) == before
    finally:
        host.run("rm", "-f", path)
        host.write(OTHERS, kept)


def test_rolls_back_when_the_hosts_port_does_not_answer(dropped: Installed) -> None:
    """sshd ends in place of reading what `sshd -t` has found good, and cannot be started with it."""
    host = dropped.host
    override = "/run/systemd/system/ssh.service.d/ends.conf"
    ends = "ExecReload=\nExecReload=/bin/kill -TERM $MAINPID\nRestart=no\n"
    host.write(override, f"[Service]\n{ends}ExecStartPre=/usr/bin/test ! -e {DROP_IN}\n")
    host.run("systemctl", "daemon-reload")
    before = state_of(host)
    try:
        with dropped.session("plain-shop-1") as session:
            done = host.run("hatchway", "drop-in", "enable", check=False, timeout_s=120)
            assert done.returncode == 8, done
            assert "systemctl restart ssh.service" in done.stderr
            assert "Everything is as it was before" in done.stderr
            assert not dropped.is_over(session)
        assert state_of(host) == before
        assert attempt(dropped, 22, "anna", key="anna", command=("id",)).status == 0
        dropped.sftp("plain-shop-1", "ls /data\n")
    finally:
        host.run("rm", override)
        host.run("systemctl", "daemon-reload")


@pytest.mark.parametrize(
    ("lines", "at"),
    [
        ("Port 22\n", {"0.0.0.0:22", "[::]:22"}),
        ("Port 22\nPort 2200\n", {"0.0.0.0:22", "[::]:22", "0.0.0.0:2200", "[::]:2200"}),
        (f"ListenAddress {HOST4}\n", {f"{HOST4}:22"}),
        (f"ListenAddress {HOST4}:22\nListenAddress 127.0.0.1:2222\n", {f"{HOST4}:22", "127.0.0.1:2222"}),
        ("AddressFamily inet\n", {"0.0.0.0:22"}),
    ],
)
def test_the_host_listens_where_it_did(dropped: Installed, lines: str, at: set[str]) -> None:
    host = dropped.host
    kept = host.read(OTHERS)
    host.write(OTHERS, kept + lines)
    host.run("systemctl", "restart", "ssh")
    try:
        assert listening(host) == at
        host.run("hatchway", "drop-in", "enable", timeout_s=120)
        ours = {f"0.0.0.0:{PORT}"} if "inet\n" in lines else {f"0.0.0.0:{PORT}", f"[::]:{PORT}"}
        assert listening(host) == at | ours
        host.run("hatchway", "drop-in", "disable", timeout_s=120)
        assert listening(host) == at
    finally:
        host.write(OTHERS, kept)
        host.run("systemctl", "restart", "ssh")


def listening(host: Host) -> set[str]:
    """Where the host's own sshd listens."""
    pid = host.main_pid("ssh.service")
    lines = host.run("ss", "-Hltnp").stdout.splitlines()
    return {line.split()[3].replace("*:", "0.0.0.0:") for line in lines if f"pid={pid}," in line}


def test_sessions_go_on_and_a_boot_changes_nothing(dropped: Installed, release: str) -> None:
    host = dropped.host
    login = "plain-shop-1"
    with dropped.session(login) as before:
        host.run("hatchway", "drop-in", "enable", timeout_s=120)
        dropped.learn_host_keys()
        with dropped.session(login) as after:
            host.run("systemctl", "reload", "hatchway")
            host.run("systemctl", "restart", "hatchway", timeout_s=120)
            assert dropped.hatchway("drop-in", "status") == {"in_place": True, "port": PORT, "problems": []}
            assert host.state("hatchway-sshd.service") == "inactive"
            assert not dropped.is_over(before)
            host.run("hatchway", "drop-in", "disable", timeout_s=120)
            assert not dropped.is_over(after)
    dropped.learn_host_keys()
    host.run("hatchway", "drop-in", "enable", timeout_s=120)
    dropped.learn_host_keys()
    host.reboot()
    # The host's sshd is there before Hatchway is.
    dropped.wait_all_run()
    dropped.login_again(login)
    shown = dropped.hatchway("show", SHOP)
    theirs = {line.split()[1] for line in host.shell("cat /etc/ssh/ssh_host_*_key.pub").splitlines()}
    assert {key["public"].split()[1] for key in shown["host_keys"]} == theirs
    host.run("hatchway", "kick", login, check=False)
    host.run("systemctl", "stop", "hatchway", timeout_s=120)
    assert attempt(dropped, PORT, login, key=login).status != 0
    assert attempt(dropped, 22, "anna", key="anna", command=("id",)).status == 0
    host.run("systemctl", "start", "hatchway", timeout_s=120)
    dropped.wait_all_run()
    dropped.login_again(login)


def test_doctor_and_status(dropped: Installed) -> None:
    host = dropped.host
    host.run("hatchway", "drop-in", "enable", timeout_s=120)
    done = host.run("hatchway", "doctor", check=False, timeout_s=120)
    assert done.returncode == 0, done.stdout
    assert f"the host's own sshd serves port {PORT}" in done.stdout
    text = host.read(PAM)
    host.write(
        PAM,
        text.replace("# --- Hatchway: end.\n", "# --- Hatchway: end.\n# more of the host's\n").replace("is-not", "is"),
    )
    done = host.run("hatchway", "drop-in", "status", check=False, timeout_s=120)
    assert done.returncode == 6
    assert f"{PAM} is not as it should be" in done.stdout
    assert host.run("hatchway", "doctor", check=False, timeout_s=120).returncode != 0
    host.run("hatchway", "drop-in", "enable", timeout_s=120)
    # What others wrote there stays.
    assert host.read(PAM) == text.replace("# --- Hatchway: end.\n", "# --- Hatchway: end.\n# more of the host's\n")
    host.run("hatchway", "drop-in", "disable", timeout_s=120)
    assert host.read(PAM).startswith("# more of the host's\n")
    host.run("sed", "-i", "1d", PAM)


def test_systemd_listens_for_sshd(dropped: Installed) -> None:
    """ssh.socket: sshd is started at the first connection, and does not listen by itself."""
    host = dropped.host
    host.run("systemctl", "disable", "--now", "ssh.service")
    host.run("systemctl", "enable", "--now", "ssh.socket")
    before = state_of(host)
    try:
        host.run("hatchway", "drop-in", "enable", timeout_s=120)
        assert str(PORT) in host.properties("ssh.socket", "Listen")["Listen"]
        dropped.learn_host_keys()
        dropped.login_again("plain-shop-1")
        assert attempt(dropped, 22, "anna", key="anna", command=("id",)).status == 0
        host.reboot()
        dropped.wait_all_run()
        dropped.login_again("plain-shop-1")
        dropped.sftp("plain-shop-1", "ls /data\n", address=HOST6)
        assert attempt(dropped, 22, "anna", key="anna", command=("id",)).status == 0
        host.run("hatchway", "drop-in", "disable", timeout_s=120)
        dropped.learn_host_keys()
        dropped.wait_all_run()
        dropped.login_again("plain-shop-1")
        assert attempt(dropped, 22, "anna", key="anna", command=("id",)).status == 0
        after = state_of(host)
        assert {**after, "ssh.service": ""} == {**before, "ssh.service": ""}
    finally:
        host.run("systemctl", "disable", "ssh.socket")
        host.run("systemctl", "stop", "ssh.socket", "ssh.service")
        wait_until(lambda: attempt(dropped, 22, "anna", key="anna").status != 0, "nobody listens at 22", 30)
        host.run("systemctl", "enable", "--now", "ssh.service")


def test_the_package_goes_and_comes(dropped: Installed, packages: Packages) -> None:
    """Last: what is installed again afterwards is asked to be the drop-in once more."""
    host = dropped.host
    before = {path: host.read(path) for path in (PAM, "/etc/ssh/sshd_config")}
    host.run("hatchway", "drop-in", "enable", timeout_s=120)
    host.write(DROP_IN, host.read(DROP_IN).replace("MaxSessions 10", "MaxSessions 9"))
    # Not by apt, which has the machine's network here: what listens is to be reached.
    host.put(packages.new, "/root/hatchway.deb")
    host.run("dpkg", "--install", "/root/hatchway.deb", timeout_s=300)
    assert "MaxSessions 10" in host.read(DROP_IN)
    dropped.learn_host_keys()
    dropped.login_again("plain-shop-1")
    host.run("dpkg", "--remove", "hatchway", timeout_s=300)
    assert not host.exists(DROP_IN)
    assert {path: host.read(path) for path in before} == before
    assert listening(host) == {"0.0.0.0:22", "[::]:22"}
    assert attempt(dropped, 22, "anna", key="anna", command=("id",)).status == 0
    host.run("dpkg", "--install", "/root/hatchway.deb", timeout_s=300)
    dropped.wait_all_run()
