"""Which accounts of the host are operators: those in one group, primarily or in addition.

Blocks, and may be slow (LDAP).
"""

from __future__ import annotations

import grp
import os
import pwd
from pathlib import Path

from hatchway.wire.signin import NAME_MAX, Operator

SHADOW = Path("/etc/shadow")


class NoOperatorError(Exception):
    """It is none; says why, for the log."""


def find(name: str, group: str) -> Operator:
    """The account called `name`, if it is in `group`. root is an operator only if it is in it as well.

    Raises NoOperatorError.
    """
    if not 0 < len(name) <= NAME_MAX or not name.isprintable():
        raise NoOperatorError("that is no name of an account")
    try:
        account = pwd.getpwnam(name)
    except (KeyError, ValueError):  # ValueError: what cannot be a name
        raise NoOperatorError("there is no such account") from None
    try:
        wanted = grp.getgrnam(group).gr_gid
    except KeyError:
        raise NoOperatorError(f"there is no group {group}, so nobody is an operator") from None
    if wanted not in os.getgrouplist(account.pw_name, account.pw_gid):
        raise NoOperatorError(f"the account is not in the group {group}")
    return Operator(account.pw_name, account.pw_uid)


def is_locked(name: str, shadow: Path = SHADOW) -> bool:
    """Whether the account's password was locked (usermod -L, passwd -l). PAM's account stage does not look at that.

    Only one that there is: an account that never had one, as those of a directory have not, came in by another way,
    and whether it still may says that way's account stage. Raises OSError.
    """
    with shadow.open(encoding="utf-8", errors="surrogateescape") as file:
        for line in file:
            account, _, rest = line.partition(":")
            if account == name:
                password = rest.partition(":")[0]
                return password.startswith("!") and password.lstrip("!") not in ("", "*")
    return False
