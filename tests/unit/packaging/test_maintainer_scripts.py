"""What the maintainer scripts do, with the programs they call replaced by some that note down how they were called."""

from __future__ import annotations

import json
import os
import re
import select
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from hatchway.host.records import Records

DEBIAN = Path(__file__).parents[3] / "debian"
DAEMONS = {f"hatchway-{name}.service" for name in ("workers", "hostd", "core", "catalog", "sshd", "signin", "web")}

STUB = """#!/bin/sh
echo "$(basename "$0") $*" >>"$STUBS/called"
[ ! -x "$STUBS/$(basename "$0").does" ] || exec "$STUBS/$(basename "$0").does" "$@"
"""


class Host:
    """A script of ours with all its paths below a directory, and programs that only note down that they were called."""

    def __init__(self, top: Path) -> None:
        self.top = top
        self.stubs = top / "stubs"
        self.stubs.mkdir()
        for directory in (
            "run/systemd/system",
            "run/hatchway",
            "run/userdb",
            "run/faillock",
            "var/lib/misc",
            "usr/lib/hatchway/bin",
        ):
            (top / directory).mkdir(parents=True)
        for directory in ("etc/hatchway", "var/lib/hatchway", "var/lib/hatchway-web"):
            (top / directory).mkdir(parents=True)
            (top / directory / "file").touch()
        for name in ("systemctl", "deb-systemd-invoke", "usermod", "userdel", "groupdel", "py3compile"):
            self.program(self.stubs / name, STUB)
        self.does("getent", '[ "$*" != "group docker" ] || echo "docker:x:990:$(cat "$STUBS/members")"')
        (self.stubs / "members").touch()
        self.active = {"hatchway.service", *DAEMONS}
        self.masked: set[str] = set()
        self.engine: tuple[bool, str] = (True, "unix:///var/run/docker.sock")
        self.right = True
        (top / "usr/lib/hatchway/bin/python3").symlink_to(sys.executable)

    def program(self, path: Path, text: str) -> None:
        path.write_text(text)
        path.chmod(0o755)

    def does(self, name: str, text: str) -> None:
        """What a program does besides."""
        self.program(self.stubs / name, STUB)
        self.program(self.stubs / f"{name}.does", f"#!/bin/sh\n{text}\n")

    def run(self, name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a maintainer script. `called` then has what it called."""
        active, masked = " ".join(self.active), " ".join(self.masked)
        self.does(
            "systemctl",
            f"""
case "$*" in
"--quiet is-active "*) for unit in '' {active}; do [ "$3" != "$unit" ] || exit 0; done; exit 3 ;;
"is-enabled "*) for unit in '' {masked}; do [ "$2" != "$unit" ] || {{ echo masked; exit 1; }}; done; echo static ;;
esac
""",
        )
        enabled, url = self.engine
        settings = {"settings": {"engine.enabled": {"value": enabled}, "engine.url": {"value": url}}}
        self.program(
            self.top / "usr/lib/hatchway/bin/hatchway",
            f'#!/bin/sh\ncase "$*" in\n"config show --json") echo \'{json.dumps(settings)}\' ;;\n'
            f'"config check") echo checked; exit {0 if self.right else 3} ;;\n*) exit 9 ;;\nesac\n',
        )
        text = (DEBIAN / f"hatchway.{name}").read_text()
        text = re.sub(r"(?<![\w/])/(usr/lib/hatchway|run/|var/lib/|etc/hatchway)", rf"{self.top}/\1", text)
        script = self.top / name
        script.write_text(text)
        (self.stubs / "called").unlink(missing_ok=True)
        return subprocess.run(
            ["sh", script, *arguments],
            capture_output=True,
            text=True,
            timeout=60,
            env={"PATH": f"{self.stubs}:/usr/sbin:/usr/bin:/sbin:/bin", "STUBS": str(self.stubs)},
        )

    def called(self, *names: str) -> list[str]:
        """Calls of these programs."""
        path = self.stubs / "called"
        lines = path.read_text().splitlines() if path.exists() else []
        return [line for line in lines if line.split()[0] in names]

    def joined(self) -> bool:
        """Whether the script made the catalog a member of group docker."""
        return self.called("usermod") == ["usermod --append --groups docker hatchway-catalog"]


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def test_the_first_installation_gives_the_catalog_dockers_group_and_says_so(host: Host) -> None:
    done = host.run("postinst", "configure", "")
    assert done.returncode == 0, done.stderr
    assert host.joined()
    assert "hatchway-catalog is a member of the group docker now" in done.stdout


@pytest.mark.parametrize(
    "engine", [(False, "unix:///var/run/docker.sock"), (True, "unix:///run/podman/podman.sock")], ids=["off", "other"]
)
@pytest.mark.parametrize("how", [("configure", ""), ("triggered", "/lib/systemd/system/docker.service")])
def test_not_where_docker_is_not_the_engine(host: Host, engine: tuple[bool, str], how: tuple[str, str]) -> None:
    host.engine = engine
    done = host.run("postinst", *how)
    assert done.returncode == 0, done.stderr
    assert host.called("usermod") == []


def test_an_upgrade_gives_no_group(host: Host) -> None:
    host.run("postinst", "configure", "0.1.0")
    assert host.called("usermod") == []


def test_what_was_taken_back_is_not_given_again(host: Host) -> None:
    """Docker's upgrades pull the trigger too."""
    docker = ("triggered", "/lib/systemd/system/docker.service")
    host.run("postinst", *docker)
    assert host.joined()
    assert host.called("deb-systemd-invoke") == ["deb-systemd-invoke restart hatchway-catalog.service"]
    host.run("postinst", *docker)
    assert host.called("usermod", "deb-systemd-invoke") == []
    # Another Docker, after this one was purged.
    host.does("getent", "exit 2")
    host.run("postinst", *docker)
    host.does("getent", "echo docker:x:991:")
    host.run("postinst", *docker)
    assert host.joined()


