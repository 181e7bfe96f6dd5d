"""A configuration that was spoilt while the daemons run: access can be taken away all the same."""

from __future__ import annotations

from pathlib import Path

import pytest

from hatchway import config as configuration
from hatchway.cli import app as app_module
from hatchway.cli.app import App
from hatchway.config import Config, Paths
from hatchway.errors import ConfigError, HatchwayError
from hatchway.wire import frames


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """At which sockets something was asked; the usual place of the configuration and of the socket are the test's."""
    found: list[str] = []
    (tmp_path / "hatchway.toml").write_text("[sshd]\nprot = 2022\n")
    monkeypatch.setattr(configuration, "DEFAULT_PATH", tmp_path / "hatchway.toml")
    monkeypatch.setattr(app_module, "Config", lambda: Config(paths=Paths(run_dir=str(tmp_path))))
    monkeypatch.setattr(frames, "call_blocking", lambda path, *_rest: found.append(path))
    return found


def test_where_the_daemon_usually_is_it_is_asked(
    tmp_path: Path, asked: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "admin.sock").touch()
    App().ask(object(), object)
    assert asked == [str(tmp_path / "admin.sock")]
    assert "the configuration is wrong, the daemon is asked all the same" in " ".join(capsys.readouterr().err.split())


def test_where_none_is_the_configuration_is_to_blame(asked: list[str]) -> None:
    with pytest.raises(ConfigError, match=r"unknown key 'sshd\.prot'; did you mean 'port'"):
        App().ask(object(), object)
    assert asked == []


def test_one_that_was_named_is_what_was_meant(tmp_path: Path, asked: list[str]) -> None:
    """Its daemon may be at another place: no other one is asked instead."""
    (tmp_path / "admin.sock").touch()
    app = App()
    app.config_path = tmp_path / "hatchway.toml"
    with pytest.raises(HatchwayError, match=r"sshd\.prot"):
        app.ask(object(), object)
    assert asked == []
