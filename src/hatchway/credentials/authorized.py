"""authorized_keys files that people bring along, and the lines our AuthorizedKeysCommand prints.

The format is that of sshd(8), AUTHORIZED_KEYS FILE FORMAT, and of sshauthopt_parse (auth-options.c). Nothing in such a
file can give more than a plain key would: options are heeded where they restrict, what they would grant is never given,
and a line with an option that is not known, or restricts in a way we cannot keep, is no key at all.
"""

from __future__ import annotations

import calendar
import re
import time
from dataclasses import dataclass
from datetime import UTC, datetime

from hatchway.addresses import check_patterns
from hatchway.credentials import keys
from hatchway.credentials.keys import LINE_MAX, PublicKey
from hatchway.errors import UsageError

FILE_BYTES_MAX = 64 * 1024
LINES_MAX = 200
"""Lines of a file that are neither empty nor comments. sshd asks for all keys of a login at every attempt."""

EXPIRY_SINCE = (9, 1)
"""The first OpenSSH that reads expiry-time="…Z". Before, times were the host's local ones, and a Z spoils the line."""

_EXPIRY_LATEST = calendar.timegm((9999, 12, 31, 23, 59, 59))

_GRANTED = frozenset({"port-forwarding", "agent-forwarding", "x11-forwarding", "pty", "user-rc", "touch-required"})
"""Flags about what a session of ours never has. Without a touch no security key is taken, whatever a line says."""

_DROPPED = frozenset({"restrict", *_GRANTED, *(f"no-{flag}" for flag in _GRANTED), "no-verify-required"})

_DROPPED_WITH_VALUE = frozenset({"environment", "permitopen", "permitlisten", "tunnel"})

_NAME = re.compile(r"[A-Za-z0-9-]+")
_VALUE = re.compile(r'"((?:[^"\\]|\\"|\\(?!"))*)"')
_BLANK = re.compile(r"[ \t]+")
_TIME = re.compile(r"([0-9]{4})([0-9]{2})([0-9]{2})(?:([0-9]{2})([0-9]{2})([0-9]{2})?)?(z|utc)?", re.IGNORECASE)
_PRINTED = re.compile(r"[a-z0-9@.-]+ [A-Za-z0-9+/]+={0,2}(?: [ -~]*)?")


@dataclass(frozen=True, slots=True)
class Entry:
    """One key that may log in. The same key may be in several: it may come in by any of them.

    `sources` is the text of from=, None for anywhere; `expires_at`, in seconds since the epoch, the last second it is
    good for, None for ever; `verify_required` whether its authenticator must have asked for a PIN or the like.
    `number` is its line, from 1.
    """

    number: int
    key: PublicKey
    sources: str | None
    expires_at: int | None
    verify_required: bool


@dataclass(frozen=True, slots=True)
class BadLine:
    """A line that is no key that may log in. `reason` is for its author and has nothing of the key."""

    number: int
    reason: str


@dataclass(frozen=True, slots=True)
class Authorized:
    """What a file says, in its order."""

    entries: tuple[Entry, ...]
    bad: tuple[BadLine, ...]


def parse(content: bytes) -> Authorized:
    """The keys in `content`, an authorized_keys or a .pub file. Takes anything, raises nothing.

    Only the first FILE_BYTES_MAX bytes and LINES_MAX lines are read; that there are more is one more bad line. Times
    without a Z are local ones of this process, as they are local ones of sshd to sshd.
    """
    entries: list[Entry] = []
    bad: list[BadLine] = []
    lines = content[:FILE_BYTES_MAX].split(b"\n")
    if len(content) > FILE_BYTES_MAX:
        lines.pop()  # it was cut, and what is left of it may say another thing
    seen = 0
    for number, raw in enumerate(lines, 1):
        text = raw.decode("utf-8", "replace").strip(" \t\r")
        if not text or text.startswith("#"):
            continue
        seen += 1
        if seen > LINES_MAX:
            bad.append(BadLine(number, f"this and what follows is not read: more than {LINES_MAX} lines"))
            break
        try:
            entries.append(_entry(number, text))
        except UsageError as exc:
            bad.append(BadLine(number, str(exc)))
    else:
        if len(content) > FILE_BYTES_MAX:
            bad.append(BadLine(len(lines) + 1, f"this and what follows is not read: more than {FILE_BYTES_MAX} bytes"))
    return Authorized(tuple(entries), tuple(bad))


def line(
    public: str,
    *,
    sources: str | None = None,
    expires_at: int | None = None,
    verify_required: bool = False,
) -> str:
    """The line of authorized_keys, without newline, that lets `public` ("type base64 [comment]") in and nothing more.

    `sources` goes into from=, `expires_at` (seconds since the epoch) into expiry-time=, in UTC: give none to an sshd
    older than EXPIRY_SINCE. Raises UsageError for sources that sshd would misread, ValueError for a `public` that is no
    such line.
    """
    # The last fence: a newline or a quote in what is stored would be a key, or an option, of its author's choice.
    if not _PRINTED.fullmatch(public):
        raise ValueError("not a public key as it is stored")
    options = ["restrict"]
    if sources is not None:
        check_patterns(sources)
        options.append(f'from="{sources}"')
    if expires_at is not None:
        # 0 spoils the line, and so do times before it in sshd 9.2; newer ones, being unsigned, take those for never.
        moment = datetime.fromtimestamp(min(max(expires_at, 1), _EXPIRY_LATEST), UTC)
        options.append(f'expiry-time="{moment:%Y%m%d%H%M%S}Z"')
    if verify_required:
        options.append("verify-required")
    return f"{','.join(options)} {public}"


