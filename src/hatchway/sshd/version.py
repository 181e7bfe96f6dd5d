"""Which OpenSSH this is: some keywords are fatal to versions that do not know them."""

from __future__ import annotations

import re
import subprocess

from hatchway.errors import HostError

Version = tuple[int, int]
"""Major and minor number: OpenSSH 9.2p1 is (9, 2)."""

OLDEST: Version = (8, 7)
"""The oldest version every keyword of the rendered files was checked against (RHEL 9; sshd_config(5) of 8.7)."""

_BANNER = re.compile(r"\bOpenSSH_(\d{1,3})\.(\d{1,3})")


def parse(text: str) -> Version:
    """Read the version from what `sshd -V` or `ssh -V` print.

    Versions before 9.3 call -V an unknown option, but name themselves all the same. Raises HostError.
    """
    found = _BANNER.search(text)
    if found is None:
        raise HostError(f"no OpenSSH version in {text.strip()[:200]!r}")
    return int(found[1]), int(found[2])


def of(binary: str, timeout_s: float = 10.0) -> Version:
    """The version of the sshd at `binary`, an absolute path. Raises HostError when it cannot be run or named."""
    try:
        done = subprocess.run(
            [binary, "-V"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout_s,
        )
    except (OSError, subprocess.TimeoutExpired) as exc:
        raise HostError(f"{binary} -V: {exc}") from exc
    return parse(done.stderr + done.stdout)


def at_least(binary: str, oldest: Version) -> bool:
    """Whether the sshd at `binary` is known to be of version `oldest` or newer."""
    try:
        return of(binary) >= oldest
    except HostError:
        return False


def text(version: Version) -> str:
    """`version` as people write it: "9.2"."""
    return f"{version[0]}.{version[1]}"
