"""Points in time, as people say them."""

from __future__ import annotations

import datetime

import pytest

from hatchway.cli import moments
from hatchway.errors import UsageError
from hatchway.localtime import local

NOW = datetime.datetime(2026, 1, 31, 14, 5).timestamp()


def at(*fields: int) -> float:
    return datetime.datetime(*fields).timestamp()  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "span_s"),
    [("90s", 90), ("5m", 300), ("5min", 300), ("2h", 7200), ("7d", 604800), ("4w", 2419200)],
)
def test_a_span_counts_from_now(text: str, span_s: int) -> None:
    assert moments.since(text, 1e9) == 1e9 - span_s
    assert moments.expiry(text, 1e9) == 1e9 + span_s


def test_since_a_date_is_its_beginning() -> None:
    assert moments.since("2026-01-31", 0.0) == at(2026, 1, 31)
    assert moments.since("2026-01-31 14:05", 0.0) == at(2026, 1, 31, 14, 5)
    assert moments.since("2026-01-31T14:05:00+02:00", 0.0) == 1769861100.0


def test_expiry_of_a_date_is_its_end() -> None:
    assert moments.expiry("2026-02-28", NOW) == at(2026, 2, 28, 23, 59, 59)
    assert moments.expiry("2026-01-31", NOW) == at(2026, 1, 31, 23, 59, 59)
    assert moments.expiry("2026-01-31 14:06", NOW) == at(2026, 1, 31, 14, 6)
    assert moments.expiry("2026-02-28 00:00", NOW) == at(2026, 2, 28)
    assert moments.expiry("9999-12-31", NOW) == at(9999, 12, 31, 23, 59, 59)


def test_expiry_with_a_zone_is_not_of_local_time() -> None:
    assert moments.expiry("2026-03-01T14:05:00+02:00", 0.0) == 1772366700.0
    assert moments.expiry("2026-03-01T14:05:00Z", 0.0) == 1772373900.0


@pytest.mark.parametrize(
    "text",
    ["", " ", "2", "h", "-2h", "2 h", "2H", "٢h", "26-01-31", "9" * 10 + "s", "tomorrow", "Never"],
)
def test_nonsense(text: str) -> None:
    with pytest.raises(UsageError, match=r"--since"):
        moments.since(text, NOW)
    with pytest.raises(UsageError, match=r"--expires .*expected a date"):
        moments.expiry(text, NOW)


@pytest.mark.parametrize("text", ["2026-13-01", "2026-02-30", "0000-01-01"])
def test_no_day(text: str) -> None:
    with pytest.raises(UsageError, match="there is no such day"):
        moments.expiry(text, NOW)


def test_never() -> None:
    assert moments.expiry("never", NOW) is None


@pytest.mark.parametrize("text", ["2026-01-30", "2026-01-31 14:05", "0s", "1970-01-02", "0001-01-02"])
def test_what_is_past_cannot_be_when_something_expires(text: str) -> None:
    with pytest.raises(UsageError, match=r"--expires .*past"):
        moments.expiry(text, NOW)


def test_nothing_lasts_for_ever() -> None:
    with pytest.raises(UsageError, match="lasts that long"):
        moments.expiry("999999999w", NOW)


def test_told() -> None:
    assert moments.told(NOW, NOW) == "2026-01-31 14:05:00, 0 s ago"
    assert moments.told(NOW, NOW + 7200.5) == "2026-01-31 14:05:00, 2 h ago"
    assert moments.told(NOW, NOW - 45) == "2026-01-31 14:05:00, in 45 s"


@pytest.mark.parametrize(("text", "told"), [("7d", "7 days"), ("12h", "12 h"), ("10min", "10 min"), ("90s", "90 s")])
def test_what_was_just_said_is_told_as_it_was_said(text: str, told: str) -> None:
    at = moments.expiry(text, NOW)
    assert at is not None
    assert moments.told(at, NOW + 0.2).endswith(f", in {told}")


def test_what_is_far_away_is_told_in_years() -> None:
    never = moments.expiry("9999-12-31", NOW)
    assert never is not None
    assert moments.told(never, NOW) == "9999-12-31 23:59:59, in 7,973 years"
    assert moments.told(NOW, NOW + 729 * 86400) == "2026-01-31 14:05:00, 729 days ago"
    assert moments.told(NOW, NOW + 731 * 86400) == "2026-01-31 14:05:00, 2 years ago"


@pytest.mark.parametrize("beyond", [1e30, -1e30])
def test_the_calendar_ends_somewhere(beyond: float) -> None:
    assert local(beyond) == f"{beyond:g} s since 1970"