def parse_expiry(text: str) -> int:
    """The moment `text` is, in seconds since the epoch, of any form that expiry-time= takes (sshd(8)): YYYYMMDD,
    YYYYMMDDHHMM or YYYYMMDDHHMMSS, in local time or, with Z or UTC behind it, in UTC. Raises UsageError.

    Local time is the standard one, in summer too: sshd asks mktime(3) with tm_isdst 0 (misc.c, parse_absolute_time).
    Dates that do not exist are refused, which sshd takes for later ones.
    """
    found = _TIME.fullmatch(text)
    if found is None:
        raise UsageError("expiry-time: expected YYYYMMDD, YYYYMMDDHHMM or YYYYMMDDHHMMSS, and Z behind it for UTC")
    numbers = [int(group or 0) for group in found.groups()[:6]]
    year, month, day, hour, minute, second = numbers
    try:
        # Only to have it checked. Python's range of years begins with 1.
        moment = datetime(year, month, day, hour, minute, second)
        if found[7]:
            return calendar.timegm(moment.timetuple())
        return int(time.mktime((year, month, day, hour, minute, second, 0, 0, 0)))
    except (ValueError, OverflowError):
        raise UsageError("expiry-time: there is no such date or time") from None


def _entry(number: int, text: str) -> Entry:
    """The key in one line, without blanks around it. Raises UsageError."""
    if len(text) > LINE_MAX:
        raise UsageError(f"longer than {LINE_MAX} characters")
    if "\0" in text:
        raise UsageError("has a NUL, behind which sshd reads nothing")
    if "PRIVATE KEY" in text:
        raise UsageError("this is a private key, which nobody else must have")
    options, rest = ("", text) if keys.begins_key(_BLANK.split(text, 1)[0]) else _split_options(text)
    fields = _BLANK.split(rest, 2)
    if len(fields) < 2 or not keys.begins_key(fields[0]):
        # Nothing of it may be shown: without a key behind it, it may be one.
        raise UsageError("no public key of a type that is taken")
    key = keys.public_key(fields[0], fields[1], fields[2] if len(fields) == 3 else "")
    sources: str | None = None
    expires_at: int | None = None
    verify_required = False
    seen = set()
    for name, value in _options(options):
        if name in _DROPPED and value is None:
            continue
        if name == "verify-required" and value is None:
            verify_required = True
        elif name == "expiry-time" and value is not None:
            moment = parse_expiry(value)
            expires_at = moment if expires_at is None else min(expires_at, moment)
        elif name == "from" and value is not None and name not in seen:
            check_patterns(value)
            sources = value
        elif name == "command" and value is not None and name not in seen:
            # With arguments it would restrict in ways that are not ours to keep, such as -R.
            if value != "internal-sftp":
                raise UsageError("command=: a key for one command only is not taken for files")
        elif name not in _DROPPED_WITH_VALUE or value is None:
            raise UsageError(_why_not(name, value, name in seen))
        seen.add(name)
    return Entry(number, key, sources, expires_at, verify_required)


def _why_not(name: str, value: str | None, again: bool) -> str:
    if name == "cert-authority":
        return "cert-authority: certificates are not taken"
    if name == "principals":
        return "principals=: certificates are not taken"
    if again:
        return f"{name}= is there twice"
    if name in _DROPPED or name == "verify-required":
        return f"{name} takes no value"
    if name in _DROPPED_WITH_VALUE or name in ("from", "command", "expiry-time"):
        return f'{name} needs a value in quotes: {name}="…"'
    return "an option that is not known" if value is None else "an option with a value that is not known"


def _split_options(text: str) -> tuple[str, str]:
    """Options in front, and what follows them: up to the first blank that is not in quotes. Raises UsageError."""
    quoted = False
    at = 0
    while at < len(text) and (quoted or text[at] not in " \t"):
        if text.startswith('\\"', at):
            at += 1
        elif text[at] == '"':
            quoted = not quoted
        at += 1
    if quoted:
        raise UsageError("a quote is not closed")
    return text[:at], text[at:].strip(" \t")


def _options(text: str) -> list[tuple[str, str | None]]:
    """The options in `text`, names in small letters, values without quotes. Raises UsageError."""
    found: list[tuple[str, str | None]] = []
    at = 0
    while text:
        name = _NAME.match(text, at)
        if name is None:
            raise UsageError("the options in front of the key make no sense")
        at = name.end()
        value: str | None = None
        if text.startswith("=", at):
            quoted = _VALUE.match(text, at + 1)
            if quoted is None:
                raise UsageError("the value of an option is not in quotes")
            value = quoted[1].replace('\\"', '"')
            at = quoted.end()
        found.append((name[0].lower(), value))
        if at == len(text):
            break
        if text[at] != ",":
            raise UsageError("the options in front of the key make no sense")
        at += 1
    return found
