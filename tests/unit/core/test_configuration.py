"""The configuration: whatever is wrong in it is named, with what is allowed."""

from __future__ import annotations

from pathlib import Path

import pytest

from hatchway import config
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
        ("[ids]\ncore_user = 'hatchway-keys'", ["ids", "four different names"]),
        ("[credentials]\npassword = 'md5'", ["credentials.password", "'md5'", "'raw'", "'argon2id'"]),
        ("[engine]\nurl = 'tcp://1.2.3.4:2375'", ["engine.url", "unix:///"]),
        ("[connect]\nhost = 'a b'", ["connect.host", "'a b'"]),
        ("[log]\nkeep_events = 999", ["log.keep_events", "999", "1000 to 10000000"]),
        ("[log]\nkeep_days = 0", ["log.keep_days", "0", "1 to 36500"]),
        ("sshd = 3", ["sshd", "table"]),
        ("[sshd", ["configuration"]),
    ],
)
def test_what_is_wrong_is_named(text: str, words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        config.parse(text)
    for word in words:
        assert word in str(caught.value)


def test_a_named_file_must_exist(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        config.load(tmp_path / "missing.toml")


def test_a_file_is_read(tmp_path: Path) -> None:
    file = tmp_path / "hatchway.toml"
    file.write_text("[sshd]\nport = 2222\nlisten = ['127.0.0.1']\n")
    loaded = config.load(file)
    assert (loaded.sshd.port, loaded.sshd.listen) == (2222, ("127.0.0.1",))
