"""What stands in front of a line of the log, depending on who keeps it."""

from __future__ import annotations

import os

import pytest

from hatchway import log


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
