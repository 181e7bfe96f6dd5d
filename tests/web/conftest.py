"""A site for each test, with a core that is made up, and a browser for all of them."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.web.browsing import Client
from tests.web.core import FakeCore
from tests.web.place import web

from hatchway.config import Web

PLAIN = Web(tls="off", listen=("127.0.0.1:0",))


@pytest.fixture
def directory() -> Iterator[Path]:
    """Short enough for a unix socket."""
    with tempfile.TemporaryDirectory(prefix="web-") as path:
        yield Path(path)


@pytest.fixture
def core() -> FakeCore:
    """What the core knows."""
    return FakeCore()


@pytest.fixture
def site(core: FakeCore, directory: Path) -> Iterator[str]:
    """The URL."""
    with web(core, directory, PLAIN) as url:
        yield url


@pytest.fixture
def visitor(site: str) -> Client:
    """Somebody who has not signed in."""
    return Client(site)


@pytest.fixture
def operator(site: str) -> Client:
    """Somebody who has."""
    client = Client(site)
    answer = client.sign_in()
    assert answer.status == 303
    return client
