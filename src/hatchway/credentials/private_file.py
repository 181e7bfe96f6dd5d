"""Whether a file that holds secrets is ours alone.

Only looks, never repairs: a file that others could read is a leak, and its operator must learn of it.
"""

from __future__ import annotations

import os
import shlex
import stat

from hatchway.errors import ConfigError


def require_private(path: str, status: os.stat_result) -> None:
    """Check that `path`, whose stat(2) or lstat(2) is `status`, is readable by the running user only.

    Raises ConfigError with the fix when it is no regular file, belongs to another user or its mode lets group or
    others in.
    """
    quoted = shlex.quote(path)
    if not stat.S_ISREG(status.st_mode):
        raise ConfigError(f"{path}: not a regular file; move it away, or name another path")
    uid = os.geteuid()
    if status.st_uid != uid:
        raise ConfigError(f"{path}: belongs to uid {status.st_uid}, not to {uid}; fix it with: chown {uid} {quoted}")
    mode = stat.S_IMODE(status.st_mode)
    if mode & 0o077:
        raise ConfigError(
            f"{path}: open to other users (mode {mode:04o}); fix it with: chmod 600 {quoted} and, if others could "
            "have read it, make new credentials"
        )
