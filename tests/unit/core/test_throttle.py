"""Who waits how long after wrong guesses, and who does not."""

from __future__ import annotations

import ipaddress
import tracemalloc

import pytest

from hatchway import addresses
from hatchway.access import throttle
from hatchway.access.throttle import FORGET_S, FREE_AT_LOGIN, FREE_OF_ADDRESS, LONGEST_DELAY_S, Throttle

HERE, THERE = addresses.address("192.0.2.1"), addresses.address("192.0.2.2")


def test_the_numbers_are_those_that_are_promised() -> None:
    """In docs/security.md, "Who may enter": in so many figures, whatever the constants say."""
    seen, delays = Throttle(), []
    for _ in range(13):
        seen.failed(HERE, "web", 0.0)
        delays.append(seen.wait_s(HERE, "web", 0.0))
    assert delays == [0, 0, 0, 0, 1, 2, 4, 8, 16, 32, 60, 60, 60]
    seen, delays = Throttle(), []
    for number in range(24):
        seen.failed(HERE, f"login-{number}", 0.0)
        delays.append(seen.wait_s(HERE, "another", 0.0))
    assert delays == [0] * 20 + [1, 2, 4, 8]
    half_an_hour = 1800.0
    assert seen.suspicion(HERE, "another", half_an_hour - 1) == 24
    assert seen.suspicion(HERE, "another", half_an_hour) == 0


def test_mistyping_costs_nothing() -> None:
    seen = Throttle()
    for _ in range(FREE_AT_LOGIN):
        assert seen.wait_s(HERE, "web", 0.0) == 0.0
        seen.failed(HERE, "web", 0.0)
    assert seen.wait_s(HERE, "web", 0.0) == 0.0


def test_who_goes_on_guessing_waits_longer_each_time() -> None:
    seen, now, delays = Throttle(), 0.0, []
    for _ in range(FREE_AT_LOGIN + 10):
        seen.failed(HERE, "web", now)
        delays.append(seen.wait_s(HERE, "web", now))
        now += delays[-1]
        assert seen.wait_s(HERE, "web", now) == 0.0, "then it may guess again"
    assert delays[: FREE_AT_LOGIN + 4] == [0.0] * FREE_AT_LOGIN + [1.0, 2.0, 4.0, 8.0]
    assert delays[-1] == LONGEST_DELAY_S
    for _ in range(10_000):
        seen.failed(HERE, "web", now)
    assert seen.wait_s(HERE, "web", now) == LONGEST_DELAY_S


def test_nobody_else_waits_for_it() -> None:
    seen = Throttle()
    for _ in range(FREE_AT_LOGIN + 5):
        seen.failed(HERE, "web", 0.0)
    assert seen.wait_s(HERE, "web", 0.0) > 0
    assert seen.wait_s(THERE, "web", 0.0) == 0.0, "the owner comes from elsewhere"
    assert seen.wait_s(HERE, "db", 0.0) == 0.0, "a colleague behind the same address"
    assert seen.wait_s(None, "web", 0.0) == 0.0


def test_who_tries_many_logins_waits_at_all_of_them() -> None:
    seen = Throttle()
    for number in range(FREE_OF_ADDRESS):
        seen.failed(HERE, f"login-{number}", 0.0)
    assert seen.wait_s(HERE, "another", 0.0) == 0.0
    seen.failed(HERE, "one-more", 0.0)
    assert seen.wait_s(HERE, "another", 0.0) == 1.0
    assert seen.wait_s(THERE, "another", 0.0) == 0.0
    assert seen.suspicion(HERE, "another", 0.0) == FREE_OF_ADDRESS + 1
    assert seen.suspicion(THERE, "another", 0.0) == 0


def test_a_right_password_forgives_what_was_mistyped_there_only() -> None:
    seen = Throttle()
    for _ in range(FREE_OF_ADDRESS + 1):
        seen.failed(HERE, "web", 0.0)
    seen.succeeded(HERE, "web")
    assert seen.wait_s(HERE, "web", 0.0) == 1.0, "its own login must not buy an attacker guesses at others"
    seen = Throttle()
    for _ in range(FREE_AT_LOGIN + 3):
        seen.failed(HERE, "web", 0.0)
        seen.failed(HERE, "db", 0.0)
    seen.succeeded(HERE, "web")
    assert seen.wait_s(HERE, "web", 0.0) == 0.0
    assert seen.wait_s(HERE, "db", 0.0) == 4.0


def test_it_is_forgotten_in_time() -> None:
    seen = Throttle()
    for _ in range(FREE_AT_LOGIN + 1):
        seen.failed(HERE, "web", 0.0)
    assert seen.suspicion(HERE, "web", FORGET_S - 1) == FREE_AT_LOGIN + 1
    assert seen.suspicion(HERE, "web", FORGET_S) == 0
    seen.failed(HERE, "web", FORGET_S)
    assert seen.wait_s(HERE, "web", FORGET_S) == 0.0


def test_a_network_of_ipv6_is_one_address() -> None:
    seen = Throttle()
    one, other = addresses.address("2001:db8:0:1::1"), addresses.address("2001:db8:0:1:ffff::2")
    for _ in range(FREE_AT_LOGIN + 1):
        seen.failed(one, "web", 0.0)
    assert seen.wait_s(other, "web", 0.0) == 1.0
    assert seen.wait_s(addresses.address("2001:db8:0:2::1"), "web", 0.0) == 0.0
    assert seen.wait_s(addresses.address("::ffff:192.0.2.1"), "web", 0.0) == 0.0


