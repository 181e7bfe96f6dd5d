"""What hostd knows of one volume's size. `sizes` keeps it true."""

from __future__ import annotations

import math

from hatchway.host.sources import Room
from hatchway.model import NO_LIMITS
from hatchway.volumefs.ledger import Ledger


class Account:
    """What is known of a volume. `ledger` is shared with its workers, of which there are `users`."""

    def __init__(self, source: str, birth: str, ledger: Ledger) -> None:
        self.source = source
        self.birth = birth
        self.ledger = ledger
        self.limits = NO_LIMITS
        self.users = 0
        self.room: Room | None = None
        self.problem = ""
        self.due = -math.inf
        """When it is to be counted, on trio's clock."""
        self.took_s = 0.0
        self.counting = False
        self.looked_at = -math.inf
        self.shared = False
        self.over = False
        """Whether there was more in it than its limit allows when it was counted last."""
        self.stale = False
        """Whether the count that is going on began before there was a limit."""

    @property
    def counts(self) -> bool:
        """Whether it is to be counted what is in it: else its file system knows."""
        return self.limited or self.room is None or not self.room.own

    @property
    def urgent(self) -> bool:
        """Whether its limits wait for being counted."""
        return self.limited and (bool(self.users) or not self.ledger.known)

    @property
    def limited(self) -> bool:
        """Whether it has any limit."""
        return self.limits != NO_LIMITS
