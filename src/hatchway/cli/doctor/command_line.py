"""Running another program for a finding: bounded in time, never through a shell."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from dataclasses import dataclass

TIMEOUT_S = 5.0


@dataclass(frozen=True, slots=True)
class Ran:
    """`status` is None when the program could not be run or took too long; `output` then says so."""

    status: int | None
    output: str


def run(
    argv: Sequence[str], timeout_s: float = TIMEOUT_S, account: tuple[int, int, Sequence[int]] | None = None
) -> Ran:
    """Run `argv` and return its status and what it printed, on both streams.

    `account` is a uid, a gid and further groups to run it as, for which we must be root.
    """
    user, group, groups = account or (None, None, None)
    try:
        done = subprocess.run(
            argv,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout_s,
            user=user,
            group=group,
            extra_groups=groups,
        )
    except subprocess.TimeoutExpired:
        return Ran(None, f"no answer within {timeout_s:g} s")
    except OSError as exc:
        return Ran(None, exc.strerror or str(exc))
    return Ran(done.returncode, (done.stdout + done.stderr).strip())
