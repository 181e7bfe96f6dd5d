"""Password hashes from elsewhere: what is taken over, and why the rest is not.

A hash is as good as a password to whoever has time, so no error repeats one. What is taken over is checked as it is
until its owner's first login, and then hashed anew (`passwords.needs_rehash`).
"""

from __future__ import annotations

import re

from hatchway.credentials import crypts, passwords
from hatchway.errors import UsageError

CHARS_MAX = 256
"""Characters of what is looked at; no hash has as many."""

TAKEN = "taken are argon2id, crypt(3) hashes ($6$, $5$, $y$, $2b$) and SHA-512 as 128 hex digits"

_MD5 = "md5 is refused: a password is found from it within hours. Give the login a new password instead"
_SHA1 = "sha1 is refused: it is too fast to withstand guessing. Give the login a new password instead"
_FAST = "an unsalted SHA-2 digest other than SHA-512 is refused. Give the login a new password instead"
_DES = "DES crypt is refused: it heeds eight characters of a password. Give the login a new password instead"

_REASONS = (
    # md5-crypt, Apache's, Sun's, LDAP's, PostgreSQL's; 32 hex digits are MD5's, and Windows' of MD4.
    (re.compile(r"\$1\$.*|\$apr1\$.*|\$md5.*|\{S?MD5\}.*|(?:md5)?[0-9a-f]{32}", re.IGNORECASE), _MD5),
    # LDAP's, NetBSD's, MySQL's.
    (re.compile(r"\{S?SHA\}.*|\$sha1\$.*|\*?[0-9a-f]{40}", re.IGNORECASE), _SHA1),
    (re.compile(r"[0-9a-f]{56}|[0-9a-f]{64}|[0-9a-f]{96}", re.IGNORECASE), _FAST),
    (re.compile(r"[./0-9A-Za-z]{13}|_[./0-9A-Za-z]{19}"), _DES),
    (re.compile(r"\$argon2(?:i|d)\$.*"), f"of argon2 only argon2id is taken; {TAKEN}"),
    (re.compile(r"\$2x?\$.*"), "bcrypt of versions 2 and 2x, which had faults, is refused; 2a, 2b and 2y are taken"),
    (
        re.compile(r"[!*].*|x"),
        "this is the entry of an account without a password, or a locked one; give the hash alone",
    ),
    (re.compile(r"\{[A-Za-z0-9-]+\}.*"), f"give what follows the word in braces; {TAKEN}"),
    (
        re.compile(r"[^:]*:[^:]*(?::.*)?"),
        "this is a whole line of a file such as shadow(5); give its second field only",
    ),
)
"""In this order, what somebody may give and what they are told."""

_SHA512 = re.compile(r"[0-9a-f]{128}", re.IGNORECASE)


def is_hash(text: str) -> bool:
    """Whether `text` is a hash of a kind that is taken, so hardly a password."""
    kind = crypts.of(text)
    return text.startswith("$argon2id$") or bool(_SHA512.fullmatch(text)) or bool(kind and kind.form.fullmatch(text))


def import_hash(text: str) -> str:
    """What to store of `text`, a hash that an operator brings along.

    Taken are argon2id, crypt(3) hashes of `crypts`, and unsalted SHA-512 digests of the password in UTF-8, hex digits,
    for people who come from a platform that has nothing else. Takes as long as a check, since it makes one to see
    whether this host's libcrypt takes the hash: call it in a worker thread. Raises UsageError, which never repeats
    `text`, for everything else: damaged hashes, weak kinds by name, and those that are dearer to check than about a
    second or 256 MiB. Raises HostError when the check cannot be made.
    """
    given = text.strip()
    if not given:
        raise UsageError(f"no hash was given; {TAKEN}")
    if len(given) > CHARS_MAX or not re.fullmatch(r"[!-~]+", given):
        raise UsageError(f"not a password hash: too long, or with spaces or other characters none has; {TAKEN}")
    if _SHA512.fullmatch(given):
        return passwords.SHA512_PREFIX + passwords.hash_attempt(given.lower().encode())
    if given.startswith("$argon2id$"):
        fault = passwords.argon2id_fault(given)
        if fault is not None:
            raise UsageError(f"this argon2id hash {fault}")
        return given
    kind = crypts.of(given)
    if kind is not None:
        return _crypt(kind, given)
    for form, reason in _REASONS:
        if form.fullmatch(given):
            raise UsageError(reason)
    raise UsageError(f"no kind of password hash that is taken; {TAKEN}")


def _crypt(kind: crypts.Crypt, given: str) -> str:
    found = kind.form.fullmatch(given)
    if found is None:
        raise UsageError(f"this {kind.name} hash is damaged: cut, or changed on its way here")
    fault = kind.fault(found)
    if fault is not None:
        raise UsageError(f"this {kind.name} hash {fault}")
    if not crypts.taken_here(given):
        raise UsageError(f"this {kind.name} hash is damaged, or crypt(3) of this host does not know its kind")
    return given
