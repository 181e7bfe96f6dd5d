"""Hashes of crypt(3) that may be stored: which, how dear at most, and how one is checked.

libcrypt does it, through crypt-r, whose call keeps the interpreter lock (measured: with bcrypt at cost 12 no other
thread ran for the whole 170 ms). Whoever guesses at one login would stop the daemon for everybody. So it runs in a
process of its own (crypt_process.py; starting one takes 10 to 20 ms), which also gives back the memory it took.

What one check may cost was measured on Debian 12 (libcrypt 4.4.33), on a core that makes our argon2id in 53 ms, with
the longest password there can be, since the time of sha-crypt grows with it: $6$ at 700,000 rounds 1.03 s with 511
bytes (0.23 s with 24), $5$ at 550,000 1.3 s (0.16), bcrypt at cost 14 0.69 s, yescrypt of 256 MiB 0.26 s. passlib's
defaults, which Ansible took over, are 656,000 and 535,000 rounds.
"""

from __future__ import annotations

import hmac
import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass

from hatchway.credentials import crypt_process
from hatchway.errors import HostError

SHA512_ROUNDS_MAX = 700_000
SHA256_ROUNDS_MAX = 550_000
SHA_ROUNDS_MIN = 1000
"""crypt(3) raises a lower number to this, so that the hash it makes has another than the one stored: never right."""

BCRYPT_COST_MAX = 14
BCRYPT_COST_MIN = 4
BCRYPT_BYTES_MAX = 72
"""bcrypt heeds no more of a password. A longer attempt is wrong, though the hash would match: otherwise its first 72
bytes with anything behind them were the password, and the first login would fix whatever somebody typed there."""

YESCRYPT_COSTS = ("j75", "j85", "j7T", "j8T", "j9T", "jAT", "jBT", "jCT", "jDT")
"""Parameters of crypt_gensalt(3) with counts 1 to 9, 1 MiB to 256 MiB; Debian's own is "j9T". Count 10 is 512 MiB."""

CRYPT_BYTES_MAX = 511
"""CRYPT_MAX_PASSPHRASE_SIZE (crypt.h) is 512 and counts the NUL at the end: libcrypt hashes nothing longer."""

HASH_CHARS_MAX = 200
"""The longest of these hashes has 142 characters."""

TIMEOUT_S = 15.0
"""Seconds until a check is given up. One takes about one, but many may run at once on few cores."""


@dataclass(frozen=True, slots=True)
class Crypt:
    """One kind of hash. `form` matches a whole undamaged one, `fault` says from the match what is wrong with its cost
    (None: nothing), `bytes_max` is the longest password it can be of."""

    name: str
    prefixes: tuple[str, ...]
    form: re.Pattern[str]
    fault: Callable[[re.Match[str]], str | None]
    bytes_max: int


def _rounds_fault(limit: int) -> Callable[[re.Match[str]], str | None]:
    def fault(found: re.Match[str]) -> str | None:
        text = found["rounds"]
        if text is None or SHA_ROUNDS_MIN <= int(text) <= limit:
            return None
        return f"has {text} rounds; {SHA_ROUNDS_MIN} to {limit} are taken"

    return fault


def _bcrypt_fault(found: re.Match[str]) -> str | None:
    if BCRYPT_COST_MIN <= int(found["cost"]) <= BCRYPT_COST_MAX:
        return None
    return f"has cost {found['cost']}; {BCRYPT_COST_MIN} to {BCRYPT_COST_MAX} are taken"


def _yescrypt_fault(found: re.Match[str]) -> str | None:
    if found["cost"] in YESCRYPT_COSTS:
        return None
    return f"has parameters other than crypt_gensalt(3) makes, or takes more than 256 MiB ({found['cost']})"


