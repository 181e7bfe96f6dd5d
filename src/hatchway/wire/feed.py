"""What the catalog feeds the core: whole snapshots, one way. The core answers nothing."""

from __future__ import annotations

import msgspec

from hatchway.model import Snapshot


class Fed(msgspec.Struct, frozen=True, tag="fed"):
    """The present state of one source."""

    snapshot: Snapshot


class Alive(msgspec.Struct, frozen=True, tag="alive"):
    """Sent every few seconds while a source is followed and nothing changed. `at` is Unix time in seconds."""

    source: str
    at: float
