"""What `hatchway run` makes for its processes, and what it refuses to touch."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from hatchway import provision, supervisor
from hatchway.config import Config, Paths, Sshd, Web
from hatchway.errors import ConfigError, ConflictError
from hatchway.sshd import install, render

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


WITH_WEB = Config(web=Web(enabled=True))


class FakeRecords:
    """Publishes accounts nowhere, and has them looked up."""

    def __init__(self) -> None:
        self.published: dict[str, int] = {}
        self.groups: dict[str, int] = {}

    def users(self) -> dict[str, int]:
        return self.published

    def publish_service(self, name: str, uid: int) -> None:
        self.published[name] = uid

    def publish_group(self, name: str, gid: int) -> None:
        self.groups[name] = gid


def test_the_web_process_changes_no_number_of_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    published = []
    for config in (Config(), WITH_WEB):
        records = FakeRecords()

        def look(name: str, records: FakeRecords = records) -> provision.Account | None:
            uid = records.published.get(name)
            return None if uid is None else provision.Account(name, uid, uid)

        monkeypatch.setattr(provision, "_host_user", look)
        found = provision.accounts(config, records)  # type: ignore[arg-type] # it has what is asked of it
        published.append((records, found))
    (without, accounts), (with_web, more) = published
    assert without.groups == with_web.groups
    assert with_web.published == {**without.published, "hatchway-web": 1_900_000_004}
    assert more == {**accounts, "web": provision.Account("hatchway-web", 1_900_000_004, 1_900_000_004)}
    assert not set(with_web.groups.values()) & set(with_web.published.values())


def test_what_there_is_only_with_web_pages() -> None:
    without, with_web = provision.listening(Config()), provision.listening(WITH_WEB)
    assert {name: with_web[name] for name in without} == without
    assert {name: one.role for name, one in with_web.items() if name not in without} == {"web": "web", "signin": "core"}
    for one in with_web.values():
        assert os.path.basename(one.path) in provision.RUN_FILES
    roles = ("root", "core", "catalog", "keys", "web")
    accounts = {name: provision.Account(name, number, number) for number, name in enumerate(roles)}
    usual, more = (
        {one.name: one for one in supervisor.services(config, None, accounts, ("sshd",))}
        for config in (Config(), WITH_WEB)
    )
    assert [name for name in more if name not in usual] == ["signin", "web"]
    assert more["web"].account.name == "web" and more["web"].sockets == ()
    assert more["signin"].account.name == "root", "PAM tells nobody else about passwords"
    assert more["signin"].sockets == ("signin",)
    assert list(more).index("signin") < list(more).index("core")
    assert more["core"].sockets == (*usual["core"].sockets, "web")
    assert {f"notify-{name}.sock" for name in more} <= provision.RUN_FILES


def test_the_pam_service_of_an_earlier_run_is_taken_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pam.d").mkdir()
    paths = Paths(run_dir=str(tmp_path), pam_dir=str(tmp_path / "pam.d"))
    config = Config(paths=paths, web=Web(enabled=True))
    path = Path(config.signin_pam_path)
    assert path.name == "hatchway-signin"
    assert supervisor._prepare_signin(config)
    assert path.read_text() == render.signin_service()
    # Killed before it was removed; then there is no web any more, or there still is.
    assert supervisor._prepare_signin(config)
    assert supervisor._prepare_signin(Config(paths=paths))
    install.withdraw_signin_service(config)
    assert not path.exists()
    install.withdraw_signin_service(config)
    # What somebody else has put there is not taken over, and a package's left.
    (tmp_path / "signin-service-made").unlink()
    path.write_text("auth required pam_permit.so\n")
    with pytest.raises(ConfigError, match="hatchway-signin is there and was not written by Hatchway: remove it"):
        supervisor._prepare_signin(config)
    install.withdraw_signin_service(config)
    assert path.exists()
    for more in ("", "auth required pam_faillock.so preauth\n"):
        packaged = render.signin_service(render.PACKAGED_PAM) + more
        path.write_text(packaged)
        assert not supervisor._prepare_signin(config)
        assert path.read_text() == packaged
    path.unlink()
    assert not supervisor._prepare_signin(Config(paths=paths))
    assert not path.exists()


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
