"""Making, hashing and checking passwords. Knows no logins: whose password it is, is the caller's business.

What is stored of a password is one text: an argon2id hash of ours, or, until its owner logs in for the first time,
what `imported` took over from elsewhere. Each hash or check takes some 50 ms of one CPU and 64 MiB (of an imported
hash a second and 256 MiB at most), without the interpreter lock: call it in a worker thread, and bound how many run at
once.
An imported hash takes another time to check than `DUMMY` does, so its login can be told from one that does not exist;
that ends with the first login.
"""

from __future__ import annotations

import base64
import hashlib
import re
import secrets
import unicodedata

from nacl.exceptions import InvalidkeyError
from nacl.pwhash import argon2id

from hatchway.credentials import crypts
from hatchway.credentials.secret import DamagedSecretError, Secret
from hatchway.errors import UsageError

ALPHABET = "abcdefghjkmnpqrstuvwxyzABCDEFGHJKLMNPQRSTUVWXYZ347"
"""What generated passwords are made of: letters and digits, which neither a URL (RFC 3986, "unreserved") nor a shell
needs to quote, and no two of a group that people mix up when they type: 0Oo, 1lIi, 2Z, 5S, 6G, 8B, 9g."""

LENGTH = 24
"""Characters of a generated password: 24 x log2(50) = 135 bits."""

PASSES = 2
MEMORY_BYTES = 64 * 1024 * 1024
"""argon2id with 2 passes over 64 MiB in one lane, libsodium's INTERACTIVE, thrice the memory that OWASP asks for.
Not more, because anybody who reaches the port can make us spend this, if only a few times at once (access.attempts),
while a generated password is out of reach of guessing whatever its hash."""

CHARS_MIN = 8
"""Characters of a password that somebody gives, at least (NIST SP 800-63B, 5.1.1.1)."""

BYTES_MAX = 512
"""Bytes of UTF-8 of a password, at most: pam_exec(8) passes on no more (PAM_MAX_RESP_SIZE)."""

DUMMY = "$argon2id$v=19$m=65536,t=2,p=1$D2nY3Dr4l0X1gxN7DZYjdA$vPUP7bVFslMVPd/MUNuMwm7jEoTpKxMML7r4bd0Vu5Y"
"""A hash of the same parameters that no password is known for. Check an unknown login's password against this and
deny whatever comes out, so that the time taken does not tell which logins exist."""

ARGON2_MEMORY_MAX_KIB = 256 * 1024
ARGON2_WORK_MAX_KIB = 2 * 1024 * 1024
"""Memory times passes of an argon2id hash from elsewhere. 8 passes over 256 MiB took 0.72 s; crypts.py says where."""

ARGON2_LANES_MAX = 16
"""libsodium makes one lane only, and checks any number, one after the other."""

ARGON2_CHARS_MAX = 127
"""libsodium takes no longer text (crypto_pwhash_argon2id_STRBYTES)."""

ARGON2_HASH_BYTES = frozenset({16, 24, 32, 48, 64})
"""How long the hash itself may be. With any length taken, one that was cut while it was copied could not be told."""

SHA512_PREFIX = "sha512+"
"""In front of an argon2id hash: what was hashed is not the password but its SHA-512, 128 hex digits in small letters.
So an unsalted digest is never stored, which can be looked up for any password people choose."""

# libsodium answers "wrong password" to anything it cannot read, which would make a damaged registry look like a
# forgetful user, so the form is checked here.
_ARGON2ID = re.compile(
    r"\$argon2id\$v=19\$m=(?P<memory>[1-9][0-9]{0,6}),t=(?P<passes>[1-9][0-9]{0,5}),p=(?P<lanes>[1-9][0-9]?)"
    r"\$(?P<salt>[A-Za-z0-9+/]+)\$(?P<hash>[A-Za-z0-9+/]+)"
)


def generate() -> Secret:
    """A new random password of LENGTH characters from ALPHABET."""
    return Secret("".join(secrets.choice(ALPHABET) for _ in range(LENGTH)))


def check_given(password: Secret) -> None:
    """Check a password that somebody gives: CHARS_MIN characters to BYTES_MAX bytes of UTF-8, no control characters.

    Those cannot be typed into most clients, and a NUL ends what PAM passes on. Raises UsageError without the password.
    """
    text = password.reveal()
    if len(text) < CHARS_MIN:
        raise UsageError(f"a password must have at least {CHARS_MIN} characters")
    if len(text.encode()) > BYTES_MAX:
        raise UsageError(f"a password may have at most {BYTES_MAX} bytes in UTF-8")
    if any(unicodedata.category(character) in {"Cc", "Zl", "Zp"} for character in text):
        raise UsageError("a password may not have control characters, such as tabs and line ends")