def of_64(number: int, network: str = "2001:db8::") -> ipaddress.IPv6Address:
    """An address in the /64 of that number from `network` on."""
    return ipaddress.IPv6Address(int(ipaddress.IPv6Address(network)) + (number << 64) + 1)


def guess_from_ever_new(seen: Throttle, many: int, network: str, now: float = 0.0) -> int:
    """One guess at a login of its own from each of so many /64s. How many of them were free."""
    free = 0
    for number in range(many):
        address = of_64(number, network)
        if seen.wait_s(address, f"login-{number}", now) == 0.0:
            seen.failed(address, f"login-{number}", now)
            free += 1
    return free


def test_who_has_a_whole_network_of_ipv6_has_not_a_free_guess_from_each_of_its_64s() -> None:
    """As docs/security.md has it: 60 of a /56, 240 of a /48, and then one in 30 and 7.5 seconds."""
    seen = Throttle()
    assert guess_from_ever_new(seen, 256, "2001:db8::") == 61, "the first /56"
    assert seen.wait_s(of_64(300), "web", 0.0) == 0.0, "the next one"
    assert seen.wait_s(of_64(1), "web", 0.0) == 30.0
    assert guess_from_ever_new(seen, 65_536, "2001:db8::") == 241 - 61, "the whole /48"
    assert seen.wait_s(of_64(65_535), "web", 0.0) == 7.5
    assert seen.wait_s(of_64(65_535), "web", 7.5) == 0.0
    assert seen.wait_s(of_64(65_536), "web", 0.0) == 0.0, "another /48"
    assert seen.wait_s(HERE, "web", 0.0) == 0.0
    assert guess_from_ever_new(seen, 65_536, "2001:db8::", 1800.0) == 240, "that often in each half an hour, no more"


def test_from_where_somebody_was_let_in_their_network_keeps_nobody_waiting() -> None:
    seen = Throttle()
    seen.succeeded(of_64(7), "web")
    guess_from_ever_new(seen, 65_536, "2001:db8::")
    assert seen.wait_s(of_64(7), "web", 0.0) == 0.0
    assert seen.wait_s(of_64(7), "db", 0.0) > 0.0


def test_one_address_alone_does_not_use_up_what_its_network_has_free() -> None:
    seen, now = Throttle(), 0.0
    while now < 24 * 3600:
        now += seen.wait_s(of_64(1), "web", now)
        seen.failed(of_64(1), "web", now)
        assert seen.wait_s(of_64(2), "web", now) == 0.0


def test_a_network_is_crowded_by_more_failures_than_one_address_has_free() -> None:
    seen = Throttle()
    guess_from_ever_new(seen, FREE_OF_ADDRESS, "2001:db8::")
    assert seen.crowd(of_64(100), 0.0) == 0
    guess_from_ever_new(seen, 5, "2001:db8:0:100::")
    assert seen.crowd(of_64(100), 0.0) == 5, "of the /48"
    assert seen.crowd(of_64(65_536), 0.0) == seen.crowd(HERE, 0.0) == seen.crowd(None, 0.0) == 0
    assert seen.crowd(of_64(100), 60.0) == 0, "some are forgotten"


def test_many_networks_take_no_more_room_than_some(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(throttle, "ENTRIES_MAX", 10)
    seen = Throttle()
    for number in range(100):
        seen.failed(of_64(number << 16), "web", float(number))
        seen.failed(of_64(0), "db", float(number))
    assert [len(rates) for rates in seen._networks.values()] == [10, 10]
    assert seen.wait_s(of_64(1), "web", 99.0) > 0.0, "who goes on is not forgotten"


def test_many_addresses_take_no_more_room_than_some() -> None:
    """Five times as many as are remembered; tests/long has a million."""
    many_addresses(5 * throttle.ENTRIES_MAX)


def many_addresses(count: int) -> None:
    seen = Throttle()
    tracemalloc.start()
    try:
        for number in range(count):
            seen.failed(ipaddress.IPv4Address(number), f"login-{number % 1000}", float(number) / 1000)
        size, _peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert size < 20_000_000
    # Who goes on is not forgotten because others come.
    for number in range(throttle.ENTRIES_MAX * 2):
        seen.failed(ipaddress.IPv4Address(number), "web", 1000.0)
        if number % 1000 == 0:
            seen.failed(HERE, "web", 1000.0)
    assert seen.suspicion(HERE, "web", 1000.0) > FREE_AT_LOGIN


def test_whoever_has_waited_long_enough_does_not_wait_less_than_nothing() -> None:
    seen = Throttle()
    for _ in range(FREE_OF_ADDRESS + 2):
        seen.failed(HERE, "web", 0.0)
    assert seen.wait_s(HERE, "web", LONGEST_DELAY_S + 1) == 0.0


def test_of_those_who_were_let_in_the_latest_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(throttle, "ENTRIES_MAX", 3)
    seen, others = Throttle(), [addresses.address(f"198.51.100.{number}") for number in range(3)]
    seen.succeeded(HERE, "web")
    seen.succeeded(others[0], "web")
    seen.succeeded(others[1], "web")
    seen.succeeded(HERE, "web")
    seen.succeeded(others[2], "web")
    known = [seen.is_known(address, "web") for address in (HERE, *others)]
    assert known == [True, False, True, True]
    assert not seen.is_known(HERE, "db")
