"""Which accounts the host has, asked of all its name services. Blocks, and may be slow (LDAP)."""

from __future__ import annotations

import grp
import pwd


def name_taken(name: str) -> bool:
    """Whether a user or a group of this name exists."""
    try:
        pwd.getpwnam(name)
        return True
    except KeyError:
        pass
    try:
        grp.getgrnam(name)
        return True
    except KeyError:
        return False


def uid_taken(uid: int) -> bool:
    """Whether a user of this uid exists."""
    try:
        pwd.getpwuid(uid)
        return True
    except KeyError:
        return False
