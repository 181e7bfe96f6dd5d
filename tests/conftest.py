"""Tiers, what each needs, and the check that nothing is left behind. Fixtures of a tier stand in the tier's conftest.

A tier is a directory below tests/. What a tier needs and does not find is a skip with its reason, or a failure when
HATCHWAY_REQUIRE_ALL is set, as scripts/test does: a run that counts must not be green because it ran nothing.
"""

from __future__ import annotations

import functools
import gc
import itertools
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import pytest
import structlog

# --import-mode=importlib puts no directory of ours in sys.path.
sys.path.insert(0, str(Path(__file__).parents[1]))

from tests import figures, leftovers

# PuTTY's programs keep random numbers and host keys there, else in the home directory that the user database says. Of a
# directory that is not there they make it.
os.environ["PUTTYDIR"] = "/dev/null/putty"

TIERS = ("unit", "web", "mount", "sshd", "long", "host")
CHECKED_TIERS = ("mount", "sshd", "long", "host")
BROWSER = "/usr/bin/chromium"
REQUIRE_ALL = os.environ.get("HATCHWAY_REQUIRE_ALL") == "1"


def _root() -> str | None:
    return None if os.geteuid() == 0 else "not root"


def _kernel() -> str | None:
    match = re.match(r"(\d+)\.(\d+)", platform.release())
    if match and (int(match[1]), int(match[2])) >= (5, 14):
        return None
    return f"kernel {platform.release()} is older than 5.14"


def _fuse() -> str | None:
    try:
        os.close(os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC))
    except OSError as exc:
        return f"/dev/fuse: {exc.strerror}"
    return None


def _sshd() -> str | None:
    for path in ("/usr/sbin/sshd", "/usr/bin/sftp"):
        if not os.access(path, os.X_OK):
            return f"no {path}"
    return None


def _nss() -> str | None:
    # nsswitch.conf(5); the module itself is libnss_systemd.so.2 in one of ld.so's directories.
    with open("/etc/nsswitch.conf", encoding="utf-8") as file:
        for line in file:
            if line.startswith("passwd:") and "systemd" in line.split():
                return None
    return "no systemd in the passwd line of /etc/nsswitch.conf"


def _engine() -> str | None:
    url = os.environ.get("HATCHWAY_TEST_DOCKER", "")
    if not url:
        return "HATCHWAY_TEST_DOCKER names no container engine"
    try:
        leftovers.engine_objects(url)
    except OSError as exc:
        return f"{url}: {exc}"
    return None


def _nspawn() -> str | None:
    for program in ("systemd-nspawn", "debootstrap", "dpkg-deb", "ip", "sftp"):
        if shutil.which(program, path="/usr/sbin:/usr/bin:/sbin:/bin") is None:
            return f"no {program}"
    return None


def _browser() -> str | None:
    return None if os.access(BROWSER, os.X_OK) else f"no {BROWSER}"


def _package() -> str | None:
    place = os.environ.get("HATCHWAY_TEST_DEBS", "")
    if not place:
        return "HATCHWAY_TEST_DEBS names no directory with packages"
    return None if list(Path(place).glob("hatchway_*.deb")) else f"no hatchway_*.deb in {place}"


NEEDS = {
    "root": _root,
    "kernel": _kernel,
    "/dev/fuse": _fuse,
    "sshd": _sshd,
    "nss-systemd": _nss,
    "engine": _engine,
    "systemd-nspawn": _nspawn,
    "package": _package,
    "browser": _browser,
}
TIER_NEEDS = {
    "unit": (),
    "web": (),
    "mount": ("root", "kernel", "/dev/fuse"),
    "sshd": ("root", "kernel", "/dev/fuse", "sshd", "nss-systemd"),
    "long": ("root", "kernel", "/dev/fuse", "sshd", "nss-systemd"),
    "host": ("root", "kernel", "/dev/fuse", "systemd-nspawn", "package"),
}


@functools.cache
def missing(need: str) -> str | None:
    """Why `need` is not met, None when it is."""
    return NEEDS[need]()


def _tier_of(path: Path) -> str:
    parts = path.relative_to(Path(__file__).parent).parts
    return parts[0] if parts[0] in TIERS else "unit"


def _absent(reason: str) -> NoReturn:
    if REQUIRE_ALL:
        pytest.fail(f"this run must not skip, but: {reason}", pytrace=False)
    pytest.skip(reason)


def pytest_configure(config: pytest.Config) -> None:
    """Marks, and sight of all our descendants."""
    config.addinivalue_line("markers", "engine: needs the container engine that HATCHWAY_TEST_DOCKER names")
    config.addinivalue_line("markers", "leaves(reason): the check for leftovers does not apply, and why")
    config.addinivalue_line("markers", "browser: needs Debian's Chromium")
    leftovers.adopt_orphans()
    # As in scripts/test: files that the group may write are not trusted, and some people's are the group's.
    os.umask(0o022)


def pytest_runtestloop(session: pytest.Session) -> bool | None:
    """With HATCHWAY_TEST_CLAIMS, a directory, share the tests with other runs: each takes the next file."""
    claims = os.environ.get("HATCHWAY_TEST_CLAIMS")
    if not claims or session.testsfailed or session.config.option.collectonly:
        return None
    items = _claimed(session.items, Path(claims))
    item = next(items, None)
    while item is not None:
        following = next(items, None)
        item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
        if session.shouldfail:
            raise session.Failed(session.shouldfail)
        if session.shouldstop:
            raise session.Interrupted(session.shouldstop)
        item = following
    return True


