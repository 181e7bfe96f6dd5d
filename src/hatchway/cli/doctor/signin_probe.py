"""A process of its own that asks the sign-in helper: `python -m hatchway.cli.doctor.signin_probe SOCKET NAME`.

It runs as the core's account, for nobody else is answered. No password is tried. Exit status 0: NAME is no operator,
with the reason on standard output. 1: it is one. 2: there was no answer, and why.
"""

from __future__ import annotations

import sys

from hatchway.errors import HatchwayError
from hatchway.wire import frames
from hatchway.wire.signin import CheckStanding, Verdict

ANSWER_S = 10.0
"""Longest wait, in seconds."""


def main(path: str, name: str) -> int:
    """Ask, and return the exit status."""
    try:
        verdict = frames.call_blocking(path, CheckStanding(name=name, uid=0), Verdict, ANSWER_S)
    except HatchwayError as exc:
        sys.stdout.write(f"{exc}\n")
        return 2
    sys.stdout.write(f"{verdict.reason}\n")
    return 0 if verdict.operator is None else 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:3]))
