"""When wrong passwords at one login become too many."""

from __future__ import annotations

from hatchway.access.throttle import FLOOD_S, Flood


def test_whoever_paces_gets_no_more_guesses_than_others() -> None:
    # Hours counted one after the other would give nine at the end of the first and nine at the beginning of the next.
    flood = Flood(10)
    early = [0.0] + [FLOOD_S - 1 + number / 100 for number in range(8)]
    assert not any(flood.is_too_much("web", at) for at in early)
    assert not flood.is_too_much("web", FLOOD_S)
    assert flood.is_too_much("web", FLOOD_S + 0.01)
    # Nine an hour are never too many, however long they go on.
    flood = Flood(10)
    assert not any(flood.is_too_much("web", number * FLOOD_S / 9) for number in range(1000))


def test_after_it_was_too_much_it_begins_anew() -> None:
    flood = Flood(3)
    assert [flood.is_too_much("web", float(at)) for at in range(7)] == [False, False, True, False, False, True, False]


def test_a_clock_that_is_set_back_locks_nobody_out_by_itself() -> None:
    flood = Flood(3)
    assert not flood.is_too_much("web", 1e9)
    assert not flood.is_too_much("web", 1.0)
    assert not flood.is_too_much("web", 2.0)
    assert flood.is_too_much("web", 3.0)


def test_what_is_past_takes_no_room() -> None:
    flood = Flood(1_000_000)
    for number in range(50_000):
        assert not flood.is_too_much(f"login-{number % 2000}", number * 10.0)
    # One every ten seconds: those of the last hour, of as many logins.
    assert sum(map(len, flood._times.values())) == FLOOD_S / 10
    assert len(flood._times) == FLOOD_S / 10
