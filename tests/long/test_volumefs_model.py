"""A mounted volume does what a plain directory does: many thousand steps of the model, new ones every time.

A failure names its seed: HATCHWAY_MODEL_SEED=NUMBER plays the same steps again. HATCHWAY_MODEL_S is how many seconds to
go on, 300 if it is not set.
"""

from __future__ import annotations

import os
import secrets
import time

import pytest
from tests.figures import note
from tests.mount import model

EXAMPLES = 400


@pytest.mark.parametrize(("on", "share"), [(None, 0.7), ("/dev/shm", 0.3)], ids=["disk", "tmpfs"])
def test_the_same_as_a_plain_directory(on: str | None, share: float) -> None:
    given = os.environ.get("HATCHWAY_MODEL_SEED")
    number = int(given) if given else secrets.randbits(32)
    ends = time.monotonic() + float(os.environ.get("HATCHWAY_MODEL_S", "300")) * share
    with model.beds(on) as beds:
        while True:
            try:
                model.run(beds, number, EXAMPLES)
            except BaseException as exc:
                exc.add_note(f"seed {number}: HATCHWAY_MODEL_SEED={number} plays it again")
                raise
            if given or time.monotonic() > ends:
                break
            number = secrets.randbits(32)
    note(f"model on {on or 'disk'}: {beds.steps} steps, {beds.succeeded} of which succeeded")
    for name, counts in sorted(beds.answers.items()):
        note(f"    {name}: " + ", ".join(f"{what} {count}" for what, count in sorted(counts.items())))
