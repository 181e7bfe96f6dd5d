"""The configuration: whatever is wrong in it is named, with what is allowed."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from hatchway import config, trust
from hatchway.config import Problem
from hatchway.errors import ConfigError


def test_an_empty_file_is_the_defaults() -> None:
    assert config.parse("") == config.Config()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[sshd]\nprot = 1", ["sshd.prot", "did you mean 'port'", "listen"]),
        ("[shd]", ["shd", "did you mean 'sshd'"]),
        ("[sshd]\nport = 22", ["sshd.port", "22", "any port but 22"]),
        ("[sshd]\nport = 0", ["sshd.port", "0", "1 to 65535"]),
        ("[sshd]\nport = '2022'", ["sshd.port", "'2022'", "a whole number"]),
        ("[sshd]\nport = true", ["sshd.port", "True", "a whole number"]),
        ("[sshd]\nlisten = ['localhost']", ["sshd.listen", "localhost", "addresses"]),
        ("[sshd]\nlisten = []", ["sshd.listen", "at least one"]),
        ("[sshd]\npam_service = 'sshd'", ["sshd.pam_service", "begins with 'hatchway'"]),
        ("[sshd]\npam_service = 'hatchway/../sshd'", ["sshd.pam_service"]),
        ("[paths]\nrun_dir = 'run'", ["paths.run_dir", "'run'", "absolute"]),
        ("[paths]\nrun_dir = '/run/../etc'", ["paths.run_dir", "absolute"]),
        ("[host]\nbind_prefixes = ['/']", ["host.bind_prefixes", "'/'", "other than /"]),
        ("[host]\nidle_unmount_s = -1", ["host.idle_unmount_s", "-1"]),
        ("[host]\nworker_timeout_s = 1", ["host.worker_timeout_s", "1", "2 to 3600"]),
        ("[host]\nvolume_devices = ['*']", ["host.volume_devices", "'*'", "below /dev"]),
        ("[host]\nvolume_devices = ['/dev/']", ["host.volume_devices", "below /dev"]),
        ("[host]\nvolume_devices = ['/dev/../*']", ["host.volume_devices", "without .."]),
        ("[host]\nvolume_devices = ['/dev/vg0//x']", ["host.volume_devices"]),
        ("[host]\nvolume_devices = '/dev/sdb'", ["host.volume_devices", "a list"]),
        ("[ids]\nlogin_uids = [1000, 2000]", ["ids.login_uids", "1879048192-2147483647"]),
        ("[ids]\nlogin_uids = [1900100000]", ["ids.login_uids", "a list of 2"]),
        ("[ids]\nworker_uids = [1900100000, 1900100009]", ["ids.", "no overlap"]),
        ("[ids]\ncore_user = 'hatchway-keys'", ["ids", "five different names"]),
        ("[credentials]\npassword = 'md5'", ["credentials.password", "'md5'", "'raw'", "'argon2id'"]),
        ("[engine]\nurl = 'tcp://1.2.3.4:2375'", ["engine.url", "unix:///"]),
        ("[connect]\nhost = 'a b'", ["connect.host", "'a b'"]),
        ("[log]\nkeep_events = 999", ["log.keep_events", "999", "1000 to 10000000"]),
        ("[log]\nkeep_days = 0", ["log.keep_days", "0", "1 to 36500"]),
        ("[web]\nlisten = []", ["web.listen", "at least one"]),
        ("[web]\nlisten = ['localhost:8022']", ["web.listen", "'localhost:8022'", "'[::1]:8022'"]),
        ("[web]\nlisten = ['::1:8022']", ["web.listen", "'::1:8022'"]),
        ("[web]\nlisten = ['127.0.0.1']", ["web.listen", "'127.0.0.1'"]),
        ("[web]\nlisten = ['127.0.0.1:65536']", ["web.listen", "65536"]),
        ("[web]\nlisten = ['0.0.0.0:8022']\ntls = 'off'", ["web.listen", "a loopback address"]),
        ("[web]\ntls = 'none'", ["web.tls", "'none'", "'own'"]),
        ("[web]\ntls = 'files'\nkey = '/k'", ["web.certificate", "an absolute path"]),
        ("[web]\ntls = 'files'\ncertificate = '/c'\nkey = 'k'", ["web.key", "an absolute path"]),
        ("[web]\ncertificate = '/c'", ["web.certificate", "empty, with web.tls = 'own'"]),
        ("[web]\ntls = 'proxy'", ["web.trusted_proxies", "at least one"]),
        ("[web]\ntrusted_proxies = ['proxy']", ["web.trusted_proxies", "'proxy'"]),
        ("[web]\noperators_group = ''", ["web.operators_group", "a group"]),
        ("[web]\noperators_group = 'a:b'", ["web.operators_group", "'a:b'"]),
        ("[web]\nsession_idle_s = 59", ["web.session_idle_s", "60 to 86400"]),
        ("[web]\nsession_s = 1799", ["web.session_s", "no fewer than web.session_idle_s"]),
        ("[web]\nenabled = true\n[ids]\nservice_uids = [1900000000, 1900000003]", ["service_uids", "five uids"]),
        ("[ids]\nweb_user = 'hatchway'", ["ids", "five different names"]),
        ("sshd = 3", ["sshd", "table"]),
        ("[sshd", ["configuration"]),
    ],
)
def test_what_is_wrong_is_named(text: str, words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        config.parse(text)
    for word in words:
        assert word in str(caught.value)


def test_where_web_pages_are() -> None:
    text = "[web]\nlisten = ['127.0.0.1:8022', '[::1]:443', '0.0.0.0:80']\ntrusted_proxies = ['10.0.0.0/8']"
    assert [config.web_address(one) for one in config.parse(text).web.listen] == [
        ("127.0.0.1", 8022),
        ("::1", 443),
        ("0.0.0.0", 80),
    ]
    config.parse("[web]\ntls = 'files'\ncertificate = '/etc/c.pem'\nkey = '/etc/k.pem'")
    config.parse("[web]\ntls = 'off'\nlisten = ['[::1]:8022', '127.0.0.2:80']")
    config.parse("[web]\noperators_group = 'EXAMPLE\\\\domain admins@corp'")
    config.parse("[ids]\nservice_uids = [1900000000, 1900000003]")


def test_a_named_file_must_exist(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        config.load(tmp_path / "missing.toml")


def test_a_file_is_read(tmp_path: Path) -> None:
    file = tmp_path / "hatchway.toml"
    file.write_text("[sshd]\nport = 2222\nlisten = ['127.0.0.1']\n")
    loaded = config.load(file)
    assert (loaded.sshd.port, loaded.sshd.listen) == (2222, ("127.0.0.1",))


def test_there_need_be_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config, "DEFAULT_PATH", tmp_path / "hatchway.toml")
    assert config.read() is None
    assert config.load() == config.Config()
    # That is another thing than one that cannot be read.
    (tmp_path / "hatchway.toml").symlink_to(tmp_path / "none")
    with pytest.raises(ConfigError, match="none: No such file"):
        config.load()


@pytest.mark.parametrize("mode", [0o664, 0o646])
def test_a_file_others_can_write_is_not_used(tmp_path: Path, mode: int) -> None:
    file = tmp_path / "hatchway.toml"
    file.write_text("")
    file.chmod(mode)
    with pytest.raises(ConfigError) as caught:
        config.load(file)
    assert str(caught.value) == (
        f"{file} is not used: {file} can be written by group or others (mode {mode:04o}); "
        "chown root:root and chmod go-w what is named, down to the file"
    )


def test_a_file_others_can_put_another_in_place_of_is_not_used(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    file = tmp_path / "etc" / "hatchway.toml"
    file.write_text("")
    (tmp_path / "etc").chmod(0o777)
    with pytest.raises(ConfigError, match=r"etc can be written by group or others \(mode 0777\)"):
        config.load(file)
    # As /tmp is: what is there can be moved by its owner only.
    (tmp_path / "etc").chmod(0o1777)
    assert config.load(file) == config.Config()


def test_a_link_to_a_file_others_can_write_is_not_used(tmp_path: Path) -> None:
    file = tmp_path / "hatchway.toml"
    (tmp_path / "real.toml").write_text("")
    file.symlink_to("real.toml")
    assert config.load(file) == config.Config()
    (tmp_path / "real.toml").chmod(0o666)
    with pytest.raises(ConfigError, match=r"real\.toml can be written"):
        config.load(file)


def test_whose_file_it_may_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []
    monkeypatch.setattr(trust, "flaw", lambda path, **more: asked.append((path, more)))
    monkeypatch.setattr(os, "geteuid", lambda: 4711)
    assert config.untrusted(tmp_path / "hatchway.toml") is None
    assert asked == [(str(tmp_path / "hatchway.toml"), {"owners": {0, 4711}, "sticky": True})]


@pytest.mark.skipif(os.geteuid() != 0, reason="not root: a file cannot be given to somebody")
def test_somebody_elses_file_is_not_used(tmp_path: Path) -> None:
    file = tmp_path / "hatchway.toml"
    file.write_text("")
    os.chown(file, 4711, 4711)
    with pytest.raises(ConfigError, match="belongs to uid 4711, not to root"):
        config.load(file)


def test_everything_that_is_wrong() -> None:
    text = """
        nothing = 1
        log = "debug"
        [sshd]
        port = 22
        listen = ["127.0.0.1", "localhost", "here"]
        login_grace_s = "long"
        [ids]
        login_uids = [1900100000, 1901000000]
        core_user = "hatchway-keys"
        [host]
        umask = "22"
    """
    found, problems = config.examine(text)
    assert [(problem.key, problem.value) for problem in problems] == [
        ("nothing", ""),
        ("log", ""),
        ("sshd.login_grace_s", "'long'"),
        ("sshd.port", "22"),
        ("sshd.listen", "'localhost'"),
        ("sshd.listen", "'here'"),
        ("host.umask", "'22'"),
        ("ids", "['hatchway-keys', 'hatchway-catalog', 'hatchway-keys', 'hatchway-web', 'hatchway-sftp']"),
        ("ids.login_uids", "[1900100000, 1901000000]"),
    ]
    assert problems[3] == Problem(
        "sshd.port",
        "sshd.port = 22 is not allowed: expected any port but 22, which belongs to the host's own sshd",
        "22",
        "any port but 22, which belongs to the host's own sshd",
    )
    # What was wrong in kind is as by default, so that the rest can be looked at.
    assert (found.log, found.sshd.login_grace_s) == (config.Log(), config.Sshd().login_grace_s)


def test_the_first_thing_wrong_is_what_a_daemon_says() -> None:
    text = "[sshd]\nport = 22\n[log]\nkeep_days = 0\n"
    with pytest.raises(ConfigError, match=r"^here: sshd\.port = 22"):
        config.parse(text, "here")


def test_a_text_that_is_no_toml() -> None:
    found, problems = config.examine("[sshd")
    assert found == config.Config()
    assert len(problems) == 1
    assert problems[0].key is None


def test_a_section_that_stands_twice() -> None:
    """As when lines of the documentation are put at the end of the shipped file."""
    text = "[sshd]\nport = 2022\n [ engine ] # Docker\n[log]\n\n[engine]\r\nenabled = false\n"
    found, problems = config.examine(text)
    assert found == config.Config()
    assert problems == [
        Problem(None, "section [engine] stands twice, in lines 3 and 6: put all its keys below one of them")
    ]
    shipped = (Path(__file__).parents[3] / "hatchway.toml.example").read_text()
    end = shipped.count("\n") + 1
    with pytest.raises(ConfigError, match=rf"^here: section \[host\] stands twice, in lines \d+ and {end}: put all"):
        config.parse(shipped + "[host]\numask = '002'\n", "here")


@pytest.mark.parametrize(
    "text",
    ["engine.enabled = false\n[engine]\n", "[engine]\nurl = ''\nurl = ''\n", "[[engine]]\n[engine]\n", "[a]\n[a\n"],
)
def test_what_is_no_section_that_stands_twice(text: str) -> None:
    (problem,) = config.examine(text)[1]
    assert "stands twice" not in problem.text
    assert "at line" in problem.text


def test_the_keys_a_file_says() -> None:
    assert config.given("[sshd]\nport = 2022\n[log]\n[host]\numask = '002'\n") == {"sshd.port", "host.umask"}


def test_where_the_login_helpers_are() -> None:
    assert config.default_libexec_dir("/usr/lib/hatchway") == "/usr/libexec/hatchway"
    assert config.default_libexec_dir("/opt/hatchway") == "/opt/hatchway/libexec/hatchway"
    assert config.Config().paths.libexec_dir == config.default_libexec_dir(sys.prefix)