def _claimed(items: list[pytest.Item], claims: Path) -> Iterator[pytest.Item]:
    # What takes long first, so that all runs end at about the same time.
    files = {path: list(group) for path, group in itertools.groupby(items, lambda item: item.path)}
    for path, group in sorted(files.items(), key=lambda file: -TIERS.index(_tier_of(file[0]))):
        try:
            (claims / "-".join(path.relative_to(Path(__file__).parent).parts)).touch(exist_ok=False)
        except FileExistsError:
            continue
        yield from group


def pytest_report_header() -> list[str]:
    """What this run can do, so that a log says what was tested where."""
    lines = [f"host: kernel {platform.release()}, {_os_name()}, {_version_of('sshd')}, uid {os.geteuid()}"]
    for tier in TIERS:
        reasons = [reason for need in TIER_NEEDS[tier] if (reason := missing(need)) is not None]
        lines.append(f"tier {tier}: {'enabled' if not reasons else 'skipped: ' + '; '.join(reasons)}")
    engine = missing("engine")
    lines.append(f"engine: {engine if engine else os.environ['HATCHWAY_TEST_DOCKER']}")
    return lines


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What tests measured."""
    if lines := figures.noted():
        terminalreporter.section("figures")
        for line in lines:
            terminalreporter.write_line(line)


def _os_name() -> str:
    return platform.freedesktop_os_release().get("PRETTY_NAME", "unknown system")


def _version_of(program: str) -> str:
    path = shutil.which(program, path="/usr/sbin:/usr/bin")
    if path is None:
        return f"no {program}"
    # `sshd -V` is an unknown option before OpenSSH 9.3, which prints the version just as well.
    done = subprocess.run([path, "-V"], capture_output=True, text=True, check=False, timeout=10)
    match = re.search(r"OpenSSH_\S+", done.stderr + done.stdout)
    return match[0].rstrip(",") if match else program


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip, or fail, what lacks its prerequisites."""
    needs = TIER_NEEDS[_tier_of(item.path)]
    needs = (*needs, *(mark for mark in ("engine", "browser") if item.get_closest_marker(mark)))
    for need in needs:
        if (reason := missing(need)) is not None:
            _absent(reason)


@pytest.fixture(scope="session")
def engine_url() -> str:
    """The engine that tests may use as they like; the test is skipped when there is none."""
    if (reason := missing("engine")) is not None:
        _absent(reason)
    return os.environ["HATCHWAY_TEST_DOCKER"]


class _Before:
    """What there was before a test, a module or the session, and what is there in addition when it has ended.

    Programs that were running before (those of a fixture of a wider scope) may start processes and make mounts of
    their own meanwhile: these are looked for when that scope ends.
    """

    def __init__(self) -> None:
        self.mounts = leftovers.mounts()
        self.processes = leftovers.processes()
        self.descriptors = leftovers.descriptors()

    def fail_if_more(self, what: str, wait_s: float) -> None:
        left = [str(process) for process in leftovers.settle(self.processes, wait_s)]
        if not self.processes:
            left += sorted(leftovers.mounts() - self.mounts)
        left += self._descriptors()
        if left:
            pytest.fail(f"left behind by the {what}:\n  " + "\n  ".join(left), pytrace=False)

    def _descriptors(self) -> list[str]:
        left = self._new_descriptors()
        if left:
            # Tracebacks hold frames, and frames hold files, in cycles.
            gc.collect()
            left = self._new_descriptors()
        return left

    def _new_descriptors(self) -> list[str]:
        # A client that a fixture of a wider scope made keeps connections of its own, opened at first use.
        wider = bool(self.processes)
        now = {
            fd: what
            for fd, what in leftovers.descriptors().items()
            if self.descriptors.get(fd) != what and not (wider and what.startswith("socket:"))
        }
        # What was there may have been replaced: a log that was opened again, a connection made anew.
        gone = sum(1 for fd in self.descriptors if fd in now or not _is_open(fd))
        return [f"descriptor {fd}: {what}" for fd, what in sorted(now.items())] if len(now) > gone else []


def _is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def _checked(request: pytest.FixtureRequest) -> bool:
    if _tier_of(request.node.path) not in CHECKED_TIERS:
        return False
    return not any(True for _ in request.node.iter_markers("leaves"))


@pytest.fixture(autouse=True)
def _own_log() -> Iterator[None]:
    """What a test configured of the log, such as a stream that pytest closes, is not the next one's."""
    yield
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()


# pytest sets up fixtures of wider scopes first, and autouse ones first within a scope (and the other way round at the
# end): so each of these three surrounds all other fixtures of its scope and nothing of a wider one.
@pytest.fixture(autouse=True)
def _test_leaves_nothing(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a test of the kernel's tiers that leaves a mount, a process or a descriptor."""
    before = _Before() if _checked(request) else None
    yield
    if before:
        before.fail_if_more("test", 5.0)


@pytest.fixture(autouse=True, scope="module")
def _module_leaves_nothing(request: pytest.FixtureRequest) -> Iterator[None]:
    """The same for the fixtures of a module."""
    before = _Before() if _checked(request) else None
    yield
    if before:
        before.fail_if_more("module", 10.0)


@pytest.fixture(autouse=True, scope="session")
def _session_leaves_nothing() -> Iterator[None]:
    """The same for the fixtures of the session."""
    before = _Before()
    yield
    before.fail_if_more("session", 10.0)
