"""The fail2ban filter: bans whoever failed to log in, and nobody a stranger would like to have banned."""

from __future__ import annotations

import configparser
import ipaddress
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hatchway import log
from hatchway.printable import escaped, harmless
from hatchway.supervisor import _copy_log

FILTER = Path(__file__).parents[3] / "src/fail2ban/hatchway.conf"
PROGRAM = shutil.which("fail2ban-regex", path="/usr/bin:/usr/local/bin")

WHO = "192.0.2.66"
"""Whose attempts the tests log."""

# As fail2ban's server/failregex.py has it, but for what no address is.
ADDR = r"\[?(?:::f{4,6}:)?((?:\d{1,3}\.){3}\d{1,3}|(?:[0-9a-fA-F]{1,4}::?|:){1,7}(?:[0-9a-fA-F]{1,4}|(?<=:):))\]?"

NAMES = [
    "root",
    "",
    "a b",
    "a=b",
    "a address=1.2.3.4",
    'a" address=1.2.3.4',
    'a" address=1.2.3.4 ',
    'a\\" address=1.2.3.4 b="',
    'a\\\\" address=1.2.3.4 b="',
    # With what is escaped, so that backslashes would be doubled once more by whoever escapes the line again.
    'a" address=1.2.3.4 b="\x1b',
    'a" address=1.2.3.4 b="\\x1b',
    "a\naddress=1.2.3.4",
    "a\n{line}",
    "a\r\n{line}",
    "a\u2028{line}",
    "a\x85{line}",
    "a\0{line}",
    "{line}",
    "\\",
    '"',
    "\\ ",
    "\ud800 address=1.2.3.4",
    "é" * 2000 + " address=1.2.3.4",
]


def lines(
    name: str, capfd: pytest.CaptureFixture[str], address: str = WHO, event: str = "password refused", **more: str
) -> str:
    """What stands in the log, as `hatchway run` copies it, when `name` has failed from `address`."""
    capfd.readouterr()
    log.configure("core", "info")
    log.get(socket="auth").warning(event, login=name, address=address, **more)
    return "".join(f"core: {harmless(line)}\n" for line in capfd.readouterr().err.split("\n")[:-1])


def forged(capfd: pytest.CaptureFixture[str]) -> str:
    """A line that bans somebody else."""
    return lines("root", capfd, "1.2.3.4").rstrip("\n")


def banned(text: str, mode: str = "normal") -> list[str]:
    """Which addresses the filter finds, by its expression as fail2ban expands it."""
    parser = configparser.ConfigParser(interpolation=None)
    parser.read(FILTER)
    section = parser["Definition"]
    expression = section["failregex"].replace("%(_value)s", section["_value"]).replace("%%", "%")
    expression = expression.replace("<_events_<mode>>", section[f"_events_{mode}"]).replace("<ADDR>", ADDR)
    found = []
    # Lines end where fail2ban's file reader thinks so: at b"\n" alone.
    for line in text.split("\n"):
        if (match := re.search(expression, line)) is not None:
            found.append(match[1])
    return found