def hash_password(password: Secret) -> str:
    """The argon2id hash of `password` in the usual encoded form ("$argon2id$v=19$m=65536,t=2,p=1$salt$hash")."""
    return hash_attempt(password.reveal().encode())


def hash_attempt(attempt: bytes) -> str:
    """The same for what a client sent, to be stored instead of an imported or outdated hash that it was right for."""
    encoded = argon2id.str(attempt, PASSES, MEMORY_BYTES)
    return encoded.rstrip(b"\0").decode("ascii")


def kind(stored: str) -> str:
    """What kind of hash `stored` is, for people: "argon2id", "sha512", "sha512-crypt", "yescrypt", "bcrypt", ….

    Raises DamagedSecretError when it is none.
    """
    if argon2id_fault(stored) is None:
        return "argon2id"
    if stored.startswith(SHA512_PREFIX) and argon2id_fault(stored.removeprefix(SHA512_PREFIX)) is None:
        return "sha512"
    found = crypts.stored(stored)
    if found is None:
        raise DamagedSecretError("a stored password hash is damaged; make a new password for the login")
    return found.name


def needs_rehash(stored: str) -> bool:
    """Whether `stored` is anything but an argon2id hash as `hash_password` makes it now.

    Then store `hash_attempt` of the attempt that was right instead. Raises DamagedSecretError as `kind` does.
    """
    kind(stored)
    found = _ARGON2ID.fullmatch(stored)
    if found is None:
        return True
    ours = _ARGON2ID.fullmatch(DUMMY)
    assert ours is not None
    return any(found[field] != ours[field] for field in ("memory", "passes", "lanes")) or any(
        len(found[field]) != len(ours[field]) for field in ("salt", "hash")
    )


def is_slow(stored: str) -> bool:
    """Whether a check against `stored` may take a second: a hash that was imported and has cost parameters of its own.

    Raises DamagedSecretError as `kind` does.
    """
    return kind(stored) != "sha512" and needs_rehash(stored)


def verify(stored: str, attempt: bytes) -> bool:
    """Whether `attempt`, any bytes a client sent, is the password that `stored` was made from.

    Attempts that no password can be, longer than BYTES_MAX or with a NUL in them, are wrong. False also when the
    memory for the check is not to be had: libsodium does not tell the two apart. Raises DamagedSecretError when
    `stored` is no hash that this module or `imported` could have made, and HostError as `crypts.check` does.
    """
    what = kind(stored)
    if len(attempt) > BYTES_MAX or b"\0" in attempt:
        return False
    if what == "argon2id":
        return _argon2id_right(stored, attempt)
    if what == "sha512":
        return _argon2id_right(stored.removeprefix(SHA512_PREFIX), hashlib.sha512(attempt).hexdigest().encode())
    return crypts.check(stored, attempt)


def argon2id_fault(text: str) -> str | None:
    """Why `text` is no argon2id hash that may be stored, as the end of a sentence; None when it is one."""
    found = _ARGON2ID.fullmatch(text)
    if found is None or len(text) > ARGON2_CHARS_MAX:
        return "is damaged, or has parts that are not taken"
    salt, digest = (_unpadded(found[field]) for field in ("salt", "hash"))
    # Eight bytes of salt are the least that RFC 9106 (3.1) and libsodium (argon2-core.h) take.
    if salt is None or digest is None or len(salt) < 8 or len(digest) not in ARGON2_HASH_BYTES:
        return "is damaged: its salt or hash is no base64, cut, or of a length that is not taken"
    memory_kib, passes, lanes = (int(found[field]) for field in ("memory", "passes", "lanes"))
    if memory_kib > ARGON2_MEMORY_MAX_KIB:
        return f"takes {memory_kib} KiB of memory; at most {ARGON2_MEMORY_MAX_KIB} are taken"
    if memory_kib * passes > ARGON2_WORK_MAX_KIB:
        return f"has {passes} passes over {memory_kib} KiB; at most {ARGON2_WORK_MAX_KIB} KiB in all are taken"
    if lanes > ARGON2_LANES_MAX or memory_kib < 8 * lanes:
        return f"has {lanes} lanes; at most {ARGON2_LANES_MAX}, each of at least 8 KiB, are taken"
    return None


def _unpadded(text: str) -> bytes | None:
    """The bytes of base64 without padding; None for anything but what an encoder makes, left-over bits being zero."""
    try:
        data = base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except ValueError:
        return None
    return data if base64.b64encode(data).decode("ascii").rstrip("=") == text else None


def _argon2id_right(encoded: str, attempt: bytes) -> bool:
    try:
        return bool(argon2id.verify(encoded.encode("ascii"), attempt))
    except InvalidkeyError:
        return False
