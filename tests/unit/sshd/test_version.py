"""Versions of OpenSSH, as the programs print them."""

from __future__ import annotations

from pathlib import Path

import pytest

from hatchway.errors import HostError
from hatchway.sshd import version


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("OpenSSH_9.2p1 Debian-2+deb12u7, OpenSSL 3.0.17 1 Jul 2025", (9, 2)),
        ("OpenSSH_9.2, OpenSSL 3.0.19 27 Jan 2026\n", (9, 2)),
        ("OpenSSH_10.0p2 Debian-7, OpenSSL 3.5.1 1 Jul 2025", (10, 0)),
        ("unknown option -- V\nOpenSSH_8.7p1, OpenSSL 3.2.2 4 Jun 2024\nusage: sshd [-46DdeiqTt]", (8, 7)),
        ("OpenSSH_9.6p1 Ubuntu-3ubuntu13.13, OpenSSL 3.0.13", (9, 6)),
    ],
)
def test_parse(text: str, expected: version.Version) -> None:
    assert version.parse(text) == expected
    assert version.text(expected) == ".".join(map(str, expected))


@pytest.mark.parametrize("text", ["", "dropbear v2022.83", "OpenSSH_x.y"])
def test_what_is_no_version(text: str) -> None:
    with pytest.raises(HostError, match="no OpenSSH version"):
        version.parse(text)


def test_of_a_program(fake_sshd: Path) -> None:
    assert version.of(str(fake_sshd)) == (9, 2)


def test_whether_it_is_known_to_be_new_enough(fake_sshd: Path, tmp_path: Path) -> None:
    assert version.at_least(str(fake_sshd), (9, 1))
    assert version.at_least(str(fake_sshd), (9, 2))
    assert not version.at_least(str(fake_sshd), (9, 3))
    assert not version.at_least(str(tmp_path / "none"), (1, 0))


def test_of_no_program(tmp_path: Path) -> None:
    with pytest.raises(HostError, match="No such file"):
        version.of(str(tmp_path / "none"))


def test_of_a_program_that_hangs(tmp_path: Path) -> None:
    program = tmp_path / "slow"
    program.write_text("#!/bin/sh\nexec sleep 60\n")
    program.chmod(0o755)
    with pytest.raises(HostError, match="timed out"):
        version.of(str(program), timeout_s=0.2)
