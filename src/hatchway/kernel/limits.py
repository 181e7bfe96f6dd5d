"""Limits of this process (getrlimit(2))."""

from __future__ import annotations

import resource


def raise_open_files() -> None:
    """Allow as many open files as the hard limit does. The usual soft limit of 1024 is for programs with select(2)."""
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
