"""Making, hashing and checking passwords. Knows no logins: whose password it is, is the caller's business.

Each hash or check takes some 50 ms of one CPU and 64 MiB, without the interpreter lock: call it in a worker thread,
and bound how many run at once.
"""

from __future__ import annotations

import re
import secrets

from nacl.exceptions import InvalidkeyError
from nacl.pwhash import argon2id

from hatchway.credentials.secret import DamagedSecretError, Secret

ALPHABET = "abcdefghjkmnpqrstuvwxyzABCDEFGHJKLMNPQRSTUVWXYZ347"
"""What generated passwords are made of: letters and digits, which neither a URL (RFC 3986, "unreserved") nor a shell
needs to quote, and no two of a group that people mix up when they type: 0Oo, 1lIi, 2Z, 5S, 6G, 8B, 9g."""

LENGTH = 24
"""Characters of a generated password: 24 x log2(50) = 135 bits."""

PASSES = 2
MEMORY_BYTES = 64 * 1024 * 1024
"""argon2id with 2 passes over 64 MiB in one lane, libsodium's INTERACTIVE, thrice the memory that OWASP asks for.
Not more, because anybody who reaches the port can make us spend this, some 60 at once by sshd's MaxStartups, while a
generated password is out of reach of guessing whatever its hash."""

DUMMY = "$argon2id$v=19$m=65536,t=2,p=1$D2nY3Dr4l0X1gxN7DZYjdA$vPUP7bVFslMVPd/MUNuMwm7jEoTpKxMML7r4bd0Vu5Y"
"""A hash of the same parameters that no password is known for. Check an unknown login's password against this and
deny whatever comes out, so that the time taken does not tell which logins exist."""

# What argon2's encoder writes for 16 bytes of salt and 32 of hash. libsodium answers "wrong password" to anything it
# cannot read, which would make a damaged registry look like a forgetful user, so the form is checked here: the last
# character of each base64 field has unused bits, which must be zero.
_ENCODED = re.compile(
    r"\$argon2id\$v=19\$m=(?:[89]|[1-9][0-9]{1,6}),t=[1-9][0-9]?,p=1"
    r"\$[A-Za-z0-9+/]{21}[AQgw]"
    r"\$[A-Za-z0-9+/]{42}[AEIMQUYcgkosw048]"
)


def generate() -> Secret:
    """A new random password of LENGTH characters from ALPHABET."""
    return Secret("".join(secrets.choice(ALPHABET) for _ in range(LENGTH)))


def hash_password(password: Secret) -> str:
    """The argon2id hash of `password` in the usual encoded form ("$argon2id$v=19$m=65536,t=2,p=1$salt$hash")."""
    encoded = argon2id.str(password.reveal().encode(), PASSES, MEMORY_BYTES)
    return encoded.rstrip(b"\0").decode("ascii")


def verify(encoded: str, attempt: bytes) -> bool:
    """Whether `attempt`, any bytes a client sent, is the password that `encoded` was made from.

    Raises DamagedSecretError when `encoded` is no hash that `hash_password` could have made, now or with other
    parameters. False also when the memory for the check is not to be had: libsodium does not tell the two apart.
    """
    if _ENCODED.fullmatch(encoded) is None:
        raise DamagedSecretError("a stored password hash is damaged; make a new password for the login")
    try:
        return bool(argon2id.verify(encoded.encode("ascii"), attempt))
    except InvalidkeyError:
        return False
