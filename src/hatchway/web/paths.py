"""Where the pages are. Keys of instances hold any text, and go into paths and hidden fields without loss.

Percent-encoding would not do: browsers take %2E%2E for a step up, proxies decode %2F or refuse it, and line breaks in
hidden fields are changed on their way. So every byte that is not plain is written as "~" and two hexadecimal digits:
of characters that no standard gives a meaning (RFC 3986, 2.3). What is not written as we write it is no path of ours.
"""

from __future__ import annotations

import re
from urllib.parse import quote

from hatchway.errors import NotFoundError
from hatchway.model import InstanceKey
from hatchway.wire.web import ViewerKind

_PLAIN = frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.")
_CODED = re.compile(r"(?:[A-Za-z0-9._-]|~[0-9A-F]{2})+|~")
_NUMBER = re.compile(r"0|[1-9][0-9]{0,17}")

HOMES = {ViewerKind.OPERATOR: "/", ViewerKind.PERSON: "/me", ViewerKind.LINK: "/shared/connect"}
"""The first page of each kind of viewer."""

CODED_MAX = 12_000
"""Characters of one part: three for each of 4,000 bytes."""


def coded(text: str) -> str:
    """`text` as one part of a path. Never "." or "..", never empty."""
    dots = not text.strip(".")
    written = "".join(
        chr(byte) if byte in _PLAIN and not (dots and byte == 0x2E) else f"~{byte:02X}" for byte in text.encode()
    )
    return written or "~"


def decoded(part: str) -> str:
    """The text of which `part` is `coded`. Raises NotFoundError for anything else."""
    if len(part) <= CODED_MAX and _CODED.fullmatch(part):
        raw = b"" if part == "~" else re.sub(rb"~(..)", lambda hit: bytes((int(hit[1], 16),)), part.encode())
        try:
            text = raw.decode()
        except UnicodeDecodeError:
            text = None
        if text is not None and coded(text) == part:
            return text
    raise NotFoundError("there is no such page; check the address, or start from the list of instances")


def instance(key: InstanceKey, *rest: str) -> str:
    """The page of an instance, or one beneath it."""
    return "/".join(("/instances", coded(key.environment), coded(key.container), str(key.number), *rest))


def person(login: str, *rest: str) -> str:
    """The page by which operators see to a person, or one beneath it. `login` is one."""
    return "/".join(("/people", login, *rest))


def instance_key(environment: str, container: str, number: str) -> InstanceKey:
    """The key of which these are the parts. Raises NotFoundError."""
    if not _NUMBER.fullmatch(number):
        raise NotFoundError("there is no such page; check the address, or start from the list of instances")
    return InstanceKey(decoded(environment), decoded(container), int(number))


def query(path: str, **parameters: str | int | None) -> str:
    """`path` with those parameters that say something."""
    said = [f"{name}={quote(str(value), safe='')}" for name, value in parameters.items() if value not in (None, "")]
    return f"{path}?{'&'.join(said)}" if said else path


def local(text: str) -> str:
    """`text` if it is the path of one of our pages, to go on to after signing in; else the first page.

    Not "//host" nor "/\\host", which browsers take for another host.
    """
    return (
        text if len(text) <= CODED_MAX and re.fullmatch(r"/(?:[A-Za-z0-9._~?-][A-Za-z0-9._~/?=&%+*-]*)?", text) else "/"
    )


def landing(kind: ViewerKind, there: str) -> str:
    """Where a viewer gets who wanted to go `there`, a page of ours, and has signed in: to one that is theirs."""
    home = HOMES.get(kind, "/")
    own = re.split(r"[/?]", there)[1] == "me"
    return there if own == (kind is ViewerKind.PERSON) else home
