"""Each test runs for each Debian release; HATCHWAY_TEST_RELEASES names those wanted, "bookworm trixie" without it.

Hosts of tests that only use Hatchway are shared (`site`), one for each release. Tests that install, upgrade or remove
it boot one of their own.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.host import booted, installed
from tests.host.booted import Host
from tests.host.installed import Installed, Packages, User

_hosts: list[Host] = []


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """All tests of one release before those of the next."""
    if "release" in metafunc.fixturenames:
        wanted = os.environ.get("HATCHWAY_TEST_RELEASES", "").split() or list(booted.RELEASES)
        metafunc.parametrize("release", wanted, scope="session")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
    """With a failure comes what the hosts' journals say."""
    report = yield
    if report.failed:
        for host in _hosts:
            if host.running():
                journal = host.journal(150)
                report.sections.append((f"journal of {host.name} ({host.release})", journal))
                report.sections.append((f"console of {host.name}", host.console()))
    return report


@pytest.fixture(scope="session")
def packages(release: str) -> Iterator[Packages]:
    """What is to be installed."""
    new = installed.built(release)
    assert new is not None, f"HATCHWAY_TEST_DEBS names no directory with a package for {release}"
    with tempfile.TemporaryDirectory(prefix="hatchway-debs.") as directory:
        yield Packages(new=new, old=installed.older(new, installed.built_before(release), Path(directory)))


@contextlib.contextmanager
def listed(release: str, *more: str) -> Iterator[Host]:
    """A booted host, whose journal comes with a failure."""
    with booted.host(release, *more) as host:
        _hosts.append(host)
        try:
            yield host
        finally:
            _hosts.remove(host)


@pytest.fixture
def boot(release: str) -> Iterator[Callable[..., Host]]:
    """Boots a host of the test's own, with the Debian packages named. It lives until the test has been reported."""
    with contextlib.ExitStack() as stack:
        yield lambda *more: stack.enter_context(listed(release, *more))


@pytest.fixture(scope="session")
def site(release: str, packages: Packages) -> Iterator[Installed]:
    """A host with Docker and, installed after it, Hatchway: the shared one."""
    with listed(release, *installed.DOCKER[release]) as host:
        made = Installed(host)
        host.apt("update")
        made.install(packages.new)
        made.configure({"host.idle_unmount_s": str(installed.IDLE_S)})
        made.wait_all_run()
        made.make_image()
        yield made


@pytest.fixture(scope="session")
def web(site: Installed) -> User:
    """A user of a container that runs."""
    return User(site, site.container("web"))
