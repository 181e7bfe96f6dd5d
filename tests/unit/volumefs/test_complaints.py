"""What an operator hears of a failing file system: at once, and not again for every request."""

from __future__ import annotations

import errno
import os

import pytest
import structlog

from hatchway.volumefs.complaints import PERIOD_S, Complaints


def failed(number: int) -> OSError:
    return OSError(number, os.strerror(number))


@pytest.mark.parametrize(
    ("number", "level", "words"),
    [
        (errno.ENOSPC, "warning", "is full"),
        (errno.EDQUOT, "warning", "quota"),
        (errno.ENFILE, "warning", "too many files"),
        (errno.EROFS, "warning", "read-only"),
        (errno.EIO, "error", "fails"),
        (errno.EUCLEAN, "error", "fails"),
    ],
)
def test_what_is_told(number: int, level: str, words: str) -> None:
    with structlog.testing.capture_logs() as logs:
        Complaints().heard("write", failed(number))
    (record,) = logs
    assert (record["log_level"], record["operation"], record["times"]) == (level, "write", 1)
    assert words in record["event"]
    assert record["error"] == os.strerror(number)


@pytest.mark.parametrize("number", [errno.ENOENT, errno.EACCES, errno.EEXIST, errno.ENOTEMPTY, errno.ESTALE])
def test_what_a_client_does_every_day_is_not_told(number: int) -> None:
    with structlog.testing.capture_logs() as logs:
        Complaints().heard("lookup", failed(number))
        Complaints().heard("lookup", OSError("without a number"))
    assert logs == []


def test_a_client_that_tries_again_and_again_does_not_fill_the_log() -> None:
    now = [1000.0]
    complaints = Complaints(lambda: now[0])
    with structlog.testing.capture_logs() as logs:
        for _ in range(1000):
            complaints.heard("write", failed(errno.ENOSPC))
        complaints.heard("read", failed(errno.EIO))
        now[0] += PERIOD_S
        complaints.heard("create", failed(errno.ENOSPC))
    assert [(one["operation"], one["times"]) for one in logs] == [("write", 1), ("read", 1), ("create", 1000)]
