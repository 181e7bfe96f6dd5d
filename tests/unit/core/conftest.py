"""Fixtures of the core's tests."""

from __future__ import annotations

import pytest

from hatchway.sshd import hostkeys


@pytest.fixture
def no_host_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """sshd has no host keys here, which `show` tells."""
    monkeypatch.setattr(hostkeys, "read", lambda _directory: ())
