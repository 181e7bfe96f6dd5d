"""What `hatchway doctor` says of the web pages, where there are to be any."""

from __future__ import annotations

import os
import pwd
import socket
from collections.abc import Sequence
from pathlib import Path

import pytest
from msgspec import structs
from tests.unit.cli.findings import FAILED, OK, WARNING, configuration, expect, only

from hatchway.cli.doctor import catalog, settings, signin_probe, sockets, units, web
from hatchway.cli.doctor.advice import PACKAGE, RUN
from hatchway.cli.doctor.command_line import Ran
from hatchway.cli.doctor.finding import Finding
from hatchway.config import Config, Ids, Web
from hatchway.web import certificate as making


@pytest.fixture
def off(tmp_path: Path) -> Config:
    return configuration(tmp_path)


@pytest.fixture
def config(off: Config) -> Config:
    me = pwd.getpwuid(os.geteuid()).pw_name
    return structs.replace(off, web=Web(enabled=True), ids=Ids(core_user=me, web_user=me))


def with_web(config: Config, **changes: object) -> Config:
    return structs.replace(config, web=structs.replace(config.web, **changes))


def test_nothing_is_said_while_it_is_off(off: Config) -> None:
    assert web.pam(off, True, PACKAGE) == []
    assert web.certificate(off, PACKAGE) == []
    assert web.listens(off, True, PACKAGE) == []
    assert web.helper(off, True, PACKAGE) == []
    assert list(settings._operators(off)) == []


def test_the_pam_service(config: Config) -> None:
    path = Path(config.signin_pam_path)
    expect(only(web.pam(config, True, PACKAGE)), FAILED, "is not there")
    assert "--force-confmiss" in str(only(web.pam(config, True, PACKAGE)).fix)
    expect(only(web.pam(config, False, RUN)), OK, "made at the start")
    expect(only(web.pam(config, True, RUN)), FAILED, "is not there")
    # Whatever it says: it may be made stricter.
    path.write_text("auth required pam_deny.so\n")
    expect(only(web.pam(config, True, PACKAGE, lambda _: None)), OK)
    expect(only(web.pam(config, True, PACKAGE, lambda path: f"{path} is everybody's")), FAILED, "everybody's")


def test_the_certificate(config: Config, tmp_path: Path) -> None:
    assert web.certificate(config, RUN, root=True) == [], "it makes its own"
    certificate, key = making.own(tmp_path / "one", ["localhost"])
    _, another = making.own(tmp_path / "two", ["localhost"])
    files = with_web(config, tls="files", certificate=str(certificate), key=str(key))
    expect(only(web.certificate(files, RUN, root=False)), WARNING, "only root")
    expect(only(web.certificate(files, RUN, lambda *_: None, root=True)), OK)
    kept = web.certificate(files, RUN, lambda _who, path: path if path == str(key) else None, root=True)
    expect(only(kept), FAILED, "cannot read", "key.pem")
    expect(only(web.certificate(with_web(files, key=str(another)), RUN, root=True)), FAILED, "cannot be used")
    expect(only(web.certificate(with_web(files, key=str(tmp_path / "none")), RUN, root=True)), FAILED, "No such file")


@pytest.mark.parametrize("path", ["/home/x/key.pem", "/root/key.pem", "/run/key.pem", "/tmp/key.pem"])
def test_what_the_unit_does_not_see(path: str) -> None:
    systemd = str(Path(__file__).parents[3] / "systemd")
    assert catalog.hidden(path, (systemd,), units.WEB) is not None
    assert catalog.hidden("/etc/hatchway/key.pem", (systemd,), units.WEB) is None


def test_where_it_listens(config: Config, tmp_path: Path) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        there = with_web(config, listen=(f"127.0.0.1:{listener.getsockname()[1]}",))
        expect(only(web.listens(there, True, RUN)), OK, "answers")
    expect(only(web.listens(there, True, PACKAGE)), FAILED, "refused")
    assert web.listens(there, False, RUN) == []
    low = with_web(config, listen=("127.0.0.1:443",))
    expect(only(web.listens(low, False, RUN, proc="/nonexistent")), FAILED, "a port below 1024 is root's")
    (tmp_path / "sys/net/ipv4").mkdir(parents=True)
    (tmp_path / "sys/net/ipv4/ip_unprivileged_port_start").write_text("80\n")
    assert web.listens(low, False, RUN, proc=str(tmp_path)) == []
    expect(only(web.listens(low, False, RUN, no_address=lambda _: "is none", proc=str(tmp_path))), FAILED, "is none")


def test_the_helper(config: Config) -> None:
    asked: list[tuple[Sequence[str], tuple[int, int, Sequence[int]]]] = []

    def ends(status: int | None, output: str = "") -> list[Finding]:
        def execute(argv: Sequence[str], _timeout: float, account: tuple[int, int, Sequence[int]]) -> Ran:
            asked.append((argv, account))
            return Ran(status, output)

        return web.helper(config, True, PACKAGE, execute, root=True)

    assert web.helper(config, False, PACKAGE) == []
    expect(only(web.helper(config, True, PACKAGE, root=False)), WARNING, "only root")
    expect(only(ends(0)), OK)
    argv, account = asked[0]
    assert argv[-2] == config.signin_socket
    assert account[0] == os.geteuid(), "the core's account"
    expect(only(ends(1)), FAILED, "for an operator")
    expect(only(ends(2, "nothing answers")), FAILED, "nothing answers")


def test_the_probe_says_that_nobody_answers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert signin_probe.main(str(tmp_path / "none.sock"), "nobody") == 2
    assert "nothing answers" in capsys.readouterr().out


def test_operators(config: Config) -> None:
    missing = with_web(config, operators_group="no-such-group-here")
    assert "there is no group" in only(list(settings._operators(missing))).text
    assert settings.members("root")[:1] == ["root"]
    assert list(settings._operators(with_web(config, operators_group="root"))) == []


def test_a_missing_web_socket_is_made_again_with_the_core_that_listens_there(config: Config) -> None:
    fixes = {one.name: one.fix for one in sockets.modes(config, True, how=PACKAGE)}
    assert fixes["web.sock"] == "systemctl restart hatchway-web.socket hatchway-core.service"
    assert fixes["signin.sock"] == "systemctl restart hatchway-signin.socket"
