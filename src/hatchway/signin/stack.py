"""Asking PAM's stack for our service, through python-pam: the authentication and account stages, and no other.

python-pam makes no use of three things PAM has, so they are put in where it calls pam_authenticate(3): from where
somebody comes (PAM_RHOST, for the host's own log and for modules such as pam_access), that an empty password opens
nothing, whatever the host's common-auth allows (nullok), and that PAM does not wait after a failure (PAM_FAIL_DELAY,
pam_fail_delay(3)): it would do so with one of few turns held. Whoever asked for the check waits instead.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import pam

from hatchway.config import SIGNIN_SERVICE

_PAM_SUCCESS = 0
_PAM_RHOST = 4
_PAM_FAIL_DELAY = 10
_PAM_DISALLOW_NULL_AUTHTOK = 0x1
_PAM_SILENT = 0x8000


_do_not_wait = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_uint, ctypes.c_void_p)(lambda *_: None)


def load() -> None:
    """Load PAM's library, so that processes forked from this one need not search for it."""
    pam.pam()


def wrong(name: str, password: str, address: str) -> str | None:
    """What PAM says against `name` with this password, coming from `address` ("": not known); None when it says yes.

    Raises ValueError for a NUL in one of them.
    """

    def authenticate(stack: Any, ask: Any, handle: Any) -> int:
        if address:
            stack.pam_set_item(handle, _PAM_RHOST, ctypes.c_char_p(address.encode()))
        stack.pam_set_item(handle, _PAM_FAIL_DELAY, ctypes.cast(_do_not_wait, ctypes.c_void_p))
        return int(ask(handle, _PAM_SILENT | _PAM_DISALLOW_NULL_AUTHTOK))

    return _ask(name, password, authenticate)


def barred(name: str) -> str | None:
    """What PAM's account stage alone says against `name`, such as that it has expired; None when it says nothing."""
    return _ask(name, "", lambda _stack, _ask, _handle: _PAM_SUCCESS)


def _ask(name: str, password: str, authenticate: Callable[[Any, Any, Any], int]) -> str | None:
    stack = pam.pam()
    ask = stack.pam_authenticate
    stage = "refuses to ask"

    def instead(handle: Any, _flags: int) -> int:
        nonlocal stage
        result = authenticate(stack, ask, handle)
        stage = "refuses the account" if result == _PAM_SUCCESS else "refuses the password"
        return result

    stack.pam_authenticate = instead
    # No credentials are established: nothing is done as that account.
    if stack.authenticate(name, password, service=SIGNIN_SERVICE, resetcreds=False):
        return None
    reason = stack.reason
    return f"PAM {stage}: {reason.decode('utf-8', 'replace') if isinstance(reason, bytes) else reason}"
