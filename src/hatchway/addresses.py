"""Where clients come from: addresses, allow-lists and the patterns of from= in authorized_keys. Pure.

An IPv4 client of a socket that listens on IPv6 has an address such as ::ffff:192.0.2.7. It is that IPv4 client
everywhere here, as it is to sshd (canohost.c, ipv64_normalise_mapped): otherwise a rule could be got round, or would
hold for nobody, only because of how the daemon listens.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Iterable

from hatchway.errors import UsageError
from hatchway.printable import escaped

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

NETWORKS_MAX = 100
"""Networks in one allow-list: each is looked at for every login."""

FROM_MAX = 1000
"""Longest list of from= patterns in bytes; sshd takes no pattern of 1023 or more (match.c, match_pattern_list)."""

STARS_MAX = 4
"""`*` in one pattern of from=: the time sshd 9.2 takes grows with the address's length to the power of their number
(match.c, match_pattern, tries every way), and whoever writes authorized_keys would have our sshd work for minutes."""

_ADDRESS_MAX = 100
"""Characters of the longest text that is looked at as an address: 45 of IPv6, and a zone."""

_MAPPED = ipaddress.IPv6Network("::ffff:0:0/96")

# What an address pattern with wildcards is made of; sshd writes addresses in small letters.
_OF_ADDRESSES = re.compile(r"[0-9a-f.:*?]+")


def address(text: str) -> Address | None:
    """The IPv4 or IPv6 address `text` is, without its zone ("%eth0"); None for anything else, a host name included."""
    if len(text) > _ADDRESS_MAX:
        return None
    try:
        found = ipaddress.ip_address(text)
    except ValueError:
        return None
    if isinstance(found, ipaddress.IPv4Address):
        return found
    return found.ipv4_mapped or ipaddress.IPv6Address(found.packed)  # made anew, without the zone


def source_of(address: Address | None) -> str:
    """What counts as one address, since whoever has one of it has all: of IPv6 the /64. "" where it is not known."""
    if isinstance(address, ipaddress.IPv6Address):
        return str(ipaddress.IPv6Network((int(address) >> 64 << 64, 64)))
    return "" if address is None else str(address)


def site_of(address: Address | None) -> str:
    """The largest network around `address` that may be one guesser's: of IPv6 the /48, of IPv4 the /24. "" where it is
    not known."""
    if address is None:
        return ""
    length = 24 if isinstance(address, ipaddress.IPv4Address) else 48
    return str(ipaddress.ip_network(f"{address}/{length}", strict=False))


def networks(texts: Iterable[str]) -> tuple[Network, ...]:
    """The allow-list `texts`, each a network such as 192.0.2.0/24 or a single address, without repetitions.

    Raises UsageError, which names the text, for anything else, for an address inside a network where the network is
    meant or one address is (10.0.0.7/8), and for more than NETWORKS_MAX.
    """
    found: dict[Network, None] = {}
    for text in texts:
        found.setdefault(_network(text.strip()))
        if len(found) > NETWORKS_MAX:
            raise UsageError(f"more than {NETWORKS_MAX} networks in one list; name larger ones")
    return tuple(found)


def _network(text: str) -> Network:
    shown = escaped(text[:_ADDRESS_MAX])
    if "%" in text:
        raise UsageError(f"{shown}: an address with a zone is of this host alone; leave out what follows the '%'")
    # ipaddress takes masks such as /255.255.0.0 and /0.0.255.255 as well, which are easily taken for each other.
    plain, slash, mask = text.partition("/")
    if len(text) > _ADDRESS_MAX or (slash and not re.fullmatch(r"[0-9]{1,3}", mask, re.ASCII)):
        raise UsageError(f"{shown}: not a network; write it as 192.0.2.0/24, 2001:db8::/32 or a single address")
    try:
        loose = ipaddress.ip_network(text, strict=False)
    except ValueError:
        raise UsageError(
            f"{shown}: not a network; write it as 192.0.2.0/24, 2001:db8::/32 or a single address"
        ) from None
    if loose.network_address != ipaddress.ip_address(plain):
        raise UsageError(f"{shown}: this address is inside a network; write {loose} or, for it alone, {plain}")
    if isinstance(loose, ipaddress.IPv6Network) and loose.subnet_of(_MAPPED):
        mapped = loose.network_address.ipv4_mapped
        assert mapped is not None
        return ipaddress.IPv4Network((mapped, loose.prefixlen - _MAPPED.prefixlen))
    return loose


def within(allowed: tuple[Network, ...], client: Address | None) -> bool:
    """Whether `client` may come: its address is in one of `allowed`, or `allowed` is empty and so anybody may.

    With a list, whose address is not known may not.
    """
    if not allowed:
        return True
    return client is not None and any(client in network for network in allowed)


def from_matches(pattern_list: str, client: Address) -> bool:
    """Whether from="`pattern_list`" lets `client` in, as sshd with `UseDNS no` decides it: sshd(8), AUTHORIZED_KEYS
    FILE FORMAT, and match_host_and_ip (match.c), addr_match_list (addrmatch.c) of OpenSSH 9.2 to 10.0.

    Comma-separated patterns: an address, a network, or text with `*` and `?` that is compared with the address as it
    is written. A pattern with `!` in front that matches keeps out, whatever else matches; there must be one without
    that matches. An empty pattern, or a network whose host bits are set, spoils the whole list. Host names match
    nothing, since sshd looks none up.
    """
    text = _written(client)
    let_in = False
    for entry in pattern_list.split(","):
        negated = entry.startswith("!")
        pattern = entry[1:] if negated else entry
        if not pattern:
            return False
        network = _pattern_network(pattern)
        if network is _SPOILT:
            return False
        if isinstance(network, (ipaddress.IPv4Network, ipaddress.IPv6Network)):
            matches = client in network
        else:
            matches = _wildcards_match(pattern, text)
        # sshd then takes the list for one of host names, which is the address again, and that in lower case.
        if matches or _wildcards_match(pattern.lower(), text):
            if negated:
                return False
            let_in = True
    return let_in


def check_patterns(text: str) -> None:
    """Check that `text` may be handed to sshd as the patterns of from=, and restricts as it says. Raises UsageError.

    Refused are characters that would end the option, what spoils the list (`from_matches`), more than STARS_MAX `*` in
    a pattern, host names that are to be kept out, and lists in which nothing can ever match: sshd looks no names up.
    """
    if len(text) > FROM_MAX:
        raise UsageError(f"from: longer than {FROM_MAX} characters")
    if not re.fullmatch(r"[!#-\[\]-~]*", text):  # printable ASCII without space, quote and backslash
        raise UsageError(f"from: {escaped(text)}: only patterns and commas, without spaces, quotes and backslashes")
    lets_in = False
    for entry in text.split(","):
        negated = entry.startswith("!")
        pattern = entry[1:] if negated else entry
        if not pattern:
            raise UsageError(f"from: {text or '(nothing)'}: a pattern is missing")
        if pattern.count("*") > STARS_MAX:
            raise UsageError(f"from: {pattern}: more than {STARS_MAX} times '*' in one pattern")
        network = _pattern_network(pattern)
        if network is _SPOILT:
            raise UsageError(
                f"from: {pattern}: not a network: the number behind the slash is too large, or bits are set where its "
                "addresses differ"
            )
        for_addresses = network is not None or _OF_ADDRESSES.fullmatch(pattern) is not None
        if negated and not for_addresses:
            raise UsageError(f"from: {entry}: names are not looked up, so this keeps nobody out; write addresses")
        lets_in |= for_addresses and not negated
    if not lets_in:
        raise UsageError(f"from: {text}: no address matches this; names are not looked up")


def check_from(text: str) -> None:
    """Check `text`, which an operator wants to be the patterns of from=. Raises UsageError, which names the pattern.

    Besides what `check_patterns` refuses: host names, and addresses that sshd takes for others than they seem
    ("10.1" is 10.0.0.1).
    """
    check_patterns(text)
    for entry in text.split(","):
        pattern = entry.removeprefix("!")
        if re.search(r"[*?]", pattern):
            if not _OF_ADDRESSES.fullmatch(pattern):
                raise UsageError(f"from: {pattern}: matches no address; they have digits, small letters a-f, '.', ':'")
        elif isinstance(meant := _network(pattern), ipaddress.IPv4Network) and ":" in pattern:
            raise UsageError(f"from: {pattern}: sshd knows these clients by their IPv4 addresses; write {meant}")


class _Spoilt:
    """The type of `_SPOILT`."""


_SPOILT = _Spoilt()
"""What `_pattern_network` answers for a network that makes sshd refuse the whole list."""


def _pattern_network(pattern: str) -> Network | _Spoilt | None:
    """The network or address `pattern` is to sshd (addr.c, addr_pton_cidr); None when it is none."""
    if len(pattern.encode("utf-8", "replace")) > 63:
        return None
    plain, slash, mask = pattern.partition("/")
    if slash and not re.fullmatch(r"[0-9]{1,9}", mask):
        return None
    base = _numeric_host(plain)
    if base is None:
        return None
    length = int(mask) if slash else base.max_prefixlen
    if length > base.max_prefixlen:
        return _SPOILT
    try:
        return ipaddress.ip_network((base, length))
    except ValueError:
        return _SPOILT


def _numeric_host(text: str) -> Address | None:
    """What getaddrinfo(3) with AI_NUMERICHOST takes `text` for: "10.1" and "0x0a.1" are 10.0.0.1 to it."""
    try:
        return ipaddress.IPv6Address(text) if ":" in text and "%" not in text else _ipv4(text)
    except ValueError:
        return None


def _ipv4(text: str) -> ipaddress.IPv4Address:
    # inet_aton(3) ignores what follows a space.
    if not re.fullmatch(r"[0-9a-fA-FxX.]+", text):
        raise ValueError(text)
    try:
        return ipaddress.IPv4Address(socket.inet_aton(text))
    except OSError as exc:
        raise ValueError(text) from exc


def _written(client: Address) -> str:
    """`client` as getnameinfo(3), and so sshd, writes it; Python writes ::1.2.3.4 otherwise."""
    family = socket.AF_INET if isinstance(client, ipaddress.IPv4Address) else socket.AF_INET6
    return socket.inet_ntop(family, client.packed)


def _wildcards_match(pattern: str, text: str) -> bool:
    """Whether `text` is what `pattern` says, `*` being any characters and `?` one (match.c, match_pattern).

    Takes time in proportion to both lengths, whatever the pattern: going back to the last `*` is enough.
    """
    at = position = 0
    star = resume = -1
    while position < len(text):
        if at < len(pattern) and pattern[at] == "*":
            star, resume = at, position
            at += 1
        elif at < len(pattern) and pattern[at] in ("?", text[position]):
            at += 1
            position += 1
        elif star >= 0:
            resume += 1
            at, position = star + 1, resume
        else:
            return False
    return not pattern[at:].strip("*")