def test_who_is_a_member_already_stays_so(host: Host) -> None:
    (host.stubs / "members").write_text("somebody,hatchway-catalog")
    done = host.run("postinst", "configure", "")
    assert (host.called("usermod"), "docker" in done.stdout) == ([], False)


def test_a_group_that_cannot_be_given_is_no_reason_to_fail(host: Host) -> None:
    host.does("usermod", "exit 10")
    done = host.run("postinst", "configure", "")
    assert done.returncode == 0
    assert "could not be made a member" in done.stderr
    host.does("usermod", "exit 0")
    host.run("postinst", "triggered", "/lib/systemd/system/docker.service")
    assert host.joined(), "it is tried again"


@pytest.mark.parametrize(
    "how",
    [
        ("configure", "0.1.0"),
        ("triggered", "/usr/sbin/sshd"),
        ("triggered", "/usr/lib/systemd/system/docker.service"),
    ],
)
def test_nothing_is_restarted_with_a_wrong_configuration(host: Host, how: tuple[str, str]) -> None:
    host.right = False
    done = host.run("postinst", *how)
    assert done.returncode == 0, done.stderr
    assert host.called("deb-systemd-invoke") == []
    assert "hatchway: nothing is restarted, since the configuration is not right" in done.stderr
    assert "systemctl restart hatchway" in done.stderr


def test_another_openssh_restarts_sshd_alone(host: Host) -> None:
    done = host.run("postinst", "triggered", "/usr/sbin/sshd")
    assert host.called("deb-systemd-invoke") == ["deb-systemd-invoke restart hatchway-sshd.service"]
    assert (done.stdout, done.stderr) == ("", "")


@pytest.mark.parametrize("how", [("configure", "0.1.0"), ("triggered", "/usr/sbin/sshd")])
def test_a_restart_that_fails_is_said(host: Host, how: tuple[str, str]) -> None:
    host.does("deb-systemd-invoke", '[ "$1" != restart ]')
    done = host.run("postinst", *how)
    assert done.returncode == 0
    assert "hatchway: not everything could be restarted." in done.stderr


def test_an_upgrade_restarts_what_runs_and_starts_what_does_not(host: Host) -> None:
    host.active.remove("hatchway-catalog.service")
    done = host.run("postinst", "configure", "0.1.0")
    restart, start = host.called("deb-systemd-invoke")
    assert set(restart.split()[2:]) == DAEMONS - {"hatchway-catalog.service"}
    assert start == "deb-systemd-invoke start hatchway.service"
    assert "systemctl start hatchway-catalog.service" in host.called("systemctl")
    assert (done.stdout, done.stderr) == ("", "")


