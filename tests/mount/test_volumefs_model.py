"""A mounted volume does what a plain directory does: some thousand steps of the model, the same every time.

tests/long has more, with new steps every time.
"""

from __future__ import annotations

import pytest
from tests.figures import note
from tests.mount import model


@pytest.mark.parametrize(("on", "examples"), [(None, 50), ("/dev/shm", 40)], ids=["disk", "tmpfs"])
def test_the_same_as_a_plain_directory(on: str | None, examples: int) -> None:
    with model.beds(on) as beds:
        model.run(beds, 4, examples)
    note(f"model on {on or 'disk'}: {beds.steps} steps, {beds.succeeded} of which succeeded")
    assert beds.steps > 20 * examples
    assert beds.succeeded > beds.steps // 4