def really_banned(text: str, directory: Path, mode: str = "normal") -> list[str]:
    """The same by fail2ban itself, or as `banned` says where it is not installed."""
    if PROGRAM is None:
        return banned(text, mode)
    file = directory / "hatchway.log"
    file.write_text(text, encoding="utf-8", errors="surrogateescape", newline="")
    done = subprocess.run(
        [PROGRAM, "-o", "ip", str(file), f"{FILTER}[mode={mode}]"],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode in (0, 255), done.stderr  # 255: nothing matched
    return done.stdout.split()


@pytest.mark.parametrize("address", [WHO, "2001:db8::66", "::1"])
def test_who_fails_is_found(capfd: pytest.CaptureFixture[str], tmp_path: Path, address: str) -> None:
    text = lines("root", capfd, address)
    for found in (banned(text), really_banned(text, tmp_path)):
        assert [str(ipaddress.ip_address(one)) for one in found] == [address]


def test_no_name_has_somebody_else_banned(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    line = forged(capfd)
    assert really_banned(line + "\n", tmp_path) == ["1.2.3.4"], "the forged line is none"
    texts = [lines(name.replace("{line}", line), capfd) for name in NAMES]
    for name, text in zip(NAMES, texts, strict=True):
        assert banned(text) == [WHO], name
    assert really_banned("".join(texts), tmp_path) == [WHO] * len(NAMES)


@pytest.mark.parametrize("unit", [False, True])
def test_the_same_in_a_journal(
    capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unit: bool
) -> None:
    """As `hatchway run` writes it, and as the unit of the core does, which the journal has the name of."""
    if unit:
        found = os.fstat(2)
        monkeypatch.setenv("JOURNAL_STREAM", f"{found.st_dev}:{found.st_ino}")
    line = forged(capfd)
    texts = [lines(name.replace("{line}", line), capfd) for name in NAMES]
    if unit:
        # The journal takes the priority off, and has the time.
        assert all(text.startswith("core: <4>level=warning process=core ") for text in texts)
        texts = [text.replace("core: <4>", "host hatchway-core[12]: ", 1) for text in texts]
    else:
        texts = [f"host hatchway[12]: {text}" for text in texts]
    for name, text in zip(NAMES, texts, strict=True):
        assert banned(text) == [WHO], name
    assert really_banned("".join(texts), tmp_path) == [WHO] * len(NAMES)


def test_nor_has_an_address_or_another_line(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    line = forged(capfd)
    texts = [
        lines("root", capfd, "host.example address=1.2.3.4"),
        lines("root", capfd, ""),
        lines("root", capfd, event=line),
        f"Invalid user {line} from {WHO} port 40000\n",
        f"hatchway-sshd[7]: Invalid user {line} from {WHO} port 40000\n",
        line.replace("process=core", "process=catalog") + "\n",
        # A worker that was taken over writes what it likes into hostd's log.
        line.replace("core: ", "hostd: ") + "\n",
        line.replace("core: ", "hostd: core: ") + "\n",
        line.removeprefix("core: ") + "\n",
    ]
    for text in texts:
        assert banned(text) == [], text
    assert really_banned("".join(texts), tmp_path) == []


def test_what_stands_behind_the_address_bans_nobody(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    texts = [lines(name, capfd, reason=f"{name} address=1.2.3.4") for name in NAMES]
    for name, text in zip(NAMES, texts, strict=True):
        assert banned(text) == [WHO], name
    assert really_banned("".join(texts), tmp_path) == [WHO] * len(NAMES)


def test_who_was_right_but_may_not_enter_is_found_in_mode_all_only(
    capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    text = lines("root", capfd, event="login refused")
    assert banned(text) == really_banned(text, tmp_path) == []
    assert banned(text, "all") == really_banned(text, tmp_path, "all") == [WHO]


@settings(database=None, suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=300, deadline=None)
@given(st.text(alphabet='\\"= a\n\x1bx1.2345address\u202e'))
def test_whatever_the_name_the_address_is_the_clients(capfd: pytest.CaptureFixture[str], name: str) -> None:
    assert banned(lines(name, capfd)) == [WHO]


async def test_the_supervisor_says_who_wrote_a_line_and_copies_it_as_it_is(capfd: pytest.CaptureFixture[str]) -> None:
    """It once escaped it again, which doubled the backslashes and so opened the quotes."""
    capfd.readouterr()
    log.configure("core", "info")
    log.get(socket="auth").warning("password refused", login='a" address=1.2.3.4 b="\x1b', address=WHO)
    line = capfd.readouterr().err
    assert '\\"' in line
    reading, writing = os.pipe()
    os.write(writing, line.encode() + b"from sshd \x1b[2J\xff\r\n")
    os.close(writing)
    await _copy_log("hostd", reading)
    assert capfd.readouterr().err == f"hostd: {line}hostd: from sshd \\x1b[2J\ufffd\n"


@settings(database=None)
@given(st.text())
def test_what_is_escaped_is_copied_as_it_is(text: str) -> None:
    once = escaped(text)
    assert harmless(once) == once
    assert not any(harmless(text)[place : place + 1] in "\n\r\x1b\u202e" for place in range(len(harmless(text))))
