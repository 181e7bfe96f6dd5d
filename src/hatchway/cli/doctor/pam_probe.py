"""A process of its own that tries one login through PAM: `python -m hatchway.cli.doctor.pam_probe SERVICE LOGIN`.

The password is random. Exit status 0: let in. 1: refused, with PAM's words on standard output. 2: could not be tried.
"""

from __future__ import annotations

import secrets
import sys

import pam

_COULD_NOT_TRY = frozenset({1, 2, 3, 5, 26, 28})
"""PAM_OPEN_ERR, PAM_SYMBOL_ERR, PAM_SERVICE_ERR, PAM_BUF_ERR, PAM_ABORT, PAM_MODULE_UNKNOWN (pam(3))."""


def main(service: str, login: str) -> int:
    """Try, and return the exit status."""
    authenticator = pam.pam()
    if authenticator.authenticate(login, secrets.token_urlsafe(24), service=service, resetcreds=False):
        return 0
    reason = authenticator.reason
    sys.stdout.write(f"{reason.decode('utf-8', 'replace') if isinstance(reason, bytes) else reason}\n")
    return 2 if authenticator.code in _COULD_NOT_TRY else 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:3]))
