"""What `hatchway run` makes for its processes, and what it refuses to touch."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from hatchway import provision
from hatchway.config import Config, Paths, Sshd
from hatchway.errors import ConfigError, ConflictError

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="changes owners")


@pytest.mark.parametrize("key", ["run_dir", "state_dir"])
def test_a_directory_of_somebody_else_is_left_alone(tmp_path: Path, key: str) -> None:
    """A mistyped /run or /var/lib must not be taken over, let alone emptied."""
    directory = tmp_path / "lib"
    directory.mkdir(mode=0o755)
    (directory / "dpkg").touch()
    paths = Paths(run_dir=str(directory)) if key == "run_dir" else Paths(state_dir=str(directory))
    config = Config(paths=paths)
    with pytest.raises(ConfigError, match=f"paths.{key}.*'dpkg'"):
        if key == "run_dir":
            with provision.run_directory(config):
                pytest.fail("entered")
        else:
            provision.state_directory(config, provision.Account("core", 12345, 12345))
    assert os.listdir(directory) == ["dpkg"]
    assert directory.stat().st_uid == os.getuid()
    assert directory.stat().st_mode & 0o777 == 0o755


def test_the_run_directory_goes_with_what_we_made(tmp_path: Path) -> None:
    config = Config(paths=Paths(run_dir=str(tmp_path / "run")))
    with provision.run_directory(config):
        (tmp_path / "run" / "auth.sock").touch()
        (tmp_path / "run" / "sshd").mkdir()
        with pytest.raises(ConflictError, match="another 'hatchway run'"), provision.run_directory(config):
            pytest.fail("entered twice")
        assert (tmp_path / "run" / "auth.sock").exists()
    assert not (tmp_path / "run").exists()


def test_where_units_listen_nothing_is_taken_over(tmp_path: Path) -> None:
    """systemd holds the sockets also while no process of ours runs: they must not be replaced."""
    config = Config(paths=Paths(run_dir=str(tmp_path / "run")))
    (tmp_path / "run").mkdir()
    for name, kind in (("auth.sock", socket.SOCK_STREAM), ("workers.sock", socket.SOCK_SEQPACKET)):
        path = tmp_path / "run" / name
        with socket.socket(socket.AF_UNIX, kind) as listener:
            listener.bind(str(path))
            listener.listen()
            with pytest.raises(ConflictError, match=f"somebody listens at .*{name}"), provision.run_directory(config):
                pytest.fail("entered")
            assert path.exists()
        # What somebody has left who is gone is in nobody's way.
        with provision.run_directory(config):
            pass
        (tmp_path / "run").mkdir()


def test_a_link_in_the_cores_directory_gives_away_nothing(tmp_path: Path) -> None:
    """The core may be broken into: it must not make us hand it a file of root's."""
    state = tmp_path / "state"
    state.mkdir()
    secret = tmp_path / "shadow"
    secret.touch()
    os.link(secret, state / "registry.sqlite")
    (state / "sealing.key").symlink_to(secret)
    provision.state_directory(Config(paths=Paths(state_dir=str(state))), provision.Account("core", 12345, 12345))
    assert secret.stat().st_uid == 0
    assert state.stat().st_uid == 12345


def test_a_port_that_is_taken_is_named(tmp_path: Path) -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen()
        port = sock.getsockname()[1]
        with pytest.raises(ConflictError, match=f"port {port} of 127.0.0.1 is taken"):
            provision.require_free_port(Config(sshd=Sshd(port=port, listen=("127.0.0.1",))))
    provision.require_free_port(Config(sshd=Sshd(port=port, listen=("127.0.0.1",))))
