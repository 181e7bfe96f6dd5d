"""What happened is recorded: through real sshd, as `hatchway log` shows it."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from typing import Any

import pytest
from tests.sshd.running import Hatchway, running, wait_until

INSTANCE, LOGIN = "shop/web/1", "shop-web-1"


@pytest.fixture
def hatchway() -> Iterator[Hatchway]:
    with running(INSTANCE) as made:
        yield made


def entries(hatchway: Hatchway, *arguments: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = hatchway.command("log", *arguments)["entries"]
    return found


def test_what_happens_is_in_the_record(hatchway: Hatchway) -> None:
    assert "Nothing is recorded" in hatchway.cli("log").stdout
    hatchway.enable(INSTANCE, "/data")
    hatchway.sftp(LOGIN, "ls\nput /etc/hostname name\n")
    password = hatchway.password(INSTANCE)
    for _ in range(5):
        assert hatchway.sftp(LOGIN, "ls\n", password="a wrong guess", check=False).returncode == 255
    assert hatchway.sftp("nobody-at-all", "ls\n", password="a wrong guess", check=False).returncode == 255
    wait_until(lambda: hatchway.sessions() == 0, "the session is over")
    hatchway.command("disable", INSTANCE, "--all")
    wait_until(lambda: entries(hatchway, "--kind", "end"), "the end of the session is recorded")

    (login,) = entries(hatchway, INSTANCE, "--kind", "login")
    key = hatchway.cli("show", INSTANCE).stdout
    assert (login["login"], login["address"], login["done"]) == (LOGIN, "127.0.0.1", True)
    assert login["who"].startswith("key SHA256:")
    assert login["who"].removeprefix("key ") in key
    (end,) = entries(hatchway, INSTANCE, "--kind", "end")
    assert (end["login"], end["address"], end["who"]) == (LOGIN, "127.0.0.1", login["who"])
    assert re.fullmatch(r"session ended after \d+ s", end["what"]), "the client left by itself"
    # It may have been over before anybody looked which processes it has.
    assert end["read"] == 0
    assert end["written"] in (0, os.stat("/etc/hostname").st_size)

    # A minute may have ended meanwhile.
    refused = entries(hatchway, INSTANCE, "--kind", "refused")
    assert sum(entry["times"] for entry in refused) == 5
    assert {(entry["login"], entry["address"], entry["done"]) for entry in refused} == {(LOGIN, "127.0.0.1", False)}
    strangers = [entry for entry in entries(hatchway, "--kind", "refused") if entry["login"] == "nobody-at-all"]
    assert [(entry["instance"], entry["times"]) for entry in strangers] == [("", 1)]

    changes = [(entry["what"], entry["instance"], entry["done"]) for entry in entries(hatchway, "--kind", "change")]
    assert changes == [
        ("enable /data", INSTANCE, True),
        ("private key handed out", INSTANCE, True),
        ("password shown", INSTANCE, True),
        ("disable all volumes: /data", INSTANCE, True),
    ]
    text = hatchway.cli("log", "--json").stdout
    assert password not in text
    assert "a wrong guess" not in text


def test_doctor_leaves_no_trace(hatchway: Hatchway) -> None:
    hatchway.enable(INSTANCE, "/data")
    before, logged = entries(hatchway), len(hatchway.log())
    for _ in range(2):
        found = json.loads(hatchway.cli("--json", "doctor").stdout)["findings"]
        tried = [one for one in found if one["name"] in ("PAM login", "login decisions")]
        assert [one["level"] for one in tried] == ["ok", "ok"], tried
    assert entries(hatchway) == before
    more = hatchway.log()[logged:]
    assert "refused" not in " ".join(line for line in more.splitlines() if "level=debug" not in line), more
    assert more.count("doctor's login refused") == 4
    # The same from somewhere is somebody.
    assert hatchway.sftp("nobody-0123456789ab", "ls\n", password="a guess", check=False).returncode == 255
    assert [one["login"] for one in entries(hatchway, "--kind", "refused")] == ["nobody-0123456789ab"]


def test_why_sessions_end(hatchway: Hatchway) -> None:
    hatchway.enable(INSTANCE, "/data")

    def why(*arguments: str) -> str:
        before = len(entries(hatchway, "--kind", "end"))
        client = hatchway.open_sftp(LOGIN)
        try:
            wait_until(lambda: hatchway.sessions() == 1, "it is in")
            hatchway.command(*arguments)
            wait_until(lambda: len(entries(hatchway, "--kind", "end")) > before, "the end is recorded")
        finally:
            client.kill()
            client.communicate()
        told: str = entries(hatchway, INSTANCE, "--kind", "end")[-1]["what"]
        return told.partition(": ")[2]

    assert why("kick", INSTANCE) == "kicked by uid 0"
    (kicked,) = [entry for entry in entries(hatchway, "--kind", "change") if entry["what"].startswith("kick session ")]
    assert (kicked["instance"], kicked["login"], kicked["address"]) == (INSTANCE, LOGIN, "127.0.0.1")
    assert why("lock", INSTANCE) == "the login is locked"
    hatchway.command("unlock", INSTANCE)
    assert why("disable", INSTANCE, "--all") == "no volume is shared any more"
    hatchway.enable(INSTANCE, "/data")
    assert why("key", "renew", INSTANCE) == "its key is not valid any more"


def test_stopping_loses_nothing(hatchway: Hatchway) -> None:
    hatchway.enable(INSTANCE, "/data")
    assert hatchway.sftp("another-stranger", "ls\n", password="x", check=False).returncode == 255
    before = entries(hatchway)
    assert hatchway.stop() == 0
    hatchway.start()
    after = entries(hatchway)
    assert None not in [entry["id"] for entry in after if entry["login"] == "another-stranger"]
    assert {(entry["what"], entry["at"]) for entry in before} <= {(entry["what"], entry["at"]) for entry in after}
