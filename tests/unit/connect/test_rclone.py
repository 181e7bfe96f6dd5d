"""Sections of rclone's configuration, read by rclone."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from tests.unit.connect.infos import HIDDEN, HOSTILE, SHOWN, info

from hatchway.connect import rclone
from hatchway.connect.logon import Logon
from hatchway.errors import UsageError
from hatchway.model import InstanceKey


def as_rclone_reads(text: str, tmp_path: Path) -> dict[str, dict[str, str]]:
    """All remotes of a configuration."""
    (tmp_path / "rclone.conf").write_text(text)
    done = subprocess.run(
        ["rclone", "--config", tmp_path / "rclone.conf", "config", "dump"], check=True, capture_output=True, text=True
    )
    found: dict[str, dict[str, str]] = json.loads(done.stdout)
    return found


COMMON = {
    "type": "sftp",
    "host": "sftp.example.org",
    "port": "2022",
    "user": "shop-web-1",
    "known_hosts_file": "~/.ssh/known_hosts",
    "shell_type": "none",
    "md5sum_command": "none",
    "sha1sum_command": "none",
}


def test_by_key_and_by_asking(tmp_path: Path) -> None:
    assert as_rclone_reads(rclone.section(HIDDEN, Logon.KEY, "~/.ssh"), tmp_path) == {
        "shop-web-1": {**COMMON, "key_file": "~/.ssh/id_container-shop-web-1"}
    }
    assert as_rclone_reads(rclone.section(HIDDEN, Logon.ASK, "~/.ssh"), tmp_path) == {
        "shop-web-1": {**COMMON, "ask_password": "true"}
    }


def test_by_a_password(tmp_path: Path) -> None:
    found = as_rclone_reads(rclone.section(SHOWN, Logon.PASSWORD, "~/.ssh"), tmp_path)["shop-web-1"]
    hidden = found.pop("pass")
    assert found == COMMON
    assert "se/same" not in hidden
    revealed = subprocess.run(["rclone", "reveal", "--", hidden], check=True, capture_output=True, text=True)
    assert revealed.stdout == "se/same\n"


@pytest.mark.parametrize("password", ["sesame", "päß wörd", "x" * 200, "\\\"'"])
def test_obscured_as_rclone_does_it(password: str) -> None:
    made = rclone.obscured(password)
    assert made != rclone.obscured(password)
    done = subprocess.run(["rclone", "reveal", "--", made], check=True, capture_output=True, text=True)
    assert done.stdout == f"{password}\n"


@pytest.mark.parametrize("name", HOSTILE)
def test_no_name_adds_to_the_configuration(tmp_path: Path, name: str) -> None:
    usual = as_rclone_reads(rclone.section(HIDDEN, Logon.KEY, "~/.ssh"), tmp_path)
    hostile = info(f"/{name}", key=InstanceKey(name, name, 1), start_directory=f"/{name}")
    assert as_rclone_reads(rclone.section(hostile, Logon.KEY, "~/.ssh"), tmp_path) == usual


def test_by_a_key_of_ones_own(tmp_path: Path) -> None:
    assert as_rclone_reads(rclone.section(HIDDEN, Logon.OWN_KEY, "~/.ssh"), tmp_path) == {
        "shop-web-1": {**COMMON, "key_use_agent": "true"}
    }


@pytest.mark.parametrize("directory", ["/a$HOME/b", "/${HOME}", "/a%(user)s", "``", "`a`b", "'`x", " /lead", "/trail "])
def test_a_directory_that_rclone_would_expand(directory: str) -> None:
    with pytest.raises(UsageError, match="not allowed: to rclone"):
        rclone.section(HIDDEN, Logon.KEY, directory)


@pytest.mark.parametrize("directory", ["/a b/c", "/it's", r"C:\keys", "/100%/x", "/a;b#c", "/a=b"])
def test_where_the_key_is(tmp_path: Path, directory: str) -> None:
    found = as_rclone_reads(rclone.section(HIDDEN, Logon.KEY, directory), tmp_path)["shop-web-1"]
    join = "\\" if "\\" in directory else "/"
    assert found["key_file"] == f"{directory}{join}id_container-shop-web-1"
    assert found["known_hosts_file"] == f"{directory}{join}known_hosts"