# The last character of a field has bits left over, which must be zero: libcrypt makes them so, and a hash where they
# are not is never right.
_KINDS = (
    Crypt(
        "sha512-crypt",
        ("$6$",),
        re.compile(r"\$6\$(?:rounds=(?P<rounds>[1-9][0-9]{0,8})\$)?[./0-9A-Za-z]{1,16}\$[./0-9A-Za-z]{85}[./01]"),
        _rounds_fault(SHA512_ROUNDS_MAX),
        CRYPT_BYTES_MAX,
    ),
    Crypt(
        "sha256-crypt",
        ("$5$",),
        re.compile(r"\$5\$(?:rounds=(?P<rounds>[1-9][0-9]{0,8})\$)?[./0-9A-Za-z]{1,16}\$[./0-9A-Za-z]{42}[./0-9A-D]"),
        _rounds_fault(SHA256_ROUNDS_MAX),
        CRYPT_BYTES_MAX,
    ),
    Crypt(
        "yescrypt",
        ("$y$",),
        re.compile(r"\$y\$(?P<cost>[./0-9A-Za-z]{1,20})\$[./0-9A-Za-z]{1,86}\$[./0-9A-Za-z]{42}[./0-9A-D]"),
        _yescrypt_fault,
        CRYPT_BYTES_MAX,
    ),
    # $2x$ is what a version with a fault made, $2$ what is older than all of these.
    Crypt(
        "bcrypt",
        ("$2b$", "$2a$", "$2y$"),
        re.compile(r"\$2[aby]\$(?P<cost>[0-9]{2})\$[./A-Za-z0-9]{21}[.Oeu][./A-Za-z0-9]{30}[.CGKOSWaeimquy26]"),
        _bcrypt_fault,
        BCRYPT_BYTES_MAX,
    ),
)


def of(text: str) -> Crypt | None:
    """The kind of crypt(3) hash that `text` begins as, whether or not it is undamaged; None when it is none."""
    return next((kind for kind in _KINDS if text.startswith(kind.prefixes)), None)


def stored(text: str) -> Crypt | None:
    """The kind of `text` when it is a whole hash that may be stored; None otherwise."""
    kind = of(text)
    if kind is None or len(text) > HASH_CHARS_MAX:
        return None
    found = kind.form.fullmatch(text)
    return kind if found is not None and kind.fault(found) is None else None


def check(encoded: str, attempt: bytes) -> bool:
    """Whether `attempt` is the password of `encoded`, for which `stored` must have answered with a kind.

    Attempts that are not UTF-8 are wrong: crypt-r takes text. So are those with a NUL, where crypt(3) would stop, and
    those longer than the kind can be of. Raises HostError when the check could not be made.
    """
    kind = stored(encoded)
    if kind is None:
        raise ValueError("not a crypt(3) hash that may be stored")
    if b"\0" in attempt or len(attempt) > kind.bytes_max or not _is_utf8(attempt):
        return False
    return hmac.compare_digest(_crypt(encoded, attempt), encoded.encode("ascii"))


def taken_here(encoded: str) -> bool:
    """Whether this host's libcrypt takes `encoded`, which `stored` has a kind for. It may not know the kind, or find
    the salt damaged. Raises HostError as `check` does, and takes as long."""
    made, expected = _crypt(encoded, b"x"), encoded.encode("ascii")
    # All but the hash itself, whose length is fixed, comes back unchanged. bcrypt has no "$" between salt and hash.
    until = 29 if encoded.startswith("$2") else expected.rindex(b"$") + 1
    return len(made) == len(expected) and made[:until] == expected[:until]


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def _crypt(setting: str, password: bytes) -> bytes:
    """What crypt(3) answers. Raises HostError, which never has the password, when it does not."""
    try:
        done = subprocess.run(
            [sys.executable, "-I", crypt_process.__file__],
            input=setting.encode("ascii") + b"\0" + password,
            stdout=subprocess.PIPE,
            # A traceback would show lines of code only, but nothing that happens there is to reach our log.
            stderr=subprocess.DEVNULL,
            env={},
            cwd=os.sep,
            timeout=TIMEOUT_S,
        )
    except subprocess.TimeoutExpired:
        raise HostError(f"a password hash could not be checked within {TIMEOUT_S:g} s") from None
    except OSError as exc:
        raise HostError(f"a password hash could not be checked: {exc.strerror}") from None
    if done.returncode != 0:
        raise HostError(f"a password hash could not be checked: crypt(3) ended with status {done.returncode}")
    return done.stdout
