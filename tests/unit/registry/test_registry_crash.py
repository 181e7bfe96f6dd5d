"""Killing a writer, at whatever moment, leaves no half-made instance and forgets nothing that was made."""

from __future__ import annotations

import random
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest

from hatchway.model import Mode
from hatchway.registry.store import Registry

WRITER = str(Path(__file__).parent / "crash_writer.py")


@pytest.mark.parametrize(
    ("operation", "statements"), [("first_enable", 10), ("enable_again", 8), ("disable", 5), ("renew", 4)]
)
def test_killed_after_any_statement_nothing_has_changed(path: str, operation: str, statements: int) -> None:
    done = subprocess.run(
        [sys.executable, WRITER, "each", path, operation], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= statements, "it was killed fewer times than the operation has statements"


def test_killed_at_random_every_instance_is_whole(path: str) -> None:
    moments = random.Random(20)  # noqa: S311 - a seed makes a failure repeatable
    made = 0
    for _ in range(6):
        with subprocess.Popen([sys.executable, WRITER, "loop", path], stdout=subprocess.PIPE, text=True) as writer:
            assert writer.stdout is not None
            assert writer.stdout.readline() == f"{made + 1}\n"
            time.sleep(moments.uniform(0.0, 0.3))
            writer.kill()
            printed = writer.stdout.read().split()
        acknowledged = int(printed[-1]) if printed else made + 1
        made = _check(path, acknowledged)
    assert made > 6


def _check(path: str, acknowledged: int) -> int:
    """Look at every instance; give how many there are."""
    with closing(Registry.open(path)) as registry:
        found = registry.instances()
        for instance in found:
            grants = instance.grants
            assert [grant.path for grant in grants] == ["/data", "/logs", "/var/cache"]
            assert {(grant.mode, grant.granted_by) for grant in grants} in (
                {(Mode.READ_WRITE, "test")},
                {(Mode.READ_ONLY, "again")},
            )
            assert [credential.kind for credential in registry.credentials(instance.login)] == ["key", "password"]
        numbers = {instance.key.number for instance in found}
        assert numbers == set(range(1, len(found) + 1))
        assert len(found) in (acknowledged, acknowledged + 1), "what was acknowledged is there, and at most one more"
        assert len({instance.uid for instance in found}) == len(found)
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert connection.execute("PRAGMA foreign_key_check").fetchall() == []
        for table, each in (("instances", 1), ("logins", 1), ("volumes", 3), ("grants", 3), ("credentials", 2)):
            (count,) = connection.execute(f"SELECT count(*) FROM {table}").fetchone()  # noqa: S608
            assert count == each * len(found)
    return len(found)
