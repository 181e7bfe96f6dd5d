"""Attempts to log in that failed, counted for the record: one row for each address and login a minute. Pure.

Everything here comes from strangers, as much of it as they like: the rows of a minute are bounded, and so is what one
address can take up of them. What goes beyond is counted without its login, and beyond that without its address.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from hatchway.model import EventKind
from hatchway.printable import plain
from hatchway.registry.records import NewEvent

MINUTE_S = 60

ROWS_MAX = 1000
"""Rows of one minute that name an address."""

LOGINS_MAX = 20
"""Logins of one address that get a row of their own in one minute."""

OTHERS_MAX = 10_000
"""Up to which number addresses without a row of their own are told apart."""

REASONS_MAX = 4
"""Different reasons that one row names: those that were most often one."""

REASONS_COUNTED = 16
"""Different reasons of one row that are told apart. There are fewer."""

OTHER_REASONS = "for other reasons"

LOGIN_LENGTH = ADDRESS_LENGTH = 64
REASON_LENGTH = 120
"""Characters that are kept."""


@dataclass(slots=True)
class _Count:
    at: float
    instance: str = ""
    times: int = 0
    reasons: Counter[str] = field(default_factory=Counter)

    def add(self, why: str, instance: str) -> None:
        self.times += 1
        self.instance = self.instance or instance
        known = why in self.reasons or len(self.reasons) < REASONS_COUNTED
        self.reasons[why if known else OTHER_REASONS] += 1

    def _why(self) -> str:
        """The reasons, each with how often it was one if there are several, the most frequent first."""
        if len(self.reasons) == 1:
            return next(iter(self.reasons))
        # Of as frequent ones the one that came first.
        told = Counter({why: times for why, times in self.reasons.items() if why != OTHER_REASONS}).most_common()
        shown = told[:REASONS_MAX]
        others = self.times - sum(times for _, times in shown)
        if others:
            shown.append((OTHER_REASONS, others))
        return "; ".join(f"{why} ({times:,})" for why, times in shown)

    def event(self, more: str = "", *, login: str = "", address: str = "") -> NewEvent:
        return NewEvent(
            self.at,
            EventKind.REFUSED,
            f"{self._why()}{more}",
            instance=self.instance,
            login=login,
            address=address,
            done=False,
            times=self.times,
        )


class Attempts:
    """Those of one minute: `minute` is Unix time in minutes."""

    def __init__(self, minute: int) -> None:
        self.minute = minute
        # With the login None: further logins of that address.
        self._counts: dict[tuple[str, str | None], _Count] = {}
        self._logins: Counter[str] = Counter()
        self._others: _Count | None = None
        self._other_addresses: set[str] = set()

    def add(self, login: str, address: str, why: str, instance: str, at: float) -> None:
        """Count one attempt, made `at`, Unix seconds."""
        login, address = plain(login, LOGIN_LENGTH), plain(address, ADDRESS_LENGTH)
        key: tuple[str, str | None] = (address, login)
        if key not in self._counts and self._logins[address] >= LOGINS_MAX:
            key, instance = (address, None), ""
        count = self._counts.get(key)
        if count is None and len(self._counts) < ROWS_MAX:
            count = self._counts[key] = _Count(at)
            self._logins[address] += 1
        elif count is None:
            count, instance = self._others or _Count(at), ""
            self._others = count
            if len(self._other_addresses) < OTHERS_MAX:
                self._other_addresses.add(address)
        count.add(plain(why, REASON_LENGTH), instance)

    def events(self) -> list[NewEvent]:
        """The rows, in the order in which the attempts began."""
        rows = [
            count.event(", of other logins" if login is None else "", login=login or "", address=address)
            for (address, login), count in self._counts.items()
        ]
        if self._others is not None:
            number = len(self._other_addresses)
            many = "or more " if number == OTHERS_MAX else ""
            rows.append(self._others.event(f", from {number:,} {many}other addresses"))
        return rows
