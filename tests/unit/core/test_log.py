"""What stands in front of a line of the log, depending on who keeps it."""

from __future__ import annotations

import os
import time

import pytest

from hatchway import log
from hatchway.errors import ConfigError, HostError


def test_several_are_separated_by_commas(capfd: pytest.CaptureFixture[str]) -> None:
    log.configure("core", "info")
    log.get().info("enabled", paths=("/home/work", "/data"), read_only=[], pids=[1, 2])
    log.get().info("mounted", targets={"/a b"})
    # Whoever names a directory cannot make two of one, nor another line.
    log.get().info("odd", paths=["/a,/b", "/c\n", r"/d\,", "/e\n,"])
    enabled, mounted, odd = capfd.readouterr().err.splitlines()
    assert enabled.endswith("event=enabled paths=/home/work,/data read_only= pids=1,2")
    assert mounted.endswith('event=mounted targets="/a b"')
    assert odd.endswith(r"event=odd paths=/a\x2c/b,/c\x0a,/d\\\x2c,/e\x0a\x2c")


@pytest.mark.parametrize("stream", ["", "0:0", "the journal's"])
def test_lines_in_the_journal_have_a_priority_and_no_time(
    stream: str, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """But only when standard error is what the journal gave: another process's may lead elsewhere."""
    found = os.fstat(2)
    journal = stream == "the journal's"
    monkeypatch.setenv("JOURNAL_STREAM", f"{found.st_dev}:{found.st_ino}" if journal else stream)
    log.configure("core", "debug")
    logger = log.get()
    for say in (logger.debug, logger.info, logger.warning, logger.error):
        say("it happened", login="a\nb")
    try:
        int("x\n<1>y")
    except ValueError:
        logger.exception("it failed")
    *lines, last = capfd.readouterr().err.splitlines()
    levels, numbers = ("debug", "info", "warning", "error"), (7, 6, 4, 3)
    if journal:
        said = [
            f'<{number}>level={level} process=core event="it happened"'
            for number, level in zip(numbers, levels, strict=True)
        ]
        assert [line.partition(" login=")[0] for line in lines] == said
        assert last.startswith('<3>level=error process=core event="it failed"')
    else:
        assert all(line.startswith("timestamp=2") for line in (*lines, last))
        assert [line.partition(" ")[2].partition(" ")[0] for line in lines] == [f"level={level}" for level in levels]


@pytest.mark.parametrize("unit", [False, True])
def test_why_a_process_ends(unit: bool, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A unit is started again at once: not when nothing but the operator can change what was wrong."""
    waited: list[float] = []
    monkeypatch.setattr(time, "sleep", waited.append)
    monkeypatch.delenv("INVOCATION_ID", raising=False)
    if unit:
        found = os.fstat(2)
        monkeypatch.setenv("JOURNAL_STREAM", f"{found.st_dev}:{found.st_ino}")
        monkeypatch.setenv("INVOCATION_ID", "0" * 32)
    for error, status in ((HostError("no\nroom"), 8), (ConfigError("unknown key 'x'"), 3)):
        with pytest.raises(SystemExit) as ended:
            log.fatal("hatchwayd", error)
        assert ended.value.code == status
    before = "<3>" if unit else ""
    assert capfd.readouterr().err == f"{before}hatchwayd: no\\x0aroom\n{before}hatchwayd: unknown key 'x'\n"
    assert waited == ([log.RETRY_S] if unit else [])