@pytest.mark.parametrize("runs", [True, False])
def test_what_is_masked_is_neither_started_nor_restarted_nor_missed(host: Host, runs: bool) -> None:
    host.masked = {"hatchway-catalog.service"}
    if not runs:
        host.active -= host.masked
    host.does("deb-systemd-invoke", 'case "$*" in *catalog*) exit 1 ;; esac')
    done = host.run("postinst", "configure", "0.1.0")
    assert (done.stdout, done.stderr) == ("", "")
    assert not [line for line in host.called("systemctl") if "start hatchway-catalog" in line]


def test_no_program_of_ours_is_looked_for_by_name() -> None:
    """/usr/local/bin is looked through first."""
    for name in ("postinst", "prerm", "postrm"):
        text = (DEBIAN / f"hatchway.{name}").read_text()
        code = [line for line in text.splitlines() if not re.match(r"\s*(#|echo )", line)]
        assert not [line for line in code if re.search(r"(^|[|;&!]|\b(if|then|elif|do)) *hatchway( |$)", line)], name


# Purge

ROOT_ONLY = pytest.mark.skipif(os.geteuid() != 0, reason="changes root directories and name spaces")


@contextmanager
def rooted(directory: Path, *, elsewhere: bool) -> Iterator[None]:
    """A process whose root is `directory`: in our mount name space, as a session's, or in one of its own."""
    directory.mkdir(parents=True, exist_ok=True)
    code = f"import os, sys; os.chroot({str(directory)!r}); os.chdir('/'); print(flush=True); sys.stdin.read()"
    command = [*(["unshare", "--mount"] if elsewhere else []), sys.executable, "-I", "-c", code]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin and process.stdout
        try:
            assert select.select([process.stdout], [], [], 30)[0]
            assert process.stdout.readline() == "\n"
            yield
        finally:
            process.stdin.close()
            process.wait(30)


def left(host: Host) -> set[str]:
    names = ("run/hatchway", "run/faillock", "etc/hatchway", "var/lib/hatchway", "var/lib/hatchway-web")
    return {name for name in names if (host.top / name).exists()}


@ROOT_ONLY
def test_purge_takes_everything(host: Host) -> None:
    host.run("postinst", "configure", "")
    done = host.run("postrm", "purge")
    assert (done.returncode, done.stderr) == (0, "")
    assert left(host) == set()
    assert list((host.top / "var/lib/misc").iterdir()) == []
    assert len(host.called("userdel", "groupdel")) == 9


@ROOT_ONLY
def test_a_purge_is_kept_from_being_done_by_nobody_with_a_name_space_of_their_own(host: Host) -> None:
    with rooted(host.top / "run/hatchway/mnt/x", elsewhere=True):
        done = host.run("postrm", "purge")
    assert (done.returncode, done.stderr) == (0, "")
    assert left(host) == set()


@ROOT_ONLY
def test_a_session_keeps_its_root_and_the_rest_is_purged(host: Host) -> None:
    with rooted(host.top / "run/hatchway/mnt/x", elsewhere=False):
        done = host.run("postrm", "purge")
        assert done.returncode == 1
        assert "sessions that have not ended" in done.stderr
        assert left(host) == {"run/hatchway"}
        done = host.run("postrm", "remove")
        assert done.returncode == 0
        assert left(host) == {"run/hatchway"}
    assert host.run("postrm", "purge").returncode == 0
    assert left(host) == set()


def test_the_records_that_purge_takes_are_those_that_hatchway_writes(host: Host) -> None:
    ours = Records(str(host.top / "run/userdb"), str(host.top / "run/hatchway"))
    ours.publish_login("somebody", 1_900_100_000, 1_900_000_003, "/nonexistent")
    ours.publish_service("hatchway", 1_900_000_000)
    another = Records(str(host.top / "run/userdb"), "/run/another")
    another.publish_group("theirs", 1_910_000_000)
    assert host.run("postrm", "remove").returncode == 0
    assert {path.name for path in (host.top / "run/userdb").iterdir()} == {"theirs.group", "1910000000.group"}
