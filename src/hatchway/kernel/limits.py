"""Limits of this process (getrlimit(2))."""

from __future__ import annotations

import resource


def raise_open_files(most: int | None = None) -> None:
    """Allow as many open files as the hard limit does, or `most` if that is fewer.

    The usual soft limit of 1024 is for programs with select(2).
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = hard if most is None else max(soft, min(most, hard))
    if wanted != soft:  # a unit may have set it, and not allow setting it
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def no_core_dumps() -> None:
    """Neither this process nor any it starts leaves a core dump, also those that are not ours and drop no rights.

    One byte, which cannot be raised again: a limit of none does not stop dumps that are piped to a program (core(5)),
    and 1 is what the kernel itself uses to say never (fs/coredump.c).
    """
    resource.setrlimit(resource.RLIMIT_CORE, (1, 1))
